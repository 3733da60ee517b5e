"""Frames for people to look at: sheets (PNG) and films (MP4)."""

from __future__ import annotations

from pathlib import Path

import imageio.v2 as imageio
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lib.base.files import atomic

SCALE = 4  # enlargement of films: 96 pixels are small on a screen
FPS = 20  # half of real time, because an episode lasts about one second

# One colour per primitive, in the order of lib.episode.PRIMITIVES. People with red-green colour
# blindness can tell them apart as well.
PALETTE = np.array(
    [
        [230, 230, 230],
        [160, 120, 80],
        [178, 24, 43],
        [0, 158, 200],
        [60, 130, 60],
        [150, 210, 90],
        [255, 200, 0],
    ],
    np.uint8,
)


def beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Puts two films side by side; the shorter one holds its last frame.

    Args:
        left: Frames of the film on the left, (T, H, W, 3) uint8.
        right: Frames of the film on the right, (U, H, W, 3) uint8.

    Returns:
        (max(T, U), H, 2 W, 3) uint8.
    """
    frames = np.arange(max(len(left), len(right)))
    pair = [film[np.minimum(frames, len(film) - 1)] for film in (left, right)]
    return np.concatenate(pair, axis=2)


def write_video(path: Path, frames: np.ndarray) -> None:
    """Writes an MP4 film (H.264).

    Args:
        path: The file to write.
        frames: Frames of the film, (T, H, W, 3) uint8.
    """
    large = frames.repeat(SCALE, axis=1).repeat(SCALE, axis=2)
    # One thread and no encoder stamp, so that the same frames always give the same bytes.
    stable = ["-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact"]
    with (
        atomic(path) as scratch,
        imageio.get_writer(
            scratch, fps=FPS, codec="libx264", macro_block_size=None, output_params=stable
        ) as writer,
    ):
        for frame in large:
            writer.append_data(frame)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG with reproducible bytes and frees its memory.

    Args:
        figure: The figure.
        path: The file to write.
    """
    with atomic(path) as scratch:
        # matplotlib writes its version into the file unless told not to.
        figure.savefig(scratch, dpi=100, metadata={"Software": None})
    plt.close(figure)


def contact_sheet(path: Path, rows: dict[str, np.ndarray], title: str) -> None:
    """Draws a sheet of frames: one row per label, frames from left to right.

    Args:
        path: PNG file to write.
        rows: Frames (N, H, W, 3) uint8 by label, with the same N for all labels.
        title: Title of the sheet.
    """
    count = max(len(frames) for frames in rows.values())
    figure, axes = plt.subplots(
        len(rows),
        count,
        figsize=(1.5 * count + 0.6, 1.6 * len(rows) + 0.5),
        squeeze=False,
        constrained_layout=True,
    )
    for (label, frames), line in zip(rows.items(), axes, strict=True):
        for frame, axis in zip(frames, line, strict=True):
            axis.imshow(frame, interpolation="nearest")
        for axis in line:
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(label)
    figure.suptitle(title)
    save(figure, path)
