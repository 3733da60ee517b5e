"""The wide world: what differs from episode to episode, and scripts that open its drawers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lib.episode import PRIMITIVES, STATE_HAND, STATE_HANDLE
from lib.sim.env import ManipulationEnv, episode_seed
from lib.sim.experts import FastScript, ScriptedExpert
from lib.sim.stress import Stress
from lib.sim.world import (
    CONTRAST,
    HAND_CLEARANCE_M,
    HAND_HIGH,
    HAND_LOW,
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
