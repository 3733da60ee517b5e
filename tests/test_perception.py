"""Views, probes, skill and surprise: numbers by hand; and files that do not belong together."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from lib.agent.perception import Perception, Percepts
from lib.agent.projector import SMALLEST_UNIT, Projector
from lib.base.errors import UserError
from lib.base.paths import BACKBONE, FEATURES, GEOMETRY, SEGMENTER, relative
from lib.data import frames as store
from lib.data.dataset import Dataset, Reference, Windows
from lib.learning.augment import Augment, shifted
from lib.learning.checkpoint import load_checkpoint, save_checkpoint
from lib.models.backbone import Backbone
from lib.models.convgru import ConvGRU
from lib.models.encoder import load_backbone
from lib.models.frozen import to_unit
from lib.params import load_params
from lib.rnn.memory import SpatialMemory
from lib.rnn.normalizer import Normalizer
from lib.rnn.skill import HORIZONS, STEPS, prediction_skill
from lib.rnn.surprise import AHEAD, Surprise, SurpriseScale, episode_errors, imagine
from lib.rnn.surprise_test import DYNAMIC, VISUAL, auroc, calibrate, separation, suite_kinds
from lib.segmenter.router import SkillRouter
from lib.vision.probes import TARGETS, neighbours, probe, telling
from lib.vision.train_backbone import mean_pictures, motion_weights


def generator(seed: int = 0) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 4) -> torch.Tensor:
    """Random (count, 16, 12, 3) uint8 pictures."""
    return torch.randint(0, 256, (count, 16, 12, 3), dtype=torch.uint8, generator=generator(1))


def dataset(*lengths: int, splits: str = "train", stress: tuple[dict, ...] = ()) -> Dataset:
    """Episodes of these lengths, with random actions."""
    episodes, start = [], 0
    for index, length in enumerate(lengths):
        tags = {"stress": stress[index] if stress else {}, "visual": False}
        split = splits.split()[index % len(splits.split())]
        episodes.append(Reference("sima2", f"{index:06d}", split, start, start + length, tags))
        start += length
    actions = np.random.default_rng(0).normal(size=(start, 2)).astype(np.float32)
    return Dataset({"actions": actions}, episodes)


# Views


def test_a_view_without_strength_is_the_picture():
    """Nothing is changed that no parameter asks for; memory is channels last."""
    view = Augment(0, 0.0, 0.0, generator())(pictures())
    torch.testing.assert_close(view, to_unit(pictures()))
    assert view.is_contiguous(memory_format=torch.channels_last)


def test_a_shift_moves_the_content_and_repeats_the_border():
    """Row r, column c of the view is row r + down, column c + right, or the nearest there is."""
    shifts = torch.tensor([[2, -1, 0, 3], [0, 1, -2, -3]])
    view = Augment(3, 0.0, 0.0, generator())(pictures(), shifts)
    torch.testing.assert_close(view, to_unit(shifted(pictures(), shifts)))
    for index, (down, right) in enumerate(shifts.T.tolist()):
        rows = (torch.arange(16) + down).clamp(0, 15)
        columns = (torch.arange(12) + right).clamp(0, 11)
        expected = to_unit(pictures())[index][:, rows][:, :, columns]
        torch.testing.assert_close(view[index], expected)


def test_a_blur_spreads_a_point_by_its_variance_and_keeps_the_light():
    """The second moment along a side is sigma squared; the sum over the picture stays."""
    point = torch.zeros(64, 9, 9, 3, dtype=torch.uint8)
    point[:, 4, 4] = 255
    views = Augment(0, 0.0, 0.0, generator(), blur=0.8)(point)
    torch.testing.assert_close(views.sum((2, 3)), torch.ones(64, 3))
    moment = (views.sum(2) * (torch.arange(9) - 4.0) ** 2).sum(2)
    assert 0.5 < moment.max() <= 0.8**2 + 1e-6
    assert moment.min() < 0.1
    torch.testing.assert_close(moment, (views.sum(3) * (torch.arange(9) - 4.0) ** 2).sum(2))


def test_a_blur_wider_than_its_kernel_is_refused():
    """Three taps have a variance of one at most."""
    with pytest.raises(ValueError, match="blur"):
        Augment(0, 0.0, 0.0, generator(), blur=1.5)


def test_noise_and_colour_have_the_strength_that_was_asked_for():
    """Grey pictures: the noise's standard deviation, brightness within its range, no clipping."""
    grey = torch.full((64, 24, 24, 3), 128, dtype=torch.uint8)
    noisy = Augment(0, 0.0, 0.05, generator())(grey)
    assert noisy.std().item() == pytest.approx(0.05, rel=0.05)
    assert (noisy[0] != noisy[1]).any()
    means = Augment(0, 0.4, 0.0, generator())(grey).mean((1, 2, 3)) / (128 / 255)
    assert means.min() > 1 - 0.4 * 1.25
    assert means.max() < 1 + 0.4 * 1.25
    assert means.std() > 0.1


def test_views_depend_on_the_generator_alone():
    """The same seed gives the same views, the next call others."""
    first, second = (Augment(2, 0.4, 0.03, generator(5), blur=0.6) for _ in range(2))
    view = first(pictures())
    assert (view == second(pictures())).all()
    assert (view != first(pictures())).any()


def test_what_moves_in_its_episode_weighs_more():
    """Weights average to one; a pixel of mean motion weighs 1 + motion times a still one."""
    still = torch.full((2, 8, 8, 3), 100, dtype=torch.uint8)
    episodes = dataset(1, 1).episodes
    scene = mean_pictures(still, episodes)
    assert scene.shape == (2, 3, 4, 4)
    target = scene.clone()
    target[:, :, :2] += 0.2  # half of the picture moved
    settings = load_params("vision").vision.model_copy(update={"motion": 3.0})
    weights = motion_weights(target, scene, settings)
    assert weights.mean().item() == pytest.approx(1.0, rel=1e-4)
    assert (weights[:, :, 0] / weights[:, :, 3]).mean().item() == pytest.approx(7.0, rel=1e-3)


def test_black_pictures_take_no_part_in_the_mean_picture():
    """A dropped picture would make everything look as if it moved."""
    frames = torch.full((8, 8, 8, 3), 100, dtype=torch.uint8)
    frames[4] = 0
    (scene,) = mean_pictures(frames, dataset(8).episodes)
    torch.testing.assert_close(scene, torch.full((3, 4, 4), 100 / 255))


# Probes


def test_a_probe_reads_what_is_there_from_pictures_that_tell():
    """A linear code is read to the last digit; black and late pictures are asked nothing."""
    data = dataset(40, 40, 40, splits="train test test")
    images = np.ones((120, 4, 4, 3), np.uint8)
    rng = np.random.default_rng(0)
    states = rng.normal(size=(120, 8))
    features = np.concatenate([states, np.ones((120, 1))], 1).reshape(120, 9, 1, 1)
    images[50], features[50] = 0, 99.0  # dropped
    data.episodes[2].tags["stress_steps"] = {"latency": 40}
    features[80:] = -99.0
    data.arrays["obs/image"] = images
    assert telling(data, data.rows(["test"])).tolist() == [r for r in range(40, 80) if r != 50]
    nominal, stressed, scatter = probe(features, states, data, 1e-9)
    assert nominal["min_r2"] > 0.9999
    assert len(scatter["truth"]) == 39
    assert stressed == {}


def test_a_probe_tells_its_error_in_millimetres():
    """With nothing to go by, the mean is predicted: the error is the spread, R2 below zero."""
    data = dataset(50, 50, splits="train test")
    data.arrays["obs/image"] = np.ones((100, 4, 4, 3), np.uint8)
    states = np.random.default_rng(0).normal(0, 0.02, size=(100, 8))
    scores, _, _ = probe(np.ones((100, 1, 1, 1)), states, data, 1.0)
    hand_x = states[50:, 0] - states[:50:2, 0].mean()
    assert scores["hand_x_mm"] == pytest.approx(1000 * np.sqrt((hand_x**2).mean()), rel=1e-4)
    assert set(scores) == {*(f"{n}_{u}" for n in TARGETS for u in ("r2", "mm")), "min_r2"}
    assert scores["min_r2"] <= 0


# Neighbours


def test_neighbours_are_the_most_alike_frames_of_other_episodes_one_each():
    """By hand: directions in a plane; the query's own episode is left out."""
    angle = np.deg2rad([0, 10, 20, 180, 4, 90, 270, 5])
    features = np.stack([np.cos(angle), np.sin(angle)], 1).reshape(8, 2, 1, 1)
    features -= features.mean(0)
    rows, similarity = neighbours(features, dataset(3, 2, 2, 1), np.array([0]), 2)
    assert rows.tolist() == [[7, 4]] or rows.tolist() == [[4, 7]]
    assert (np.diff(similarity[0]) <= 0).all()
    assert (similarity > 0.98).all()
    rows, _ = neighbours(features, dataset(3, 2, 2, 1), np.array([0, 7]), 9)
    assert rows.shape == (2, 3)
    assert not set(rows[0]) & {0, 1, 2}


# Skill


def walk(lengths: tuple[int, ...]) -> tuple[dict[str, np.ndarray], Dataset]:
    """Features that move by the action: z_{t+1} = z_t + a_t."""
    data = dataset(*lengths)
    z = np.zeros((len(data), 2, 3, 3), np.float32)
    for episode in data.episodes:
        for t in range(episode.start, episode.stop - 1):
            z[t + 1] = z[t] + data.arrays["actions"][t][:, None, None]
    return {"p4": z}, data


def test_a_window_holds_none_of_the_rows_it_must_do_without():
    """Of two episodes of six rows, windows of three: those that touch rows 4 and 6 are gone."""
    features, data = walk((6, 6))
    assert Windows(features, data, ["train"], 3).starts.tolist() == [0, 1, 2, 3, 6, 7, 8, 9]
    kept = Windows(features, data, ["train"], 3, without=np.array([4, 6]))
    assert kept.starts.tolist() == [0, 1, 7, 8, 9]


def one(level: str, channels: int) -> Normalizer:
    """A normalizer that changes nothing."""
    return Normalizer({level: torch.zeros(channels, 1, 1)}, {level: torch.ones(channels, 1, 1)})


class Integrator(ConvGRU):
    """Knows the truth of ``walk``."""

    def rollout(self, z, actions_TBA, warmup):
        """Adds up the actions."""
        predictions, last = [], None
        for t in range(len(actions_TBA) - 1):
            last = (z["p4"][t] if t < warmup else last) + actions_TBA[t][..., None, None]
            predictions.append(last)
        return {"p4": torch.stack(predictions)}, {}


def test_skill_is_one_for_the_truth_zero_for_persistence_and_lost_with_other_actions():
    """Open loop and teacher-forced; shuffled futures and shuffled windows."""
    features, data = walk((30, 40))
    windows = Windows(features, data, ["train"], 4 + STEPS, stride=2)
    model = Integrator({"p4": 2}, 2, 4)
    metrics, rows = prediction_skill(model, windows, one("p4", 2), 4, seed=0)
    assert all(metrics["skill"][f"k{k}"] == pytest.approx(1.0, abs=1e-5) for k in HORIZONS)
    assert metrics["skill_teacher_forced"] == pytest.approx(1.0, abs=1e-5)
    for name in ("skill_shuffled_actions", "skill_shuffled_windows"):
        assert max(metrics[name].values()) < 0.3
    assert [row["k"] for row in rows] == list(range(1, STEPS + 1))
    alone, _ = prediction_skill(model, windows, one("p4", 2), 4, seed=0, controls=False)
    assert alone == {"skill": metrics["skill"]}
    metrics, _ = prediction_skill(None, windows, one("p4", 2), 4, seed=0)
    assert metrics["skill"] == dict.fromkeys(("k1", "k4", "k8"), 0.0)
    assert metrics["skill_teacher_forced"] == 0.0


# Surprise


def test_surprise_is_one_on_average_where_it_was_calibrated_and_grows_with_the_error():
    """Errors twice as large are four times as surprising; severity and tiers are monotone."""
    errors = {"p4": torch.randn(400, 2, 3, 3, generator=generator())}
    scale = SurpriseScale.of([errors], [errors], 4, quantile=0.9, factor=3.0)
    value = scale.value(errors)
    assert value.mean().item() == pytest.approx(1.0, rel=0.05)
    torch.testing.assert_close(scale.value({"p4": 2 * errors["p4"]}), 4 * value)
    judged = scale.judge(errors)
    assert (judged.novelty_tier == 0).mean() == pytest.approx(0.9, abs=0.01)
    assert (judged.ood_severity[judged.novelty_tier == 0] == 0).all()
    growing = {"p4": torch.ones(50, 2, 3, 3) * torch.linspace(0, 4, 50)[:, None, None, None]}
    judged = scale.judge(growing)
    for values in (judged.value, judged.ood_severity, judged.novelty_tier):
        assert (np.diff(values) >= 0).all()
    assert (judged.ood_severity[0], judged.ood_severity[-1]) == (0.0, 1.0)
    assert set(judged.novelty_tier) == {0, 1, 2}


def test_surprise_is_the_mahalanobis_distance_over_the_number_of_dimensions():
    """With all axes but one it is x' C^-1 x / D, whatever the correlations."""
    mixing = torch.randn(18, 18, generator=generator(3))
    x = torch.randn(500, 18, generator=generator(4)) @ mixing
    errors = {"p4": x.view(500, 2, 3, 3)}
    scale = SurpriseScale.of([errors], [errors], 17, quantile=0.9, factor=3.0)
    inverse = torch.linalg.inv((x.T @ x / len(x)).double())
    expected = torch.einsum("bi,ij,bj->b", x.double(), inverse, x.double()) / 18
    torch.testing.assert_close(scale.value(errors).double(), expected, rtol=1e-3, atol=1e-4)


def test_an_error_in_an_unusual_direction_is_more_surprising_than_a_usual_one():
    """The mean square error calls both alike."""
    errors = torch.randn(300, 2, 3, 3, generator=generator()) * 0.1
    errors[:, 0, 0, 0] *= 30
    scale = SurpriseScale.of([{"p4": errors}], [{"p4": errors}], 4, 0.9, 3.0)
    usual, unusual = torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
    usual[0, 0, 0, 0] = unusual[0, 1, 2, 2] = 3.0
    assert scale.value({"p4": unusual}) > 100 * scale.value({"p4": usual})


def test_auroc_counts_pairs_and_ties_by_half():
    """By hand."""
    assert auroc([3, 1], [2, 1]) == (1 + 1 + 0 + 0.5) / 4
    assert auroc([2.0], [1.0]) == 1.0


def test_separation_pools_visual_and_dynamic_kinds_and_reports_every_one():
    """Action noise and latency are told beside, not in the pooled figure."""
    kinds = suite_kinds(2)
    assert kinds[:6] == ["nominal"] * 6
    scores = [(kind, 0.0 if kind in ("nominal", "latency") else 1.0) for kind in kinds]
    result = separation(scores)
    assert result["auroc"] == 1.0
    assert result["latency"] == 0.5
    assert set(result) == {"auroc", *VISUAL, *DYNAMIC, "action_noise", "latency"}


def calibrated(z: np.ndarray, data: Dataset) -> SurpriseScale:
    """Of persistence."""
    given = {"components": 4, "quantile": 0.99, "factor": 3.0}
    return calibrate(None, {"p4": z}, data, one("p4", 2), **given)


def test_calibration_takes_nominal_episodes_only():
    """Training ones give the covariance, validation ones the scale; stressed ones have no say."""
    stress = ({}, {"action_noise": 0.2}, {"push": 0.5}, {"slip": 0.5})
    data = dataset(20, 20, 20, 20, splits="train valid valid train", stress=stress)
    z = np.random.default_rng(0).normal(size=(80, 2, 3, 3)).astype(np.float32)
    before = calibrated(z, data)
    z[40:] = -9.0
    after = calibrated(z, data)
    assert before.known == after.known
    assert torch.equal(before.variances["p4"], after.variances["p4"])
    z[20:40] *= 2
    wider = calibrated(z, data)
    assert torch.equal(before.variances["p4"], wider.variances["p4"])
    assert wider.known == pytest.approx(4 * before.known, rel=1e-5)


def test_calibration_without_a_nominal_episode_is_refused():
    """One line that says what to do."""
    data = dataset(20, splits="valid", stress=({"push": 0.5},))
    with pytest.raises(UserError, match="no episode is nominal"):
        calibrated(np.zeros((20, 2, 3, 3)), data)


# Files that belong together


def save_memory(path, backbone: str, use_neural: bool = True) -> ConvGRU:
    """Writes an RNN of one level."""
    torch.manual_seed(0)
    model = ConvGRU({"p4": 2}, 2, 4)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    config = {
        "levels": {"p4": 2},
        "hidden_channels": 4,
        "action_dim": 2,
        "backbone": backbone,
        "use_neural": use_neural,
        "surprise": {"known": 2.0, "unknown": 6.0},
    }
    normalize = one("p4", 2)
    parts = {
        "rnn": model.state_dict(),
        "mean": normalize.mean,
        "std": normalize.std,
        "surprise_axes": {"p4": torch.eye(18)[:, :2]},
        "surprise_variances": {"p4": torch.tensor([0.5, 0.25, 0.1])},
    }
    save_checkpoint(path, "spatial_rnn", config, parts)
    return model


@pytest.mark.parametrize("use_neural", [True, False])
def test_memory_foresees_and_judges_step_by_step_as_over_an_episode(tmp_path, use_neural):
    """step, foresee and judge in turn give the surprise of episode_errors."""
    model = save_memory(tmp_path / "rnn.safetensors", "abc", use_neural)
    memory = SpatialMemory(tmp_path / "rnn.safetensors", backbone_digest="abc")
    z = torch.randn(AHEAD + 3, 2, 3, 3, generator=generator())
    actions = torch.randn(AHEAD + 3, 2, generator=generator(1))
    errors = episode_errors(model if use_neural else None, {"p4": z}, actions)
    assert errors["p4"].shape == (3, 2, 3, 3)
    state = None
    for t in range(3):
        frame, first = {"p4": z[t : t + 1]}, torch.tensor([t == 0])
        state = memory.step(frame, actions[max(t - 1, 0)][None], state, first)
        foreseen = memory.foresee(frame, actions[t : t + AHEAD, None], state)
        judged = memory.judge(foreseen, {"p4": z[t + AHEAD : t + AHEAD + 1]})
        assert_allclose(judged.value, memory.surprise.value(errors)[t : t + 1], rtol=1e-5)


def test_imagining_is_the_open_loop_of_a_rollout():
    """From the last real frame on, both give the same prediction."""
    torch.manual_seed(0)
    model = ConvGRU({"p4": 2}, 2, 4)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    z, actions = {"p4": torch.randn(7, 3, 2, 4, 4)}, torch.randn(7, 3, 2)
    predictions, hidden = model.rollout(z, actions, 3)
    foreseen = imagine(model, {"p4": z["p4"][2]}, actions[2:6], {"p4": hidden["p4"][2]})
    torch.testing.assert_close(foreseen["p4"], predictions["p4"][-1])


def test_memory_of_another_backbone_is_refused_naming_both_files(tmp_path):
    """One line: the RNN, the backbone, both digests."""
    save_memory(tmp_path / "rnn.safetensors", "abc")
    with pytest.raises(UserError) as error:
        SpatialMemory(tmp_path / "rnn.safetensors", backbone_digest="xyz")
    message = str(error.value)
    assert "rnn.safetensors" in message and relative(BACKBONE) in message
    assert "abc" in message and "xyz" in message and "\n" not in message


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


def test_the_frozen_backbone_has_no_gradients_and_one_that_is_not_frozen_is_refused(tmp_path):
    """Evaluation mode, flag and digest; the flag decides."""
    path = tmp_path / "backbone.safetensors"
    config = {"size": "tiny", "block": "X", "pyramid_channels": 8, "image_size": 32}
    parts = {"backbone": Backbone("tiny", "X", 8).state_dict()}
    digest = save_checkpoint(path, "backbone", {**config, "frozen": True}, parts)
    frozen = load_backbone(path)
    assert frozen.digest == digest == load_checkpoint(path, "backbone").digest
    assert not frozen.model.training
    assert not any(p.requires_grad for p in frozen.model.parameters())
    assert not frozen(np.zeros((1, 32, 32, 3), np.uint8))["p4"].requires_grad
    save_checkpoint(path, "backbone", {**config, "frozen": False}, parts)
    with pytest.raises(UserError, match="not frozen"):
        load_backbone(path)


GRIPPER_AT = 3  # in what is fed to the policy directly


class Oblivious:
    """A memory that keeps nothing; what it finds surprising is what a frame says of itself."""

    levels = ("p4",)

    def step(self, features, action, state, first):
        return {"p4": torch.zeros(len(action), 1)}

    def foresee(self, features, actions, state):
        return {"p4": features["p4"] + actions[..., :1].sum(0)}

    def judge(self, foreseen, features):
        error = (features["p4"] - foreseen["p4"])[:, 0].double().numpy()
        return Surprise(error, error, np.zeros(len(error)))


def test_the_policy_feels_how_it_moved_but_never_across_the_start_of_an_episode():
    """Proprioception, its change, the action between; looking without remembering is undone."""
    stack = Perception.__new__(Perception)
    stack.memory, stack.router = Oblivious(), SkillRouter(np.zeros((1 + 4 + 10, 3)))
    stack.reset()
    geometry, rng = np.zeros((2, 1)), np.random.default_rng(0)
    proprio = rng.normal(size=(4, 2, 4)).astype(np.float32)
    action = rng.uniform(-1, 1, (4, 2, 4)).astype(np.float32)
    begins = [(True, True), (False, False), (False, True)]

    def follow(step: int, first: tuple[bool, bool]) -> np.ndarray:
        maps = {"p4": torch.zeros(2, 1)}
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
    geometry, weights = rng.random((3, 5)), rng.normal(size=(1 + 8 + 36, 3))
    wide = np.concatenate([rng.normal(size=(3, 3)), np.ones((3, 1))], 1)
    shut = np.concatenate([wide[:, :3], np.zeros((3, 1))], 1)
    router = SkillRouter(weights)
    np.testing.assert_array_equal(
        router.to_handle(geometry, wide), router.to_handle(geometry, shut)
    )

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
    stack.memory, stack.router = Oblivious(), SkillRouter(np.zeros((1 + 4 + 10, 3)))
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
            stack.update_state({"p4": frames[0]}, geometry, proprio, action[0], np.zeros(2, bool))
        maps = {"p4": frames[step], "p3": None}
        found = stack.update_state(maps, geometry, proprio, action[step], first[step]).severity
        for robot in range(2):
            if first[step, robot]:
                begun[robot], expected[robot] = step, 0
            elif step - begun[robot] == AHEAD:
                moved = action[begun[robot] + 1 : step + 1, robot, 0].sum()
                expected[robot] = frames[step, robot, 0] - frames[begun[robot], robot, 0] - moved
                begun[robot] = step
        np.testing.assert_allclose(found, expected, atol=1e-5)
