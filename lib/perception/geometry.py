"""From segmented pixels to a few numbers, and from those to where the handle is.

Tensor suffixes: B batch, C classes, H height, W width, G geometry features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lib.episode import PRIMITIVES
from lib.portable import sqrt

PARTS = ("handle", "gripper", "drawer", "drawer_case")
EDGE_QUANTILES = (0.05, 0.95)
NAMES = tuple(f"{part}_{value}" for part in PARTS for value in ("x", "y", "area", "left", "bottom"))
"""For each part: centroid x, y, square root of the area, left and bottom edge; shares of the
picture's side. The drawer's edges move with its opening."""


def geometry_of(probabilities_BCHW: Tensor) -> Tensor:
    """Measures the parts in soft masks; centroids are finer than a pixel.

    A part that is not seen has area 0 and its other numbers at the picture's middle.

    Args:
        probabilities_BCHW: Of the primitives, sum one over C.

    Returns:
        (B, len(NAMES)) float32, in the order of NAMES.
    """
    height, width = probabilities_BCHW.shape[-2:]
    xs = (torch.arange(width) + 0.5) / width
    ys = (torch.arange(height) + 0.5) / height
    numbers = []
    for part in PARTS:
        mask = probabilities_BCHW[:, PRIMITIVES.index(part)].float()
        # Thousands of pixels with a little doubt would outweigh a handle of fifty.
        mask = torch.where(mask > 0.3, mask, 0.0)
        columns, rows = mask.sum(1), mask.sum(2)
        total = columns.sum(1)
        seen = total > 1.0
        safe = total.clamp_min(1.0)
        x = torch.where(seen, (columns * xs).sum(1) / safe, 0.5)
        y = torch.where(seen, (rows * ys).sum(1) / safe, 0.5)
        left = torch.where(seen, _quantile(columns / safe[:, None], EDGE_QUANTILES[0]), 0.5)
        bottom = torch.where(seen, _quantile(rows / safe[:, None], EDGE_QUANTILES[1]), 0.5)
        area = torch.where(seen, sqrt(total / (height * width)), 0.0)
        numbers += [x, y, area, left, bottom]
    return torch.stack(numbers, dim=1)


def _quantile(density: Tensor, share: float) -> Tensor:
    """Position in [0, 1] below which ``share`` of each row's mass lies, linear within a pixel."""
    mass = density.cumsum(1)
    reached = (mass < share).sum(1).clamp_max(density.shape[1] - 1)
    index = reached[:, None]
    before = mass.gather(1, index) - density.gather(1, index)
    within = (share - before) / density.gather(1, index).clamp_min(1e-6)
    return (reached + within[:, 0].clamp(0, 1)) / density.shape[1]


def quadratic(x_BD: np.ndarray) -> np.ndarray:
    """Appends all products of two columns, for a regression that is linear in its weights.

    Args:
        x_BD: Inputs.

    Returns:
        (B, D + D (D + 1) / 2).
    """
    first, second = np.triu_indices(x_BD.shape[1])
    return np.concatenate([x_BD, x_BD[:, first] * x_BD[:, second]], axis=1)
