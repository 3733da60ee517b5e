"""What the policy is fed, and files that do not belong together."""

import numpy as np
import pytest
import torch

from lib.agent.perception import Perception, Percepts, perceive_dataset
from lib.agent.projector import SMALLEST_UNIT, Projector
from lib.base.errors import UserError
from lib.base.paths import BACKBONE, FEATURES, GEOMETRY, SEGMENTER, relative
from lib.data import frames as store
from lib.rnn.surprise import AHEAD, Surprise
from lib.segmenter.geometry import NAMES
from lib.segmenter.router import LOCATED, SkillRouter, build_locator
from tests.factories import dataset


@pytest.mark.parametrize(("name", "maker"), [(FEATURES, BACKBONE), (GEOMETRY, SEGMENTER)])
def test_frames_of_other_weights_are_refused_naming_both_files(tmp_path, monkeypatch, name, maker):
    """Features name the backbone, geometry the segmenter."""
    path = tmp_path / name.name
    monkeypatch.setitem(store.MAKERS, path, store.MAKERS[name])
    data = dataset(3, 4)
    values = {"p4": np.arange(7, dtype=np.float16)[:, None]}
    store.write_frames(path, values, data, "abc")
    loaded = store.load_frames(path, ["p4"], data, "abc")
    assert (loaded["p4"] == values["p4"]).all()
    with pytest.raises(UserError) as error:
        store.load_frames(path, ["p4"], data, "xyz")
    message = str(error.value)
    assert name.name in message and relative(maker) in message
    assert "abc" in message and "xyz" in message and "\n" not in message


GRIPPER_AT = 3  # in what is fed to the policy directly


class Foreseen:
    """Finds nothing surprising but how far a frame is from what was foreseen of it."""

    def by_sense(self, deviations):
        return {sense: torch.full((len(x),), -np.inf) for sense, x in deviations.items()}

    def value(self, errors):
        return -errors["p4"][:, 0].double()

    def judge(self, value):
        return Surprise(value, value, np.zeros(len(value)))


class Unmoved:
    """Expects the hand to stay where it is."""

    def predict(self, proprio, motion, action):
        return np.zeros((len(proprio), 3))


class Oblivious:
    """A memory that keeps nothing; what it finds surprising is what a frame says of itself."""

    levels = ("p4",)
    surprise, motion = Foreseen(), Unmoved()

    def step(self, features, action, state, first):
        return {"p4": torch.zeros(len(action), 1)}

    def foresee(self, features, actions, state):
        return {"p4": features["p4"] + actions[..., :1].sum(0)}

    def normalize(self, features):
        return features


class Nowhere(torch.nn.Module):
    """A network that finds the handle in the hand."""

    def forward(self, x):
        return torch.zeros(len(x), LOCATED)


def seen_as(p4: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the backbone says of pictures with these maps."""
    return {"p4": p4, "look": torch.ones(len(p4), 1), "hand": torch.zeros(len(p4), 3)}


def test_the_policy_feels_how_it_moved_but_never_across_the_start_of_an_episode():
    """Proprioception, its change, the action between; looking without remembering is undone."""
    stack = Perception.__new__(Perception)
    stack.memory, stack.router = Oblivious(), SkillRouter(Nowhere())
    stack.reset()
    geometry, rng = np.zeros((2, 1)), np.random.default_rng(0)
    proprio = rng.normal(size=(4, 2, 4)).astype(np.float32)
    action = rng.uniform(-1, 1, (4, 2, 4)).astype(np.float32)
    begins = [(True, True), (False, False), (False, True)]

    def follow(step: int, first: tuple[bool, bool]) -> np.ndarray:
        maps = seen_as(torch.zeros(2, 1))
        return stack.update_state(
            maps, geometry, proprio[step], action[step], np.array(first)
        ).direct

    for step, first in enumerate(begins):
        with stack.undisturbed():
            follow(3, (False, False))
        felt = follow(step, first)
        goes_on = ~np.array(first)[:, None]
        np.testing.assert_array_equal(felt[:, :4], proprio[step])
        np.testing.assert_array_equal(felt[:, 4:8], goes_on * (proprio[step] - proprio[step - 1]))
        np.testing.assert_array_equal(felt[:, 8:12], goes_on * action[step])


def test_a_gripper_that_the_expert_never_closed_throws_nothing_out():
    """Where the handle is does not depend on it, and it stays within the observation's bounds."""
    rng = np.random.default_rng(0)
    geometry = rng.random((3, len(NAMES)))
    wide = np.concatenate([rng.normal(size=(3, 3)), np.ones((3, 1))], 1)
    shut = np.concatenate([wide[:, :3], np.zeros((3, 1))], 1)
    router = SkillRouter(build_locator())
    np.testing.assert_array_equal(router.locate(geometry, wide), router.locate(geometry, shut))

    direct = np.random.default_rng(1).normal(size=(100, len(SMALLEST_UNIT))).astype(np.float32)
    direct[:, GRIPPER_AT] = 1.0
    maps = rng.normal(size=(2, 100, 8)).astype(np.float16)
    nothing = np.zeros(100)
    percepts = Percepts(direct, *maps, nothing, nothing)
    projector = Projector.fit(percepts, 2, 2)
    plain = projector(percepts)
    percepts.direct[:, GRIPPER_AT] = 0.8
    touched = projector(percepts)
    np.testing.assert_allclose(touched[:, GRIPPER_AT], -2, rtol=1e-5)
    others = np.arange(plain.shape[1]) != GRIPPER_AT
    np.testing.assert_array_equal(touched[:, others], plain[:, others])
    assert np.abs(plain[:, : len(SMALLEST_UNIT)].std(0)[1:3] - 1).max() < 1e-3


def test_components_keep_their_share_of_the_spread():
    """As singular value decomposition has them; the first has unit variance, the rest less."""
    rng = np.random.default_rng(2)
    maps = rng.normal(size=(2, 200, 8)) * [5, 3, 2, 1, 0.5, 0.2, 0.1, 0.1]
    direct, nothing = np.zeros((200, len(SMALLEST_UNIT)), np.float32), np.zeros(200)
    percepts = Percepts(direct, *maps.astype(np.float32), nothing, nothing)
    seen = Projector.fit(percepts, 4, 3)(percepts)[:, len(SMALLEST_UNIT) :]
    spreads = [np.linalg.svd(x - x.mean(0), compute_uv=False) for x in maps]
    wanted = np.concatenate([s[:n] / s[0] for s, n in zip(spreads, (4, 3), strict=True)])
    np.testing.assert_allclose(seen.std(0), wanted, rtol=1e-3)


def test_surprise_compares_a_frame_with_what_was_foreseen_of_it():
    """Every AHEAD steps of each robot's episode, from the frame and the actions of just then."""
    stack, steps = Perception.__new__(Perception), 2 * AHEAD + 6
    stack.memory, stack.router = Oblivious(), SkillRouter(Nowhere())
    stack.reset()
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.normal(size=(steps, 2, 1)))
    action = rng.uniform(-1, 1, (steps, 2, 4)).astype(np.float32)
    first = np.zeros((steps, 2), bool)
    first[0] = first[5, 1] = True  # the second robot begins anew at frame 5
    proprio, geometry = np.zeros((2, 4), np.float32), np.zeros((2, 1))
    begun, expected = np.zeros(2, int), np.zeros(2)
    for step in range(steps):
        with stack.undisturbed():
            seen = seen_as(frames[0])
            stack.update_state(seen, geometry, proprio, action[0], np.zeros(2, bool))
        maps = {**seen_as(frames[step]), "p3": None}
        found = stack.update_state(maps, geometry, proprio, action[step], first[step]).severity
        for robot in range(2):
            if first[step, robot]:
                begun[robot], expected[robot] = step, 0
            elif step - begun[robot] == AHEAD:
                moved = action[begun[robot] + 1 : step + 1, robot, 0].sum()
                expected[robot] = frames[step, robot, 0] - frames[begun[robot], robot, 0] - moved
                begun[robot] = step
        np.testing.assert_allclose(found, expected, atol=1e-5)


class Adding(Oblivious):
    """A memory that adds up what it sees and does: half of the last state, frame and action."""

    def step(self, features, action, state, first):
        keep = 0.5 * (~first)[:, None].float()
        before = torch.zeros(len(action), 1) if state is None else state["p4"]
        return {"p4": keep * (before + action[:, :1].float()) + features["p4"]}


def adding_stack() -> Perception:
    stack = Perception.__new__(Perception)
    stack.memory, stack.router = Adding(), SkillRouter(Nowhere())
    stack.reset()
    return stack


def test_the_memory_goes_on_from_its_last_state_and_the_action_that_was_taken():
    """By hand, for two robots of which one starts anew."""
    stack = adding_stack()
    seen, done = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[9.0, 9.0], [0.5, -0.5], [1.0, 1.0]]
    begins, found = [(True, True), (False, False), (False, True)], []
    for frame, action, first in zip(seen, done, begins, strict=True):
        moved = np.zeros((2, 4), np.float32)
        moved[:, 0] = action
        percepts = stack.update_state(
            seen_as(torch.tensor(frame)[:, None]),
            np.zeros((2, 1)),
            np.zeros((2, 4), np.float32),
            moved,
            np.array(first),
        )
        found.append(percepts.memory[:, 0].tolist())
        assert percepts.vision[:, 0].tolist() == frame
    assert found[0] == [1.0, 2.0]
    assert found[1] == [0.5 * (1.0 + 0.5) + 3.0, 0.5 * (2.0 - 0.5) + 4.0]
    assert found[2] == [0.5 * (found[1][0] + 1.0) + 5.0, 6.0]


def test_a_picture_goes_through_backbone_and_segmenter():
    """The frames that are asked for, and no others."""
    stack = adding_stack()
    images = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
    means = images.reshape(2, -1).mean(1)

    class Means:
        def __call__(self, given):
            return seen_as(torch.tensor(given.reshape(2, -1).mean(1))[:, None].float())

        def geometry(self, given):
            return torch.tensor(given.reshape(2, -1).mean(1))[:, None]

    stack.backbone = stack.segmenter = Means()
    percepts = stack(images, np.zeros((2, 4), np.float32), np.zeros((2, 4)), np.ones(2, bool))
    assert percepts.vision[:, 0].tolist() == means.tolist()
    assert percepts.direct[:, -1].tolist() == means.tolist()


def test_recordings_are_perceived_as_a_robot_perceives_them(monkeypatch):
    """Episodes of different lengths side by side give what each gives alone, step by step."""
    data = dataset(5, 2, 4)
    rng = np.random.default_rng(0)
    count = len(data)
    data.arrays["obs/eef_pos"] = rng.normal(size=(count, 3)).astype(np.float32)
    data.arrays["obs/gripper"] = rng.random((count, 1)).astype(np.float32)
    data.arrays["actions"] = rng.uniform(-1, 1, (count, 4)).astype(np.float32)
    maps = rng.normal(size=(count, 1)).astype(np.float16)
    shapes = rng.normal(size=(count, 1)).astype(np.float32)
    seen = {name: x.half().numpy() for name, x in seen_as(torch.from_numpy(maps)).items()}
    monkeypatch.setattr(
        "lib.agent.perception.load_frames",
        lambda path, names, *_: seen if path == FEATURES else {"geometry": shapes},
    )
    stack = adding_stack()
    stack.backbone = stack.segmenter = type("Weights", (), {"digest": "abc"})()
    together = perceive_dataset(stack, data)
    for episode in data.episodes:
        alone = adding_stack()
        for step, row in enumerate(range(episode.start, episode.stop)):
            percepts = alone.update_state(
                seen_as(torch.from_numpy(maps[[row]]).float()),
                shapes[[row]],
                data.proprio()[[row]],
                data.arrays["actions"][[max(row - 1, episode.start)]],
                np.array([step == 0]),
            )
            for name, values in vars(percepts).items():
                kept = getattr(together, name)[row]
                np.testing.assert_allclose(kept, values[0], rtol=2e-3, atol=1e-3, err_msg=name)
