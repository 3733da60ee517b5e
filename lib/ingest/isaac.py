"""Isaac Lab's HDF5 recordings as episodes.

The recorder writes no rewards and no ends, counts steps that it later drops, and takes ``obs``
*before* a step and ``states`` *after* it. All of that is checked or made good here. Layout of a
recording: https://isaac-sim.github.io/IsaacLab, "Imitation Learning".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lib.episode import Episode
from lib.episode.check import problems
from lib.ingest.report import Report, UnusableError
from lib.ingest.series import unit_actions
from lib.params import Phase1Isaac

SUFFIXES = (".hdf5", ".h5")

OPEN_M = 0.3
"""Opening of a cabinet's drawer that counts as success, m: the last stage of Isaac Lab's reward."""

ALIGNED_WITHIN = 1e-3
"""Joints agree when they differ by less, rad or m; recorded values are rounded to float32."""

DAMAGE = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError)
"""What h5py raises over broken bytes."""

ACTION_SPACES = {"IK-Rel": "ik_relative", "IK-Abs": "ik_absolute"}
"""By a part of the environment's name; the others command joint positions."""


@dataclass(frozen=True)
class Recording:
    """What the demos of a file share.

    Attributes:
        env_name: Isaac Lab's environment.
        action_scale: (A,) by which actions are divided to lie within [-1, 1].
    """

    env_name: str
    action_scale: np.ndarray

    @property
    def opens_drawer(self) -> bool:
        """Whether the task is to open a drawer."""
        return "Open-Drawer" in self.env_name

    @property
    def action_space(self) -> str:
        """What the actions command."""
        found = (space for part, space in ACTION_SPACES.items() if part in self.env_name)
        return next(found, "joint_position" if self.env_name else "unknown")


def find_recordings(folder: Path) -> list[Path]:
    """Returns the recordings in a folder and its subfolders, in a fixed order.

    Args:
        folder: Need not exist.
    """
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in SUFFIXES and not path.name.startswith(".")
    )


def read_recordings(folder: Path, settings: Phase1Isaac, report: Report) -> Iterator[Episode]:
    """Yields the demos of all recordings in a folder, one in memory at a time.

    Args:
        folder: Holds .hdf5 and .h5 files, at any depth.
        settings: The section phase1_isaac of params.yaml.
        report: Takes the files and demos that cannot be used.
    """
    seen: dict[Path, Path] = {}
    for path in find_recordings(folder):
        name = path.relative_to(folder).with_suffix("")
        if name in seen:
            report.skip(path, f"another recording has this name ({seen[name].name}); rename one")
            continue
        seen[name] = path
        try:
            with h5py.File(path, "r") as file:
                yield from _demos(path, name.as_posix(), file, settings, report)
        except UnusableError as error:
            report.skip(path, str(error))
        except DAMAGE as error:
            report.skip(path, f"not a readable HDF5 file ({error})")


def _demos(
    path: Path, stem: str, file: h5py.File, settings: Phase1Isaac, report: Report
) -> Iterator[Episode]:
    data = _child(file, "data", h5py.Group)
    # Numerically: as text, demo_10 comes before demo_2. Ids have gaps where demos were dropped.
    # h5py gives a name that is no UTF-8 as bytes.
    names = (n for n in data if isinstance(n, str) and re.fullmatch(r"demo_[0-9]{1,18}", n))
    demos = sorted(names, key=lambda n: int(n[5:]))
    if not demos:
        raise UnusableError("it holds no demo; is it a recording of Isaac Lab?")
    scale, steps = _survey(data, demos)
    if "total" in data.attrs and data.attrs["total"] != steps:
        report.note(path, f"data.attrs['total'] says {data.attrs['total']}, its demos have {steps}")
    recording = Recording(_env_name(data), scale)
    for name in demos:
        try:
            group = _child(data, name, h5py.Group)
            yield _demo(f"{stem}/{name}", group, recording, settings.min_alignment)
        except UnusableError as error:
            report.skip(path, f"{name}: {error}")
        except DAMAGE as error:
            report.skip(path, f"{name}: damaged ({error})")


def _child(group: h5py.Group, name: str, kind: type | tuple[type, ...]) -> Any:
    """Returns a member that really lies in this file.

    Links, virtual and external datasets make a recording show the content of other files, which
    nobody checksums. No recorder writes them.

    Raises:
        UnusableError: If it is missing, of another kind, or lies elsewhere.
    """
    where = f"{group.name.rstrip('/')}/{name}"
    link = group.get(name, getlink=True)
    if link is None:
        raise UnusableError(f"{where} is missing")
    if not isinstance(link, h5py.HardLink):
        raise UnusableError(f"{where} is a link to elsewhere; copy the data into the file")
    member = group[name]
    if not isinstance(member, kind):
        raise UnusableError(f"{where} is a {type(member).__name__.lower()}")
    if isinstance(member, h5py.Dataset):
        if member.is_virtual or member.external:
            raise UnusableError(f"{where} lies in another file; copy the data into the file")
        if member.dtype.kind not in "biuf":
            raise UnusableError(f"{where} holds {member.dtype}, no numbers")
    return member


def _survey(data: h5py.Group, demos: list[str]) -> tuple[np.ndarray, int]:
    """Returns the scale of the actions over all demos, (A,), and the number of their steps.

    One scale for the whole file: the same command is the same action in each of its demos.
    """
    scale, steps = np.ones(0), 0
    for name in demos:
        try:
            actions = _array(_child(data, name, h5py.Group), "actions")
        except (UnusableError, *DAMAGE):
            continue  # the demo's own turn names the reason
        steps += len(actions)
        if len(actions) and np.isfinite(actions).all():
            largest = np.maximum(1, np.abs(actions).max(0))
            if not len(scale):
                scale = largest
            elif scale.shape == largest.shape:
                scale = np.maximum(scale, largest)
    return scale, steps


def _array(group: h5py.Group, name: str) -> np.ndarray:
    """Returns an array of numbers as float32, (T, D)."""
    dataset = _child(group, name, h5py.Dataset)
    if dataset.ndim not in (1, 2):
        raise UnusableError(f"{name} is {dataset.ndim}-dimensional")
    array = dataset[()].astype(np.float32)
    return array[:, None] if array.ndim == 1 else array


def _env_name(data: h5py.Group) -> str:
    try:
        name = json.loads(data.attrs["env_args"])["env_name"]
    except (KeyError, TypeError, ValueError):
        return ""
    return name if isinstance(name, str) else ""


def _demo(key: str, group: h5py.Group, recording: Recording, min_alignment: float) -> Episode:
    actions = _array(group, "actions")
    steps = len(actions)
    if not np.isfinite(actions).all():
        raise UnusableError("actions: NaN or infinite")
    obs = _observations(group)
    counted = group.attrs.get("num_samples", steps)
    lengths = {"actions": steps} | {f"obs/{name}": len(array) for name, array in obs.items()}
    wrong = [f"{name} has {length}" for name, length in lengths.items() if length != counted]
    if wrong:
        raise UnusableError(f"num_samples says {counted}, {', '.join(wrong)} steps")
    if steps < 2:
        raise UnusableError(f"{steps} steps; at least 2 are needed")
    if actions.shape[1:] != recording.action_scale.shape:
        raise UnusableError(f"actions are {actions.shape}, unlike those of other demos")
    tags: dict[str, Any] = {
        "backend": "isaac",
        "env_name": recording.env_name,
        "task": "drawer_open" if recording.opens_drawer else "unknown",
        "labels": "none",
        "action_space": recording.action_space,
    }
    if (recording.action_scale > 1).any():
        tags["action_scale"] = [float(value) for value in recording.action_scale]
    aligned = alignment(obs.get("joint_pos"), _state(group, "robot"))
    if aligned is not None:
        if aligned < min_alignment:
            raise UnusableError(
                f"obs/joint_pos follows the states of the step before on {aligned:.1%} of the "
                f"steps, below phase1_isaac.min_alignment {min_alignment:.1%}: observations and "
                "actions do not belong together"
            )
        tags["alignment"] = round(aligned, 4)
    success = _success(group, recording)
    if success is None:
        tags["outcome"] = "unknown"
    else:
        tags |= {"success": success, "outcome": "success" if success else "failure"}
    rewards = np.zeros(steps, np.float32)
    rewards[-1] = bool(success)
    episode = Episode(
        key=key,
        obs=obs,
        actions=unit_actions(actions, recording.action_scale),
        rewards=rewards,
        dones=rewards.astype(np.uint8),
        vector_rewards=np.stack([rewards, 0 * rewards, 0 * rewards], axis=1),
        tags=tags,
    )
    found = problems(episode)
    if found:
        raise UnusableError("; ".join(found))
    return episode


def _observations(group: h5py.Group) -> dict[str, np.ndarray]:
    """Returns the observations by name, (T, D) each; cameras and nested groups are left out."""
    obs = _child(group, "obs", (h5py.Group, h5py.Dataset))
    if isinstance(obs, h5py.Dataset):
        return {"flat": _array(group, "obs")}  # concatenated terms: their order is the task's
    found = {}
    for name in obs:
        member = _child(obs, name, (h5py.Group, h5py.Dataset))
        if isinstance(member, h5py.Dataset) and member.ndim <= 2:
            found[name] = _array(obs, name)
    if not found:
        raise UnusableError("obs holds no numbers")
    return found


def _state(group: h5py.Group, articulation: str) -> np.ndarray | None:
    """Returns the joint positions of an articulation after each step, (T, J), where recorded."""
    for name in ("states", "articulation", articulation):
        if group.get(name, getlink=True) is None:
            return None
        group = _child(group, name, h5py.Group)
    recorded = group.get("joint_position", getlink=True) is not None
    return _array(group, "joint_position") if recorded else None


def alignment(observed: np.ndarray | None, after: np.ndarray | None) -> float | None:
    """Returns on which share of the steps observations are those before the step.

    Then ``observed[t]`` is ``after[t - 1]``, but for an offset that never changes: Isaac Lab
    observes joints relative to their default position.

    Args:
        observed: (T, J) joint positions in obs, rad or m.
        after: (T, J) joint positions in states, taken after each step.

    Returns:
        The share in [0, 1]; none where one of the two is not recorded, and where the robot does
        not move, so that nothing can be told.
    """
    if observed is None or after is None or observed.shape != after.shape or len(after) < 3:
        return None
    if np.abs(np.diff(after, axis=0)).max() < ALIGNED_WITHIN:
        return None
    offset = observed[1:] - after[:-1]
    deviation = np.abs(offset - np.median(offset, axis=0)).max(1)
    return float((deviation < ALIGNED_WITHIN).mean())


def _success(group: h5py.Group, recording: Recording) -> bool | None:
    """Returns whether a demo succeeded, none where nothing says so.

    The environment that opens a drawer has no termination named success, and its recordings
    always say False (isaac-sim/IsaacLab#2001). There the cabinet's joint after the last step
    decides; a drawer is the only joint of it that the task moves.
    """
    attribute = group.attrs.get("success")
    if attribute is not None and bool(attribute):
        return True
    if recording.opens_drawer:
        cabinet = _state(group, "cabinet")
        if cabinet is not None and len(cabinet):
            return bool(cabinet[-1].max() >= OPEN_M)
    return None if attribute is None else False
