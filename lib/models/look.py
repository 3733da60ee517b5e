"""How unusual a picture looks, judged by its brightness and contrast in each part.

The backbone learns that a scene is the same under another light, in other colours or from another
camera, so its features hide such a change. Here it is measured before the backbone.

Tensor suffixes: B batch, N pictures, D statistics.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.learning.mahalanobis import Mahalanobis
from lib.learning.portable import sqrt
from lib.models.frozen import to_unit

CELL = 16  # pixels; side of the parts of a picture
FIT_BATCH = 512
SMALLEST = 1e-3  # smallest divisor of a statistic, a quarter of a level of intensity
FLOOR = 1e-3  # smallest variance in any direction, as a share of the mean variance


def statistics(images_BHW3: np.ndarray | Tensor) -> Tensor:
    """Returns mean and standard deviation of red, green and blue in each part of a picture, (B, D).

    Args:
        images_BHW3: Pictures, uint8.
    """
    x = to_unit(images_BHW3)
    height, width = (-(-side // CELL) for side in x.shape[-2:])
    mean, square = (F.adaptive_avg_pool2d(y, (height, width)) for y in (x, x.square()))
    spread = sqrt((square - mean.square()).clamp_min(1e-12))
    return torch.cat([mean.flatten(1), spread.flatten(1)], 1)


class LookScale:
    """Distance of a picture from usual pictures."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        """Stores a fit.

        Args:
            tensors: Tensors as returned by ``tensors()``.
        """
        self._mean, self._spread = tensors["mean"], tensors["spread"]
        self._distance = Mahalanobis(tensors["axes"], tensors["variances"])

    @classmethod
    def fit(cls, images_NHW3: np.ndarray, rows: np.ndarray) -> LookScale:
        """Fits the scale on usual pictures.

        Args:
            images_NHW3: Pictures, uint8.
            rows: The usual ones among them.
        """
        batches = range(0, len(rows), FIT_BATCH)
        x = torch.cat([statistics(images_NHW3[rows[i : i + FIT_BATCH]]) for i in batches])
        mean = x.mean(0)
        spread = sqrt((x - mean).square().mean(0)).clamp_min(SMALLEST)
        distance = Mahalanobis.fit(((x - mean) / spread).numpy(), x.shape[1], FLOOR)
        return cls({"mean": mean, "spread": spread, **distance.tensors()})

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors to be saved."""
        return {"mean": self._mean, "spread": self._spread, **self._distance.tensors()}

    def __call__(self, images_BHW3: np.ndarray | Tensor) -> Tensor:
        """Returns the distance of each picture, (B, 1); about 1 for usual pictures.

        Args:
            images_BHW3: Pictures, uint8.
        """
        x = (statistics(images_BHW3) - self._mean) / self._spread
        return sqrt(self._distance(x).clamp_min(1e-12))[:, None]
