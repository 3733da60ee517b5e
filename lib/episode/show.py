"""Shows the content of an episode file as text, as a contact sheet or as a video.

The summary is fast, because it does not read images and labels from the disk.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lib.base.errors import UserError
from lib.base.hdf5 import DAMAGE
from lib.base.paths import relative
from lib.episode import PRIMITIVES, SPLITS, Episode, open_file, read, read_demo

ROWS, COLUMNS = 6, 8
"""Rows and columns of a contact sheet."""

COUNTED = ("task", "template", "outcome", "backend", "labels", "action_space")
"""Tags for which the summary counts the values."""


def _guarded(look: Callable[..., Any]) -> Callable[..., Any]:
    """Turns the errors of h5py and NumPy over broken content into a one-line message."""

    @wraps(look)
    def guarded(path: Path, *arguments: Any) -> Any:
        try:
            return look(path, *arguments)
        except DAMAGE as error:
            raise UserError(f"{relative(path)}: damaged ({error}); `check` says more") from None

    return guarded


@_guarded
def summary(path: Path) -> list[str]:
    """Returns lines of text that describe the content of a file.

    Args:
        path: The file.

    Raises:
        UserError: If the file cannot be read.
    """
    lengths: dict[str, list[int]] = {}
    tags: dict[str, Counter[str]] = {}
    rewards: list[tuple[float, float, float]] = []
    for split in SPLITS:
        for episode in read(path, splits=[split], fields=()):
            lengths.setdefault(split, []).append(len(episode))
            for name in COUNTED:
                if name in episode.tags:
                    tags.setdefault(name, Counter())[str(episode.tags[name])] += 1
            if len(episode):
                given = episode.rewards
                rewards.append((float(given.min()), float(given.max()), float(given.sum())))
    steps = [length for split in lengths.values() for length in split]
    lines = [*_head(path), f"{len(steps)} episodes, {sum(steps):,} steps"]
    for split in SPLITS:
        if split in lengths:
            lines.append(_row(split, f"{len(lengths[split])}, {sum(lengths[split]):,} steps"))
    if steps:
        median = f"{np.median(steps):g}"
        lines.append(_row("steps", f"{min(steps)} to {max(steps)}, median {median}"))
    if rewards:
        least, most, sums = zip(*rewards, strict=True)
        lines.append(_row("reward", f"{min(least):.4g} to {max(most):.4g} a step"))
        lines.append(_row("return", f"{min(sums):.4g} to {max(sums):.4g} an episode"))
    for name, values in tags.items():
        lines.append(_row(name, ", ".join(f"{v} {n}" for v, n in sorted(values.items()))))
    return lines + _arrays(path)


@_guarded
def one_demo(path: Path, number: int) -> list[str]:
    """Returns lines of text that describe one episode: its tags and the range of each array.

    Args:
        path: The file.
        number: N of ``demo_N``.

    Raises:
        UserError: If the episode cannot be read.
    """
    episode = read_demo(path, number)
    lines = [f"demo_{number} of {relative(path)}"]
    lines.append(_row("key", episode.key))
    lines.append(_row("steps", str(len(episode))))
    for name, value in sorted(episode.tags.items()):
        lines.append(_row(name, value if isinstance(value, str) else json.dumps(value)))
    for name, array in episode.arrays():
        span = f"{array.min():.6g} to {array.max():.6g}" if array.size else "empty"
        lines.append(_array_row(name, array, span))
    return lines


def write_sheet(path: Path, out: Path, number: int | None = None) -> None:
    """Writes a contact sheet; each row runs from an episode's first to its last step.

    Args:
        path: The file.
        out: The PNG file to write.
        number: N of ``demo_N``: the sheet shows the images of this episode and, if it has any, its
            pixel labels. With ``None`` it shows a few episodes, spread over the file.

    Raises:
        UserError: If the file cannot be read or has no images.
    """
    rows, title = _overview(path) if number is None else _strip(path, number)
    from lib.media import PALETTE, contact_sheet  # loads matplotlib only when needed

    if "labels" in rows:
        rows["labels"] = PALETTE[rows["labels"]]
    # matplotlib reads "$" as the start of a formula.
    plain = {label.replace("$", r"\$"): frames for label, frames in rows.items()}
    contact_sheet(out, plain, title.replace("$", r"\$"))


@_guarded
def _overview(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """Returns the rows and the title of a contact sheet of a few episodes."""
    with open_file(path) as file:
        count = len(file["data"])
    if not count:
        raise UserError(f"{relative(path)}: holds no episode to show")
    rows = {}
    for index in np.linspace(0, count - 1, min(ROWS, count)).round().astype(int).tolist():
        episode = read_demo(path, index, fields=("obs/image",))
        label = f"demo_{index}\n{episode.tags.get('outcome', '')}"
        rows[label] = _film(path, index, episode)[_columns(len(episode))]
    return rows, path.name


@_guarded
def _strip(path: Path, number: int) -> tuple[dict[str, np.ndarray], str]:
    """Returns the rows and the title of a contact sheet of one episode."""
    episode = read_demo(path, number, fields=("obs/image", "labels/segmentation"))
    columns = _columns(len(episode))
    rows = {"image": _film(path, number, episode)[columns]}
    if "segmentation" in episode.labels:
        labels = episode.labels["segmentation"][columns]
        if labels.max() >= len(PRIMITIVES):
            raise UserError(f"{relative(path)}: demo_{number}: unknown labels; `check` says more")
        rows["labels"] = labels
    return rows, f"{path.name}, demo_{number}, key {episode.key}"


def write_film(path: Path, out: Path, number: int = 0) -> None:
    """Writes the images of an episode as an MP4 video.

    Args:
        path: The file.
        out: The MP4 file to write.
        number: N of ``demo_N``.

    Raises:
        UserError: If the file cannot be read or has no images.
    """
    film = _film(path, number, read_demo(path, number, fields=("obs/image",)))
    from lib.media import write_video  # loads the encoder only when needed

    write_video(out, film)


def _columns(steps: int) -> np.ndarray:
    return np.linspace(0, steps - 1, COLUMNS).round().astype(int)


def _film(path: Path, number: int, episode: Episode) -> np.ndarray:
    image = episode.obs.get("image")
    if image is None or not image.size:
        raise UserError(f"{relative(path)}: demo_{number} has no pictures (obs/image)")
    if image.dtype != np.uint8 or image.ndim != 4 or image.shape[-1] != 3:
        raise UserError(f"{relative(path)}: demo_{number}: obs/image is no RGB; `check` says more")
    return image


def _head(path: Path) -> list[str]:
    with open_file(path) as file:
        environment = json.loads(file["data"].attrs["env_args"])["env_name"]
        return [
            f"{relative(path)}, {_size(path.stat().st_size)}",
            f"schema {file.attrs['schema']}, source {file.attrs['source']}, "
            f"environment {environment}",
        ]


def _arrays(path: Path) -> list[str]:
    """Returns a line for each array of the first demo; the other demos have the same arrays."""
    lines = []
    with open_file(path) as file:
        legend = json.loads(file.attrs.get("legend", "{}"))
        demo = file["data"].get("demo_0")
        for folder in ("obs", ".", "labels") if demo is not None else ():
            for name, array in demo.get(folder, {}).items():
                if isinstance(array, h5py.Dataset):
                    full = name if folder == "." else f"{folder}/{name}"
                    lines.append(_array_row(full, array, ", ".join(legend.get(full, ()))))
    return lines


def _row(name: str, text: str) -> str:
    return f"  {name:<14} {text}"


def _array_row(name: str, array: Any, note: str) -> str:
    shape = "x".join(map(str, array.shape[1:])) or "-"
    return f"  {name:<22} {array.dtype!s:<8} {shape:<10} {note}".rstrip()


def _size(size: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
