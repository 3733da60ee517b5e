"""The wide world: what differs from episode to episode, and scripts that open its drawers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lib.episode import PRIMITIVES, STATE_HAND, STATE_HANDLE, STATE_PLACE
from lib.episode.check import problems
from lib.params import load_params
from lib.sim.env import CONTROL_STEP_S, ManipulationEnv, episode_seed
from lib.sim.experts import FastScript, ScriptedExpert
from lib.sim.rollout import RolloutRequest
from lib.sim.stress import WORLD_KINDS, Stress, stress_kinds
from lib.sim.views import views
from lib.sim.world import (
    CLUTTER,
    CONTRAST,
    DISTRACTORS,
    FAR,
    HAND_CLEARANCE_M,
    HAND_HIGH,
    HAND_LOW,
    HAND_M,
    PART_CLEARANCE_M,
    REACH_M,
    TOUCHING,
    X_M,
    Y_M,
    YAW_DEG,
    World,
    draw_world,
    starts,
    turn_by,
)

MIDDLE = np.array([0.0, 0.9, 0.0])  # of Meta-World's positions of the drawer
EPISODES = 60


@pytest.fixture(scope="module")
def wide() -> ManipulationEnv:
    """The wide world without pictures, as the evaluation uses it for scripts."""
    return ManipulationEnv(render=False, horizon=75, world="wide")


@pytest.fixture(scope="module")
def seen() -> ManipulationEnv:
    """The wide world with small pictures."""
    env = ManipulationEnv(image_size=64, world="wide")
    yield env
    env.close()


def worlds(count: int) -> list[World]:
    """Worlds of the first episodes."""
    drawn = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        start = rng.uniform(*starts("wide", MIDDLE, MIDDLE))
        drawn.append(draw_world("wide", start, rng))
    return drawn


def episode(env: ManipulationEnv, seed: int, agent) -> tuple[list[np.ndarray], bool, int]:
    """Actions, success and steps of an episode; the agent maps (privileged obs, step) to action."""
    _, info = env.reset(seed=seed, options={"stress": Stress()})
    actions, done, late = [], False, False
    while not (done or late):
        actions.append(np.asarray(agent(info["expert_obs"], len(actions))))
        _, _, done, late, info = env.step(actions[-1])
    return actions, done, len(actions)


def test_a_name_that_is_no_world_is_refused():
    """With the names that are."""
    with pytest.raises(ValueError, match="'mars' is none of wide, metaworld"):
        ManipulationEnv(render=False, world="mars")


def test_starts_fill_the_whole_range_that_is_said():
    """Place, turn and hand of 400 worlds: within the limits, and close to each of them."""
    drawn = worlds(400)
    values = np.array([[*w.position[:2] - MIDDLE[:2], w.yaw, *w.hand] for w in drawn])
    limit = np.array([X_M, Y_M, math.radians(YAW_DEG)])
    low, high = np.append(-limit, HAND_LOW), np.append(limit, HAND_HIGH)
    assert ((values >= low) & (values <= high)).all()
    span = high - low
    assert (values.min(0) < low + 0.03 * span).all()
    assert (values.max(0) > high - 0.03 * span).all()


def test_clutter_stands_in_nobodys_way_and_hides_the_handle_at_times():
    """No object within reach of the drawer's way or the hand's; most worlds hold some."""
    objects, distances = [], []
    for world in worlds(200):
        way = turn_by(world.yaw)[:2, :2] @ [0.0, -1.0]
        handle = world.position[:2] + REACH_M * way
        parts = np.linspace(world.position[:2], handle + 0.2 * way, 30)
        hand = np.linspace(world.hand[:2], handle, 30)
        present = world.clutter[world.clutter[:, 2] > 0]
        objects.append(len(present))
        for x, y, *_ in present:
            near = [np.linalg.norm(path - [x, y], axis=1).min() for path in (parts, hand)]
            distances.append(near)
    assert (np.min(distances, axis=0) > [PART_CLEARANCE_M - 0.01, HAND_CLEARANCE_M - 0.01]).all()
    assert set(objects) == {0, 1, 2, 3}
    assert np.mean(objects) > 1.5


def test_surfaces_that_touch_can_be_told_apart():
    """The colours of nearly all worlds keep the distance; no two worlds look the same."""
    colours = np.array([world.look.colours for world in worlds(200)])
    one, other = np.array(TOUCHING).T
    contrast = np.linalg.norm(colours[:, one] - colours[:, other], axis=2).min(1)
    assert (contrast >= CONTRAST).mean() > 0.99
    assert len(np.unique(colours.round(3), axis=0)) == 200


def test_an_episode_is_a_function_of_its_seed(seen):
    """Pictures, labels and motion are equal to the last bit, whatever world was there before."""

    def digest(seed: int) -> bytes:
        observation, info = seen.reset(seed=seed)
        parts = [seen.pixel_labels().tobytes()]
        expert = ScriptedExpert(seen.task)
        for _ in range(12):
            parts += [observation["image"].tobytes(), info["true_obs"].tobytes()]
            observation, _, _, _, info = seen.step(expert(info["expert_obs"]))
        return b"".join(parts)

    first = digest(3)
    seen.reset(seed=4, options={"stress": Stress(light=1.0, camera=1.0, dynamics=1.0)})
    seen.reset(seed=5, options={"stress": Stress()})
    assert digest(3) == first
    assert digest(6) != first


def test_pictures_and_labels_show_the_drawer_and_its_handle(seen):
    """In 30 worlds, most show a handle; colours differ, and never change within an episode."""
    handles, means = 0, []
    for seed in range(30):
        observation, _ = seen.reset(seed=seed, options={"stress": Stress()})
        labels = seen.pixel_labels()
        handles += (labels == PRIMITIVES.index("handle")).sum() >= 5
        case = labels == PRIMITIVES.index("drawer_case")
        assert case.sum() > 30
        means.append(observation["image"][case].mean(0))
    assert handles >= 24
    assert (np.std(means, axis=0) > 20).all()


def test_the_observed_handle_is_that_of_the_turned_drawer(wide):
    """Its place is the drawer's place plus the way to the handle, turned; the hand is as asked."""
    for seed in range(5):
        _, info = wide.reset(seed=seed, options={"stress": Stress()})
        start = np.random.default_rng(np.random.PCG64(seed)).uniform(*wide.positions)
        place, yaw, hand = start[:3], start[3], start[4:]
        way = turn_by(yaw)[:2, :2] @ [0.0, -1.0]
        at = info["true_obs"][STATE_HANDLE][:2]
        np.testing.assert_allclose(at, place[:2] + REACH_M * way, atol=0.012)
        np.testing.assert_allclose(info["true_obs"][STATE_HAND], hand, atol=0.03)


@pytest.mark.parametrize("yaw", [-YAW_DEG, YAW_DEG])
@pytest.mark.parametrize("x", [-X_M, X_M])
def test_nothing_but_the_robot_opens_a_drawer(wide, x, yaw):
    """At the corners of the range: the wall behind a turned drawer does not push it."""
    place, home = MIDDLE + np.array([x, Y_M, 0.0]), np.array([0.0, 0.5, 0.3])
    wide._sim.reset(place, math.radians(yaw), home)
    for _ in range(100):
        wide._sim.step(np.array([0.0, 0.0, 0.0, -1.0]))
    assert wide._opening() < 0.002


def test_reward_and_success_do_not_depend_on_how_the_scene_is_turned(wide):
    """The same motion in the drawer's frame earns the same, whatever the turn."""
    sim, rewards = wide._sim, []
    for yaw in (0.0, 0.3):
        turn, place = turn_by(yaw), np.array([0.0, 0.9, 0.0])
        hand = place + turn @ np.array([0.0, -0.35, 0.2])
        raw = sim.reset(place, yaw, hand)
        script, earned = FastScript(), []
        for _ in range(80):
            raw, dense, success = sim.step(script(raw).astype(np.float64))
            earned.append((dense, success))
        rewards.append(np.array(earned))
    straight, turned = rewards
    assert straight[-1, 1] == turned[-1, 1] == 1
    assert abs(straight[0, 0] - turned[0, 0]) < 0.1
    assert abs(straight[:, 0].sum() - turned[:, 0].sum()) < 0.15 * straight[:, 0].sum()


@pytest.mark.parametrize(("agent", "limit"), [(ScriptedExpert, 0.98), (FastScript, 0.98)])
def test_both_scripts_open_the_drawers_of_the_whole_range(wide, agent, limit):
    """They work in the drawer's frame."""
    make = FastScript if agent is FastScript else lambda: ScriptedExpert(wide.task)
    opened = []
    for index in range(EPISODES):
        script = make()
        seed = episode_seed(91, index)
        opened.append(episode(wide, seed, lambda obs, step, script=script: script(obs))[1])
    assert np.mean(opened) >= limit


def test_a_robot_without_senses_opens_few_of_them(wide):
    """An open-loop replay of the fast script, recorded in the middle, fails at most positions."""
    sim, script, actions = wide._sim, FastScript(), []
    raw = sim.reset(MIDDLE, 0.0, np.array([0.0, 0.535, 0.225]))
    for step in range(150):
        if step % 2 == 0:
            actions.append(script(raw))
        raw, _, success = sim.step(actions[-1].astype(np.float64))
        if success:
            break
    assert success
    replay = [*actions, *[actions[-1]] * 75]
    opened = [
        episode(wide, episode_seed(92, index), lambda obs, step: replay[step])[1]
        for index in range(EPISODES)
    ]
    assert np.mean(opened) <= 0.3


def test_scripts_give_the_same_action_turned(wide):
    """Turning hand and drawer together turns the motion, up to the common scale of a clip."""
    raw = wide._sim.reset(MIDDLE, 0.0, np.array([0.05, 0.5, 0.2]))
    for script in (FastScript(), ScriptedExpert(wide.task)):
        straight = script(raw)
        yaw = 0.35
        turned = raw.copy()
        handle = raw[STATE_HANDLE]
        turned[STATE_HAND] = handle + turn_by(yaw) @ (raw[STATE_HAND] - handle)
        turned[7:11] = math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)
        motion = turn_by(yaw) @ straight[:3].astype(np.float64)
        motion /= max(1.0, np.abs(motion).max())
        np.testing.assert_allclose(script(turned)[:3], motion, atol=1e-6)
        assert script(turned)[3] == straight[3]


# Stress of the wide world


@pytest.mark.parametrize("kind", WORLD_KINDS)
def test_only_the_wide_world_has_it(kind):
    """Meta-World's own has nothing that could change: refused, and listed for neither."""
    env = ManipulationEnv(render=False)
    with pytest.raises(ValueError, match="only the wide world"):
        env.reset(seed=0, options={"stress": Stress(**{kind: 0.5})})
    assert kind in stress_kinds("wide")
    assert kind not in stress_kinds("metaworld")


@pytest.mark.parametrize("kind", ["colours", "texture", "distractors", "occlusion"])
def test_stress_of_the_look_changes_the_picture_and_nothing_else(seen, kind):
    """More of it the more severe it is; the start and the motion stay to the last bit."""
    changes, motions = [], []
    for severity in (0.0, 0.3, 1.0):
        apart = []
        for seed in range(6):
            first, info = seen.reset(seed=seed, options={"stress": Stress()})
            again, other = seen.reset(seed=seed, options={"stress": Stress(**{kind: severity})})
            np.testing.assert_array_equal(info["true_obs"], other["true_obs"])
            apart.append(np.abs(first["image"] - again["image"].astype(float)).mean())
            motions.append(seen.step(np.array([0.1, 0.5, -0.2, -1.0]))[4]["true_obs"])
        changes.append(np.mean(apart))
    assert changes[0] == 0 < changes[1] < changes[2]
    for seed in range(6):
        np.testing.assert_array_equal(motions[seed], motions[12 + seed])


def test_other_kinds_do_not_change_with_one_of_them(wide):
    """The world of a seed is the same, but for what the stress changes."""
    wide.reset(seed=3, options={"stress": Stress()})
    calm = wide.world
    wide.reset(seed=3, options={"stress": Stress(hand_start=1.0)})
    stressed = wide.world
    np.testing.assert_allclose(np.abs(stressed.hand - calm.hand), HAND_M, atol=1e-12)
    for name in ("position", "damping", "friction", "light", "camera", "clutter"):
        np.testing.assert_array_equal(getattr(stressed, name), getattr(calm, name))
    np.testing.assert_array_equal(stressed.look.colours, calm.look.colours)
    assert not stressed.distractors.any()


def test_colours_come_together_and_the_bars_are_like_the_handle(wide):
    """At severity 1, all surfaces have one colour; at a half, half of the distance is left."""
    for seed in range(5):
        wide.reset(seed=seed, options={"stress": Stress()})
        calm = wide.world.look.colours[:4]
        wide.reset(seed=seed, options={"stress": Stress(colours=0.5)})
        apart = np.ptp(wide.world.look.colours[:4], axis=0) / np.ptp(calm, axis=0)
        np.testing.assert_allclose(apart, 0.5, atol=1e-6)
        wide.reset(seed=seed, options={"stress": Stress(colours=1.0, distractors=1.0)})
        world = wide.world
        np.testing.assert_allclose(np.ptp(world.look.colours[:4], axis=0), 0, atol=1e-9)
        bars = [g for g in range(wide._sim.model.ngeom) if "distractor" in _body(wide, g)]
        assert len(bars) == DISTRACTORS
        assert (world.distractors[:, 2] > 0).sum() >= 2
        for bar in bars:
            np.testing.assert_allclose(
                wide._sim.model.geom_rgba[bar, :3], world.look.colours[2], atol=1e-6
            )


def _body(env: ManipulationEnv, geom: int) -> str:
    return env._sim.model.body(env._sim.model.geom_bodyid[geom]).name


def test_occlusion_hides_the_handle(seen):
    """At the start of an episode, most of its pixels; nothing of it is left in most worlds."""
    hidden = []
    for seed in range(12):
        counts = []
        for severity in (0.0, 1.0):
            seen.reset(seed=seed, options={"stress": Stress(occlusion=severity)})
            counts.append((seen.pixel_labels() == PRIMITIVES.index("handle")).sum())
        if counts[0]:
            hidden.append(counts[1] / counts[0])
    assert np.median(hidden) < 0.2


def test_a_drawer_that_is_open_further_than_asked_is_open(wide):
    """Meta-World takes it for not open; whoever pulls on after success has not failed."""
    sim = wide._sim
    raw = sim.reset(MIDDLE, 0.3, np.array([0.0, 0.5, 0.25]))
    script, done = FastScript(), []
    for _ in range(160):
        raw, _, success = sim.step(script(raw).astype(np.float64))
        done.append(success)
    assert wide._opening() > 0.19 + 0.03 or all(done[done.index(True) :])
    joint = sim.model.joint("goal_slidey").qposadr[0]
    sim.data.qpos[joint] = -0.235
    raw, _, success = sim.step(np.array([0.0, 0.0, 0.0, -1.0]))
    assert success


# Views


def test_a_canonical_picture_does_not_depend_on_the_look(seen):
    """The same scene in two worlds: other pictures, one canonical picture; labels stay right."""
    rng = np.random.default_rng(0)
    observation, _ = seen.reset(seed=7, options={"stress": Stress()})
    assert (seen.world.clutter[:, 2] > 0).any()
    before = seen.canonical()
    objects = [seen._sim.model.body(f"clutter_{name}").pos.tolist() for name in CLUTTER]
    assert objects == [list(FAR)] * len(CLUTTER)
    seen.redress(Stress(), rng)
    again = seen.render()
    assert (observation["image"] != again).any(2).mean() > 0.3
    np.testing.assert_array_equal(seen.canonical(), before)
    seen.redress(Stress(), rng)
    assert (seen.pixel_labels() == PRIMITIVES.index("drawer_case")).sum() > 30
    seen.step(np.array([1.0, 1.0, -1.0, -1.0]))
    for _ in range(5):
        seen.step(np.array([1.0, 1.0, -1.0, -1.0]))
    assert (seen.canonical() != before).any()


def test_metaworlds_own_world_has_no_other_look():
    """One clear line."""
    env = ManipulationEnv(render=False)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="one look only"):
        env.redress(Stress(), np.random.default_rng(0))
    with pytest.raises(ValueError, match="needs render=True and the wide world"):
        env.canonical()


def test_views_are_single_steps_with_exact_labels_each_in_another_world(seen, monkeypatch):
    """A function of (seed, index); times cover the rollout; sound episodes."""
    monkeypatch.setattr("lib.sim.views.worker_env", lambda asked: seen)
    mix = load_params("phase1_sima2").phase1_sima2.model_dump()
    asked = RolloutRequest("drawer_open", "wide", 0, 64, 70, mix=mix)
    seen._horizon, seen._linger = 70, None
    episodes = [views(asked, index, 4) for index in range(5)]
    again = views(asked, 2, 4)
    for (name, a), (_, b) in zip(episodes[2].arrays(), again.arrays(), strict=True):
        assert a.tobytes() == b.tobytes(), name
    times = np.concatenate([item.labels["time_s"] for item in episodes]) / CONTROL_STEP_S
    assert times.min() < 20 and times.max() > 50
    for item in episodes:
        assert problems(item) == []
        assert item.obs["image"].shape == item.labels["canonical"].shape == (4, 64, 64, 3)
        means = item.obs["image"].mean((1, 2))
        assert np.ptp(means, axis=0).max() > 10
        np.testing.assert_array_equal(item.obs["eef_pos"], item.labels["state"][:, STATE_HAND])
        assert np.ptp(item.labels["state"][:, STATE_PLACE], axis=0).max() == 0
    assert len({tuple(item.labels["state"][0, STATE_PLACE]) for item in episodes}) == 5
