"""The simulator: exact repeatability, honest pictures and labels, measurable stress.

One environment serves the whole file: a second one in the same process may disturb the pictures
of the first. Tests that need a scene of their own build it without the environment's renderer.
"""

import hashlib
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from mo_gymnasium.wrappers import LinearReward

import lib.sim  # first: it chooses the OpenGL backend that mujoco takes at import

try:
    import mujoco
except (AttributeError, ImportError, OSError, RuntimeError) as error:
    pytest.skip(f"MuJoCo cannot render: {error}", allow_module_level=True)

from metaworld import policies
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from lib.base.errors import UserError
from lib.base.paths import ROOT
from lib.episode import PRIMITIVES
from lib.episode.check import problems
from lib.params import load_params
from lib.sim.env import (
    ACTION_REPEAT,
    CONTROL_STEP_S,
    MAX_HORIZON,
    ManipulationEnv,
    episode_seed,
    spread_seeds,
)
from lib.sim.experts import FastScript, ScriptedExpert
from lib.sim.rollout import LEGEND, TEMPLATES, RolloutRequest, _cached_env, plan, rollout
from lib.sim.simulation import Simulation
from lib.sim.skills import PULL, RECOVER
from lib.sim.stress import (
    DROPOUT_SHARE,
    DROPOUT_STEPS,
    LATENCY_STEPS,
    PUSH_N,
    PUSH_STEPS,
    SENSED_KINDS,
    STRESS_KINDS,
    Stress,
    stress_kinds,
)
from lib.sim.tasks import get_task
from lib.sim.world import WORLDS

# In a process of its own: a driver that crashes must not take the tests with it.
PROBE = """
import lib.sim, mujoco
renderer = mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"))
renderer.render()
renderer.close()
"""


@pytest.fixture(scope="module", autouse=True)
def renderer():
    """Skips the file where MuJoCo cannot render, and says why."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        pytest.skip("MuJoCo cannot render: the OpenGL driver hangs")
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["it crashes"])[-1]
        pytest.skip(f"MuJoCo cannot render: {reason}")


PRICES = {"unit_price": 0.01}
HANDLE, DRAWER, TABLE, SKY = (
    PRIMITIVES.index(name) for name in ("handle", "drawer", "table", "background")
)


@pytest.fixture(scope="module")
def shared(renderer) -> ManipulationEnv:
    """The one environment with pictures; the rollouts' own, so that no second one is built."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prices, horizon = tuple(sorted(PRICES.items())), settings()["horizon"]
        env = _cached_env("drawer_open", "metaworld", 64, True, horizon, prices)
        env._linger = 0  # a rollout ends at success anyway
    yield env
    env.close()
    _cached_env.cache_clear()


@pytest.fixture
def env(shared) -> ManipulationEnv:
    """The shared environment without stress."""
    shared.reset(seed=0, options={"stress": Stress()})
    return shared


@pytest.fixture(scope="module")
def blind() -> ManipulationEnv:
    """An environment without pictures, for what concerns physics alone."""
    return lib.sim.make_env(render=False)


def run(env, seed: int, stress: Stress | None = None, agent=None, steps: int = 500) -> list[tuple]:
    """Steps an agent (the expert) until the episode ends: (observation, reward, ends, info)."""
    agent = agent or ScriptedExpert(env.task)
    observation, info = env.reset(seed=seed, options={"stress": stress or Stress()})
    rows = [(observation, None, False, False, info)]
    while len(rows) <= steps and not (rows[-1][2] or rows[-1][3]):
        rows.append(env.step(agent(rows[-1][4]["expert_obs"])))
    return rows


def digest(rows: list[tuple]) -> str:
    """A hash of everything that an episode gave, bit by bit."""
    sha = hashlib.sha256()
    for observation, reward, terminated, truncated, info in rows:
        for name in sorted(observation):
            sha.update(observation[name].tobytes())
        sha.update(b"" if reward is None else reward.tobytes())
        sha.update(bytes([terminated, truncated, info["success"], info["skill"]]))
        for name in ("state", "executed", "expert_obs"):
            sha.update(info[name].tobytes())
        sha.update(np.array([info["energy_j"], info["damages"]]).tobytes())
    return sha.hexdigest()


def physics(rows: list[tuple]) -> np.ndarray:
    """True states and executed actions of an episode."""
    return np.array([np.concatenate([row[4]["state"], row[4]["executed"]]) for row in rows])


# Repeatability


def test_an_episode_is_a_function_of_its_seed(env):
    """Observations, rewards and states are equal bit by bit, whatever ran before."""
    stress = Stress(action_noise=0.5, slip=0.8, light=0.5, camera=0.5, dropout=0.3, latency=0.5)
    first = digest(run(env, 5, stress))
    run(env, 6, Stress(dynamics=1.0, push=1.0, light=1.0, camera=1.0), steps=30)
    assert digest(run(env, 5, stress)) == first
    assert digest(run(env, 7, stress)) != first


def in_a_fresh_process(code: str) -> str:
    """What a Python that never rendered before prints for some code."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


FRESH = """
import sys
sys.path.insert(0, "tests/sim")
from test_sim import *

env = lib.sim.make_env(image_size=64)
print(digest(run(env, 5, Stress(action_noise=0.5, light=0.5, camera=0.5), steps=40)))
env.close()
"""


def test_a_fresh_process_gives_the_same_bits(env):
    """Pictures included: nothing of the process leaks into an episode."""
    here = digest(run(env, 5, Stress(action_noise=0.5, light=0.5, camera=0.5), steps=40))
    assert in_a_fresh_process(FRESH) == here


def test_seeds_cover_the_whole_continuous_range_of_positions(blind):
    """100 seeds: no position twice, both ends come close, and the middle is not empty."""
    space = blind._sim.world._random_reset_space
    moving = space.high > space.low
    xs = np.array([blind.reset(seed=seed)[1]["state"][4:7] for seed in range(100)])
    spread = np.ptp(xs, axis=0)
    axis = int(spread.argmax())
    width = (space.high - space.low)[moving].max()
    assert len(np.unique(xs[:, axis])) == 100
    assert spread[axis] == pytest.approx(width, rel=0.05)
    assert (np.histogram(xs[:, axis], bins=8)[0] > 5).all()


def test_spread_seeds_cover_the_positions_evenly(blind):
    """One in each of ten equal parts of the drawer's range; each stream has seeds of its own."""
    low, high = blind.positions
    chosen = {name: spread_seeds(0, 10, name, (low, high)) for name in ("validate", "other")}
    assert not set(chosen["validate"]) & set(chosen["other"])
    assert set(chosen["validate"]) <= {episode_seed(0, i, "validate") for i in range(1000)}
    for seeds in chosen.values():
        xs = np.array([blind.reset(seed=seed)[1]["state"][4] for seed in seeds])
        np.testing.assert_allclose(
            xs - xs.mean(), (np.arange(10) - 4.5) * (high - low).max() / 10, atol=0.002
        )


def test_training_seeds_are_denser_towards_the_ends_from_the_first_on(blind):
    """A third of them in the outer 15 %, a third in the inner half, also among the first forty."""
    low, high = blind.positions
    seeds = spread_seeds(0, 120, "train", (low, high), ends=True)
    assert len(set(seeds)) == 120
    xs = np.array([np.random.default_rng(seed).uniform(low, high)[0] for seed in seeds])
    shares = np.abs(xs - (low + high)[0] / 2) / ((high - low)[0] / 2)
    for some in (shares, shares[:40]):
        assert (some > 0.85).mean() == pytest.approx(0.353, abs=0.03)
        assert (some < 0.5).mean() == pytest.approx(1 / 3, abs=0.03)


def test_spread_seeds_cover_a_plane():
    """16 of positions on a table: each quarter of it has four; what cannot vary is left out."""
    low, high = np.array([-0.1, 0.5, 0.0]), np.array([0.1, 0.7, 0.0])
    seeds = spread_seeds(0, 16, "validate", (low, high))
    at = np.array([np.random.default_rng(seed).uniform(low, high) for seed in seeds])
    assert len(set(seeds)) == 16
    counts, *_ = np.histogram2d(at[:, 0], at[:, 1], bins=2, range=((-0.1, 0.1), (0.5, 0.7)))
    assert (counts == 4).all()


def test_a_reset_without_seed_goes_on_with_the_generator(blind):
    """Two in a row differ; seeded anew the row is the same one."""

    def positions():
        return [blind.reset(seed=seed)[1]["state"][4] for seed in (3, None, None)]

    first = positions()
    assert len(set(first)) == 3
    assert positions() == first


def test_make_env_seeds_the_first_reset():
    """`make_env(seed=s)` then `reset()` is an episode of its own seed, twice the same."""
    first, second, other = (
        lib.sim.make_env(seed=seed, render=False).reset()[1]["state"].tolist() for seed in (4, 4, 5)
    )
    assert first == second != other


def test_episode_seeds_differ_by_seed_index_and_stream():
    """No two of 3 seeds, 200 indices and 3 streams meet; the first one is pinned."""
    seeds = [
        episode_seed(seed, index, stream)
        for seed in (0, 1, 1000)
        for index in range(200)
        for stream in ("rollout", "plan", "evaluate")
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert episode_seed(0, 0) == 1105590632


# Observation and reward


def test_the_observation_is_picture_and_proprioception_alone(env):
    """Hand and gripper as they are, nothing privileged beside them, and inside the space."""
    for observation, *_, info in run(env, 3, steps=20):
        assert observation.keys() == {"image", "proprio"}
        assert env.observation_space.contains(observation)
        np.testing.assert_array_equal(observation["proprio"], info["state"][:4])
        assert observation["proprio"].dtype == np.float32
        assert observation["image"].std() > 10


def test_the_picture_does_not_depend_on_the_goal(env):
    """Every site moved and recoloured, and the task's target elsewhere: not one pixel changes."""
    model, data = env._sim.model, env._sim.data
    before, labels = env.render(), env.pixel_labels()
    assert model.nsite > 0
    kept = model.site_rgba.copy(), model.site_pos.copy(), data.site_xpos.copy()
    try:
        model.site_rgba[:] = [1, 0, 1, 1]
        model.site_pos[:] += 0.05
        data.site_xpos[:] = [0.0, 0.6, 0.15]
        np.testing.assert_array_equal(env.render(), before)
        np.testing.assert_array_equal(env.pixel_labels(), labels)
        # The test would see it: with sites drawn, they cover pixels.
        env._scene.options.sitegroup[:] = 1
        assert (env.render() != before).any()
    finally:
        env._scene.options.sitegroup[:] = 0
        model.site_rgba[:], model.site_pos[:], data.site_xpos[:] = kept


def test_an_action_lasts_two_of_meta_worlds_steps(blind, monkeypatch):
    """State, progress and success are those of the second, energy and blows those of both."""
    position = np.random.default_rng(3).uniform(*blind.positions)
    blind.reset(seed=3, options={"stress": Stress()})
    sim, powers, power = Simulation(blind.task.env_name), [], blind._mechanical_power
    sim.reset(position)
    monkeypatch.setattr(blind, "_mechanical_power", lambda: powers.append(power()) or powers[-1])
    monkeypatch.setattr(blind, "_new_damages", lambda: 1)
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 4)):
        _, reward, _, _, info = blind.step(action)
        for _ in range(ACTION_REPEAT):
            raw, dense, success = sim.step(action)
        np.testing.assert_array_equal(info["true_obs"], raw)
        assert (reward[0], info["success"]) == (np.float32(dense / 10 - 1), success)
        assert info["damages"] == ACTION_REPEAT
        seconds = sim.model.opt.timestep * sim.world.frame_skip
        assert info["energy_j"] == pytest.approx(sum(powers[-ACTION_REPEAT:]) * seconds)
    assert len(powers) == 20 * ACTION_REPEAT
    assert pytest.approx(ACTION_REPEAT * seconds) == CONTROL_STEP_S


def test_terminated_means_done_and_truncated_means_time_is_up(blind):
    """The expert ends by success, whoever rests by the horizon; never both."""
    done = run(blind, 11)
    assert done[-1][2:4] == (True, False)
    assert done[-1][4]["success"]
    assert not any(row[4]["success"] for row in done[:-1])
    assert len(done) - 1 < 75
    idle = run(blind, 11, agent=lambda obs: np.zeros(4))
    assert idle[-1][2:4] == (False, True)
    assert len(idle) - 1 == 75


def test_success_at_the_last_step_is_termination_alone(blind):
    """The horizon and the success at one step: the task is done, nothing was cut off."""
    rows = run(blind, 11)
    env = lib.sim.make_env(render=False, horizon=len(rows) - 1)
    assert run(env, 11)[-1][2:4] == (True, False)
    env = lib.sim.make_env(render=False, horizon=len(rows) - 2)
    assert run(env, 11)[-1][2:4] == (False, True)


def test_an_environment_may_go_on_after_success():
    """It ends by the horizon alone; one unit is paid, and what comes after costs no wage."""
    env = lib.sim.make_env(render=False, linger=None, horizon=60)
    rows = run(env, 11)
    assert rows[-1][2:4] == (False, True)
    assert len(rows) - 1 == 60
    success = np.array([row[4]["success"] for row in rows[1:]])
    task, value, _ = np.array([row[1] for row in rows[1:]]).T
    assert success.sum() > 5
    first = int(success.argmax())
    damages = np.array([row[4]["damages"] for row in rows[1:]])
    assert (value[:first] < 0).all() and value[first] > 0.9
    np.testing.assert_array_equal(value[first + 1 :], -1.0 * damages[first + 1 :])
    assert (task[first + 1 :][success[first + 1 :]] == 0).all()
    assert (task[: first + 1] < 0).all()


def test_what_is_undone_after_success_costs_again():
    """The hand pushes the drawer shut: progress falls below zero once it is no longer open."""
    env = lib.sim.make_env(render=False, linger=None, horizon=100)
    expert = ScriptedExpert(env.task)
    _, info = env.reset(seed=episode_seed(77, 11))
    done, rows = False, []
    for _ in range(100):
        action = np.array([0, 1, 0, -1]) if done else expert(info["expert_obs"])
        _, reward, _, _, info = env.step(action)
        rows.append((done, info["success"], reward[0]))
        done = done or info["success"]
    undone = [reward for after, success, reward in rows if after and not success]
    assert len(undone) > 5
    assert max(undone) < 0


def test_an_episode_lingers_for_as_long_as_asked():
    """Truncated, not terminated, seven steps after the first success."""
    env = lib.sim.make_env(render=False, linger=7)
    rows = run(env, 11)
    assert rows[-1][2:4] == (False, True)
    success = [row[4]["success"] for row in rows[1:]]
    assert len(success) == success.index(True) + 1 + 7


def test_the_vector_reward_is_within_its_space_and_means_what_it_says(env):
    """Progress, value and energy of an episode: value pays once, energy is what info says."""
    rows = run(env, 11)
    rewards = np.array([row[1] for row in rows[1:]])
    assert rewards.dtype == np.float32
    assert rewards.shape[1] == env.reward_dim == 3
    assert all(env.reward_space.contains(reward) for reward in rewards)
    joules = [row[4]["energy_j"] for row in rows[1:]]
    np.testing.assert_allclose(rewards[:, 2], -np.array(joules) / 8, rtol=1e-6)
    assert min(joules) > 0
    wage = 18.0 / 3600 * CONTROL_STEP_S / 0.01
    np.testing.assert_allclose(rewards[:-1, 1], -wage, rtol=1e-5)
    np.testing.assert_allclose(rewards[-1, 1], 1 - wage, rtol=1e-5)
    assert rewards[-5:, 0].mean() > rewards[:5, 0].mean() + 0.3


class Scalar(LinearReward):
    """LinearReward with the weights copied: the checker refuses what is handed out twice."""

    def step(self, action):
        *rest, info = super().step(action)
        return *rest, {**info, "reward_weights": self.w.copy()}


# What the checker has to say: it sees a wrapper, and proprioception has no bounds.
@pytest.mark.filterwarnings(
    "error",
    "ignore:.*different from the unwrapped version",
    "ignore:.*Box observation space (min|max)imum value is -?inf",
)
def test_gymnasiums_checker_finds_nothing(env):
    """Spaces, seeding, determinism, types and reuse of data, with the reward made a scalar."""
    check_env(Scalar(env, weight=np.array([0.8, 0.1, 0.1])), skip_render_check=True)


def test_unknown_tasks_and_horizons_are_refused():
    """By name, with what there is."""
    with pytest.raises(UserError, match=r"params.yaml: task: 'fly' is not known.*drawer_open"):
        lib.sim.make_env("fly")
    for horizon in (0, MAX_HORIZON + 1):
        with pytest.raises(ValueError, match="horizon"):
            lib.sim.make_env(horizon=horizon)


# Pixel labels


def test_labels_name_every_part_and_only_what_is_there(env):
    """Each primitive covers pixels; table and sky are where they are."""
    labels = env.pixel_labels()
    assert labels.shape == (64, 64)
    assert labels.dtype == np.uint8
    counts = np.bincount(labels.ravel(), minlength=len(PRIMITIVES))
    assert len(counts) == len(PRIMITIVES)
    assert (counts > 0).all()
    assert counts[TABLE] > 500
    assert (labels[-1] == TABLE).mean() > 0.5


def test_handle_pixels_are_those_of_the_handle(env):
    """Hidden, they show what is behind it, and no other label or pixel changes."""
    model = env._sim.model
    geom = model.geom(env.task.handle_geom).id
    labels, image, group = env.pixel_labels(), env.render(), int(model.geom_group[geom])
    model.geom_group[geom] = 5
    try:
        hidden, behind = env.pixel_labels(), env.render()
    finally:
        model.geom_group[geom] = group
    handle = labels == HANDLE
    assert handle.sum() > 5
    assert (hidden != HANDLE).all()
    np.testing.assert_array_equal(hidden[~handle], labels[~handle])
    np.testing.assert_array_equal(behind[~handle], image[~handle])
    assert (behind[handle] != image[handle]).any(axis=1).mean() > 0.8


def test_labels_move_with_the_drawer(env):
    """An open drawer: the handle's pixels elsewhere, the case's where they were, more drawer."""
    before = env.pixel_labels()
    joint = env._sim.data.joint(env.task.part_joint)
    joint.qpos[0] = -0.15
    mujoco.mj_forward(env._sim.model, env._sim.data)
    after = env.pixel_labels()
    centres = [np.argwhere(labels == HANDLE).mean(0) for labels in (before, after)]
    assert np.linalg.norm(centres[1] - centres[0]) > 5
    assert (after == DRAWER).sum() > 1.3 * (before == DRAWER).sum()
    assert ((before == SKY) == (after == SKY)).mean() > 0.95


def test_labels_and_picture_are_of_one_moment(env):
    """Where labels stay and change from step to step, so do the pixels of the picture."""
    rows = run(env, 3, steps=30)
    labels, image = env.pixel_labels(), env.render()
    np.testing.assert_array_equal(image, rows[-1][0]["image"])
    env.step(np.ones(4))
    changed = env.pixel_labels() != labels
    assert changed.any()
    moved = (env.render() != image).any(axis=2)
    assert moved[changed].mean() > 0.9


def test_labels_need_pictures(blind):
    """Said, not returned black."""
    with pytest.raises(ValueError, match="render=True"):
        blind.pixel_labels()


CULLING = """
import sys
sys.path.insert(0, "tests/sim")
from test_sim import *
from lib.sim.faces import FILE, mesh_key
from lib.sim.scene import HIDDEN_GROUP, Scene

env = lib.sim.make_env(render=False, world=WORLD)
model, data = env._sim.model, env._sim.data
sums = []
meshes = [int(n) for n in model.mesh_facenum]
used = set(model.geom_dataid[model.geom_type == mujoco.mjtGeom.mjGEOM_MESH].tolist())
with np.load(FILE) as survey:
    assert all(mesh_key(env.task.name, model, mesh) in survey for mesh in used)
rng = np.random.default_rng(0)
corners = [np.zeros(6)] + [
    rng.choice([-1, 1], 6) * np.array([8, 8, 0.08, 0.02, 0.02, 0.02]) for _ in range(6)
]
for cull in (False, True):
    scene = Scene(model, data, env.task, 48, cull=cull)
    drawn = model.geom_group.copy()
    sha = hashlib.sha256()
    for seed in (1,):
        observation, info = env.reset(seed=seed)
        expert, ends, step = ScriptedExpert(env.task), False, 0
        while not ends:
            scene.disturb(np.ones(3), env.world.camera)
            sha.update(scene.rgb().tobytes() + scene.rgb(arm=False).tobytes())
            for camera in corners if step % 8 == 0 else []:
                scene.disturb(np.ones(3), env.world.camera + camera)
                sha.update(scene.rgb().tobytes() + scene.labels().tobytes())
            observation, _, done, late, info = env.step(expert(info["expert_obs"]))
            ends, step = done or late, step + 1
        assert info["success"]
    scene.close()
    fewer = sum(int(n) < whole for n, whole in zip(model.mesh_facenum, meshes, strict=True))
    sums.append((sha.hexdigest(), int((drawn == HIDDEN_GROUP).sum()), fewer))
assert 0.8 * len(used) < fewer <= len(used)
print(*sums[0], *sums[1])
"""


@pytest.mark.parametrize("world", WORLDS)
def test_leaving_out_what_is_never_seen_changes_no_pixel(world):
    """A whole episode, picture and labels, also at the corners of the camera stress.

    The survey knows every mesh; another version of Meta-World needs ``python -m lib.sim.survey``.
    """
    whole, none, complete, culled, hidden, cut = in_a_fresh_process(
        CULLING.replace("WORLD", repr(world))
    ).split()
    assert int(hidden) > 0 == int(none)
    assert int(cut) > 0 == int(complete)
    assert culled == whole


# Stress


def test_severities_outside_their_range_are_refused():
    """By kind."""
    for severity in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="stress push"):
            Stress(push=severity)


def test_stress_ends_with_its_episode(env):
    """After everything at once, a nominal episode is what it is in an untouched environment."""
    nominal = digest(run(env, 8))
    run(env, 9, Stress(**dict.fromkeys(stress_kinds("metaworld"), 1.0)), steps=60)
    assert digest(run(env, 8)) == nominal


@pytest.mark.parametrize("kind", ["action_noise", "misgrasp", "slip", "push", "dynamics"])
def test_physical_stress_changes_the_motion(blind, kind):
    """At severity 1 the episode goes another way from the same beginning."""
    calm, stressed = run(blind, 8), run(blind, 8, Stress(**{kind: 1.0}))
    np.testing.assert_allclose(calm[0][4]["state"], stressed[0][4]["state"], atol=1e-12)
    n = min(len(calm), len(stressed))
    assert np.abs(physics(calm)[:n, :3] - physics(stressed)[:n, :3]).max() > 0.01
    assert len(stressed) != len(calm) or kind == "push"


def test_a_push_lasts_its_steps_and_no_longer(blind, monkeypatch):
    """The force stands in the simulation for four control steps, and for none after them."""
    forces, step = [], blind._sim.step

    def watched(action):
        forces.append(np.abs(blind._sim.data.xfrc_applied).max())
        return step(action)

    monkeypatch.setattr(blind._sim, "step", watched)
    run(blind, 8, Stress(push=0.5), agent=lambda obs: np.zeros(4))
    pushed = np.flatnonzero(forces)
    assert len(pushed) == PUSH_STEPS * ACTION_REPEAT == pushed[-1] - pushed[0] + 1
    assert 0 < max(forces) <= 0.5 * PUSH_N


@pytest.mark.parametrize("kind", ["light", "camera", "dropout", "latency"])
def test_sensory_stress_changes_what_is_seen_and_not_what_happens(env, kind):
    """The motion is that of the calm episode bit by bit; the pictures are not."""
    calm, stressed = run(env, 8), run(env, 8, Stress(**{kind: 1.0}))
    np.testing.assert_array_equal(physics(calm), physics(stressed))
    pairs = [(a[0]["image"], b[0]["image"]) for a, b in zip(calm, stressed, strict=True)]
    differing = np.mean([(a != b).any() for a, b in pairs])
    assert differing > (0.9 if kind in ("light", "camera") else 0.2)


def test_light_changes_colours_and_camera_changes_places(env):
    """Labels tell them apart: another light leaves each pixel its part."""
    run(env, 8, steps=1)
    labels = env.pixel_labels()
    run(env, 8, Stress(light=1.0), steps=1)
    np.testing.assert_array_equal(env.pixel_labels(), labels)
    run(env, 8, Stress(camera=1.0), steps=1)
    assert (env.pixel_labels() != labels).mean() > 0.05


def test_dropout_blackens_its_share_of_the_frames(env, blind):
    """Several in a row, as many as asked for on average; the others are untouched."""
    calm = run(env, 8, agent=lambda obs: np.zeros(4))
    stressed = run(env, 8, Stress(dropout=1.0), agent=lambda obs: np.zeros(4))
    pairs = [(a[0]["image"], b[0]["image"]) for a, b in zip(calm, stressed, strict=True)]
    black = [not image.any() for _, image in pairs]
    assert all(dark or (a == b).all() for dark, (a, b) in zip(black, pairs, strict=True))
    column = STRESS_KINDS.index("dropout")
    films = []
    for seed in range(30):
        rows = run(blind, seed, Stress(dropout=1.0), agent=lambda obs: np.zeros(4))
        films.append([row[4]["stress"][column] > 0 for row in rows])
    assert films[8] == black[: len(films[8])]
    share, begun = np.mean(films), np.diff(films, axis=1, prepend=False)
    # Within four standard deviations; neighbouring frames are alike, so it is a wide interval.
    assert abs(share - DROPOUT_SHARE) < 0.1
    assert abs(np.sum(films) / (begun & films).sum() - DROPOUT_STEPS) < 0.25 * DROPOUT_STEPS


def test_latency_shows_the_past(env):
    """At severity 1 the observation is that of some steps ago, picture and proprioception."""
    calm, stressed = run(env, 8, steps=20), run(env, 8, Stress(latency=1.0), steps=20)
    for step in range(20):
        past = calm[max(step - LATENCY_STEPS, 0)][0]
        for name, value in stressed[step][0].items():
            np.testing.assert_array_equal(value, past[name])


def test_misgrasp_moves_the_sensed_hand_and_not_the_true_one(blind):
    """Twelve centimetres, the same for the whole episode, also in what the expert is told."""
    rows = run(blind, 8, Stress(misgrasp=1.0), steps=20)
    offsets = np.array([row[0]["proprio"][:3] - row[4]["state"][:3] for row in rows])
    np.testing.assert_allclose(np.linalg.norm(offsets, axis=1), 0.12, rtol=1e-4)
    np.testing.assert_allclose(offsets, offsets[:1].repeat(len(rows), 0), atol=1e-6)
    told = np.array([row[4]["expert_obs"][:3] - row[4]["state"][:3] for row in rows])
    np.testing.assert_allclose(told, offsets, atol=1e-6)


def test_noise_leaves_the_gripper_alone_and_stays_in_the_action_space(blind):
    """Executed is what the motors got."""
    rows = run(blind, 8, Stress(action_noise=1.0), agent=lambda obs: np.array([0, 0, 0, -0.5]))
    executed = np.array([row[4]["executed"] for row in rows[1:]])
    assert (executed[:, 3] == -0.5).all()
    assert np.abs(executed).max() <= 1
    assert executed[:, :3].std() == pytest.approx(0.3, rel=0.2)


def test_motion_does_not_depend_on_whether_pictures_are_taken(env, blind):
    """The same seed, stress and actions: the same states."""
    stress = Stress(action_noise=1.0)
    seen, unseen = run(env, 8, stress, steps=20), run(blind, 8, stress, steps=20)
    np.testing.assert_array_equal(physics(seen), physics(unseen))


def test_motion_without_noise_does_not_depend_on_whether_pictures_are_taken(env, blind):
    """Rendering is a look at the physics, no part of it."""
    np.testing.assert_array_equal(physics(run(env, 8)), physics(run(blind, 8)))


# Experts and rollouts


@pytest.mark.parametrize(("agent", "limit"), [(ScriptedExpert, 55), (FastScript, 30)])
def test_both_scripts_open_five_of_five(blind, agent, limit):
    """Within the steps that the project's numbers are held against."""
    make = agent if agent is FastScript else lambda: ScriptedExpert(blind.task)
    lengths = []
    for index in range(5):
        rows = run(blind, episode_seed(77, index), agent=make())
        assert rows[-1][4]["success"]
        lengths.append(len(rows) - 1)
    assert max(lengths) <= limit


def settings(template: str | None = None, **changes) -> dict:
    """What plan and rollout read; with a template, no other is drawn."""
    values = load_params("phase1_sima2").phase1_sima2.model_dump()
    if template:
        values |= {f"share_{name}": float(name == template) for name in TEMPLATES}
    return {**values, **changes}


def request(stream: str = "rollout", template: str | None = None, **changes) -> RolloutRequest:
    """What the tests record; with a template, no other is drawn."""
    values = settings(template, **changes)
    asked = {name: values.pop(name) for name in ("horizon", "pictures")}
    world = "metaworld"
    return RolloutRequest(
        "drawer_open", world, 0, 64, **asked, mix=values, prices=PRICES, stream=stream
    )


def roll(index: int, template: str | None = None, **changes):
    """One recorded episode."""
    return rollout(request(template=template, **changes), index)


def test_the_plan_is_a_function_of_seed_and_index_and_keeps_the_shares():
    """1000 plans: each template within four standard deviations of its share."""
    values, task = settings(), get_task("drawer_open")
    plans = [plan(index, 0, values, task) for index in range(1000)]
    assert plans == [plan(index, 0, values, task) for index in range(1000)]
    assert plans != [plan(index, 1, values, task) for index in range(1000)]
    for name in TEMPLATES:
        share = values[f"share_{name}"]
        drawn = sum(p.template == name for p in plans) / 1000
        assert abs(drawn - share) < 4 * (share * (1 - share) / 1000) ** 0.5
    visual = sum(p.stress.light > 0 for p in plans) / 1000
    assert abs(visual - values["visual_share"]) < 0.06
    detours = [len(p.detour) for p in plans if p.detour]
    assert abs(len(detours) / 1000 - values["detour_share"]) < 0.06
    assert set(detours) == {1, 2, 3}
    (low, high), places = (
        np.array(task.free_space),
        np.concatenate([p.detour for p in plans if p.detour]),
    )
    assert ((places >= low) & (places <= high)).all()


@pytest.mark.parametrize(
    ("template", "index", "success"),
    [
        ("failure", 0, False),
        ("failure", 1, False),
        ("recovery", 0, True),
        ("recovery", 1, True),
        ("success", 0, True),
    ],
)
def test_templates_do_what_they_are_named_for(shared, template, index, success):
    """Failure keeps the drawer shut, recovery loses the hold and succeeds, success just does."""
    episode = roll(index, template, visual_share=0.0, detour_share=0.0)
    assert problems(episode) == []
    assert episode.key == f"{index:06d}"
    tags, last = episode.tags, len(episode) - 1
    assert (tags["template"], tags["outcome"], tags["success"]) == (template, template, success)
    assert episode.dones.tolist() == [0] * last + [success]
    skills, opening = episode.labels["skill"].tolist(), episode.labels["state"][:, 7]
    if template == "failure":
        assert opening.max() < 0.01
        assert len(episode) == settings()["horizon"]
    else:
        assert opening.max() > 0.1
    assert (RECOVER in skills) == (template == "recovery")
    if template == "recovery":
        assert PULL in skills[: skills.index(RECOVER)]
        assert PULL in skills[skills.index(RECOVER) :]


def test_a_detour_passes_its_waypoints_and_the_expert_opens_the_drawer_from_there(shared):
    """In order; what the expert would have done on the way is recorded beside."""
    calm = {"visual_share": 0.0, "action_noise": 0.0, "detour_share": 1.0}
    episode = roll(5, "success", **calm)
    waypoints = plan(5, 0, settings("success", **calm), shared.task).detour
    assert episode.tags["detour"] == len(waypoints) and episode.tags["success"]
    hand, at = episode.labels["state"][:, :3], 0
    for waypoint in waypoints:
        distance = np.linalg.norm(hand[at:] - np.array(waypoint), axis=1)
        at += int((distance < 0.025).argmax())
        assert distance.min() < 0.025
    away = np.abs(episode.labels["command"] - episode.labels["expert_action"]).max(1) > 0.1
    assert away[:at].mean() > 0.8 and not away[at + 2 :].any()
    np.testing.assert_array_equal(episode.labels["command"], episode.actions)


def test_the_command_is_what_was_asked_for_not_what_a_slip_made_of_it(shared):
    """The expert pulls on while the hand is torn off upwards."""
    episode = roll(0, "recovery", visual_share=0.0, action_noise=0.0, detour_share=0.0)
    slips = episode.labels["stress"][:, STRESS_KINDS.index("slip")] > 0
    assert slips.any()
    assert (episode.actions[slips, :3] == [0, 0, 1]).all()
    assert (episode.labels["command"][slips] == episode.labels["expert_action"][slips]).all()
    assert (episode.labels["command"][~slips] == episode.actions[~slips]).all()


def test_a_rollout_does_not_depend_on_what_the_process_did_before(shared):
    """3, then 7, then 3 again: equal bit by bit. Workers may take episodes in any order."""
    first, _, again = roll(3), roll(7), roll(3)
    assert first.tags == again.tags
    for (name, a), (_, b) in zip(first.arrays(), again.arrays(), strict=True):
        assert a.tobytes() == b.tobytes(), name


def test_a_rollout_records_what_was_seen_before_each_action(shared):
    """Rows line up: replaying the executed actions gives the recorded observations and states."""
    episode = roll(4, "success", visual_share=0.0, action_noise=0.0, detour_share=0.0)
    assert episode.tags["stress"] == {}
    observation, info = shared.reset(seed=episode_seed(0, 4), options={"stress": Stress()})
    for step, action in enumerate(episode.actions):
        np.testing.assert_array_equal(episode.obs["image"][step], observation["image"])
        np.testing.assert_array_equal(episode.obs["eef_pos"][step], observation["proprio"][:3])
        np.testing.assert_array_equal(episode.labels["state"][step], info["state"])
        np.testing.assert_allclose(episode.labels["expert_action"][step], action, atol=1e-6)
        observation, reward, *_, info = shared.step(action)
        np.testing.assert_array_equal(episode.vector_rewards[step], reward)
    assert info["success"]


def test_each_stress_is_recorded_where_it_strikes(blind):
    """A column a kind: all along for what lasts, the very steps for what strikes."""
    everything = Stress(**dict.fromkeys(stress_kinds("metaworld"), 0.5))
    at_work = np.array([row[4]["stress"] for row in run(blind, 8, everything)])[1:]
    by_kind = dict(zip(STRESS_KINDS, at_work.T, strict=True))
    for kind in ("action_noise", "misgrasp", "dynamics", "light", "camera", "latency"):
        assert (by_kind[kind] == 0.5).all(), kind
    assert set(np.unique(at_work)) == {0.0, 0.5}
    assert (by_kind["push"] > 0).sum() == PUSH_STEPS
    assert 0 < (by_kind["dropout"] > 0).mean() < 4 * 0.5 * DROPOUT_SHARE
    assert not np.array([row[4]["stress"] for row in run(blind, 8)]).any()


def test_dropout_is_recorded_for_the_black_pictures_also_when_they_come_late(env):
    """The severity stands beside the observation that is black, not beside the moment it shows."""
    rows = run(env, 8, Stress(dropout=1.0, latency=1.0))
    recorded = [row[4]["stress"][STRESS_KINDS.index("dropout")] > 0 for row in rows]
    assert recorded == [not row[0]["image"].any() for row in rows]
    assert any(recorded) and not all(recorded)


def test_a_slip_is_recorded_while_the_hand_is_torn_off(blind):
    """Those steps, and only those, carry out another action than the one that was asked for."""
    rows = run(blind, 8, Stress(slip=0.8))
    slips = np.array([row[4]["stress"][STRESS_KINDS.index("slip")] > 0 for row in rows])
    torn = np.array([row[4]["executed"][:3].tolist() == [0, 0, 1] for row in rows])
    assert slips.sum() == 4
    assert torn[slips].all() and not torn[~slips].any()


def test_a_rollout_records_stress_by_step_and_by_episode(shared):
    """Observation and action of a row are told of together; tags count what really struck."""
    episode = roll(3, "mixed", visual_share=1.0)
    record, tags = episode.labels["stress"], episode.tags
    assert record.shape == (len(episode), len(LEGEND["labels/stress"]))
    counts = dict(zip(STRESS_KINDS, (record > 0).sum(0).tolist(), strict=True))
    assert tags["stress_steps"] == {kind: n for kind, n in counts.items() if n}
    assert set(tags["stress_steps"]) <= set(tags["stress"])
    assert {"light", "camera"} <= set(tags["stress_steps"]) & set(SENSED_KINDS)
    worst = {kind: severity for kind, severity in tags["stress"].items() if kind in counts}
    for column, kind in zip(record.T, STRESS_KINDS, strict=True):
        assert set(np.round(column, 4)) <= {0.0, np.float32(round(worst.get(kind, 0), 4))}
    assert tags["recovery"] == (tags["outcome"] == "recovery")
    assert tags["ood_severity"] == pytest.approx(
        record[:, [k != "action_noise" for k in STRESS_KINDS]].max(), abs=1e-6
    )


def test_pixel_labels_are_of_the_picture_beside_them_also_when_it_is_late(shared):
    """Shifted by the latency against the labels of the same episode without it."""
    prompt, late = (
        rollout(request("late"), 0, Stress(latency=severity)) for severity in (0.0, 1.0)
    )
    # The expert sees a late hand, so the two part after a while: the beginning is the same.
    shown, labels = late.obs["image"][:8], late.labels["segmentation"][:8]
    index = np.maximum(np.arange(8) - LATENCY_STEPS, 0)
    same = (prompt.obs["image"][index] == shown).all((1, 2, 3))
    assert same[: LATENCY_STEPS + 1].all()
    np.testing.assert_array_equal(labels[same], prompt.labels["segmentation"][index][same])


def test_a_rollout_takes_a_given_stress(shared):
    """For test sets of one kind and severity."""
    episode = rollout(request("other"), 0, Stress(light=0.5, camera=0.5))
    assert episode.tags["template"] == "given"
    assert episode.tags["stress_steps"] == {"light": len(episode), "camera": len(episode)}


def test_without_pictures_the_rest_is_the_same(shared):
    """State-only rollouts: no images, no pixel labels, every other array equal bit by bit."""
    seen = roll(5, "mixed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lib.sim.rollout._cached_env", _cached_env.__wrapped__)
        unseen = roll(5, "mixed", pictures=False)
    assert seen.tags == unseen.tags
    arrays = dict(seen.arrays())
    assert set(arrays) - {"obs/image", "labels/segmentation"} == dict(unseen.arrays()).keys()
    for name, array in unseen.arrays():
        assert array.tobytes() == arrays[name].tobytes(), name


@pytest.mark.parametrize(
    ("env_name", "policy"),
    [
        ("drawer-open-v3", "SawyerDrawerOpenV3Policy"),
        ("window-open-v3", "SawyerWindowOpenV3Policy"),
        ("peg-insert-side-v3", "SawyerPegInsertionSideV3Policy"),
    ],
)
def test_the_simulation_is_metaworlds_to_the_last_bit(env_name, policy):
    """Two episodes each: observation, dense reward, success and state, from reset to the end."""
    ours, theirs = Simulation(env_name), ALL_V3_ENVIRONMENTS[env_name]()
    theirs._freeze_rand_vec = theirs._set_task_called = True
    expert, rng = getattr(policies, policy)(), np.random.default_rng(0)
    for _ in range(2):
        position = theirs._last_rand_vec = rng.uniform(*ours.positions)
        seen, (raw, _) = ours.reset(position), theirs.reset()
        np.testing.assert_array_equal(seen, raw)
        for _ in range(100):
            action = np.clip(expert.get_action(raw) + rng.normal(size=4) * 0.1, -1, 1)
            raw, dense, _, _, info = theirs.step(action)
            seen, reward, success = ours.step(action)
            np.testing.assert_array_equal(seen, raw)
            assert (reward, success) == (dense, bool(info["success"]))
        np.testing.assert_array_equal(ours.data.qpos, theirs.data.qpos)


def test_the_task_is_data(blind):
    """Every body and geom that the table names exists, and no body is two things."""
    task = get_task("drawer_open")
    names = [name for bodies in task.primitives.values() for name in bodies]
    assert len(names) == len(set(names))
    assert set(task.primitives) | {"background", "handle"} == set(PRIMITIVES)
    for name in (*names, *task.hidden_bodies, task.part_body):
        assert blind._sim.model.body(name).name == name
    assert blind._sim.model.geom(task.handle_geom).name == task.handle_geom
