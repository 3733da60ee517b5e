"""Geometry features of segmented pictures.

Tensor suffixes: B batch, C classes, H height, W width, P parts, G geometry features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lib.episode import PRIMITIVES
from lib.learning.portable import sqrt

PARTS = ("handle", "gripper", "drawer", "drawer_case")
EDGE_QUANTILES = (0.05, 0.95)
PLACES = ("x", "y", "left", "right", "top", "bottom")
SHAPES = ("area", "width", "height", "slant")
NAMES = tuple(f"{part}_{value}" for part in PARTS for value in (*PLACES, *SHAPES))
"""For each part: centroid and edges, square root of the area, and standard deviations of x and y of
its pixels, all as shares of the side of the picture; and the correlation of x and y. The edges of
the drawer move with its opening, and what is turned slants."""
LEAST_SPREAD = 1e-3  # of the standard deviations that divide a covariance


def geometry_of(probabilities_BCHW: Tensor) -> Tensor:
    """Measures the parts in soft masks, so that centroids are more precise than a pixel.

    A part that is not visible has no area, width, height or slant. Its other features are 0.5, the
    middle of the picture.

    Args:
        probabilities_BCHW: Probabilities of the primitives, with a sum of one over C.

    Returns:
        Geometry features (B, len(NAMES)) float32, in the order of NAMES.
    """
    xs, ys = ((torch.arange(n) + 0.5) / n for n in probabilities_BCHW.shape[:-3:-1])
    masks_BPHW = probabilities_BCHW[:, [PRIMITIVES.index(part) for part in PARTS]].float()
    # Small probabilities over thousands of pixels would outweigh a handle of fifty pixels.
    masks_BPHW = torch.where(masks_BPHW > 0.3, masks_BPHW, 0.0)
    columns, rows = masks_BPHW.sum(2), masks_BPHW.sum(3)
    total_BP = columns.sum(2)
    seen, safe = total_BP > 1.0, total_BP.clamp_min(1.0)
    columns, rows = columns / safe[..., None], rows / safe[..., None]
    x, y = (columns * xs).sum(2), (rows * ys).sum(2)
    edges = [_quantile(line, share) for line in (columns, rows) for share in EDGE_QUANTILES]
    left, right, top, bottom = edges
    off_x, off_y = xs - x[..., None], ys - y[..., None]
    wide, high = ((columns * off_x**2).sum(2), (rows * off_y**2).sum(2))
    width, height = (sqrt(variance.clamp_min(LEAST_SPREAD**2)) for variance in (wide, high))
    skewed = ((masks_BPHW * off_x[:, :, None]).sum(3) / safe[..., None] * off_y).sum(2)
    places = torch.stack([x, y, left, right, top, bottom], 2)
    area = sqrt(total_BP / (masks_BPHW.shape[2] * masks_BPHW.shape[3]))
    shapes = torch.stack([area, width, height, skewed / (width * height)], 2)
    unseen = ~seen[..., None]
    parts = [places.masked_fill(unseen, 0.5), shapes.masked_fill(unseen, 0.0)]
    return torch.cat(parts, 2).flatten(1)


def _quantile(density: Tensor, share: float) -> Tensor:
    """Returns the position in [0, 1] below which ``share`` of the mass of the last axis lies.

    The position is interpolated linearly within a pixel.
    """
    mass = density.cumsum(-1)
    reached = (mass < share).sum(-1, keepdim=True).clamp_max(density.shape[-1] - 1)
    mine = density.gather(-1, reached)
    within = (share - (mass.gather(-1, reached) - mine)) / mine.clamp_min(1e-6)
    return ((reached + within.clamp(0, 1)) / density.shape[-1])[..., 0]
