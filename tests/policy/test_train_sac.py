"""Multi-objective SAC: preferences, episodes as transitions, updates."""

import numpy as np
import pytest
import torch

from lib.agent.agents import build_actor
from lib.agent.closed_loop import Trajectory, Trial
from lib.agent.condition import SEVERITY, WEIGHTS_SLICE, ConditionVector
from lib.params import load_params
from lib.policy import Policy
from lib.policy.cloning import draw_conditions, draw_preferences, taught
from lib.policy.replay import Replay
from lib.policy.teacher import Teacher
from lib.policy.train_sac import Learner, _remember, sample_mixed
from lib.sim.env import episode_seed, make_env

CORNERS = {"throughput": [1.0, 0.0, 0.0], "energy": [0.5, 0.0, 0.5]}


@pytest.fixture(scope="module")
def settings() -> Policy:
    """Those of params.yaml on a small network, with presets that are easy to tell apart."""
    values = load_params("policy").policy.model_dump()
    small = {"hidden": [16], "batch_size": 8, "imitation_steps": 0, "presets": CORNERS}
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


def test_the_pace_of_the_teacher_falls_with_the_weight_of_energy(settings):
    """From 1 at the preset with the least to 0 at the one with the most, and no further."""
    energy = np.array([0.0, 0.1, 0.25, 0.5, 0.8])
    np.testing.assert_allclose(settings.pace_at(energy), [1, 0.8, 0.5, 0, 0])
    alone = settings.model_copy(update={"presets": {"one": [0.5, 0.0, 0.5]}})
    np.testing.assert_array_equal(alone.pace_at(energy), np.ones(5))


def test_a_transition_is_taught_at_the_pace_of_its_preference(settings):
    """Gentle under the energy preset, brisk under the other, between between; surprise slows."""
    batch = filled(settings).sample(5, np.random.default_rng(0))
    batch.expert = torch.stack([torch.zeros(5, 4), torch.ones(5, 4)], 1)
    batch.severity = torch.tensor([0.0, 0.0, 0.0, 0.25, 1.0])
    brisk, gentle, between = [1.0, 0.0, 0.0], [0.5, 0.0, 0.5], [0.75, 0.0, 0.25]
    weights = torch.tensor([brisk, gentle, between, brisk, brisk])
    found = taught(batch, weights, settings)
    pace = torch.tensor([1.0, 0.0, 0.5, 0.75, 0.0])
    torch.testing.assert_close(found, pace[:, None].expand(5, 4))


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


@pytest.mark.parametrize("world", ["metaworld", "wide"])
@pytest.mark.parametrize("preset", load_params("policy").policy.presets)
def test_no_preset_is_best_served_by_standing_still(preset, world):
    """All the way to an open drawer, going on is worth more than never moving again.

    The critics' discount must reach as far as the reward: at .97 a gentle preference saw the energy
    of a pull and too little of what an open drawer saves, and the robot learned to stand.
    """
    params = load_params("policy", "economics")
    weights, gamma = np.array(params.policy.presets[preset]), params.policy.gamma
    env = make_env(render=False, world=world, prices=params.economics.model_dump())
    script = Teacher().at(float(params.policy.pace_at(weights[-1])))
    ratios = []
    for index in range(8):
        _, info = env.reset(seed=episode_seed(78, index))
        rewards, done = [], False
        while not done:
            _, reward, done, _, info = env.step(script(info["expert_obs"]))
            rewards.append(reward)
        value, wage = 0.0, rewards[0][1]
        for reward in reversed(rewards):
            value = weights @ reward + gamma * value
            standing = weights @ [reward[0], wage, 0.0] / (1 - gamma)
            assert value > standing
        ratios.append(standing / value)
    assert np.mean(ratios) > 1.5


def episode(steps: int, success_at: int | None, undone: int = 100) -> Trajectory:
    """Observation t is t, as is action t; T + 1 frames were seen; rewards are -1."""
    run = Trajectory(Trial(0))
    run.observation = [np.full(1, t, np.float32) for t in range(steps + 1)]
    run.skill = [t % 4 for t in range(steps + 1)]
    run.severity = [t / 10 for t in range(steps + 1)]
    run.action = [np.full(4, t, np.float32) for t in range(steps)]
    run.reward = [np.full(3, -1.0, np.float32)] * steps
    run.expert_obs = [np.full(39, t) for t in range(steps)]
    run.success = [success_at is not None and success_at <= t < undone for t in range(steps)]
    return run


def stored(run: Trajectory) -> dict[str, np.ndarray]:
    """What a buffer with returns of two steps keeps of it."""
    replay = Replay(100, 1, n=2, gamma=0.5)
    _remember(replay, run, lambda seen: np.stack([seen[:4] / 10, seen[:4] / 5]))
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


@pytest.mark.parametrize("undone", [100, 4])
def test_the_teacher_says_what_it_would_have_done_at_every_step(undone):
    """Before and after a success, whether it held or not, gentle and brisk: labels to clone."""
    kept = stored(episode(6, success_at=2, undone=undone))
    np.testing.assert_allclose(kept["expert"][:, 0, 0], np.arange(6) / 10)
    np.testing.assert_allclose(kept["expert"][:, 1, 0], np.arange(6) / 5)


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
        taught = np.stack([action, action], 1)
        replay.add(obs, skill, rng.uniform(size=50), action, reward, True, taught)
    return replay


def test_half_a_batch_is_recorded_once_the_robot_has_moved_enough(settings):
    """Before, all of it is."""
    recorded, online = filled(settings), Replay(50, 5, settings.n_step, settings.gamma)
    rng = np.random.default_rng(0)
    assert len(sample_mixed(recorded, online, 8, rng)) == 8
    rest = np.zeros(10), np.zeros((10, 4)), np.zeros((10, 3))
    online.add(np.zeros((10, 5)), np.zeros(10, int), *rest, True, np.zeros((10, 2, 4)))
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
            0,
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
