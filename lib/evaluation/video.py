"""Films of episodes, two robots side by side."""

from __future__ import annotations

from pathlib import Path

import imageio.v2 as imageio
import numpy as np

from lib.files import atomic

SCALE = 4  # 96 pixels are small on a screen
FPS = 40  # half of real time: an episode lasts a second


def beside(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Puts two films side by side; the shorter one holds its last frame.

    Args:
        left: (T, H, W, 3) uint8.
        right: (U, H, W, 3) uint8.

    Returns:
        (max(T, U), H, 2 W, 3) uint8.
    """
    frames = np.arange(max(len(left), len(right)))
    pair = [film[np.minimum(frames, len(film) - 1)] for film in (left, right)]
    return np.concatenate(pair, axis=2)


def write_video(path: Path, frames: np.ndarray) -> None:
    """Writes an MP4 (H.264).

    Args:
        path: The file.
        frames: (T, H, W, 3) uint8.
    """
    large = frames.repeat(SCALE, axis=1).repeat(SCALE, axis=2)
    # One thread and no encoder stamp: the same frames give the same bytes.
    stable = ["-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact"]
    with (
        atomic(path) as scratch,
        imageio.get_writer(
            scratch, fps=FPS, codec="libx264", macro_block_size=None, output_params=stable
        ) as writer,
    ):
        for frame in large:
            writer.append_data(frame)
