"""Segmenter without learning: colour, geometry and connected components.

It has the outputs of the U-Net and serves where that one is switched off or has not earned its
place, and it labels real recordings. Colours tell most primitives of the drawer scene apart; where
they do not, geometry does:

- Palm and arm are the same red. The palm hangs at the arm's lower end, so the gripper is what
  lies in a window around the lowest red pixels.
- Claw, handle and the top of the wall are white. The wall is the largest and gives the brightness
  that the others are compared with; the claw hangs in the left part of the gripper's window, the
  handle is below the lid and touches something green.
- Case and drawer are the same green. The right-hand corner of the case's lid is the origin of a
  fixed outline of the drawer's front, whose lower edge moves with the drawer.

Every rule compares a pixel with others of its picture, so that another light changes little.
Lengths are shares of the picture, measured for the camera of the drawer task; other pictures get
an answer too, a poor one.

Array suffixes: B batch, H height, W width, 3 colour channels (RGB).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lib.episode import PRIMITIVES

BACKGROUND, TABLE, ARM, GRIPPER, DRAWER_CASE, DRAWER, HANDLE = range(len(PRIMITIVES))

# Connected within a picture, never from one picture of the batch to the next.
IN_PLANE = np.zeros((3, 3, 3), bool)
IN_PLANE[1] = True

# Frames worked on at once: bounds the memory of a long episode.
CHUNK = 64


def boundary_of(primitives: np.ndarray) -> np.ndarray:
    """Says which pixels lie on a boundary: the definition for targets, metrics and predictions.

    A pixel is a boundary if the one to its left, right, above or below (4-neighbourhood) is of
    another primitive. So a boundary is two pixels wide, one on either side, and the rim of the
    picture is none.

    Args:
        primitives: (..., H, W) class indices.

    Returns:
        (..., H, W) bool.
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

    Lengths are shares of the picture: of W to the right, of H downwards.

    Attributes:
        saturation: Ratio of green to the other channels from which a pixel is green.
        palm_up: Height of the palm above the lowest red pixel.
        palm_down: Reach of the claws below it.
        claw_share: Left part of the gripper's window that the white claw hangs in.
        claw_white: Brightness of the claw over that of the wall, at least.
        handle_white: Brightness of the handle over that of the wall, at least.
        front_right: Right edge of the drawer's front, from the corner of the lid.
        front_left: Left edge of the case, from the corner.
        front_top: Upper edge of the front at ``front_left``, from the corner.
        front_bottom: Lower edge of the closed drawer at ``front_left``, from the corner.
        front_slope: Of both edges, down to the right.
        case_bottom: Lower edge of the case at ``front_left``; only an open drawer is below it.
        pull_slope: How far the drawer's lower edge sinks for each share it protrudes.
        smallest: Smallest area that is part of something.
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
            images_BHW3: uint8 RGB, of any size.

        Returns:
            (B, H, W) uint8 indices into ``lib.episode.PRIMITIVES``.

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

    def boundaries(self, primitives_BHW: np.ndarray) -> np.ndarray:
        """Returns the boundaries of primitives, (B, H, W) bool; see ``boundary_of``.

        Args:
            primitives_BHW: Class indices.
        """
        return boundary_of(primitives_BHW)

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

        # From the back to the front: what comes later hides what came before.
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
        """Drops components too small to be part of anything."""
        components, count = ndimage.label(mask, IN_PLANE)
        sizes = np.bincount(components.ravel(), minlength=count + 1)
        keep = sizes >= max(1, self.smallest * mask[0].size)
        keep[0] = False
        return keep[components]

    def _touching(self, mask: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Keeps the components of ``mask`` that come near ``other``."""
        components, count = ndimage.label(mask, IN_PLANE)
        near = ndimage.binary_dilation(other, IN_PLANE)
        keep = np.zeros(count + 1, bool)
        keep[np.unique(components[near & mask])] = True
        keep[0] = False
        return keep[components]

    def _gripper_windows(self, reddish: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Says where gripper and white claw can be, both (B, H, W)."""
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
        """Says what is below the lid and where the drawer can be, both (B, H, W)."""
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
    """Median of the masked uint8 values of each picture, (B, 1, 1); 0 where none is masked."""
    counts = np.stack([np.bincount(v[m], minlength=256) for v, m in zip(values, mask, strict=True)])
    cumulative = counts.cumsum(1)
    return (2 * cumulative > cumulative[:, -1:]).argmax(1)[:, None, None]
