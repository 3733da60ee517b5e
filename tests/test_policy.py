"""What the policy learns from: preferences, experience before and after success, and updates."""

from contextlib import closing

import numpy as np
import pytest
import torch

from lib.agent.agents import Decision, Observed, ScriptAgent, build_actor
from lib.agent.closed_loop import ClosedLoop, Trajectory, Trial, run_episodes
from lib.agent.condition import SEVERITY, WEIGHTS_SLICE, ConditionVector
from lib.agent.vector import make_vector_env
from lib.params import load_params
from lib.policy import Policy
from lib.policy.cloning import draw_conditions, draw_preferences
from lib.policy.replay import Replay
from lib.policy.train_sac import Learner, _remember, sample_mixed
from lib.sim.env import episode_seed, make_env
from lib.sim.experts import FastScript
from lib.sim.stress import Stress

CORNERS = {"throughput": [1.0, 0.0, 0.0], "energy": [0.5, 0.0, 0.5]}


@pytest.fixture(scope="module")
def settings() -> Policy:
    """Those of params.yaml on a small network, with presets that are easy to tell apart."""
    values = load_params("policy").policy.model_dump()
    small = {"hidden": [16], "batch_size": 8, "critic_steps": 0, "presets": CORNERS}
    return Policy(**{**values, **small, "preset": "throughput"})


def test_preferences_are_presets_or_between_them(settings):
    """Each of two presets three times in eight, and never anything beyond."""
    weights = draw_preferences(4000, settings, np.random.default_rng(0))
    np.testing.assert_allclose(weights.sum(1), 1)
    energy = weights[:, 2]
    assert (energy == 0).mean() == pytest.approx(0.375, abs=0.03)
    assert (energy == 0.5).mean() == pytest.approx(0.375, abs=0.03)
    between = energy[(energy > 0) & (energy < 0.5)]
    assert between.mean() == pytest.approx(0.25, abs=0.02)
    assert (weights[:, 1] == 0).all()


def test_a_batch_is_relabelled_alike_now_and_next(settings):
    """Both conditions of a transition carry the weights that its values are weighed with."""
    batch = filled(settings).sample(50, np.random.default_rng(0))
    draw = draw_conditions(batch, ConditionVector(), settings, np.random.default_rng(1))
    now, after, weights = draw
    assert torch.equal(now[:, WEIGHTS_SLICE], weights)
    assert torch.equal(after[:, WEIGHTS_SLICE], weights)
    assert torch.equal(now[:, SEVERITY], batch.severity)
    assert torch.equal(after[:, SEVERITY], batch.next_severity)
    assert len(weights.unique(dim=0)) > 5


@pytest.mark.parametrize("preset", load_params("policy").policy.presets)
def test_no_preset_is_best_served_by_standing_still(preset):
    """All the way to an open drawer, going on is worth more than never moving again.

    The critics' discount must reach as far as the reward: at .97 a gentle preference saw the energy
    of a pull and too little of what an open drawer saves.
    """
    params = load_params("policy", "economics")
    weights, gamma = np.array(params.policy.presets[preset]), params.policy.gamma
    env = make_env(render=False, prices=params.economics.model_dump())
    script, gentle = FastScript(), np.array([0.6, 0.6, 0.6, 1.0], np.float32)
    for index in range(5):
        _, info = env.reset(seed=episode_seed(78, index))
        rewards, done = [], False
        while not done:
            action = np.clip(script(info["expert_obs"]), -gentle, gentle)
            _, reward, done, _, info = env.step(action)
            rewards.append(reward)
        value, wage = 0.0, rewards[0][1]
        for reward in reversed(rewards):
            value = weights @ reward + gamma * value
            assert value > weights @ [reward[0], wage, 0.0] / (1 - gamma)


class Recorder:
    """An agent that does nothing and notes the preference of each robot at every step."""

    needs_pixels, weights = False, (1.0, 0.0, 0.0)

    def __init__(self):
        self.seen = []

    def reset(self):
        pass

    def act(self, images, proprio, expert_obs, previous_action, first, weights):
        self.seen.append((first.tolist(), weights[:, 2].tolist()))
        seen = Observed(np.zeros((2, 0)), np.zeros(2, int), np.zeros(2))
        return Decision(np.zeros((2, 4), np.float32), seen)


def test_robots_keep_the_preference_and_the_stress_of_their_trial():
    """Three trials for two robots; where none is asked for, the agent's own preference holds."""
    agent = Recorder()
    trials = [
        Trial(1, weights=(0.5, 0.0, 0.5)),
        Trial(2, stress=Stress(misgrasp=1.0)),
        Trial(3, weights=(0.75, 0.0, 0.25)),
    ]
    env = make_vector_env(2, render=False, horizon=10)
    with closing(env):
        runs = run_episodes(env, agent, trials)
    assert [t.trial for t in runs] == trials
    assert [t.number for t in runs] == [0, 1, 2]
    assert agent.seen[0] == ([True, True], [0.5, 0.0])
    assert agent.seen[9] == ([False, False], [0.5, 0.0])
    assert agent.seen[10][1] == [0.25, 0.0]
    with closing(make_vector_env(1, render=False, horizon=10)) as alone:
        again = run_episodes(alone, ScriptAgent(FastScript()), trials[1:2])
        nominal = run_episodes(alone, ScriptAgent(FastScript()), [Trial(2)])
    assert np.abs(np.array(again[0].action) - np.array(nominal[0].action)).max() > 0.1


def test_a_trial_ends_at_its_own_horizon():
    """However long the environment would go on."""
    trials = [Trial(1, horizon=4), Trial(2, horizon=7), Trial(3)]
    with closing(make_vector_env(2, render=False, horizon=10)) as env:
        runs = run_episodes(env, Recorder(), trials)
    assert [len(run.success) for run in runs] == [4, 7, 10]


def test_the_learner_works_while_the_robots_move():
    """Once a step, between sending the actions and taking what came of them; motion is the same."""
    order, trials = [], [Trial(1), Trial(2)]

    class Watched(Recorder):
        def act(self, *arguments):
            order.append("act")
            return super().act(*arguments)

    env = make_vector_env(2, render=False, horizon=10)
    with closing(env):
        alone = run_episodes(env, Recorder(), trials)
        wait = env.step_wait
        env.step_wait = lambda: (order.append("wait"), wait())[1]
        loop, runs = ClosedLoop(env, Watched(), trials), []
        while not loop.idle:
            runs += loop.step(meanwhile=lambda: order.append("learn"))
    assert order == ["act", "learn", "wait"] * 10
    assert [t.energy_j for t in runs] == [t.energy_j for t in alone]


def episode(steps: int, success_at: int | None, undone: int = 100) -> Trajectory:
    """Observation t is t, as is action t; T + 1 frames were seen; rewards are -1."""
    run = Trajectory(Trial(0))
    run.observation = [np.full(1, t, np.float32) for t in range(steps + 1)]
    run.skill = [t % 4 for t in range(steps + 1)]
    run.severity = [t / 10 for t in range(steps + 1)]
    run.action = [np.full(4, t, np.float32) for t in range(steps)]
    run.reward = [np.full(3, -1.0, np.float32)] * steps
    run.success = [success_at is not None and success_at <= t < undone for t in range(steps)]
    return run


def stored(run: Trajectory) -> dict[str, np.ndarray]:
    """What a buffer with returns of two steps keeps of it."""
    replay = Replay(100, 1, n=2, gamma=0.5)
    _remember(replay, run)
    return {name: values[: replay.size] for name, values in replay._arrays.items()}


def test_success_ends_a_return_and_what_follows_is_an_episode_of_its_own():
    """Done at step 2 of 6: three transitions that end, three that were cut off."""
    kept = stored(episode(6, success_at=2))
    assert kept["obs"][:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert kept["action"][:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert kept["terminated"].tolist() == [False, True, True, False, False, False]
    assert kept["reward"][:, 0].tolist() == [-1.5, -1.5, -1, -1.5, -1.5, -1]
    assert kept["next_obs"][3:, 0].tolist() == [5, 6, 6]
    assert kept["next_skill"][3:].tolist() == [1, 2, 2]
    np.testing.assert_allclose(kept["severity"], np.arange(6) / 10)
    np.testing.assert_allclose(kept["next_severity"][3:], [0.5, 0.6, 0.6])


def test_a_success_that_did_not_hold_ends_nothing():
    """Done at steps 2 and 3 of 6, then undone: six transitions in a row."""
    kept = stored(episode(6, success_at=2, undone=4))
    assert not kept["terminated"].any()
    assert kept["next_obs"][:, 0].tolist() == [2, 3, 4, 5, 6, 6]


def test_success_at_the_last_step_leaves_nothing_behind_it():
    """As where the environment ends the episode with it."""
    kept = stored(episode(3, success_at=2))
    assert kept["terminated"].tolist() == [False, True, True]


def test_an_episode_without_success_is_cut_off():
    """Its last transition is followed by the frame that was seen last."""
    kept = stored(episode(3, success_at=None))
    assert not kept["terminated"].any()
    assert kept["next_obs"][:, 0].tolist() == [2, 3, 3]


def filled(settings: Policy, obs_dim: int = 5) -> Replay:
    """Two hundred transitions of random numbers."""
    rng = np.random.default_rng(0)
    replay = Replay(200, obs_dim, settings.n_step, settings.gamma)
    for _ in range(4):
        obs, action = rng.normal(size=(50, obs_dim)), rng.uniform(-1, 1, (50, 4))
        reward, skill = rng.normal(size=(50, 3)), rng.integers(0, 4, 50)
        replay.add(obs, skill, rng.uniform(size=50), action, reward, True, action)
    return replay


def test_half_a_batch_is_recorded_once_the_robot_has_moved_enough(settings):
    """Before, all of it is."""
    recorded, online = filled(settings), Replay(50, 5, settings.n_step, settings.gamma)
    rng = np.random.default_rng(0)
    assert len(sample_mixed(recorded, online, 8, rng)) == 8
    rest = np.zeros(10), np.zeros((10, 4)), np.zeros((10, 3))
    online.add(np.zeros((10, 5)), np.zeros(10, int), *rest, True)
    batch = sample_mixed(recorded, online, 8, rng)
    assert (batch.obs[:4] != 0).all()
    assert (batch.obs[4:] == 0).all()


def test_an_update_moves_everything_and_its_average_follows(settings):
    """Actor, critics, targets, averaged actor and temperature; under autocast the loss is near."""
    losses = []
    for autocast in (False, True):
        torch.manual_seed(0)
        actor, safety = build_actor(5, settings.hidden), load_params("safety").safety
        learner = Learner(
            actor,
            5,
            ConditionVector(),
            settings,
            safety,
            lambda on=autocast: torch.autocast("cpu", torch.bfloat16, enabled=on),
        )
        parts = (learner.actor, learner.critic, learner.target, learner.average)
        before = [torch.cat([p.flatten() for p in part.parameters()]).clone() for part in parts]
        temperature = learner.log_temperature.item()
        batch = filled(settings).sample(8, np.random.default_rng(0))
        losses.append(learner.update(batch)["critic"].item())
        for part, old in zip(parts, before, strict=True):
            new = torch.cat([p.flatten() for p in part.parameters()])
            assert (new != old).float().mean() > 0.5
        assert learner.log_temperature.item() != temperature
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert losses[1] != losses[0]
