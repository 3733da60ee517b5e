"""Ridge regression against closed forms and least squares."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from lib.learning.ridge import apply_ridge, fit_ridge


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
