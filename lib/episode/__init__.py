"""Reads and writes episodes in one HDF5 layout for every source; robomimic can load it, too.

Layout of a file (T steps of one episode; image height H, width W; action size A)::

    /                 attrs: schema, source, legend (JSON: names of columns and class indices)
    data              attrs: total (steps), env_args (JSON)
    data/demo_N       attrs: num_samples, key, tags (JSON)
      obs/*           (T, ...)  what the robot saw *before* each action; image is (T, H, W, 3) uint8
      actions         (T, A)    float32, executed, in [-1, 1]
      rewards         (T,)      float32
      dones           (T,)      uint8, 1 where the task ended (terminated, never truncated)
      vector_rewards  (T, 3)    float32: task, economic value, energy
      labels/*        (T, ...)  privileged: for supervision and metrics, never for the policy
      labels/time_s   (T,)      float64, where known: seconds since the first step, increasing
      next_obs/*      (T, ...)  obs one step later, a view (HDF5 virtual dataset), no copy
    mask/{train,valid,test}     names of the demos of each split

The observation after the last action is not recorded, so the last row of next_obs repeats the last
row of obs. Learners do not use it where the task ended. robomimic needs next_obs; ``read`` does not
load it.

Files are written as a stream, with one episode in memory at a time. The same episodes always give
the same bytes. See https://robomimic.github.io/docs/datasets/overview.html for the layout.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lib.base.errors import UserError
from lib.base.files import atomic
from lib.base.hdf5 import DAMAGE, write_array, write_count, write_group, write_next, write_text
from lib.base.paths import relative

SCHEMA = 1
SPLITS = ("train", "valid", "test")
OBJECTIVES = ("task", "econ", "energy")

# Pixel classes; the index is the value in labels/segmentation. They are defined here because every
# source uses them to label its pixels and every segmenter predicts them.
PRIMITIVES = ("background", "table", "arm", "gripper", "drawer_case", "drawer", "handle")

# Columns of labels/state, (T, 11): position of the hand, m; opening of the gripper, share of its
# span; position of the handle, m; opening of the drawer, m; x and y of the whole drawer, m; its
# turn around the vertical axis, radians. The first seven columns are the first seven values of
# Meta-World's observation.
STATE_HAND, STATE_GRIPPER, STATE_HANDLE, STATE_OPENING = slice(0, 3), 3, slice(4, 7), 7
STATE_PLACE, STATE_YAW = slice(8, 10), 10

# Phases of a manipulation; the index is the value in labels/skill: approach, take hold, move the
# part, and return after the hold was lost.
SKILLS = ("reach", "hook", "pull", "recover")

# Names of the class values, or of the columns, of arrays.
LEGEND = {
    "labels/segmentation": PRIMITIVES,
    "labels/skill": SKILLS,
    "vector_rewards": OBJECTIVES,
}


@dataclass
class Episode:
    """One recorded attempt.

    Attributes:
        key: Permanent name within the source, e.g. ``"000012"``; it determines the split.
        obs: Arrays (T, ...) by name.
        actions: (T, A) float32 in [-1, 1].
        rewards: (T,) float32.
        dones: (T,) uint8; 1 where the task ended.
        vector_rewards: (T, 3) float32, one column per objective.
        labels: Arrays (T, ...) by name.
        tags: Facts about the episode that JSON can store.
    """

    key: str
    obs: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    dones: np.ndarray
    vector_rewards: np.ndarray
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    tags: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Returns the number of steps."""
        return len(self.actions)

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields every array with its path inside the demo's group, in a fixed order."""
        for name in sorted(self.obs):
            yield f"obs/{name}", self.obs[name]
        for name in ("actions", "rewards", "dones", "vector_rewards"):
            yield name, getattr(self, name)
        for name in sorted(self.labels):
            yield f"labels/{name}", self.labels[name]


def split_of(source: str, key: str, shares: Sequence[float]) -> str:
    """Returns the split of an episode, which depends only on its name and the shares.

    Adding or removing other episodes never moves an episode from training to testing.

    Args:
        source: Source name.
        key: The episode's key.
        shares: Shares of train, valid and test; they sum to 1.
    """
    digest = hashlib.sha256(f"{source}/{key}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < shares[0]:
        return "train"
    return "valid" if position < shares[0] + shares[1] else "test"


def write(
    path: Path,
    episodes: Iterable[Episode],
    *,
    source: str,
    shares: Sequence[float] = (1.0, 0.0, 0.0),
    env_args: dict[str, Any] | None = None,
    legend: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """Streams episodes into a new file.

    Args:
        path: The file; it appears complete or not at all.
        episodes: Episodes, which are consumed one by one.
        source: Source name, e.g. ``"sima2"``.
        shares: Shares of train, valid and test.
        env_args: robomimic's description of the environment.
        legend: Names of the columns or class indices of further arrays, by array path, e.g.
            ``{"labels/stress": ["slip", "push"]}``.

    Returns:
        The number of episodes written.
    """
    env_args = env_args or {"env_name": source, "type": 1, "env_kwargs": {}}
    masks: dict[str, list[str]] = {split: [] for split in SPLITS}
    count = total = 0
    with atomic(path) as scratch, h5py.File(scratch, "w") as file:
        file.attrs["schema"] = SCHEMA
        file.attrs["source"] = source
        file.attrs["legend"] = json.dumps({**LEGEND, **(legend or {})}, sort_keys=True)
        data = file.create_group("data")
        for episode in episodes:
            name = f"demo_{count}"
            _write_episode(write_group(data, name), episode)
            masks[split_of(source, episode.key, shares)].append(name)
            count += 1
            total += len(episode)
        data.attrs["total"] = total
        data.attrs["env_args"] = json.dumps(env_args, sort_keys=True)
        for split, names in masks.items():
            file.create_dataset(f"mask/{split}", data=np.array(names, dtype="S16"))
    return count


def _write_episode(group: h5py.Group, episode: Episode) -> None:
    write_count(group, "num_samples", len(episode))
    write_text(group, "key", episode.key)
    write_text(group, "tags", json.dumps(episode.tags, sort_keys=True, allow_nan=False))
    for name, array in episode.arrays():
        write_array(group, name, array)
    for name in sorted(episode.obs):
        write_next(group, f"next_obs/{name}", f"obs/{name}", episode.obs[name])


def open_file(path: Path) -> h5py.File:
    """Opens an episode file for reading.

    Args:
        path: The file.

    Raises:
        UserError: If it is missing, not HDF5, or of another schema version.
    """
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise UserError(f"{relative(path)}: not found; `dvc repro` writes it") from None
    except OSError as error:
        raise UserError(f"{relative(path)}: not a readable HDF5 file ({error})") from None
    try:
        schema = file.attrs.get("schema")
        known = schema is not None and bool(schema == SCHEMA)
    except DAMAGE as error:
        file.close()
        raise UserError(f"{relative(path)}: damaged ({error})") from None
    if not known:
        file.close()
        raise UserError(
            f"{relative(path)}: episode schema {schema}, this version reads {SCHEMA}; "
            "run `dvc repro` to rebuild it"
        )
    return file


def read(
    path: Path, *, splits: Sequence[str] = SPLITS, fields: Sequence[str] | None = None
) -> Iterator[Episode]:
    """Yields the episodes of a file one by one.

    Args:
        path: The file.
        splits: Splits of the episodes to read.
        fields: Arrays to read under obs/ and labels/ (e.g. ``("obs/image",)``); ``None`` reads
            all. Actions, rewards and dones are always read.

    Raises:
        UserError: If the file is missing, not HDF5, of another schema, or damaged.
    """
    with open_file(path) as file:
        try:
            wanted = {name.decode() for split in splits for name in file[f"mask/{split}"][()]}
            count = len(file["data"])
        except DAMAGE as error:
            raise UserError(f"{relative(path)}: data or mask is damaged ({error})") from None
        for index in range(count):
            if f"demo_{index}" in wanted:
                yield _read_episode(path, file, f"/data/demo_{index}", fields)


def read_demo(path: Path, number: int, *, fields: Sequence[str] | None = None) -> Episode:
    """Returns one episode of a file.

    Args:
        path: The file.
        number: N of ``demo_N``.
        fields: Arrays to read, as for ``read``.

    Raises:
        UserError: If the file or the episode is missing or damaged.
    """
    with open_file(path) as file:
        return _read_episode(path, file, f"/data/demo_{number}", fields)


def _read_episode(path: Path, file: h5py.File, demo: str, fields: Sequence[str] | None) -> Episode:
    def arrays(folder: str) -> dict[str, np.ndarray]:
        inside = group.get(folder, {})
        return {
            name: inside[name][()]
            for name in inside
            if fields is None or f"{folder}/{name}" in fields
        }

    try:
        group = file.get(demo)
        if group is None:
            raise UserError(f"{relative(path)}: {demo} is missing")
        return Episode(
            key=group.attrs["key"],
            obs=arrays("obs"),
            actions=group["actions"][()],
            rewards=group["rewards"][()],
            dones=group["dones"][()],
            vector_rewards=group["vector_rewards"][()],
            labels=arrays("labels"),
            tags=dict(json.loads(group.attrs["tags"])),
        )
    except DAMAGE as error:
        raise UserError(f"{relative(path)}: {demo} is damaged ({error})") from None


def checksum(episode: Episode) -> str:
    """Returns the first 16 hex digits of the SHA-256 of everything an episode holds.

    Args:
        episode: The episode with all its arrays.
    """
    digest = hashlib.sha256(json.dumps([episode.key, episode.tags], sort_keys=True).encode())
    for name, array in episode.arrays():
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def fingerprint(episode: Episode) -> str:
    """Returns a SHA-256 of the observations and actions: equal for copies under another name.

    Args:
        episode: The episode with its observations and actions.
    """
    digest = hashlib.sha256()
    for name, array in episode.arrays():
        if name == "actions" or name.startswith("obs/"):
            digest.update(f"{name}{array.dtype}{array.shape}".encode(errors="backslashreplace"))
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
