"""Mahalanobis distance: how far a vector is from the vectors of a sample.

Tensor suffixes: B batch, N samples, D dimensions, K principal axes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lib.learning.portable import matmul
from lib.learning.ridge import principal_axes


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
