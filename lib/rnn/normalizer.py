"""Normalisation of features."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


class Normalizer:
    """Scales each channel of each level to zero mean and unit variance."""

    def __init__(self, mean: Mapping[str, Tensor], std: Mapping[str, Tensor]) -> None:
        """Stores the statistics.

        Args:
            mean: Channel means, (C, 1, 1) by level.
            std: Channel standard deviations, (C, 1, 1) by level.
        """
        self.mean, self.std = dict(mean), dict(std)

    @classmethod
    def of(cls, features: Mapping[str, np.ndarray]) -> Normalizer:
        """Builds a normaliser from the statistics of some features.

        Args:
            features: Features (N, C, H, W) by level.
        """
        mean, std = {}, {}
        for level, values in features.items():
            x = values.astype(np.float32)
            mean[level] = torch.from_numpy(x.mean((0, 2, 3)))[:, None, None]
            std[level] = torch.from_numpy(x.std((0, 2, 3)) + 1e-4)[:, None, None]
        return cls(mean, std)

    def __call__(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Normalises feature maps.

        Args:
            features: Feature maps (..., C, H, W) by level.
        """
        return {k: (features[k].float() - self.mean[k]) / self.std[k] for k in self.mean}
