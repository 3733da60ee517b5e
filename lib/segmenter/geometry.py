"""Geometry features of segmented pictures, and the regression inputs to locate the handle.

Tensor suffixes: B batch, C classes, H height, W width, P parts, G geometry features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lib.episode import PRIMITIVES
from lib.learning.portable import sqrt

PARTS = ("handle", "gripper", "drawer", "drawer_case")
EDGE_QUANTILES = (0.05, 0.95)
NAMES = tuple(f"{part}_{value}" for part in PARTS for value in ("x", "y", "area", "left", "bottom"))
"""For each part: centroid x and y, square root of the area, left edge and bottom edge, all as
shares of the side of the picture. The edges of the drawer move with its opening."""


def geometry_of(probabilities_BCHW: Tensor) -> Tensor:
    """Measures the parts in soft masks, so that centroids are more precise than a pixel.

    A part that is not visible has area 0. Its other features are 0.5, the middle of the picture.

    Args:
        probabilities_BCHW: Probabilities of the primitives, with a sum of one over C.

    Returns:
        Geometry features (B, len(NAMES)) float32, in the order of NAMES.
    """
    height, width = probabilities_BCHW.shape[-2:]
    xs = (torch.arange(width) + 0.5) / width
    ys = (torch.arange(height) + 0.5) / height
    masks_BPHW = probabilities_BCHW[:, [PRIMITIVES.index(part) for part in PARTS]].float()
    # Small probabilities over thousands of pixels would outweigh a handle of fifty pixels.
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
    """Returns the position in [0, 1] below which ``share`` of the mass of the last axis lies.

    The position is interpolated linearly within a pixel.
    """
    mass = density.cumsum(-1)
    reached = (mass < share).sum(-1, keepdim=True).clamp_max(density.shape[-1] - 1)
    mine = density.gather(-1, reached)
    within = (share - (mass.gather(-1, reached) - mine)) / mine.clamp_min(1e-6)
    return ((reached + within.clamp(0, 1)) / density.shape[-1])[..., 0]


def quadratic(x_BD: np.ndarray) -> np.ndarray:
    """Appends all products of two columns, for a quadratic regression with linear weights.

    Args:
        x_BD: Inputs.

    Returns:
        Inputs and their products, (B, D + D (D + 1) / 2).
    """
    first, second = np.triu_indices(x_BD.shape[1])
    return np.concatenate([x_BD, x_BD[:, first] * x_BD[:, second]], axis=1)
