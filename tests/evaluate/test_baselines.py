"""Robots without eyes, and policies of which a part of the observation is exchanged."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from lib.agent.agents import PolicyAgent, ScriptAgent
from lib.agent.closed_loop import Trajectory, Trial, run_episodes
from lib.agent.condition import CONDITION_DIM, NOVELTY_SLICE, SEVERITY, ConditionVector
from lib.agent.projector import GROUPS
from lib.evaluate.baselines import (
    Blindfolded,
    Exchanged,
    ProprioceptionAlone,
    Unsurprised,
    best_replay,
    exchanged,
    in_turn,
    nearest_replay,
)
from lib.evaluate.robot import brief
from lib.evaluate.suite import Suite
from lib.sim.env import ManipulationEnv, start_of
from lib.sim.stress import Stress
from tests.agent.fakes import SIDE, PointPerception, PointRobots
from tests.agent.test_agents import projector

SEEDS = [11, 12, 13, 14, 15]


def forward(speed: float, steps: int = 30) -> np.ndarray:
    """A recording in which the robot goes on at one speed."""
    return np.full((steps, 4), speed, np.float32)


class Straight(torch.nn.Module):
    """An actor that goes on at a tenth of full speed and notes what it observes."""

    def __init__(self):
        super().__init__()
        self.given, self.conditions = [], []

    def act(self, obs, condition, skill):
        self.conditions.append(condition.numpy().copy())
        self.given.append((obs.numpy().copy(), skill.numpy().copy()))
        return torch.full((len(obs), 4), 0.1)


@pytest.fixture
def suite(monkeypatch) -> Suite:
    """A suite of five positions of point robots, stepped two at a time."""
    made = []
    monkeypatch.setattr("lib.evaluate.suite.make_vector_env", PointRobots.noted_in(made))
    suite = Suite(2, SEEDS, horizon=12)
    suite.made = made
    return suite


def policy() -> PolicyAgent:
    """A policy that sees by its picture alone where it is."""
    return PolicyAgent(PointPerception(), projector(), Straight(), ConditionVector())


def test_every_episode_gets_its_own_recording_from_its_first_step():
    """Five trials for two robots that end at different times; each repeats its recording only."""
    speeds = [0.9, 0.2, 0.5, 0.7, 0.3]
    recordings = [forward(speed, 3) * np.array([[1], [0.5], [1]], np.float32) for speed in speeds]
    robots = PointRobots(2, horizon=9)
    trials = [Trial(seed, linger=0) for seed in SEEDS]
    runs = run_episodes(robots, in_turn(recordings), trials)
    for run, recording in zip(runs, recordings, strict=True):
        expected = recording[np.minimum(np.arange(len(run.action)), 2)]
        np.testing.assert_array_equal(np.array(run.action), expected)


def test_the_replay_that_opens_most_is_taken(suite):
    """Of six recordings, only the last one reaches the goal; four are tried on all positions."""
    slow = [forward(speed) for speed in (0.01, 0.02, 0.03, 0.04, 0.05)]
    runs = best_replay(suite, [*slow, forward(1.0)])
    assert [run.trial.seed for run in runs] == SEEDS
    assert all(run.succeeded for run in runs)
    np.testing.assert_array_equal(runs[0].action[0], forward(1.0)[0])


def test_a_blindfolded_policy_sees_black_pictures_and_feels_as_before():
    """Whatever the camera shows; proprioception and actions still come through."""
    agent = policy()
    blind = Blindfolded(agent, SIDE)
    run_episodes(PointRobots(2, horizon=4), blind, [Trial(1), Trial(2)])
    images, proprio, action, _ = agent.perception.given[-1]
    assert images.shape == (2, SIDE, SIDE, 3)
    assert not images.any()
    assert (proprio[:, 0] > 0).all()
    assert (action == np.float32(0.1)).all()
    assert not blind.needs_pixels


def test_proprioception_alone_knows_where_the_hand_is_and_not_the_drawer():
    """Where the handle usually is it opens the drawer, elsewhere it reaches past it."""
    env = ManipulationEnv(render=False, horizon=60)
    opened = {}
    for x in (0.0, 0.08):
        observation, _ = env.reset(seed=0, options={"stress": Stress()})
        raw = env._sim.reset(np.array([x, 0.9, 0.0]))
        agent, first = ProprioceptionAlone(np.array([0.0, 0.74, 0.09])), np.ones(1, bool)
        proprio, done = raw[None, :4], False
        for _ in range(60):
            # Nothing of the privileged observation is used: it is not even there.
            action = agent.act(None, proprio, None, None, first, None).action[0]
            observation, _, ended, _, _ = env.step(action)
            proprio, first, done = observation["proprio"][None], np.zeros(1, bool), done or ended
            if ended:
                break
        opened[x] = done
    assert opened == {0.0: True, 0.08: False}


def test_the_nearest_recording_is_the_one_that_begins_alike():
    """Pictures decide where the hands are alike, hands where the pictures are."""

    def backbone(images: np.ndarray) -> dict[str, torch.Tensor]:
        return {"p4": torch.from_numpy(images[:, :1, :1].astype(np.float32)).permute(0, 3, 1, 2)}

    shades = np.array([10, 100, 200, 200], np.uint8)
    pictures = np.broadcast_to(shades[:, None, None, None], (4, SIDE, SIDE, 3)).copy()
    proprio = np.array([[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [0.3, 0.3, 0.3, 1]], np.float32)
    recordings = [forward(speed) for speed in (0.1, 0.2, 0.3, 0.4)]
    agent = nearest_replay(backbone, pictures, proprio, recordings, "p4")
    seen = np.broadcast_to(np.array([95, 190, 205], np.uint8)[:, None, None, None], (3, 4, 4, 3))
    felt = np.array([[0, 0, 0, 1], [0.01, 0, 0, 1], [0.29, 0.3, 0.3, 0]], np.float32)
    decision = agent.act(seen, felt, None, None, np.ones(3, bool), None)
    np.testing.assert_allclose(decision.action[:, 0], [0.2, 0.3, 0.4])


def test_the_groups_cover_the_observation_without_overlap():
    """In the order of the features."""
    columns = [policy().projector.columns(group) for group in GROUPS]
    assert columns[0].start == 0
    assert columns[-1].stop == policy().projector.dim
    for one, following in itertools.pairwise(columns):
        assert one.stop == following.start


@pytest.mark.parametrize("group", GROUPS)
def test_one_group_comes_from_the_next_episode_and_all_else_is_its_own(group):
    """Step by step; a donor that has ended gives its last step. Geometry brings its skill."""
    trials = [Trial(seed) for seed in SEEDS[:3]]
    agent = policy()
    own = run_episodes(PointRobots(1, horizon=6), agent, trials)
    own[1].observation = own[1].observation[:4]  # as if it had ended early
    agent.actor.given.clear()
    mixed = Exchanged(agent, group, own)
    run_episodes(PointRobots(1, horizon=6), mixed, trials)
    columns = agent.projector.columns(group)
    for episode, start in enumerate(range(0, 18, 6)):
        donor = own[(episode + 1) % 3]
        whole = run_episodes(PointRobots(1, horizon=6), policy(), [trials[episode]])[0]
        for step in range(6):
            given, skill = agent.actor.given[start + step]
            at = min(step, len(donor.observation) - 1)
            expected = whole.observation[step].copy()
            expected[columns] = donor.observation[at][columns]
            np.testing.assert_allclose(given[0], expected, rtol=1e-6, atol=1e-6)
            assert skill[0] == (donor.skill[at] if group == "geometry" else whole.skill[step])


def test_the_unsurprised_policy_is_told_no_severity_and_sees_all_else():
    """Of the condition, only what the severity sets is another."""
    agent, seen = policy(), policy().observe
    agent.observe = lambda *given: replace(seen(*given), severity=np.array([0.75]))
    for robot in (agent, Unsurprised(agent)):
        run_episodes(PointRobots(1, horizon=2), robot, [Trial(SEEDS[0])])
    conditions = [torch.from_numpy(row) for row in agent.actor.conditions]
    heeding, unsurprised = torch.cat(conditions[:2]), torch.cat(conditions[2:])
    assert (heeding[:, SEVERITY] == 0.75).all()
    assert (unsurprised[:, SEVERITY] == 0).all()
    np.testing.assert_array_equal(unsurprised[:, NOVELTY_SLICE], [[1.0, 0.0, 0.0]] * 2)
    same = [i for i in range(CONDITION_DIM) if i not in range(NOVELTY_SLICE.start, SEVERITY + 1)]
    assert torch.equal(heeding[:, same], unsurprised[:, same])
    given = [obs for obs, _ in agent.actor.given]
    np.testing.assert_array_equal(given[:2], given[2:])


def test_exchange_is_reported_beside_the_policy_itself(suite):
    """The same positions; a script has nothing to exchange."""
    agent = policy()
    own = suite.run("policy", agent, suite.trials(linger=0))
    found = exchanged(suite, agent, own, 3)
    assert list(found) == ["nominal", "dropout"]
    for rows in found.values():
        assert list(rows) == ["nothing", *GROUPS]
        assert {row["episodes"] for row in rows.values()} == {3}
    steps = np.mean([run.steps for run in own[:3]])
    assert found["nominal"]["nothing"]["steps_mean"] == pytest.approx(steps)
    (robots,) = [env for env in suite.made if env.options["render"]]
    black = [seed for seed, stress in robots.resets if stress == Stress(dropout=1.0)]
    assert black == SEEDS[:3] * (1 + len(GROUPS))
    assert exchanged(suite, ScriptAgent(lambda obs: obs[:4]), own, 3) == {}


def test_the_best_third_is_that_of_the_variable_that_tells_most():
    """All drawers on the left opened, none elsewhere: one in three, but one of one on the left."""
    low, high = np.array([0.0, 0.0, 5.0]), np.array([1.0, 1.0, 5.0])
    runs = []
    for seed in range(200):
        left = start_of(seed, low, high)[0] < 1 / 3
        runs.append(Trajectory(Trial(seed), success=[False, bool(left)]))
    found = brief(runs, low, high)
    assert found["best_third"] == 1.0
    assert 0.25 < found["success_any"] < 0.42
    assert found["success_any_low"] < found["success_any"] < found["success_any_high"]
    assert (found["episodes"], found["steps_mean"]) == (200, 2.0)
