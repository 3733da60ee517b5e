"""Holds the steps of many episodes in arrays and cuts windows of consecutive steps.

Tensor suffixes: T window, B batch, C channels, H height, W width, A action.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib import episode
from lib.base.errors import UserError
from lib.base.paths import MANIFEST, WORK, relative
from lib.data.manifest import SOURCES, _usable, read_manifest


@dataclass(frozen=True)
class Reference:
    """One episode in the arrays of a Dataset.

    Attributes:
        source: Source name.
        key: Key of the episode within the source.
        split: train, valid or test.
        start: First row of the episode.
        stop: One past the last row of the episode.
        tags: The episode's tags.
    """

    source: str
    key: str
    split: str
    start: int
    stop: int
    tags: dict[str, Any]

    def __len__(self) -> int:
        """Returns the number of steps."""
        return self.stop - self.start

    @property
    def rows(self) -> slice:
        """The episode's rows."""
        return slice(self.start, self.stop)


@dataclass
class Dataset:
    """Steps of many episodes, one after the other.

    Attributes:
        arrays: (N, ...) by field name, e.g. ``obs/image``; N steps in all.
        episodes: The rows of each episode, in the order of the rows.
    """

    arrays: dict[str, np.ndarray]
    episodes: list[Reference] = field(default_factory=list)

    def __len__(self) -> int:
        """Returns the number of steps."""
        return self.episodes[-1].stop if self.episodes else 0

    def rows(
        self,
        splits: Sequence[str],
        *,
        visual: bool | None = None,
        exact: bool = False,
        every: int = 1,
    ) -> np.ndarray:
        """Returns the rows of some splits.

        Args:
            splits: Names of splits.
            visual: True for only episodes with stressed light and camera, False for only episodes
                without, ``None`` for all.
            exact: Whether only episodes with exact pixel labels are used.
            every: Distance between two rows of an episode.
        """
        chosen = [
            e
            for e in self.episodes
            if e.split in splits and _is(e, visual) and (not exact or e.tags["labels"] == "exact")
        ]
        return np.concatenate([np.arange(e.start, e.stop, every) for e in chosen] or [np.arange(0)])

    def part(self, keep: Callable[[Reference], bool]) -> Dataset:
        """Returns a dataset with some of the episodes; the arrays stay whole.

        Args:
            keep: Whether an episode is kept.
        """
        return Dataset(self.arrays, [e for e in self.episodes if keep(e)])

    def draw(self, rows: np.ndarray, count: int, rng: torch.Generator) -> np.ndarray:
        """Draws rows with replacement: first an episode, then one of its rows.

        Pictures of one episode resemble each other. So every episode counts alike, whether it is
        long or holds a few single steps.

        Args:
            rows: Rows to draw from, in rising order.
            count: Number of rows.
            rng: Random generator.
        """
        bounds = np.searchsorted(rows, [(e.start, e.stop) for e in self.episodes])
        bounds = bounds[bounds[:, 0] < bounds[:, 1]]
        picked = bounds[torch.randint(len(bounds), (count,), generator=rng).numpy()]
        shares = torch.rand(count, generator=rng, dtype=torch.float64).numpy()
        return rows[picked[:, 0] + (shares * (picked[:, 1] - picked[:, 0])).astype(int)]

    def seen(self, rows: np.ndarray) -> np.ndarray:
        """Returns the given rows without the rows in which the image is black (a dropped frame).

        Args:
            rows: Rows of this dataset, which must hold ``obs/image``.
        """
        images = self.arrays["obs/image"]
        return rows[[bool(images[row].any()) for row in rows]]

    def proprio(self) -> np.ndarray:
        """Returns the proprioception, (N, 4): hand position and gripper opening."""
        return np.concatenate([self.arrays["obs/eef_pos"], self.arrays["obs/gripper"]], axis=1)

    def rows_of(self, part: Dataset) -> np.ndarray:
        """Returns the rows of this dataset that hold the steps of another dataset.

        Args:
            part: Dataset with some of this dataset's episodes.
        """
        start = {(e.source, e.key): e.start for e in self.episodes}
        return np.concatenate([np.arange(len(e)) + start[e.source, e.key] for e in part.episodes])

    def borrow(self, name: str, other: Dataset) -> None:
        """Takes an array from a dataset that holds at least the episodes of this dataset.

        Args:
            name: Name of the array. It is not copied if both datasets hold the same episodes.
            other: Dataset that holds the array.
        """
        rows, array = other.rows_of(self), other.arrays[name]
        if not np.array_equal(rows, np.arange(len(array))):
            whole, array = array, _empty((len(rows), *array.shape[1:]), array.dtype)
            for e in self.episodes:
                array[e.rows] = whole[rows[e.start] :][: len(e)]
        self.arrays[name] = array


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Allocates an array; an array of images lies in an unnamed file that is mapped into memory.

    A dataset may therefore be larger than the memory: the operating system keeps the parts that are
    read often and drops the rest, because it can read them again.
    """
    if len(shape) < 3:
        return np.empty(shape, dtype)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=WORK) as file:
        try:
            # Reserves the disk space: otherwise a full disk would kill the process when it writes
            # to the array. macOS does not have this function.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise UserError(
                f"{relative(WORK)}: no room for {size / 1e9:.1f} GB of pictures "
                f"({error.strerror}); free some, or name another folder in GOLDEN_PATH_WORK"
            ) from None
        return np.asarray(np.memmap(file, dtype, "r+", shape=shape))


def _is(reference: Reference, visual: bool | None) -> bool:
    return visual is None or bool(reference.tags.get("visual")) == visual


def load_dataset(
    consumer: str,
    fields: Sequence[str],
    splits: Sequence[str] = episode.SPLITS,
    sources: Sequence[str] = tuple(SOURCES),
) -> Dataset:
    """Loads the steps that a stage may use.

    Args:
        consumer: Stage that uses the steps, one of CONSUMERS.
        fields: Arrays to load, by their path in a demo's group, e.g. ``obs/image``, ``actions``.
        splits: Names of splits.
        sources: Names of sources.

    Raises:
        UserError: If no episode is usable.
    """
    entries = {
        name: entry
        for name, entry in _usable(read_manifest(), consumer)
        if entry["split"] in splits and entry["source"] in sources
    }
    if not entries:
        raise UserError(
            f"{relative(MANIFEST)}: no episode is usable for {consumer}; it says why for each"
        )
    total = sum(entry["steps"] for entry in entries.values())
    dataset, row = Dataset({}), 0
    for source in (name for name in sources if any(e["source"] == name for e in entries.values())):
        for item in episode.read(SOURCES[source], splits=splits, fields=fields):
            entry = entries.get(f"{source}/{item.key}")
            if entry is None:
                continue
            stop = row + len(item)
            values = dict(item.arrays())
            for name in fields:
                if name not in dataset.arrays:
                    shape, dtype = values[name].shape[1:], values[name].dtype
                    dataset.arrays[name] = _empty((total, *shape), dtype)
                dataset.arrays[name][row:stop] = values[name]
            dataset.episodes.append(
                Reference(source, item.key, entry["split"], row, stop, item.tags)
            )
            row = stop
    return dataset


class Windows:
    """Windows of consecutive frames; each window lies within one episode."""

    def __init__(
        self,
        features: Mapping[str, np.ndarray],
        dataset: Dataset,
        splits: list[str],
        window: int,
        stride: int = 1,
        without: np.ndarray | None = None,
    ) -> None:
        """Lists every window.

        Args:
            features: (N, C, H, W) float16 feature maps by pyramid level.
            dataset: Dataset that holds ``actions`` and the episodes.
            splits: Splits of the episodes.
            window: Number of frames in a window.
            stride: Number of frames between the starts of two windows.
            without: Rows that no window may contain.
        """
        self._features, self._actions, self._window = features, dataset.arrays["actions"], window
        starts = [
            np.arange(e.start, e.stop - window + 1, stride)
            for e in dataset.episodes
            if e.split in splits
        ]
        self.starts = np.concatenate(starts or [np.arange(0)])
        if without is not None:
            bad = np.zeros(len(dataset) + 1, np.int64)
            bad[without + 1] = 1
            before = bad.cumsum()
            self.starts = self.starts[before[self.starts + window] == before[self.starts]]

    def __len__(self) -> int:
        """Returns the number of windows."""
        return len(self.starts)

    def batch(self, chosen: np.ndarray) -> tuple[dict[str, Tensor], Tensor]:
        """Returns a batch of windows.

        Args:
            chosen: (B,) indices of windows.

        Returns:
            Feature maps (T, B, C, H, W) by pyramid level and actions (T, B, A).
        """
        rows = self.starts[chosen][None] + np.arange(self._window)[:, None]
        maps = {k: torch.from_numpy(v[rows]) for k, v in self._features.items()}
        return maps, torch.from_numpy(self._actions[rows])
