"""Geometry, ridge regression, segmentation scores, gates and summaries: numbers by hand."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from lib.agent.closed_loop import Trajectory, Trial
from lib.base.errors import GateError, UserError
from lib.episode import PRIMITIVES
from lib.evaluate.robot import interval, ratios, summarise
from lib.gates import GATES, Gates, judge
from lib.learning.ridge import apply_ridge, fit_ridge
from lib.models.heuristic import boundary_of
from lib.params import load_params
from lib.segmenter.geometry import NAMES, geometry_of, quadratic
from lib.segmenter.scores import Scores, grow
from lib.sim.economics import Economics

HANDLE, DRAWER = PRIMITIVES.index("handle"), PRIMITIVES.index("drawer")

# Geometry


def one_hot(classes: np.ndarray) -> torch.Tensor:
    """(B, H, W) classes as probabilities."""
    maps = torch.nn.functional.one_hot(torch.from_numpy(classes).long(), len(PRIMITIVES))
    return maps.movedim(-1, 1).float()


def measured(probabilities: torch.Tensor) -> dict[str, float]:
    """Geometry of one picture by name."""
    (numbers,) = geometry_of(probabilities)
    assert numbers.dtype == torch.float32
    return dict(zip(NAMES, numbers.tolist(), strict=True))


def box(top: int, left: int, height: int, width: int, part: int = HANDLE) -> torch.Tensor:
    """A 20 x 40 picture with one rectangle."""
    classes = np.zeros((1, 20, 40), int)
    classes[0, top : top + height, left : left + width] = part
    return one_hot(classes)


def test_a_rectangle_is_measured_in_shares_of_the_sides():
    """Rows 4 to 7, columns 10 to 19 of 20 x 40: centre, area, and the 5 % of mass at each edge."""
    values = measured(box(4, 10, 4, 10))
    assert values["handle_x"] == pytest.approx(15 / 40)
    assert values["handle_y"] == pytest.approx(6 / 20)
    assert values["handle_area"] == pytest.approx(math.sqrt(40 / 800))
    assert values["handle_left"] == pytest.approx((10 + 0.05 * 10) / 40)
    assert values["handle_bottom"] == pytest.approx((4 + 0.95 * 4) / 20)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 14), st.integers(0, 34), st.integers(2, 6), st.integers(2, 6))
def test_a_rectangle_anywhere(top, left, height, width):
    """The same closed form for all places and sizes, and for another part."""
    values = measured(box(top, left, height, width, DRAWER))
    assert values["drawer_x"] == pytest.approx((left + width / 2) / 40, abs=1e-6)
    assert values["drawer_y"] == pytest.approx((top + height / 2) / 20, abs=1e-6)
    assert values["drawer_left"] == pytest.approx((left + 0.05 * width) / 40, abs=1e-6)
    assert values["drawer_bottom"] == pytest.approx((top + 0.95 * height) / 20, abs=1e-6)
    assert values["handle_area"] == 0


def test_a_part_that_is_not_seen_is_in_the_middle_with_area_zero():
    """No division by zero, no NaN."""
    values = measured(one_hot(np.zeros((1, 20, 40), int)))
    assert {name: v for name, v in values.items() if not name.endswith("area")} == dict.fromkeys(
        (name for name in NAMES if not name.endswith("area")), 0.5
    )
    assert all(v == 0 for name, v in values.items() if name.endswith("area"))


def test_a_speck_that_counts_as_unseen_has_no_area():
    """One pixel is too little to say where the part is: all five numbers say so."""
    values = measured(box(4, 10, 1, 1))
    assert values["handle_x"] == 0.5
    assert values["handle_area"] == 0


def test_centroids_are_finer_than_a_pixel_and_doubt_does_not_count():
    """Weights 0.9 and 0.6 in two columns: (0.9 * 5.5 + 0.6 * 6.5) / 1.5; 0.3 everywhere else."""
    probabilities = torch.zeros(1, len(PRIMITIVES), 20, 40)
    probabilities[:, HANDLE] = 0.3
    probabilities[:, HANDLE, :10, 5] = 0.9
    probabilities[:, HANDLE, :10, 6] = 0.6
    values = measured(probabilities)
    assert values["handle_x"] == pytest.approx((0.9 * 5.5 + 0.6 * 6.5) / 1.5 / 40)
    assert values["handle_y"] == pytest.approx(5 / 20)
    assert values["handle_area"] == pytest.approx(math.sqrt(15 / 800))


def test_pictures_of_a_batch_do_not_meet():
    """Each is measured as if it were alone."""
    pictures = torch.cat([box(4, 10, 4, 10), box(0, 0, 20, 40), box(5, 5, 3, 9, DRAWER)])
    alone = torch.cat([geometry_of(picture[None]) for picture in pictures])
    assert torch.equal(geometry_of(pictures), alone)


def test_quadratic_appends_every_product_once():
    """2 and 3 numbers; the width in closed form."""
    assert_allclose(quadratic(np.array([[2.0, 3.0]])), [[2, 3, 4, 6, 9]])
    assert_allclose(quadratic(np.array([[2.0, 3, 5]])), [[2, 3, 5, 4, 6, 10, 9, 15, 25]])
    for width in range(1, 6):
        assert quadratic(np.ones((4, width))).shape == (4, width + width * (width + 1) // 2)


# Ridge regression


def linear_data(noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Inputs of very different scales, a linear map of them, its weights and intercept."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 4)) * np.array([1.0, 100.0, 0.01, 3.0]) + np.array([5.0, 0, 1, -7])
    weights, intercept = rng.normal(size=(4, 2)), np.array([3.0, -2.0])
    return x, x @ weights + intercept + noise * rng.normal(size=(60, 2)), weights, intercept


def test_ridge_with_a_tiny_penalty_finds_an_exact_linear_map():
    """Weights and intercept, whatever the inputs' scale and mean."""
    x, y, weights, intercept = linear_data(0.0)
    fitted = fit_ridge(x, y, 1e-10)
    assert_allclose(fitted[:-1], weights, rtol=1e-7)
    assert_allclose(fitted[-1], intercept, rtol=1e-7)
    assert_allclose(apply_ridge(fitted, x), y, rtol=1e-7)


def test_ridge_with_a_tiny_penalty_is_least_squares():
    """NumPy's own solution, on noisy data."""
    x, y, _, _ = linear_data(0.5)
    expected = np.linalg.lstsq(np.hstack([x, np.ones((60, 1))]), y, rcond=None)[0]
    assert_allclose(fit_ridge(x, y, 1e-10), expected, rtol=1e-6)


def test_ridge_shrinks_by_the_closed_form_and_never_the_intercept():
    """One input of unit variance: the slope is that of least squares times N / (N + penalty)."""
    x = np.array([[-1.0], [1.0]] * 10)
    y = 3 * x + 7
    for penalty in (0.0, 20.0, 60.0):
        slope, intercept = fit_ridge(x, y, penalty)[:, 0]
        assert slope == pytest.approx(3 * 20 / (20 + penalty), rel=1e-5)
        assert intercept == pytest.approx(7)


def test_ridge_bears_an_input_that_never_changes():
    """A feature that is always 0 is common in small data: no NaN, the others as without it."""
    x, y, _, _ = linear_data(0.5)
    with_constant = fit_ridge(np.hstack([x, np.full((60, 1), 2.0)]), y, 1.0)
    assert_allclose(
        apply_ridge(with_constant, np.hstack([x, np.full((60, 1), 2.0)])),
        apply_ridge(fit_ridge(x, y, 1.0), x),
        rtol=1e-8,
    )


# Segmentation scores


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


# Gates

PASSING = {
    "evaluate.json": {"policy": {"success_any": 0.98}},
    "vision.json": {"probe": {"min_r2": 0.95}, "probe_random": {"min_r2": 0.9}},
    "segmenter.json": {"boundary_f1_1px": 0.97},
    "rnn.json": {"skill": {"k8": 0.5}},
}
THRESHOLDS = {
    "policy_success_any": 0.98,
    "probe_min_r2": 0.9,
    "probe_gain_r2": 0.01,
    "boundary_f1_1px": 0.95,
    "rnn_skill_k8": 0.3,
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


def test_all_gates_passed_are_listed_with_value_and_threshold(metrics):
    """At least is enough: success equals its threshold; the gain is a difference."""
    assert judge(Gates(**THRESHOLDS), metrics.folder) == {
        "passed": 5,
        "gates": {
            name: {"value": value, "threshold": THRESHOLDS[name]}
            for name, value in zip(THRESHOLDS, (0.98, 0.95, 0.05, 0.97, 0.5), strict=True)
        },
    }


def test_every_threshold_of_the_params_has_its_gate():
    """None is written down and never looked at."""
    assert sorted(gate.param for gate in GATES) == sorted(Gates.model_fields)


@pytest.mark.parametrize(
    ("file", "value", "words"),
    [
        (
            "evaluate.json",
            {"policy": {"success_any": 0.5}},
            "policy.success_any is 0.5, gates.policy_success_any is 0.98",
        ),
        (
            "vision.json",
            {"probe": {"min_r2": 0.95}, "probe_random": {"min_r2": 0.96}},
            "probe.min_r2 - probe_random.min_r2 is -0.01, gates.probe_gain_r2 is 0.01",
        ),
        (
            "segmenter.json",
            {"boundary_f1_1px": 0},
            "boundary_f1_1px is 0, gates.boundary_f1_1px is 0.95",
        ),
        ("rnn.json", {"skill": {"k8": -1.5}}, "skill.k8 is -1.5, gates.rnn_skill_k8 is 0.3"),
    ],
)
def test_a_gate_that_fails_is_named_with_value_and_threshold(metrics, file, value, words):
    """That one and no other; exit code 1, for the run was sound."""
    metrics(file, value)
    with pytest.raises(GateError) as caught:
        judge(Gates(**THRESHOLDS), metrics.folder)
    assert str(caught.value) == f"not passed: {metrics.folder / file} {words}"
    assert caught.value.exit_code == 1


def test_all_gates_that_fail_are_named_at_once(metrics):
    """In one line."""
    metrics("rnn.json", {"skill": {"k8": 0.1}})
    metrics("segmenter.json", {"boundary_f1_1px": 0.1})
    with pytest.raises(GateError, match="boundary_f1_1px is 0.1.*; .*skill.k8 is 0.1") as caught:
        judge(Gates(**THRESHOLDS), metrics.folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "value", [{}, {"skill": 3}, {"skill": {"k8": "0.9"}}, {"skill": {"k8": None}}]
)
def test_a_metric_that_is_not_there_is_bad_input(metrics, value):
    """Neither passed nor failed: nobody measured it."""
    metrics("rnn.json", value)
    with pytest.raises(UserError, match="rnn.json: has no number skill.k8") as caught:
        judge(Gates(**THRESHOLDS), metrics.folder)
    assert caught.value.exit_code == 2


def test_nan_never_passes(metrics):
    """Python's JSON reader takes it, whoever wrote it."""
    metrics("rnn.json", {"skill": {"k8": math.nan}})
    with pytest.raises(UserError):
        judge(Gates(**THRESHOLDS), metrics.folder)


# Robots

PRICES = Economics(
    unit_price=0.01,
    wage_per_hour=18.0,
    damage_force_n=300.0,
    damage_cost=0.01,
    energy_scale_j=1.0,
)
SETTINGS = load_params("evaluate").evaluate


def attempt(steps: int, success_at: int | None, damaged: tuple[int, ...] = ()) -> Trajectory:
    """An episode of 9 J a step that succeeds at one step, or at none."""
    return Trajectory(
        Trial(0),
        success=[step == success_at for step in range(steps)],
        energy_j=[9.0] * steps,
        damages=[int(step in damaged) for step in range(steps)],
    )


def test_wilson_intervals_are_the_published_ones():
    """Wilson (1927) without continuity correction: 10 of 10, 0 of 10, 5 of 10, 45 of 50."""
    assert interval(10, 10) == (0.722467, 1.0)
    assert interval(0, 10) == (0.0, 0.277533)
    assert interval(5, 10) == (0.236593, 0.763407)
    z, p, n = 1.959963984540054, 0.9, 50
    centre, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = ((centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n))
    assert interval(45, 50) == pytest.approx(expected, abs=1e-6)


def test_a_summary_by_hand():
    """Success at step 80 of 80 and at 40 of 120, one failure of 120 steps, one lost success.

    Counted steps: 80, 40, 120 and 60, mean 75, 1.875 s. MP = 3600 * 0.75 / 1.875 = 1440. Energy
    9 J * 300 = 2700 J = 0.75 Wh, 0.25 Wh a unit. Damage after success does not count.
    """
    lost = attempt(100, 59)
    again = attempt(80, 79, damaged=(3, 70))
    episodes = [again, attempt(120, 39, damaged=(100,)), attempt(120, None, damaged=(119,)), lost]
    summary = summarise(episodes, PRICES, SETTINGS)
    low, high = interval(3, 4)
    parity = 1440 * (0.01 - 0.30 * 0.25 / 1000) / 18
    assert summary == {
        "success_any": 0.75,
        "success_any_low": low,
        "success_any_high": high,
        "success_last": 0.25,
        "steps_mean": 75.0,
        "mpl_units_per_hour": 1440.0,
        "energy_wh_per_unit": 0.25,
        "damage_rate": 0.75,
        "wage_parity": round(parity, 6),
    }


def test_a_summary_without_any_success_is_finite():
    """Nothing produced, the energy is that of all attempts; time between units counts."""
    summary = summarise([attempt(100, None)] * 2, PRICES, SETTINGS)
    assert summary["success_any"] == summary["mpl_units_per_hour"] == summary["wage_parity"] == 0
    assert summary["energy_wh_per_unit"] == 0.5
    slower = SETTINGS.model_copy(update={"hand_over_s": 0.25})
    assert summarise([attempt(80, 79)], PRICES, slower)["mpl_units_per_hour"] == 3600 / 2.25


def test_ratios_are_policy_over_scripted():
    """Twice the units at a quarter of the energy; against nothing there is no ratio."""
    one = {"mpl_units_per_hour": 3000.0, "energy_wh_per_unit": 0.01}
    two = {"mpl_units_per_hour": 1500.0, "energy_wh_per_unit": 0.04}
    assert ratios(one, two) == {"mpl": 2.0, "energy": 0.25}
    assert ratios(one, {**two, "mpl_units_per_hour": 0.0})["mpl"] == 0.0
