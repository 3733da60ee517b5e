"""Energy, damage and the drawer's friction, measured a second time from MuJoCo's own quantities."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from lib.params import load_params
from lib.sim.env import (
    ACTION_REPEAT,
    CONTROL_STEP_S,
    DEFAULT_PRICES,
    ManipulationEnv,
    episode_seed,
    make_env,
)
from lib.sim.experts import FastScript
from lib.sim.stress import DAMPING_FACTOR, FRICTION_N, Stress


@pytest.fixture(scope="module")
def env():
    made = make_env(render=False, horizon=75)
    yield made
    made.close()


def motor_power(env: ManipulationEnv) -> float:
    """Power of ideal motors in the robot's joints, W: inverse dynamics, contacts left out.

    tau = M a + bias - passive - J^T f of all constraints that are no equality.
    """
    model, data = env._sim.model, env._sim.data
    inertia, contact = np.zeros(model.nv), np.zeros(model.nv)
    mujoco.mj_mulM(model, data, inertia, data.qacc)
    forces = data.efc_force.copy()
    forces[: data.ne] = 0
    mujoco.mj_mulJacTVec(model, data, contact, forces)
    torque = inertia + data.qfrc_bias - data.qfrc_passive - contact
    power = np.abs(torque * data.qvel)
    drawer = int(model.joint(env.task.part_joint).dofadr[0])
    return float(np.delete(power, drawer).sum())


def watched(env: ManipulationEnv, seed: int, measure, stress: Stress | None = None):
    """Runs the fast script; returns what was measured after every substep, and the infos."""
    found, infos = [], []
    step = env._sim.step

    def stepped(action):
        answer = step(action)
        found.append(measure(env))
        return answer

    env._sim.step = stepped
    script = FastScript()
    try:
        _, info = env.reset(seed=seed, options={"stress": stress or Stress()})
        done = False
        while not done:
            _, reward, done, late, info = env.step(script(info["expert_obs"]))
            infos.append((reward, info))
            done = done or late
    finally:
        env._sim.step = step
    return np.array(found).reshape(-1, ACTION_REPEAT), infos


def test_energy_is_the_work_of_the_robots_motors(env):
    """Of arm and gripper, in every substep; and its reward is that work over its scale."""
    power, infos = watched(env, 5, motor_power)
    joules = np.array([info["energy_j"] for _, info in infos])
    expected = power.sum(1) * CONTROL_STEP_S / ACTION_REPEAT
    np.testing.assert_allclose(joules, expected, rtol=1e-3, atol=1e-4)
    assert joules.sum() > 10
    rewards = np.array([reward[2] for reward, _ in infos])
    scale = DEFAULT_PRICES["energy_scale_j"]
    np.testing.assert_allclose(rewards, -joules / scale, rtol=1e-5)
    assert scale == load_params("economics").economics.energy_scale_j


def gripper_force(env: ManipulationEnv) -> float:
    """Largest contact force on a geom of the gripper, N."""
    model, data = env._sim.model, env._sim.data
    names = env.task.primitives["gripper"]
    bodies = {model.body(name).id for name in names}
    largest, force = 0.0, np.zeros(6)
    for index in range(data.ncon):
        if {int(model.geom_bodyid[g]) for g in data.contact.geom[index]} & bodies:
            mujoco.mj_contactForce(model, data, index, force)
            largest = max(largest, float(np.linalg.norm(force[:3])))
    return largest


@pytest.mark.parametrize("limit", [5.0, 50.0])
def test_damages_are_the_rises_of_the_contact_force_above_the_limit(limit):
    """Each is counted once, costs its price, and is known to the robot's accounts alone."""
    prices = {"damage_force_n": limit, "damage_cost": 0.02}
    env = make_env(render=False, horizon=75, prices=prices)
    total = 0
    for seed in range(3):
        force, infos = watched(env, episode_seed(3, seed), gripper_force)
        above = (force > limit).ravel()
        rises = (above & ~np.append(False, above[:-1])).reshape(force.shape).sum(1)
        damages = np.array([info["damages"] for _, info in infos])
        np.testing.assert_array_equal(damages, rises)
        total += damages.sum()
        paid = np.array([reward[1] for reward, _ in infos])
        done = np.array([float(info["success"]) for _, info in infos])
        wage = DEFAULT_PRICES["wage_per_hour"] / 3600 * CONTROL_STEP_S
        price = DEFAULT_PRICES["unit_price"]
        np.testing.assert_allclose(paid, done - (wage + 0.02 * damages) / price, rtol=1e-4)
    env.close()
    assert total > 0


def test_the_drawer_is_damped_and_rubs_as_the_stress_says(env):
    """At severity 0.5: half of what is drawn; afterwards as before. A push moves it less far."""
    model, dof = env._sim.model, env._dof
    travelled, found = [], []
    for stress in (Stress(), Stress(dynamics=0.5), Stress()):
        env.reset(seed=4, options={"stress": stress})
        found.append((float(model.dof_damping[dof]), float(model.dof_frictionloss[dof])))
        data = env._sim.data
        start = data.qpos[env._qpos]
        data.qfrc_applied[dof] = -60.0
        for _ in range(20):
            mujoco.mj_step(model, data)
        data.qfrc_applied[dof] = 0.0
        travelled.append(abs(data.qpos[env._qpos] - start))
    (plain, none), (damped, rubbing), again = found
    assert again == (plain, none) and none == 0
    assert 0.25 * DAMPING_FACTOR <= damped / plain - 1 <= 0.5 * DAMPING_FACTOR
    assert 0.25 * FRICTION_N <= rubbing <= 0.5 * FRICTION_N
    assert travelled[0] == travelled[2]
    assert travelled[1] < 0.2 * travelled[0]
