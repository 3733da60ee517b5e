"""Linear algebra in closed form: ridge regression, principal axes and Mahalanobis distance.

Tensor suffixes: B batch, N samples, D dimensions, K targets or principal axes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lib.learning.portable import matmul


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


class Mahalanobis:
    """Squared Mahalanobis distance from zero, as Lee et al. 2018 (arXiv 1807.03888) detect the odd.

    Deviations are measured relative to their usual size in their direction. The covariance has the
    form of probabilistic PCA (Tipping and Bishop 1999): each of the first K principal axes has its
    own variance, and all other axes share a common variance.
    """

    def __init__(self, axes_DK: Tensor, variances: Tensor) -> None:
        """Stores a fit.

        Args:
            axes_DK: Principal axes.
            variances: Variances (K + 1,): one for each axis, then that of all other directions.
        """
        self.axes, self.variances = axes_DK, variances

    @classmethod
    def fit(cls, x_ND: np.ndarray, components: int, floor: float = 1e-6) -> Mahalanobis:
        """Fits the covariance of samples; their mean is taken to be zero.

        Args:
            x_ND: Samples, float32.
            components: Number of principal axes; fewer if there are not as many dimensions or
                samples.
            floor: Smallest variance, as a share of the mean variance.
        """
        count = min(components, x_ND.shape[1] - 1, len(x_ND))
        squares_D, axes_DK = principal_axes(x_ND, count)
        rest = max(float(squares_D[count:].mean()), floor * float(squares_D.mean()), 1e-12)
        each = np.append(np.maximum(squares_D[:count], rest), rest)
        return cls(torch.from_numpy(axes_DK).float(), torch.from_numpy(each).float())

    def tensors(self) -> dict[str, Tensor]:
        """Returns the fit as a checkpoint stores it."""
        return {"axes": self.axes, "variances": self.variances}

    def __call__(self, x_BD: Tensor) -> Tensor:
        """Returns the squared distance of each vector divided by the number of dimensions, (B,).

        Args:
            x_BD: Vectors; their mean over the fitted samples gives about 1.
        """
        along_BK = matmul(x_BD, self.axes).square()
        # Squared length outside the principal axes; rounding must not make it negative.
        left_B = (x_BD.square().sum(1) - along_BK.sum(1)).clamp_min(0)
        each, rest = self.variances[:-1], self.variances[-1]
        return ((along_BK / each).sum(1) + left_B / rest) / x_BD.shape[1]
