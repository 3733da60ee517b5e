"""The teacher of the policy: what it does at each pace, in both worlds, and in recorded states."""

import numpy as np
import pytest

from lib.policy.teacher import Teacher, at_pace, recorded_obs
from lib.sim.env import ManipulationEnv, episode_seed, make_env
from lib.sim.experts import FastScript, ScriptedExpert

EPISODES = 40


@pytest.fixture(scope="module")
def wide():
    """The wide world without pictures."""
    return make_env(render=False, world="wide", horizon=80)


def figures(env: ManipulationEnv, script) -> dict[str, float]:
    """Opened drawers, control steps, joules and blows, mean of the episodes."""
    rows = []
    for index in range(EPISODES):
        _, info = env.reset(seed=episode_seed(93, index))
        steps, joules, blows, done = 0, 0.0, 0, False
        while not done:
            _, _, terminated, truncated, info = env.step(script(info["expert_obs"]))
            done = terminated or truncated
            steps, joules, blows = steps + 1, joules + info["energy_j"], blows + info["damages"]
        rows.append((info["success"], steps, joules, blows))
    names = ("opened", "steps", "joules", "blows")
    return dict(zip(names, np.mean(np.array(rows, float), 0), strict=True))


def test_the_teacher_opens_every_drawer_and_pace_costs_energy(wide):
    """Brisk, it is as fast as the fast script; gentle, it takes far less than the expert."""
    paces = [figures(wide, Teacher().at(pace)) for pace in (0.0, 0.5, 1.0)]
    expert, fast = figures(wide, ScriptedExpert(wide.task)), figures(wide, FastScript())
    assert all(found["opened"] >= 0.98 for found in paces)
    steps, joules = ([found[name] for found in paces] for name in ("steps", "joules"))
    assert steps == sorted(steps, reverse=True)
    assert joules == sorted(joules)
    assert steps[2] <= fast["steps"] + 0.5
    assert joules[0] <= 0.8 * expert["joules"] and steps[0] <= expert["steps"]
    assert max(found["blows"] for found in paces) < expert["blows"]


def test_a_pace_between_is_an_action_between(wide):
    """At 0 and 1 the scripts themselves; in the middle, the mean of their actions."""
    _, info = wide.reset(seed=episode_seed(94, 0))
    seen, teacher = info["expert_obs"], Teacher()
    gentle, brisk = teacher(seen)
    assert np.abs(gentle - brisk).max() > 0.1
    np.testing.assert_array_equal(teacher.at(0.0)(seen), gentle)
    np.testing.assert_allclose(teacher.at(1.0)(seen), brisk, atol=1e-7)
    np.testing.assert_allclose(teacher.at(0.5)(seen), (gentle + brisk) / 2, atol=1e-6)
    many = at_pace(np.stack([[gentle, brisk]] * 2), np.array([0.0, 1.0], np.float32))
    np.testing.assert_allclose(many, [gentle, brisk], atol=1e-7)


@pytest.mark.parametrize("world", ["wide", "metaworld"])
def test_recorded_states_are_taught_as_the_robot_saw_them(world):
    """The state holds all that the teacher looks at, for a turned drawer too."""
    env, teacher = make_env(render=False, world=world, horizon=80), Teacher()
    _, info = env.reset(seed=episode_seed(95, 3))
    states, told, done = [], [], False
    while not done:
        states.append(info["state"])
        told.append(teacher(info["expert_obs"]))
        _, _, terminated, truncated, info = env.step(told[-1][1])
        done = terminated or truncated
    again = np.stack([teacher(seen) for seen in recorded_obs(np.array(states))])
    np.testing.assert_allclose(again, told, atol=1e-4)
