"""Checks episodes and episode files for defects.

``problems`` checks one episode in memory. ``check_files`` checks files from any source and does not
crash, whatever they contain; ``python -m lib.episode check FILE...`` prints its findings.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lib.base.paths import ROOT, relative
from lib.episode import PRIMITIVES, SKILLS, Episode

FROZEN_STEPS = 10
"""An image repeated for fewer steps than this is due to a slow camera, not to a frozen one."""

MOVED = 1e-3
"""A robot has moved if its hand (m) or its joints (rad or m) change by more than this."""

MOTION = ("eef_pos", "joint_pos")

CRASHES = 5
"""Number of demos in a file that may crash the reader before the check of the file is given up."""


# One episode


def problems(episode: Episode) -> list[str]:
    """Returns the defects of an episode, one line each; empty for a sound episode.

    Args:
        episode: The episode with all its arrays.
    """
    return [line for rule in RULES for line in rule(episode)]


def _enough_steps(episode: Episode) -> Iterator[str]:
    if len(episode) < 2:
        yield f"{len(episode)} steps; at least 2 are needed"


def _same_length_and_finite(episode: Episode) -> Iterator[str]:
    for name, array in episode.arrays():
        if len(array) != len(episode):
            yield f"{name}: {len(array)} steps, actions have {len(episode)}"
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            yield f"{name}: NaN or infinite"


def _actions_in_range(episode: Episode) -> Iterator[str]:
    actions = episode.actions
    if actions.size and np.issubdtype(actions.dtype, np.floating) and np.abs(actions).max() > 1:
        yield "actions: outside [-1, 1]"


def _image_is_rgb(episode: Episode) -> Iterator[str]:
    image = episode.obs.get("image")
    if image is not None and not _is_film(image):
        yield f"obs/image: {image.dtype} {image.shape}, not uint8 (T, H, W, 3)"


def _is_film(image: np.ndarray) -> bool:
    return image.dtype == np.uint8 and image.ndim == 4 and image.shape[-1] == 3


def _float32(episode: Episode) -> Iterator[str]:
    for name in ("actions", "rewards", "vector_rewards"):
        dtype = getattr(episode, name).dtype
        if dtype != np.float32:
            yield f"{name}: {dtype}, not float32"


def _shapes(episode: Episode) -> Iterator[str]:
    if episode.actions.ndim != 2:
        yield f"actions: {episode.actions.shape}, not (T, A)"
    for name in ("rewards", "dones"):
        array = getattr(episode, name)
        if array.ndim != 1:
            yield f"{name}: {array.shape}, not (T,)"
    shape = episode.vector_rewards.shape
    if len(shape) != 2 or shape[1] != 3:
        yield f"vector_rewards: {shape}, not (T, 3)"


def _ends_once(episode: Episode) -> Iterator[str]:
    dones = episode.dones
    if dones.dtype not in (np.uint8, np.bool_):
        yield f"dones: {dones.dtype}, not uint8 or bool"
    elif dones.size and dones.max() > 1:
        yield "dones: values other than 0 and 1"
    elif dones.ndim == 1 and dones[:-1].any():
        yield f"dones: 1 at step {dones.argmax()}, before the last step"


def _classes(episode: Episode) -> Iterator[str]:
    labels = episode.labels.get("segmentation")
    if labels is not None and labels.dtype != np.uint8:
        yield f"labels/segmentation: {labels.dtype}, not uint8"
    for name, classes in (("segmentation", PRIMITIVES), ("skill", SKILLS)):
        labels = episode.labels.get(name)
        if labels is None or not labels.size:
            continue
        if labels.dtype.kind not in "ui":
            if name == "skill":  # the type of segmentation is reported above
                yield f"labels/{name}: {labels.dtype}, not integer"
        elif labels.max() >= len(classes) or (labels.dtype.kind == "i" and labels.min() < 0):
            worst = labels.max() if labels.max() >= len(classes) else labels.min()
            yield f"labels/{name}: value {worst}, outside [0, {len(classes) - 1}]"


def _time_goes_on(episode: Episode) -> Iterator[str]:
    time_s = episode.labels.get("time_s")
    if time_s is None:
        return
    if time_s.dtype != np.float64 or time_s.ndim != 1:
        yield f"labels/time_s: {time_s.dtype} {time_s.shape}, not float64 (T,)"
        return
    stops = np.flatnonzero(time_s[1:] <= time_s[:-1])
    if len(stops):
        yield f"labels/time_s: stands still or goes back at step {stops[0] + 1}"


def _camera_runs(episode: Episode) -> Iterator[str]:
    """Yields a finding if the camera is frozen while the robot moves.

    A camera that drops frames gives black images at random times, and a slow camera repeats images
    for a short time. Neither of them counts as frozen.
    """
    image = episode.obs.get("image")
    if image is None or not _is_film(image) or len(image) < FROZEN_STEPS or not image.size:
        return
    first, last = _longest_hold(image)
    held = last - first + 1
    if held >= FROZEN_STEPS and held > len(image) / 2 and _moves(episode, first, last):
        yield f"obs/image: the same picture from step {first} to {last} while the robot moves"


def _longest_hold(image: np.ndarray) -> tuple[int, int]:
    """Returns the first and last step of the longest run of identical images."""
    rows = np.ascontiguousarray(image).reshape(len(image), -1)
    if rows.shape[1] % 8 == 0:
        rows = rows.view(np.uint64)  # compares eight values at once
    changes = np.flatnonzero((rows[1:] != rows[:-1]).any(1)) + 1
    starts = np.concatenate([[0], changes, [len(rows)]])
    longest = int(np.diff(starts).argmax())
    return int(starts[longest]), int(starts[longest + 1]) - 1


def _moves(episode: Episode, first: int, last: int) -> bool:
    felt = [episode.obs[name][first : last + 1] for name in MOTION if name in episode.obs]
    felt = [array for array in felt if array.size]
    return not felt or any(float(np.ptp(array, axis=0).max()) > MOVED for array in felt)


RULES = (
    _enough_steps,
    _same_length_and_finite,
    _actions_in_range,
    _image_is_rgb,
    _float32,
    _shapes,
    _ends_once,
    _classes,
    _time_goes_on,
    _camera_runs,
)


# Files


def check_files(paths: Iterable[Path]) -> dict[Path, list[str]]:
    """Checks episode files, even damaged or foreign ones, with one episode in memory at a time.

    Args:
        paths: The files. A file that is given twice is checked once.

    Returns:
        The defects by file, one line each; empty for a sound file. If two episodes have the same
        observations and actions, the later one is reported, with the place of the first.
    """
    found: dict[Path, list[str]] = {}
    places, reader, given = _Places(), _Reader(), set()
    try:
        for path in map(Path, paths):
            if path.resolve() not in given:
                given.add(path.resolve())
                found[path] = list(_check_file(path, reader, places))
    finally:
        reader.close()
    return found


@dataclass
class _Places:
    """Remembers where each episode content was first found, over all files.

    Attributes:
        seen: First place of a content, by its digest and then by split.
    """

    seen: dict[str, dict[str, str]] = field(default_factory=dict)

    def meet(self, content: str, split: str, place: str) -> str | None:
        """Returns a finding if this content was found before, and remembers its place."""
        before = self.seen.setdefault(content, {})
        leak = next((other for other in before if other != split), None)
        again = before.get(split)
        before.setdefault(split, place)
        if leak is not None:
            return f"in {split}, the same content as {before[leak]} in {leak}: a leak"
        return again and f"the same content as {again}, both in {split}"


class _Reader:
    """Runs lib.episode.probe in a separate process, because broken bytes can crash HDF5 itself."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def look(self, path: Path, skip: list[str]) -> Iterator[dict[str, Any]]:
        """Yields the probe's records of a file; ``{"end": true}`` is missing if it crashed."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lib.episode.probe"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="ascii",
            )
        request = json.dumps({"path": str(path.absolute()), "skip": skip})
        try:
            print(request, file=self._process.stdin, flush=True)
            for line in self._process.stdout or ():
                record = json.loads(line)
                yield record
                if "end" in record:
                    return
        except (BrokenPipeError, json.JSONDecodeError):
            pass  # the process died before or while it wrote a line
        self.close()


def _check_file(path: Path, reader: _Reader, places: _Places) -> Iterator[str]:
    skip: list[str] = []
    while True:
        # Collects all records first: after a crash the file is checked again without the demo.
        records = list(reader.look(path, skip))
        if records and "end" in records[-1]:
            break
        begun = [record["begins"] for record in records if "begins" in record]
        if not begun or begun[-1] in skip or len(skip) == CRASHES:
            over = ", ".join(dict.fromkeys([*skip, *begun[-1:]])) or "it"
            yield f"damaged (HDF5 crashes over {over}); not checked further"
            return
        skip.append(begun[-1])
    for record in records:
        if "line" in record:
            yield record["line"]
        if "content" in record:
            label, split = record["label"], record["split"]
            again = places.meet(record["content"], split, f"{relative(path)} {label}")
            if again:
                yield f"{label}: {again}"
