"""Each stage trains, fits, calibrates and chooses on the splits that it says, and on no other.

The frames of one split are replaced by noise. What a stage makes of the other splits must not
change by a bit, and what it makes of this one must.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib.learning.checkpoint import digest_of, load_checkpoint
from lib.models import encoder
from stages import rnn, vision
from tests.stages.bench import SIDE, nothing, recorded, run_segmenter, run_stage, spoiled

HELD_OUT = ("valid", "test")
DATA = recorded()


@pytest.fixture
def vision_of(tmp_path, monkeypatch):
    """Runs the vision stage on some data; returns the backbone's digest and the metrics."""

    def run_it(data, name):
        folder = tmp_path / name
        small = {"steps": 2, "batch_size": 8, "size": "tiny", "feature_levels": ["p4"]}
        drawn = []
        left = run_stage(
            vision,
            folder,
            monkeypatch,
            data,
            {"vision": small},
            BACKBONE=folder / "backbone",
            FEATURES=folder / "features",
            load_backbone=lambda: encoder.load_backbone(folder / "backbone"),
            probe_scatter=lambda path, scatter, scores: drawn.append(scatter["predicted"]),
            neighbour_sheet=nothing,
        )
        left.digest = load_checkpoint(folder / "backbone", "backbone").digest
        (left.predicted,) = drawn
        return left

    return run_it


def test_the_backbone_learns_from_training_frames_alone(vision_of):
    """Noise in the pictures of held-out episodes leaves every weight as it was."""
    digest = vision_of(DATA, "clean").digest
    for split in HELD_OUT:
        assert vision_of(spoiled(DATA, split, "obs/image"), split).digest == digest, split
    assert vision_of(spoiled(DATA, "train", "obs/image"), "train").digest != digest


def test_the_probe_is_fitted_on_training_and_scored_on_test_episodes(vision_of):
    """Of trained and random weights alike: what it predicts does not depend on the test's truth."""
    clean = vision_of(DATA, "clean")
    changed = {
        split: vision_of(spoiled(DATA, split, "labels/state"), split)
        for split in ("train", *HELD_OUT)
    }
    for split in HELD_OUT:
        np.testing.assert_array_equal(changed[split].predicted, clean.predicted)
    assert (changed["train"].predicted != clean.predicted).any()
    for name in ("probe", "probe_random"):
        assert changed["valid"].metrics[name] == clean.metrics[name]
        assert changed["train"].metrics[name] != clean.metrics[name]
        assert changed["test"].metrics[name]["min_r2"] < 0.2 < clean.metrics[name]["min_r2"]


@pytest.fixture
def rnn_of(tmp_path, monkeypatch):
    """Runs the RNN's stage on features that are one small map of each picture."""

    def run_it(data, name):
        folder = tmp_path / name

        def maps(images):
            small = images.reshape(len(images), 4, SIDE // 4, 4, SIDE // 4, 3).mean((2, 4))
            level = np.moveaxis(small, -1, 1).astype(np.float16) / 255
            means = level.mean((2, 3))
            return {"p4": level, "look": means[:, :1], "hand": means}

        def backbone(images):
            return {k: torch.from_numpy(v).float() for k, v in maps(images).items()}

        backbone.digest, backbone.image_size = "backbone", SIDE
        rng, still = np.random.default_rng(3), np.zeros((16, 4), np.float32)
        episodes = [
            (kind, rng.integers(0, 255, (16, SIDE, SIDE, 3), dtype=np.uint8), still, still)
            for kind in ["nominal", *rnn.suite_kinds("wide", 1)[3:]]
        ]
        small = {"steps": 2, "batch_size": 4, "hidden_channels": 4, "window": 12, "levels": ["p4"]}
        left = run_stage(
            rnn,
            folder,
            monkeypatch,
            data,
            {"rnn": {**small, "surprise_components": 4, "surprise_episodes": 1}},
            SPATIAL_RNN=folder / "rnn",
            load_backbone=lambda: backbone,
            load_frames=lambda path, levels, d, digest: maps(data.arrays["obs/image"]),
            suite=lambda *_: episodes,
        )
        saved = load_checkpoint(folder / "rnn", "spatial_rnn")
        left.weights = digest_of(saved.part("rnn"))
        left.scale = (saved.part("mean"), saved.part("std"))
        left.known = saved.config["surprise"]
        calibrated = ("surprise", "motion")
        left.axes = {k: v for k, v in saved.tensors.items() if k.startswith(calibrated)}
        return left

    return run_it


def same(one, other):
    """Whether two nested tuples or dictionaries of tensors are equal."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, tuple):
        return all(map(same, one, other))
    return torch.equal(one, other)


def test_the_rnn_learns_from_training_frames_and_is_calibrated_on_validation_frames(rnn_of):
    """Weights, normaliser and covariance: training; the scale: validation; the skill: test."""
    clean = rnn_of(DATA, "clean")
    spoilt = {s: rnn_of(spoiled(DATA, s, "obs/image", "actions"), s) for s in ("train", *HELD_OUT)}
    for split in HELD_OUT:
        assert spoilt[split].weights == clean.weights
        assert same(spoilt[split].scale, clean.scale)
        assert same(spoilt[split].axes, clean.axes)
    assert spoilt["train"].weights != clean.weights
    assert not same(spoilt["train"].scale, clean.scale)
    assert not same(spoilt["train"].axes, clean.axes)
    assert spoilt["test"].known == clean.known
    assert spoilt["valid"].known != clean.known
    assert spoilt["valid"].metrics["skill"] == clean.metrics["skill"]
    assert spoilt["test"].metrics["skill"] != clean.metrics["skill"]


@pytest.fixture
def segmenter_of(tmp_path, monkeypatch):
    """Runs the segmenter's stage; returns its weights, its locator and its metrics."""

    def run_it(data, name, **changes):
        left = run_segmenter(
            tmp_path / name,
            monkeypatch,
            data,
            DATA,
            changes,
            confusion_figure=nothing,
            overlay_sheet=nothing,
        )
        left.weights = digest_of(left.saved.part("unet"))
        left.locator = left.saved.part("locator")
        return left

    return run_it


def test_the_segmenter_learns_from_training_frames_alone(segmenter_of):
    """So does the network that locates, whose inputs are the geometry of pictures."""
    clean = segmenter_of(DATA, "clean")
    for split in HELD_OUT:
        spoilt = segmenter_of(spoiled(DATA, split), split)
        assert spoilt.weights == clean.weights
        assert same(spoilt.locator, clean.locator)
    spoilt = segmenter_of(spoiled(DATA, "train"), "train")
    assert spoilt.weights != clean.weights
    assert not same(spoilt.locator, clean.locator)


def test_validation_frames_decide_which_segmenter_serves_and_test_frames_are_reported(segmenter_of):
    """The score of the one never moves with the frames of the other."""
    everywhere = {"threshold": 0.0}  # the untrained network then draws boundaries, everywhere
    clean = segmenter_of(DATA, "clean", **everywhere).metrics
    valid, test = (
        segmenter_of(spoiled(DATA, split, "labels/segmentation"), split, **everywhere).metrics
        for split in HELD_OUT
    )
    reported = ("boundary_f1", "primitive_miou", "handle_iou")
    assert test["valid_boundary_f1"] == clean["valid_boundary_f1"] != valid["valid_boundary_f1"]
    assert [valid[name] for name in reported] == [clean[name] for name in reported]
    assert [test[name] for name in reported] != [clean[name] for name in reported]
    # Without training, the labels of training frames have no say in anything that is reported.
    fixed = {"use_neural": False, **everywhere}
    before = segmenter_of(DATA, "fixed", **fixed).metrics
    after = segmenter_of(spoiled(DATA, "train", "labels/segmentation"), "train", **fixed).metrics
    assert after["heuristic"] == before["heuristic"]
    assert [after[name] for name in reported] == [before[name] for name in reported]
    router = segmenter_of(spoiled(DATA, "valid", "labels/state", "labels/skill"), "skill").metrics
    assert router["router_accuracy"] == clean["router_accuracy"]
