"""The manifest of phase 1: which episode is where, in which split, and good for which stage."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lib import episode
from lib.episode import PRIMITIVES
from lib.errors import UserError
from lib.files import read_json
from lib.paths import ISAAC_EPISODES, MANIFEST, ROS_EPISODES, SIMA2_EPISODES, WORK, relative

SCHEMA = 2
CONSUMERS = ("vision", "rnn", "segmenter", "policy")
SOURCES: dict[str, Path] = {
    "sima2": SIMA2_EPISODES,
    "ros": ROS_EPISODES,
    "isaac": ISAAC_EPISODES,
}


@dataclass(frozen=True)
class Reference:
    """One episode in the arrays of a Dataset.

    Attributes:
        source: Source name.
        key: Its key within the source.
        split: train, valid or test.
        start: First row.
        stop: One past its last row.
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
        episodes: Which rows belong to which episode.
    """

    arrays: dict[str, np.ndarray]
    episodes: list[Reference] = field(default_factory=list)

    def __len__(self) -> int:
        """Returns the number of steps."""
        return self.episodes[-1].stop if self.episodes else 0

    def rows(self, splits: Sequence[str], *, visual: bool | None = None) -> np.ndarray:
        """Returns the rows of some splits.

        Args:
            splits: Names of splits.
            visual: Only episodes with (or without) stressed light and camera.
        """
        chosen = [e for e in self.episodes if e.split in splits and _is(e, visual)]
        return np.concatenate([np.arange(e.start, e.stop) for e in chosen] or [np.arange(0)])

    def seen(self, rows: np.ndarray) -> np.ndarray:
        """Returns those of some rows whose picture is not black: a dropped one shows nothing.

        Args:
            rows: Of this dataset, which holds ``obs/image``.
        """
        images = self.arrays["obs/image"]
        return rows[[bool(images[row].any()) for row in rows]]

    def proprio(self) -> np.ndarray:
        """Returns what the robot feels, (N, 4): hand position and gripper."""
        return np.concatenate([self.arrays["obs/eef_pos"], self.arrays["obs/gripper"]], axis=1)

    def rows_of(self, part: Dataset) -> np.ndarray:
        """Returns where the steps of another dataset stand in this one.

        Args:
            part: Holds some of this dataset's episodes.
        """
        start = {(e.source, e.key): e.start for e in self.episodes}
        return np.concatenate([np.arange(len(e)) + start[e.source, e.key] for e in part.episodes])

    def borrow(self, name: str, other: Dataset) -> None:
        """Takes an array from a dataset that holds all of this one's episodes, or more.

        Args:
            name: Of the array, which is not copied where both hold the same episodes.
            other: Where it is.
        """
        rows, array = other.rows_of(self), other.arrays[name]
        if not np.array_equal(rows, np.arange(len(array))):
            whole, array = array, _empty((len(rows), *array.shape[1:]), array.dtype)
            for e in self.episodes:
                array[e.rows] = whole[rows[e.start] :][: len(e)]
        self.arrays[name] = array


def _empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Allocates an array. One of pictures lies in a nameless file that is mapped into memory.

    So a data set may be larger than the memory: the system keeps what is read often, and drops the
    rest, which it can read again.
    """
    if len(shape) < 3:
        return np.empty(shape, dtype)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=WORK) as file:
        try:
            # Else a full disk would kill the process when it writes to the array. Not on macOS.
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


def read_manifest(path: Path = MANIFEST) -> dict[str, Any]:
    """Reads the manifest.

    Args:
        path: The file.

    Raises:
        UserError: If it is missing or of another schema.
    """
    manifest = read_json(path)
    if manifest.get("schema") != SCHEMA:
        raise UserError(
            f"{relative(path)}: manifest schema {manifest.get('schema')}, this version reads "
            f"{SCHEMA}; run `dvc repro` to rebuild it"
        )
    return manifest


def _usable(manifest: dict[str, Any], consumer: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in manifest["episodes"]:
        if entry["usable"][consumer] is True:
            yield f"{entry['source']}/{entry['key']}", entry


def load_dataset(
    consumer: str, fields: Sequence[str], splits: Sequence[str] = episode.SPLITS
) -> Dataset:
    """Loads the steps that a stage may use.

    Args:
        consumer: One of CONSUMERS.
        fields: Arrays to load, by their path in a demo's group, e.g. ``obs/image``, ``actions``.
        splits: Names of splits.

    Raises:
        UserError: If no episode is usable.
    """
    entries = dict(_usable(read_manifest(), consumer))
    entries = {name: entry for name, entry in entries.items() if entry["split"] in splits}
    if not entries:
        raise UserError(
            f"{relative(MANIFEST)}: no episode is usable for {consumer}; it says why for each"
        )
    total = sum(entry["steps"] for entry in entries.values())
    dataset, row = Dataset({}), 0
    for source, path in SOURCES.items():
        for item in episode.read(path, splits=splits, fields=fields):
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


def trust_table(manifest: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns the TrustMatrix: for each source, the trust in the labels of each primitive.

    Args:
        manifest: What ``read_manifest`` gave.

    Returns:
        (len(PRIMITIVES),) float32 in [0, 1] by source.
    """
    return {
        source: np.array([cells[name]["trust"] for name in PRIMITIVES], np.float32)
        for source, cells in manifest["trust"].items()
    }


def segment_doubts(manifest: dict[str, Any]) -> dict[tuple[str, str], np.ndarray]:
    """Returns the episodes of which some segment is doubted (lib/ingest/trust.py).

    Args:
        manifest: What ``read_manifest`` gave.

    Returns:
        By source and key: the trust in a pixel, (label given, primitive seen by the heuristic),
        float32, 1 where nothing is doubted.
    """
    tables = {}
    for entry in manifest["episodes"]:
        if "doubted" in entry:
            table = np.ones((len(PRIMITIVES), len(PRIMITIVES)), np.float32)
            for label, row in entry["doubted"].items():
                for seen, trust in row.items():
                    table[PRIMITIVES.index(label), PRIMITIVES.index(seen)] = trust
            tables[entry["source"], entry["key"]] = table
    return tables
