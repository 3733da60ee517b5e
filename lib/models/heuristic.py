"""Segmenter without learning: colour, geometry and connected components.

It predicts the same primitives as the U-Net. It is used if the U-Net is switched off or is not
accurate enough on held-out episodes, and it labels real recordings. Colour separates most
primitives of the drawer scene. Geometry separates the others:

- Palm and arm are the same red. The palm hangs at the arm's lower end, so the gripper is searched
  for in a window around the lowest red pixels.
- Claw, handle and the top of the wall are white. The wall is the largest of them, and the
  brightness of the other two is compared with it. The claw hangs in the left part of the gripper's
  window. The handle is below the lid and touches a green region.
- Case and drawer are the same green. The right-hand corner of the case's lid is the origin of a
  fixed outline of the drawer's front. The lower edge of this outline moves with the drawer.

The rules compare a pixel with other pixels of the same picture, so a change of light has little
effect. Lengths are shares of the picture size, measured for the camera of the drawer task. Other
pictures get labels too, but poor ones.

Array suffixes: B batch, H height, W width, 3 colour channels (RGB).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lib.episode import PRIMITIVES

BACKGROUND, TABLE, ARM, GRIPPER, DRAWER_CASE, DRAWER, HANDLE = range(len(PRIMITIVES))

# Connects pixels within a picture, never pixels of different pictures of the batch.
IN_PLANE = np.zeros((3, 3, 3), bool)
IN_PLANE[1] = True

# Number of frames processed at once. It bounds the memory that a long episode needs.
CHUNK = 64


def boundary_of(primitives: np.ndarray) -> np.ndarray:
    """Returns which pixels lie on a boundary; used for targets, metrics and predictions.

    A pixel lies on a boundary if its left, right, upper or lower neighbour (4-neighbourhood)
    belongs to another primitive. A boundary is therefore two pixels wide, with one pixel on either
    side. The rim of the picture is not a boundary.

    Args:
        primitives: Class indices, (..., H, W).

    Returns:
        Boundary mask, (..., H, W) bool.
    """
    boundary = np.zeros(primitives.shape, bool)
    vertical = primitives[..., 1:, :] != primitives[..., :-1, :]
    boundary[..., 1:, :] |= vertical
    boundary[..., :-1, :] |= vertical
    horizontal = primitives[..., :, 1:] != primitives[..., :, :-1]
    boundary[..., :, 1:] |= horizontal
    boundary[..., :, :-1] |= horizontal
    return boundary


@dataclass(frozen=True)
class HeuristicSegmenter:
    """Segments pictures of the drawer scene by rules.

    Horizontal lengths are shares of W, positive to the right. Vertical lengths are shares of H,
    positive downwards.

    Attributes:
        saturation: Ratio of green to the other channels above which a pixel counts as green.
        palm_up: Height of the palm above the lowest red pixel.
        palm_down: Reach of the claws below the lowest red pixel.
        claw_share: Share of the gripper's window, from the left, that can contain the white claw.
        claw_white: Smallest ratio of the claw's brightness to the wall's brightness.
        handle_white: Smallest ratio of the handle's brightness to the wall's brightness.
        front_right: Right edge of the drawer's front, from the corner of the lid.
        front_left: Left edge of the case, from the corner of the lid.
        front_top: Upper edge of the front at ``front_left``, from the corner of the lid.
        front_bottom: Lower edge of the closed drawer at ``front_left``, from the corner of the lid.
        front_slope: Slope of the upper and the lower edge of the front, downwards to the right.
        case_bottom: Lower edge of the case at ``front_left``; only an open drawer reaches below it.
        pull_slope: Ratio of how far the drawer's lower edge sinks to how far the drawer protrudes.
        smallest: Smallest area of a component that is kept, as a share of the picture.
    """

    saturation: float = 1.2
    palm_up: float = 10.5 / 96
    palm_down: float = 13.5 / 96
    claw_share: float = 0.4
    claw_white: float = 1.03
    handle_white: float = 0.6
    front_right: float = -16.0 / 96
    front_left: float = -38.0 / 96
    front_top: float = 0.0
    front_bottom: float = 13.0 / 96
    front_slope: float = 0.34
    case_bottom: float = 21.0 / 96
    pull_slope: float = 1.2
    smallest: float = 3 / 96**2

    def primitives(self, images_BHW3: np.ndarray) -> np.ndarray:
        """Classifies every pixel.

        Args:
            images_BHW3: RGB pictures of any size, uint8.

        Returns:
            Indices into ``lib.episode.PRIMITIVES``, (B, H, W) uint8.

        Raises:
            ValueError: If the pictures are not uint8 (B, H, W, 3).
        """
        images = np.asarray(images_BHW3)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"pictures are {images.dtype} {images.shape}, not uint8 (B, H, W, 3)")
        labels = np.zeros(images.shape[:3], np.uint8)
        if images.size:
            for start in range(0, len(images), CHUNK):
                labels[start : start + CHUNK] = self._chunk(images[start : start + CHUNK])
        return labels

    def _chunk(self, images: np.ndarray) -> np.ndarray:
        red, green, blue = np.moveaxis(images.astype(np.float32), -1, 0)
        highest, lowest = images.max(-1), images.min(-1)
        reddish = self._clean((red > 1.6 * np.maximum(green, blue)) & (highest > 25))
        greenish = self._clean((green > self.saturation * np.maximum(red, blue)) & (highest > 25))
        cyan = (np.minimum(green, blue) > 1.3 * red) & (highest > 60)
        brown = (red > 1.2 * blue) & ~reddish
        grey = (lowest > 0.8 * highest) & (lowest > 100)
        wall = _masked_median(lowest, grey & (lowest > 150))
        window, claw = self._gripper_windows(reddish)
        below_lid, front = self._drawer_windows(greenish)

        # Labels are painted from the back of the scene to the front, so later labels cover earlier
        # labels.
        labels = np.where(brown, TABLE, BACKGROUND).astype(np.uint8)
        labels[greenish] = DRAWER_CASE
        labels[greenish & front] = DRAWER
        bar = grey & (lowest > self.handle_white * wall) & below_lid & ~claw
        labels[self._touching(bar, greenish)] = HANDLE
        labels[reddish] = ARM
        labels[(reddish | (highest < 40)) & window] = GRIPPER
        labels[grey & (lowest > self.claw_white * wall) & claw] = GRIPPER
        labels[cyan & ~greenish] = GRIPPER
        return labels

    def _clean(self, mask: np.ndarray) -> np.ndarray:
        """Removes components that are too small to be part of an object."""
        components, count = ndimage.label(mask, IN_PLANE)
        sizes = np.bincount(components.ravel(), minlength=count + 1)
        keep = sizes >= max(1, self.smallest * mask[0].size)
        keep[0] = False
        return keep[components]

    def _touching(self, mask: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Keeps the components of ``mask`` that touch or overlap ``other``."""
        components, count = ndimage.label(mask, IN_PLANE)
        near = ndimage.binary_dilation(other, IN_PLANE)
        keep = np.zeros(count + 1, bool)
        keep[np.unique(components[near & mask])] = True
        keep[0] = False
        return keep[components]

    def _gripper_windows(self, reddish: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns where the gripper and the white claw can be, both (B, H, W)."""
        height, width = reddish.shape[1:]
        row, column = np.arange(height)[None, :, None], np.arange(width)[None, None, :]
        lowest = np.where(reddish, row, -1).max((1, 2), keepdims=True)
        palm = reddish & (row >= lowest - self.palm_up * height)
        left = np.where(palm, column, width).min((1, 2), keepdims=True)
        right = np.where(palm, column, -1).max((1, 2), keepdims=True)
        rows = (row > lowest - self.palm_up * height) & (row <= lowest + self.palm_down * height)
        window = rows & (column >= left) & (column <= right)
        return window, window & (column <= left + self.claw_share * (right - left))

    def _drawer_windows(self, greenish: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns which pixels are below the lid and where the drawer can be, both (B, H, W)."""
        height, width = greenish.shape[1:]
        row, column = np.arange(height)[None, :, None], np.arange(width)[None, None, :]
        corner_x = np.where(greenish, column, -1).max((1, 2), keepdims=True)
        at_corner = greenish & (column >= corner_x - 1)
        corner_y = np.where(at_corner, row, height).min((1, 2), keepdims=True)
        u, v = (column - corner_x) / width, (row - corner_y) / height
        leftmost = np.where(greenish, u, 0).min((1, 2), keepdims=True)
        protrudes = np.maximum(0, self.front_left - leftmost)
        edge = self.front_slope * (u - self.front_left)
        below_lid = (u <= self.front_right) & (v > self.front_top + edge)
        depth = np.where(greenish & below_lid, v - edge, 0).max((1, 2), keepdims=True)
        sinks = np.where(depth > self.case_bottom, 1, self.pull_slope * protrudes)
        return below_lid, below_lid & (v <= self.front_bottom + edge + sinks)


def _masked_median(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns the median of each picture's masked uint8 values, (B, 1, 1); 0 if none is masked."""
    counts = np.stack([np.bincount(v[m], minlength=256) for v, m in zip(values, mask, strict=True)])
    cumulative = counts.cumsum(1)
    return (2 * cumulative > cumulative[:, -1:]).argmax(1)[:, None, None]
