"""Scores of a segmentation: numbers by hand."""

import json

import numpy as np
import pytest

from lib.models.heuristic import boundary_of
from lib.segmenter.scores import Scores, grow


def picture(*rows: str) -> np.ndarray:
    """(1, H, W) classes from digits."""
    return np.array([[[int(digit) for digit in row] for row in rows]], np.uint8)


def scored(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Metrics of one prediction with the boundary of its classes."""
    scores = Scores()
    scores.add(truth, predicted, boundary_of(predicted))
    return scores.metrics()


def test_a_perfect_prediction_scores_one():
    """In every metric."""
    truth = picture("000666", "000666", "111111", "111111")
    assert set(scored(truth, truth).values()) == {1.0}


def test_iou_and_f1_of_a_known_confusion():
    """0: 6 of 6, one too many, 6/7 and 12/13; 6: 2 of 3, 2/3 and 4/5; other classes are absent."""
    truth = picture("000", "000", "666")
    predicted = picture("000", "000", "660")
    metrics = scored(truth, predicted)
    assert metrics["primitive_miou"] == pytest.approx((6 / 7 + 2 / 3) / 2, abs=1e-6)
    assert metrics["primitive_f1"] == pytest.approx((12 / 13 + 4 / 5) / 2, abs=1e-6)
    assert metrics["handle_iou"] == pytest.approx(2 / 3, abs=1e-6)


def test_a_class_that_is_only_predicted_costs_the_class_it_covers():
    """It has no IoU of its own in the mean, as it does not occur."""
    metrics = scored(picture("0000"), picture("0001"))
    assert metrics["primitive_miou"] == 0.75
    assert metrics["primitive_f1"] == pytest.approx(6 / 7, abs=1e-6)


def test_counts_add_up_over_batches():
    """Two frames at once or one after the other: the same metrics."""
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 7, (2, 2, 9, 9), np.uint8)
    together, apart = Scores(), Scores()
    together.add(truth, predicted, boundary_of(predicted))
    for index in range(2):
        frame = predicted[index : index + 1]
        apart.add(truth[index : index + 1], frame, boundary_of(frame))
    assert together.metrics() == apart.metrics()
    assert 0 < together.metrics()["primitive_miou"] < 0.3


def test_one_pixel_is_forgiven_and_two_are_not():
    """A line of 2 pixels' width in truth; the same shifted by 1, 2 and 3 columns."""
    truth = np.zeros((1, 6, 20), np.uint8)
    truth[..., 8:] = 1
    exact, near = [], []
    for shift in range(5):
        scores = Scores()
        scores.add(truth, truth, np.roll(boundary_of(truth), shift, axis=2))
        metrics = scores.metrics()
        exact.append(metrics["boundary_f1"])
        near.append(metrics["boundary_f1_1px"])
    assert exact == [1.0, 0.5, 0.0, 0.0, 0.0]
    assert near == [1.0, 1.0, 0.5, 0.0, 0.0]


def test_boundary_f1_is_the_harmonic_mean_of_precision_and_recall():
    """All 12 boundary pixels found and 36 too many: 1/4 and 1 make 2/5."""
    truth = np.zeros((1, 6, 20), np.uint8)
    truth[..., 8:] = 1
    boundary = np.zeros((1, 6, 20), bool)
    boundary[..., 5:13] = True
    scores = Scores()
    scores.add(truth, truth, boundary)
    assert scores.metrics()["boundary_f1"] == pytest.approx(2 / 5)


def test_nothing_predicted_is_zero_and_no_nan():
    """And of no frame at all there is nothing to say."""
    truth = picture("0011")
    scores = Scores()
    assert scores.metrics() == {}
    scores.add(truth, np.full_like(truth, 2), np.zeros(truth.shape, bool))
    assert set(scores.metrics().values()) == {0.0}


def test_grow_widens_by_a_square():
    """Diagonals included, borders not wrapped, frames apart."""
    mask = np.zeros((2, 5, 5), bool)
    mask[0, 0, 0] = mask[1, 2, 2] = True
    grown = grow(mask, 1)
    expected = np.zeros((2, 5, 5), bool)
    expected[0, :2, :2] = True
    expected[1, 1:4, 1:4] = True
    np.testing.assert_array_equal(grown, expected)
    np.testing.assert_array_equal(grow(mask, 0), mask)


PASSING = {
    "evaluate.json": {"policy": {"success_any": 0.98}},
    "vision.json": {"probe": {"min_r2": 0.95}, "probe_random": {"min_r2": 0.9}},
    "segmenter.json": {"boundary_f1_1px": 0.97},
    "rnn.json": {"skill": {"k8": 0.5}},
}


@pytest.fixture
def metrics(tmp_path):
    """A folder of metrics that pass; the function replaces one file."""

    def replace(name: str, value: dict) -> None:
        (tmp_path / name).write_text(json.dumps(value))

    for name, value in PASSING.items():
        replace(name, value)
    replace.folder = tmp_path
    return replace
