"""From segmented pixels to a few numbers, and from those to where the handle is.

Tensor suffixes: B batch, C classes, H height, W width, P parts, G geometry features.
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
    masks_BPHW = probabilities_BCHW[:, [PRIMITIVES.index(part) for part in PARTS]].float()
    # Thousands of pixels with a little doubt would outweigh a handle of fifty.
    masks_BPHW = torch.where(masks_BPHW > 0.3, masks_BPHW, 0.0)
    columns, rows = masks_BPHW.sum(2), masks_BPHW.sum(3)
    total_BP = columns.sum(2)
    seen, safe = total_BP > 1.0, total_BP.clamp_min(1.0)
    columns, rows = columns / safe[..., None], rows / safe[..., None]
    left = _quantile(columns, EDGE_QUANTILES[0])
    bottom = _quantile(rows, EDGE_QUANTILES[1])
    places_BP4 = torch.stack([(columns * xs).sum(2), (rows * ys).sum(2), left, bottom], 2)
    x, y, left, bottom = torch.where(seen[..., None], places_BP4, 0.5).unbind(2)
    area = torch.where(seen, sqrt(total_BP / (height * width)), 0.0)
    return torch.stack([x, y, area, left, bottom], 2).flatten(1)


def _quantile(density: Tensor, share: float) -> Tensor:
    """Position in [0, 1] below which ``share`` of the last axis' mass lies, linear in a pixel."""
    mass = density.cumsum(-1)
    reached = (mass < share).sum(-1, keepdim=True).clamp_max(density.shape[-1] - 1)
    mine = density.gather(-1, reached)
    within = (share - (mass.gather(-1, reached) - mine)) / mine.clamp_min(1e-6)
    return ((reached + within.clamp(0, 1)) / density.shape[-1])[..., 0]


def quadratic(x_BD: np.ndarray) -> np.ndarray:
    """Appends all products of two columns, for a regression that is linear in its weights.

    Args:
        x_BD: Inputs.

    Returns:
        (B, D + D (D + 1) / 2).
    """
    first, second = np.triu_indices(x_BD.shape[1])
    return np.concatenate([x_BD, x_BD[:, first] * x_BD[:, second]], axis=1)
