"""What can be wrong with an episode, and with files of episodes.

``problems`` looks at one episode in memory. ``check_files`` looks at files from anywhere, and
survives whatever is in them; ``python -m lib.episode check FILE...`` prints what it finds.
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

from lib.episode import PRIMITIVES, SKILLS, Episode
from lib.paths import ROOT, relative

FROZEN_STEPS = 10
"""A picture held for fewer steps is a slow camera."""

MOVED = 1e-3
"""A robot whose hand (m) or joints (rad or m) change by more has moved."""

MOTION = ("eef_pos", "joint_pos")

CRASHES = 5
"""Demos of one file over which the reader may crash before the file is given up."""


# One episode


def problems(episode: Episode) -> list[str]:
    """Returns what is wrong with an episode, nothing for a sound one.

    Args:
        episode: The episode, all arrays read.
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
            if name == "skill":  # segmentation's type was named above
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
    """A camera that dropped frames shows black at random, a slow one holds; neither is frozen."""
    image = episode.obs.get("image")
    if image is None or not _is_film(image) or len(image) < FROZEN_STEPS or not image.size:
        return
    first, last = _longest_hold(image)
    held = last - first + 1
    if held >= FROZEN_STEPS and held > len(image) / 2 and _moves(episode, first, last):
        yield f"obs/image: the same picture from step {first} to {last} while the robot moves"


def _longest_hold(image: np.ndarray) -> tuple[int, int]:
    """Returns first and last step of the longest stretch of one and the same picture."""
    rows = np.ascontiguousarray(image).reshape(len(image), -1)
    if rows.shape[1] % 8 == 0:
        rows = rows.view(np.uint64)  # eight values in one comparison
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
    """Checks episode files, also damaged and foreign ones, with one episode in memory at a time.

    Args:
        paths: The files. One that is given twice is checked once.

    Returns:
        By file, what is wrong, one line each; nothing for a sound file. Of two episodes with the
        same observations and actions, the later one is named, with the place of the first.
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
    """Where each content was met, over all files.

    Attributes:
        seen: By digest, then by split: the first place.
    """

    seen: dict[str, dict[str, str]] = field(default_factory=dict)

    def meet(self, content: str, split: str, place: str) -> str | None:
        """Says if an episode of this content was met before, and remembers this one."""
        before = self.seen.setdefault(content, {})
        leak = next((other for other in before if other != split), None)
        again = before.get(split)
        before.setdefault(split, place)
        if leak is not None:
            return f"in {split}, the same content as {before[leak]} in {leak}: a leak"
        return again and f"the same content as {again}, both in {split}"


class _Reader:
    """lib.episode.probe in a process of its own: HDF5 itself can crash over broken bytes."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def look(self, path: Path, skip: list[str]) -> Iterator[dict[str, Any]]:
        """Yields what the probe says of a file; ends without ``{"end": true}`` if it crashed."""
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
            for line in self._process.stdout:
                record = json.loads(line)
                yield record
                if "end" in record:
                    return
        except (BrokenPipeError, json.JSONDecodeError):
            pass  # it died over the request, or within a line
        self.close()


def _check_file(path: Path, reader: _Reader, places: _Places) -> Iterator[str]:
    skip: list[str] = []
    while True:
        # Taken whole first: after a crash the file is looked at again, without the demo.
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
