"""Turns Isaac Lab's HDF5 recordings into episodes.

The recorder writes no rewards and no episode ends, counts steps that it later drops, and takes
``obs`` *before* a step but ``states`` *after* it. This module checks or corrects all of that;
lib/phase1_isaac/hdf5_reading.py rejects broken and hostile files. The layout of a recording is
described at https://isaac-sim.github.io/IsaacLab, "Imitation Learning".
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lib.base.hdf5 import DAMAGE
from lib.episode import Episode
from lib.episode.check import problems
from lib.ingest.folders import find
from lib.ingest.pictures import square
from lib.ingest.report import Report, UnusableError, some
from lib.ingest.series import unit_actions
from lib.phase1_isaac import Phase1Isaac
from lib.phase1_isaac.hdf5_reading import array, child, holds, members, numbered

SUFFIXES = (".hdf5", ".h5")

OPEN_M = 0.3
"""Opening of a cabinet's drawer that counts as success, m: the last stage of Isaac Lab's reward."""

ALIGNED_WITHIN = 1e-3
"""Joint positions agree if they differ by less than this, rad or m; they are stored as float32."""

ACTION_SPACES = {"IK-Rel": "ik_relative", "IK-Abs": "ik_absolute", "OSC": "operational_space"}
"""Action space by a part of the environment's name; other Franka tasks command joint positions."""

STEP_S = {"Isaac-Open-Drawer-Franka-v0": 1 / 60}
"""Length of a step, s, for environments with recordings that may not contain it."""

NO_PICTURES = ("segmentation", "normals", "depth")
"""Parts of the names of images that a renderer gives but a real camera does not."""

FRAMES = 64
"""Number of full-size images that are in memory at the same time."""

Segment = Callable[[np.ndarray], np.ndarray]
"""Function that returns pixel labels (B, H, W) for images (B, H, W, 3)."""


@dataclass(frozen=True)
class Recording:
    """Facts that all demos of a file share.

    Attributes:
        env_name: Name of Isaac Lab's environment.
        step_s: Length of a step, s; None if it is unknown.
        action_scale: (A,) numbers by which actions are divided to lie within [-1, 1].
    """

    env_name: str
    step_s: float | None
    action_scale: np.ndarray

    @property
    def opens_drawer(self) -> bool:
        """Whether the task is to open a drawer."""
        return "Open-Drawer" in self.env_name

    @property
    def action_space(self) -> str:
        """Name of the quantity that the actions command."""
        found = (space for part, space in ACTION_SPACES.items() if part in self.env_name)
        return next(found, "joint_position" if "Franka" in self.env_name else "unknown")


def find_recordings(folder: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Returns the recordings in a folder and its subfolders, and all other paths with the reason.

    Args:
        folder: Folder to search; it need not exist.
    """
    return find(folder, SUFFIXES)


def read_recordings(
    folder: Path, settings: Phase1Isaac, image_size: int, segment: Segment, report: Report
) -> Iterator[Episode]:
    """Yields the demos of all recordings in a folder, with one demo in memory at a time.

    Args:
        folder: Folder with .hdf5 and .h5 files, at any depth.
        settings: The section phase1_isaac of params.yaml.
        image_size: Width and height of the images, pixels.
        segment: Function that gives the pixel labels.
        report: Report to which the files and demos that cannot be used are added.
    """
    recordings, others = find_recordings(folder)
    for path, reason in others:
        report.skip(path, reason)
    seen: dict[Path, Path] = {}
    for path in recordings:
        name = path.relative_to(folder).with_suffix("")
        if name in seen:
            report.skip(path, f"another recording has this name ({seen[name].name}); rename one")
            continue
        seen[name] = path
        for episode in _demos(path, name.as_posix(), settings, image_size, report):
            if "image" in episode.obs:
                episode.labels["segmentation"] = segment(episode.obs["image"])
                episode.tags["labels"] = "heuristic"
            yield episode


def _demos(
    path: Path, stem: str, settings: Phase1Isaac, image_size: int, report: Report
) -> Iterator[Episode]:
    """Yields the demos of a file, without pixel labels."""
    try:
        with h5py.File(path, "r") as file:
            if {"schema", "source"} <= set(file.attrs):
                raise UnusableError("episodes of this repository, no recording of Isaac Lab")
            data = child(file, "data", h5py.Group)
            demos = numbered(data, "demo_")  # ids have gaps where demos were dropped
            if not demos:
                raise UnusableError("it holds no demo; is it a recording of Isaac Lab?")
            scale, steps = _survey(data, demos)
            total = data.attrs.get("total", steps)
            if not np.array_equal(total, steps):
                report.note(path, f"data.attrs['total'] says {total}, its demos have {steps}")
            recording = Recording(*_environment(data), scale)
            for name in demos:
                try:
                    group = child(data, name, h5py.Group)
                    episode = _demo(f"{stem}/{name}", group, recording, settings, image_size)
                except UnusableError as error:
                    report.skip(path, f"{name}: {error}")
                except DAMAGE as error:
                    report.skip(path, f"{name}: damaged ({error})")
                else:
                    yield episode
    except UnusableError as error:
        report.skip(path, str(error))
    except DAMAGE as error:
        report.skip(path, f"not a readable HDF5 file ({error})")


def _survey(data: h5py.Group, demos: list[str]) -> tuple[np.ndarray, int]:
    """Returns the scale of the actions over all demos, (A,), and the number of steps in all demos.

    There is one scale for the whole file, so that a command is the same action in all its demos.
    """
    scale, steps = np.ones(0), 0
    for name in demos:
        try:
            actions = array(child(data, name, h5py.Group), "actions")
        except (UnusableError, *DAMAGE):
            continue  # the reason is reported when the demo itself is read
        steps += len(actions)
        if len(actions) and np.isfinite(actions).all():
            largest = np.maximum(1, np.abs(actions).max(0))
            if not len(scale):
                scale = largest
            elif scale.shape == largest.shape:
                scale = np.maximum(scale, largest)
    return scale, steps


def _environment(data: h5py.Group) -> tuple[str, float | None]:
    """Returns the environment's name, and the length of a step, s, or None if it is unknown.

    Newer versions of Isaac Lab record the simulator's time step and the number of simulator steps
    per action.
    """
    try:
        about = json.loads(data.attrs["env_args"])
    except (KeyError, TypeError, ValueError):
        about = {}
    about = about if isinstance(about, dict) else {}
    name = about.get("env_name")
    name = name if isinstance(name, str) else ""
    try:
        step_s = float(about["sim_args"]["dt"]) * int(about["sim_args"]["decimation"])
    except (KeyError, TypeError, ValueError):
        step_s = math.nan
    return name, step_s if 0 < step_s < math.inf else STEP_S.get(name)


def _demo(
    key: str, group: h5py.Group, recording: Recording, settings: Phase1Isaac, image_size: int
) -> Episode:
    actions = array(group, "actions")
    steps = len(actions)
    if not np.isfinite(actions).all():
        raise UnusableError("actions: NaN or infinite")
    obs = _observations(group)
    camera = _camera(group["obs"], settings.image)
    counted = group.attrs.get("num_samples", steps)
    lengths = {"actions": steps} | {f"obs/{name}": len(values) for name, values in obs.items()}
    if camera:
        lengths[f"obs/{camera}"] = len(group["obs"][camera])
    wrong = [f"{name} has {n}" for name, n in lengths.items() if not np.array_equal(n, counted)]
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
        if aligned < settings.min_alignment:
            raise UnusableError(
                f"obs/joint_pos follows the states of the step before on {aligned:.1%} of the "
                f"steps, below phase1_isaac.min_alignment {settings.min_alignment:.1%}: "
                "observations and actions do not belong together"
            )
        tags["alignment"] = round(aligned, 4)
    success = _success(group, recording)
    if success is None:
        tags["outcome"] = "unknown"
    else:
        tags |= {"success": success, "outcome": "success" if success else "failure"}
    labels = {}
    if recording.step_s is None:
        tags["rate"] = "unknown"
    else:
        labels["time_s"] = np.arange(steps) * recording.step_s
    if camera:
        obs["image"] = _pictures(group["obs"][camera], image_size)
        tags["camera"] = camera
    rewards = np.zeros(steps, np.float32)
    rewards[-1] = bool(success)
    episode = Episode(
        key=key,
        obs=obs,
        actions=unit_actions(actions, recording.action_scale),
        rewards=rewards,
        dones=rewards.astype(np.uint8),
        vector_rewards=np.stack([rewards, 0 * rewards, 0 * rewards], axis=1),
        labels=labels,
        tags=tags,
    )
    found = problems(episode)
    if found:
        raise UnusableError("; ".join(found))
    return episode


def _observations(group: h5py.Group) -> dict[str, np.ndarray]:
    """Returns the observations by name, (T, D) each; nested groups are left out."""
    obs = child(group, "obs", (h5py.Group, h5py.Dataset))
    if isinstance(obs, h5py.Dataset):
        return {"flat": array(group, "obs")}  # concatenated terms in the task's order
    found = {}
    for name in members(obs):
        member = child(obs, name, (h5py.Group, h5py.Dataset))
        if isinstance(member, h5py.Dataset) and member.ndim <= 2:
            found[name] = array(obs, name)
    if not found:
        raise UnusableError("obs holds no numbers")
    return found


def _camera(obs: h5py.Group | h5py.Dataset, wanted: str) -> str | None:
    """Returns the name of the camera to keep, (T, H, W, 3 or 4) uint8 in obs, or None."""
    cameras = []
    for name in members(obs) if isinstance(obs, h5py.Group) else ():
        kept = obs[name]
        if isinstance(kept, h5py.Dataset) and kept.dtype == np.uint8 and kept.ndim == 4:
            cameras += [name] if kept.shape[-1] in (3, 4) else []
    if wanted == "none":
        return None
    if wanted == "auto":
        plain = (n for n in cameras if not any(part in n for part in NO_PICTURES))
        return next(plain, None)
    if wanted not in cameras:
        raise UnusableError(
            f"no camera obs/{wanted} of uint8; phase1_isaac.image can be: "
            + some(["auto", "none", *cameras], 8)
        )
    return wanted


def _pictures(frames: h5py.Dataset, size: int) -> np.ndarray:
    """Returns a camera's images, cropped and resized to (T, size, size, 3) uint8 RGB."""
    if 0 in frames.shape:
        raise UnusableError(f"{frames.name} is {frames.shape}: no pixels")
    small = np.empty((len(frames), size, size, 3), np.uint8)
    for start in range(0, len(frames), FRAMES):
        for offset, frame in enumerate(frames[start : start + FRAMES, ..., :3]):
            small[start + offset] = square(frame, size)
    return small


def _state(group: h5py.Group, articulation: str) -> np.ndarray | None:
    """Returns an articulation's joint positions after each step, (T, J), None if not recorded."""
    for name in ("states", "articulation", articulation):
        if not holds(group, name):
            return None
        group = child(group, name, h5py.Group)
    return array(group, "joint_position") if holds(group, "joint_position") else None


def alignment(observed: np.ndarray | None, after: np.ndarray | None) -> float | None:
    """Returns the share of the steps for which the observation was taken before the step.

    For such a step, ``observed[t]`` equals ``after[t - 1]`` up to a constant offset, because Isaac
    Lab observes joints relative to their default position.

    Args:
        observed: (T, J) joint positions in obs, rad or m.
        after: (T, J) joint positions in states, taken after each step.

    Returns:
        The share in [0, 1]. None if one of the two is not recorded, if their shapes differ or they
        have fewer than 3 steps, and if the robot does not move, because then nothing can be told.
    """
    if observed is None or after is None or observed.shape != after.shape or len(after) < 3:
        return None
    if np.abs(np.diff(after, axis=0)).max() < ALIGNED_WITHIN:
        return None
    offset = observed[1:] - after[:-1]
    deviation = np.abs(offset - np.median(offset, axis=0)).max(1)
    return float((deviation < ALIGNED_WITHIN).mean())


def _success(group: h5py.Group, recording: Recording) -> bool | None:
    """Returns whether a demo succeeded, or None if the recording does not tell.

    The environment that opens a drawer has no termination named success, so its recordings always
    say False (isaac-sim/IsaacLab#2001). There the cabinet's joint positions after the last step
    decide; the drawer's joint is the only joint of the cabinet that the task moves.
    """
    attribute = group.attrs.get("success")
    if not isinstance(attribute, bool | int | np.bool_ | np.integer):
        attribute = None  # the recorder writes no other type; text "False" would be true
    elif attribute:
        return True
    if recording.opens_drawer:
        cabinet = _state(group, "cabinet")
        if cabinet is not None and len(cabinet):
            return bool(cabinet[-1].max() >= OPEN_M)
    return None if attribute is None else False
