"""The segmenter stage: thresholds, the stress set, and which segmenter serves."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from lib.data.dataset import Dataset
from lib.episode import PRIMITIVES
from lib.models.heuristic import boundary_of
from lib.segmenter.scores import (
    STRESS_STREAM,
    THRESHOLDS,
    Scores,
    ThresholdCurve,
    stressed_episodes,
)
from lib.segmenter.serving import load_segmenter
from lib.sim.env import episode_seed
from tests.factories import SIZE, dataset
from tests.stages.bench import run_segmenter


def test_black_pictures_do_not_teach():
    """A dropped picture shows nothing of what its labels say; held-out episodes stay held out."""
    images = np.ones((9, 4, 4, 3), np.uint8)
    images[[1, 5]] = 0
    images[4] = 0
    images[4, 2, 2, 1] = 1  # dark, not dropped
    data = dataset(3, 3, 3, splits="train train test", obs__image=images)
    assert_array_equal(data.seen(data.rows(["train"])), [0, 2, 3, 4])


def test_the_curve_is_the_metric_at_every_threshold():
    """One pass gives what Scores gives at that threshold; recall never rises with it."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (3, SIZE, SIZE)).repeat(4, 1)[:, :SIZE].astype(np.uint8)
    # Some on the thresholds themselves, as float32 has them: a pixel counts from there on.
    probabilities = rng.choice(np.linspace(0, 1, 101), truth.shape).astype(np.float32)
    curve = ThresholdCurve()
    for half in (slice(0, 1), slice(1, 3)):
        curve.add(truth[half], probabilities[half])
    rows = curve.rows()
    for row, threshold in zip(rows, THRESHOLDS, strict=True):
        scores = Scores()
        edges = probabilities >= np.float32(threshold)
        scores.add(truth, truth, edges)
        assert row["f1"] == pytest.approx(scores.metrics()["boundary_f1"], abs=2e-6)
        assert row["precision"] == pytest.approx(boundary_of(truth)[edges].mean(), abs=1e-6)
        assert row["recall"] == pytest.approx(edges[boundary_of(truth)].mean(), abs=1e-6)
    recall = [row["recall"] for row in rows]
    assert recall == sorted(recall, reverse=True) and recall[0] > recall[-1]


def test_a_curve_of_no_frame_is_zero():
    """No division by zero."""
    for row in ThresholdCurve().rows():
        assert row["f1"] == row["precision"] == row["recall"] == 0


def test_the_stress_set_has_exactly_its_severity_and_own_positions(monkeypatch):
    """Light and camera at 0.5 and nothing else; positions of its own stream; exact labels."""
    monkeypatch.setenv("GOLDEN_PATH_WORKERS", "1")
    frames = stressed_episodes("drawer_open", "metaworld", 0, 2, 0.5, SIZE)
    assert len(frames.episodes) == 2
    for index, item in enumerate(frames.episodes):
        assert item.tags["stress"] == {"light": 0.5, "camera": 0.5}
        assert (item.split, item.tags["labels"], item.tags["visual"]) == ("test", "exact", True)
        others = {
            episode_seed(0, index, stream)
            for stream in ("rollout", "isaac_stand_in", "train", "validate", "test")
        }
        assert episode_seed(0, index, STRESS_STREAM) not in others
    images, labels = frames.arrays["obs/image"], frames.arrays["labels/segmentation"]
    assert images.shape == (len(frames), SIZE, SIZE, 3)
    assert labels.shape == (len(frames), SIZE, SIZE)
    assert {"handle", "drawer"} <= {PRIMITIVES[i] for i in np.unique(labels)}


def two_colours() -> Dataset:
    """Three short episodes, one a split, of two flat colours; states that the colours give."""
    rng = np.random.default_rng(0)
    count, steps = 3, 12
    labels = np.zeros((count * steps, SIZE, SIZE), np.uint8)
    for frame, column in zip(labels, rng.integers(8, 24, len(labels)), strict=True):
        frame[:, column:] = PRIMITIVES.index("handle")
    images = np.where(labels[..., None] > 0, 220, 30).astype(np.uint8).repeat(3, -1)
    return dataset(
        *[steps] * count,
        splits="train valid test",
        tags=[{"labels": "exact", "visual": False}],
        obs__image=images,
        labels__segmentation=labels,
        obs__eef_pos=rng.normal(size=(len(labels), 3)).astype(np.float32),
        obs__gripper=rng.random((len(labels), 1)).astype(np.float32),
        labels__skill=np.zeros(len(labels), np.uint8),
        labels__state=rng.normal(size=(len(labels), 11)).astype(np.float32),
    )


@pytest.fixture
def scratch_stage(tmp_path, monkeypatch):
    """Runs the stage on a few frames, with outs in a scratch folder; returns what it left."""
    loaded = two_colours()

    def run_it(doubted=None, **changes):
        left = run_segmenter(tmp_path, monkeypatch, loaded, loaded, changes, doubted=doubted)
        left.serving, _ = load_segmenter(path=left.path)
        left.config = left.saved.config
        left.images = loaded.arrays["obs/image"]
        return left

    return run_it


@pytest.mark.parametrize(
    ("changes", "active", "who"),
    [
        ({"f1_activation_threshold": 0.0}, True, "the U-Net serves"),
        ({"f1_activation_threshold": 1.0}, False, "the heuristic serves"),
        ({"f1_activation_threshold": 0.0, "use_neural": False}, False, "the heuristic serves"),
    ],
)
def test_the_network_serves_only_where_it_is_good_enough(scratch_stage, changes, active, who):
    """Threshold 0 and 1, and switched off: log, metrics, checkpoint and loader agree."""
    left = scratch_stage(**changes)
    assert who in left.said
    assert left.metrics["activated"] == int(active)
    assert left.config["active"] is active
    assert left.config["primitives"] == list(PRIMITIVES)
    assert left.serving.active is active
    _, boundary = left.serving.probabilities(left.images[:2])
    assert (boundary is not None) is active
    lines = (left.folder / "segmenter_threshold.csv").read_text().splitlines()
    assert lines[0] == "threshold,f1,precision,recall" and len(lines) == 1 + len(THRESHOLDS)


def test_the_stage_learns_from_believed_segments_only(scratch_stage):
    """What the manifest doubts changes the training: it reaches the loss."""
    losses = [
        scratch_stage(doubted=doubted).metrics["loss"]
        for doubted in (None, {"handle": {"table": 0.0}}, {"handle": {"background": 0.0}})
    ]
    assert losses[0] == losses[1]  # the judge sees no table here
    assert losses[0]["boundary"] != losses[2]["boundary"]
    assert losses[0]["primitive"] != losses[2]["primitive"]
