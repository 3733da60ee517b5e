"""The policy as an agent: what reaches its networks, and what it does with their answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.agent.agents import PolicyAgent, ScriptAgent, build_actor, load_policy, save_policy
from lib.agent.closed_loop import ClosedLoop, Trial, run_episodes
from lib.agent.condition import (
    NOVELTY_SLICE,
    SEVERITY,
    SKILL_SLICE,
    WEIGHTS_SLICE,
    ConditionVector,
)
from lib.agent.projector import Projector
from lib.base.errors import UserError
from lib.sim.stress import NOMINAL, Stress
from tests.agent.fakes import PointPerception, PointRobots, percepts, pictures

PUBLISHED = (0.5, 0.25, 0.25)


def projector() -> Projector:
    """Fitted on places and times of every kind."""
    rng = np.random.default_rng(0)
    return Projector.fit(
        percepts(rng.random(50), rng.uniform(-1, 1, (50, 4)), np.arange(50.0)), 2, 2
    )


class Notebook(torch.nn.Module):
    """An actor that notes what it is given; its mode is all 0.25, its samples 0.5."""

    def __init__(self):
        super().__init__()
        self.given = []

    def act(self, obs, condition, skill):
        self.given.append((obs.numpy(), condition.numpy(), skill.numpy()))
        return torch.full((len(obs), 4), 0.25)

    def sample(self, obs, condition, skill, generator=None):
        self.act(obs, condition, skill)
        noise = torch.rand(len(obs), 4, generator=generator)
        return 0.5 + 0.1 * noise, torch.zeros(len(obs)), torch.full((len(obs), 4), 0.25)


def agent(actor=None) -> PolicyAgent:
    condition = ConditionVector(weights=PUBLISHED)
    return PolicyAgent(PointPerception(), projector(), actor or Notebook(), condition)


def frames(*places: float):
    """Arguments of ``act`` for robots at some places."""
    proprio = np.zeros((len(places), 4), np.float32)
    action = np.linspace(-1, 1, 4 * len(places)).reshape(-1, 4).astype(np.float32)
    return pictures(np.array(places)), proprio, np.full((len(places), 39), np.nan), action


def test_the_actor_gets_skill_preference_and_surprise_of_each_robot():
    """In the condition and as the index of the head; the privileged observation reaches nobody."""
    one = agent()
    weights = np.array([[0.6, 0.2, 0.2], [0.0, 0.0, 1.0]])
    first = np.array([True, True])
    for _ in range(3):
        decision = one.act(*frames(0.1, 0.4), first, weights)
        first = np.array([False, True])
    observation, condition, skill = one.actor.given[-1]
    assert skill.tolist() == [1, 2] == decision.observed.skill.tolist()
    assert condition[:, SKILL_SLICE].argmax(1).tolist() == [1, 2]
    np.testing.assert_allclose(condition[:, WEIGHTS_SLICE], weights)
    np.testing.assert_allclose(condition[:, SEVERITY], [0.5, 0.0])
    assert condition[:, NOVELTY_SLICE].argmax(1).tolist() == [1, 0]
    np.testing.assert_array_equal(observation, decision.observed.observation)


def test_the_observation_holds_picture_action_and_memory():
    """Each of them changes it: another place in the picture, another action, a frame later."""
    seen = []
    for place, sign, before in ((0.1, 1, 0), (0.2, 1, 0), (0.1, -1, 0), (0.1, 1, 1)):
        one = agent()
        images, proprio, expert, action = frames(place)
        for number in range(before + 1):
            first = np.array([number == 0])
            seen_now = one.act(images, proprio, expert, sign * action, first, [PUBLISHED])
        seen.append(seen_now.observed.observation)
    assert all(np.abs(seen[0] - other).max() > 0.01 for other in seen[1:])


def test_an_agent_acts_by_its_mode_unless_it_explores():
    """Exploring is drawn from its own generator, and ends with it."""
    one = agent()
    drawn = []
    for generator in (None, torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)):
        one.explore = generator
        drawn.append(one.act(*frames(0.1), np.array([True]), [PUBLISHED]).action)
    assert (drawn[0] == 0.25).all()
    assert (drawn[1] >= 0.5).all()
    np.testing.assert_array_equal(drawn[1], drawn[2])


def test_a_glance_leaves_the_memory_as_it_was():
    """The next frame is the same with and without it."""
    images, proprio, _, action = frames(0.1)
    seen = []
    for glances in (0, 2):
        one = agent()
        one.observe(images, proprio, action, np.array([True]))
        for _ in range(glances):
            one.glance(images, proprio, action, np.array([False]))
        seen.append(one.observe(images, proprio, action, np.array([False])).observation)
    np.testing.assert_array_equal(*seen)


def test_a_reset_forgets():
    """Also the number of robots."""
    one = agent()
    one.observe(*frames(0.1, 0.2)[:2], frames(0.1, 0.2)[3], np.array([True, True]))
    one.reset()
    assert one.perception._frames is None


def test_the_loop_gives_the_agent_what_the_environment_shows():
    """Pictures, the action before and the first frame of each episode; idle robots do no harm."""
    one, env = agent(), PointRobots(2, horizon=4)
    runs = run_episodes(env, one, [Trial(1), Trial(2), Trial(3, horizon=2)])
    assert [len(run.success) for run in runs] == [4, 4, 2]
    images, proprio, previous, first = (
        np.array(x) for x in zip(*one.perception.given, strict=True)
    )
    assert (images > 0).all()
    np.testing.assert_allclose(images[:, :, 0, 0, 0], 1 + (200 * proprio[:, :, 0]).astype(int))
    assert first.tolist()[:5] == [[True, True]] + [[False, False]] * 3 + [[True, True]]
    assert (previous[first] == 0).all()
    assert (previous[1:][~first[1:]] == 0.25).all()
    assert len(np.unique(proprio[:, 0, 0])) > 4


def test_the_loop_keeps_the_last_frame_of_an_episode_for_learning():
    """T + 1 observations, the last one without a trace in the memory."""
    one, env = agent(), PointRobots(1, horizon=5)
    loop = ClosedLoop(env, one, iter([Trial(1), Trial(2)]), final=one.glance)
    runs = []
    while not loop.idle:
        runs += loop.step()
    for run in runs:
        assert len(run.observation) == len(run.skill) == len(run.severity) == 6
        assert len(run.action) == len(run.reward) == 5
        gained = np.diff([row[0] for row in run.observation])
        assert (gained > 0).all()
    assert len(one.perception.given) == 10


def test_a_trial_asks_for_stress_and_preference():
    """Where it asks for none, the agent's own preference and no stress."""
    one, env = agent(), PointRobots(2, horizon=3)
    trials = [Trial(1, stress=Stress(push=0.5)), Trial(2, weights=(0.0, 0.0, 1.0))]
    run_episodes(env, one, trials)
    assert env.resets[:2] == [(1, Stress(push=0.5)), (2, NOMINAL)]
    for _, condition, _ in one.actor.given:
        np.testing.assert_allclose(condition[0, WEIGHTS_SLICE], PUBLISHED)
        np.testing.assert_allclose(condition[1, WEIGHTS_SLICE], [0, 0, 1])


def test_a_published_policy_comes_back_as_it_was(tmp_path, monkeypatch):
    """Weights, projection and preference; a stack of other weights is refused."""
    monkeypatch.setattr("lib.agent.agents.Perception", PointPerception)
    torch.manual_seed(0)
    saved = agent(build_actor(projector().dim, [8]))
    save_policy(tmp_path / "policy", saved)
    loaded = load_policy(tmp_path / "policy")
    assert loaded.weights == PUBLISHED
    first = np.array([True, True])
    one, other = (
        a.act(*frames(0.1, 0.4), first, np.array([PUBLISHED, (0, 0, 1)])) for a in (saved, loaded)
    )
    np.testing.assert_array_equal(one.action, other.action)
    assert np.abs(one.action[0] - one.action[1]).max() > 1e-3
    monkeypatch.setattr(PointPerception, "digests", lambda self: {"checkpoints/x": "abc"})
    with pytest.raises(UserError, match="checkpoints/x holds abc"):
        load_policy(tmp_path / "policy")


def test_a_script_sees_the_privileged_observation_alone():
    """Each robot its own row."""
    script = ScriptAgent(lambda row: row[:4])
    expert = np.arange(78.0).reshape(2, 39)
    decision = script.act(None, None, expert, None, None, None)
    np.testing.assert_array_equal(decision.action, expert[:, :4])
    assert decision.observed.observation.shape == (2, 0)
