"""Loss weights, mean pictures, probes and nearest neighbours of the backbone."""

import numpy as np
import pytest
import torch

from lib.params import load_params
from lib.vision.probes import TARGETS, UNITS, fit_probe, neighbours, probe, telling
from lib.vision.train_backbone import Plain, StateHead, mean_pictures, motion_weights
from tests.factories import dataset


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


def test_a_probe_reads_what_is_there_from_pictures_that_tell():
    """A linear code is read to the last digit; black and late pictures are asked nothing."""
    data = dataset(40, 40, 40, splits="train test test")
    images = np.ones((120, 4, 4, 3), np.uint8)
    rng = np.random.default_rng(0)
    states = rng.normal(size=(120, 11))
    features = np.concatenate([states, np.ones((120, 1))], 1).reshape(120, 12, 1, 1)
    images[50], features[50] = 0, 99.0  # dropped
    data.episodes[2].tags["stress_steps"] = {"latency": 40}
    features[80:] = -99.0
    data.arrays["obs/image"] = images
    assert telling(data, data.rows(["test"])).tolist() == [r for r in range(40, 80) if r != 50]
    data.arrays["labels/state"] = states
    nominal, stressed, scatter = probe(fit_probe(features, data, 1e-9), features, data)
    assert nominal["min_r2"] > 0.9999
    assert len(scatter["truth"]) == 39
    assert stressed == {}


def test_a_probe_tells_its_error_in_millimetres():
    """With nothing to go by, the mean is predicted: the error is the spread, R2 below zero."""
    data = dataset(50, 50, splits="train test")
    data.arrays["obs/image"] = np.ones((100, 4, 4, 3), np.uint8)
    states = np.random.default_rng(0).normal(0, 0.02, size=(100, 11))
    data.arrays["labels/state"], nothing = states, np.ones((100, 1, 1, 1))
    scores, _, _ = probe(fit_probe(nothing, data, 1.0), nothing, data)
    hand_x = states[50:, 0] - states[:50:2, 0].mean()
    assert scores["hand_x_mm"] == pytest.approx(1000 * np.sqrt((hand_x**2).mean()), rel=1e-4)
    units = {f"{name}_{UNITS[name][1]}" for name in TARGETS}
    assert set(scores) == {*(f"{name}_r2" for name in TARGETS), *units, "min_r2"}
    yaw = states[50:, 10] - states[:50:2, 10].mean()
    assert scores["drawer_yaw_deg"] == pytest.approx(np.rad2deg(np.sqrt((yaw**2).mean())), rel=1e-4)
    assert scores["min_r2"] <= 0


def test_what_never_differs_is_not_scored():
    """In Meta-World's own world no drawer is turned: R2 would be zero by zero."""
    data = dataset(40, 40, splits="train test")
    data.arrays["obs/image"] = np.ones((80, 4, 4, 3), np.uint8)
    states = np.random.default_rng(0).normal(size=(80, 11))
    states[:, 9:] = 0.9, 0.0
    data.arrays["labels/state"], features = states, states.reshape(80, 11, 1, 1)
    scores, _, _ = probe(fit_probe(features, data, 1e-9), features, data)
    assert {"drawer_y_r2", "drawer_yaw_r2", "drawer_yaw_deg"}.isdisjoint(scores)
    assert scores["min_r2"] > 0.999


def test_the_second_picture_is_the_canonical_one_where_there_is_one():
    """Recordings have none: they are paired with themselves, and not reconstructed."""
    data = dataset(3, 2, splits="train train")
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 4, 4, 3)
    known = dataset(2, keys=[data.episodes[1].key])
    known.arrays["labels/canonical"] = np.full((2, 4, 4, 3), [[[[90]]], [[[91]]]], np.uint8)
    rows = np.array([4, 0, 3])
    second, told = Plain(data, known).of(rows, images[rows])
    assert second[:, 0, 0, 0].tolist() == [91, 0, 90]
    assert told.tolist() == [True, False, True]
    second, told = Plain(data, None).of(rows, images[rows])
    assert second[:, 0, 0, 0].tolist() == [4, 0, 3]
    assert told.all()


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


def test_the_state_is_learnt_from_pictures_that_tell_and_shifts_are_told():
    """A weight for the shift explains it; black, late and unlabelled pictures count nothing."""
    data = dataset(30, 30, 30, splits="train train train")
    images = np.ones((90, 4, 4, 3), np.uint8)
    images[10] = 0
    data.arrays["obs/image"] = images
    data.episodes[1].tags["stress_steps"] = {"latency": 30}
    states = dataset(30, 30, keys=["0", "1"])
    truth = np.random.default_rng(0).normal(size=(60, 11)).astype(np.float32)
    truth[:, 9] = 0.9  # the same in every episode
    states.arrays["labels/state"] = truth
    columns = list(TARGETS.values())
    torch.manual_seed(0)
    head = StateHead(data, states, len(columns))
    tells = [row for row in range(30) if row != 10]
    spread = truth[tells][:, columns].std(0)
    scaled = (truth[:, columns] - truth[tells][:, columns].mean(0)) / np.where(
        spread > 1e-6, spread, 1
    )
    with torch.no_grad():
        head.layer.weight.copy_(torch.eye(len(columns), len(columns) + 2))
        head.layer.weight[:, -2:] = 1.0
        head.layer.bias.zero_()
    rows = np.array([3, 10, 40, 70, 5])
    maps = torch.zeros(5, len(columns))
    maps[[0, 4]] = torch.from_numpy(scaled[[3, 5]]).float()
    shifts = torch.zeros(2, 5)
    assert head(maps[..., None, None], shifts, rows).item() == pytest.approx(0, abs=1e-9)
    shifts[:, 0] = 1.0
    assert head(maps[..., None, None], shifts, rows).item() == pytest.approx(0.5, rel=1e-5)
    assert head(maps[:1, :, None, None], shifts[:, :1], np.array([70])).item() == 0
