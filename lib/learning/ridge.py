"""Linear algebra in closed form: ridge regression and principal axes."""

from __future__ import annotations

import numpy as np


def fit_ridge(x_ND: np.ndarray, y_NK: np.ndarray, penalty: float) -> np.ndarray:
    """Solves a ridge regression with an unpenalised intercept.

    Args:
        x_ND: Inputs.
        y_NK: Targets.
        penalty: Weight of the squared regression weights, for inputs scaled to unit variance.

    Returns:
        (D + 1, K) weights, the intercept last.
    """
    x_ND, y_NK = np.asarray(x_ND, np.float64), np.asarray(y_NK, np.float64)
    mean, scale = x_ND.mean(0), x_ND.std(0) + 1e-6
    x = (x_ND - mean) / scale
    gram = x.T @ x + penalty * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ (y_NK - y_NK.mean(0))) / scale[:, None]
    return np.vstack([weights, y_NK.mean(0) - mean @ weights])


def apply_ridge(weights: np.ndarray, x_ND: np.ndarray) -> np.ndarray:
    """Predicts with the weights of ``fit_ridge``.

    Args:
        weights: Weights from ``fit_ridge``, (D + 1, K).
        x_ND: Inputs.

    Returns:
        Predictions, (N, K).
    """
    return x_ND @ weights[:-1] + weights[-1]


def principal_axes(x_ND: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the orthogonal axes of largest mean square (principal components, if x is centred).

    Args:
        x_ND: Samples as rows; their mean is not subtracted.
        count: Number of axes to return, at most D.

    Returns:
        Mean square along every axis of the space, (D,) float64, in descending order; and the first
        ``count`` axes as columns, (D, count) float64.
    """
    gram_DD = (x_ND.T @ x_ND).astype(np.float64) / len(x_ND)
    squares_D, axes_DD = np.linalg.eigh(gram_DD)
    return squares_D[::-1], axes_DD[:, ::-1][:, :count].copy()
