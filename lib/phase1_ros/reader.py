"""Turns ROS bags into episodes.

Each topic of a robot has its own clock. Here all topics are resampled to one clock: images are held
and numbers are interpolated. Where a topic is silent for too long, the episode ends and the next
one begins. Only images and joints decide about this; other signals are added to an episode if they
cover it. If commands are mapped, no episode begins before the first command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lib.episode import Episode
from lib.episode.check import problems
from lib.ingest.report import Report, UnusableError
from lib.ingest.series import NS, Series, clock, overlap, unit_actions
from lib.phase1_ros import Phase1Ros
from lib.phase1_ros.bags import Recording, find_bags, read_recording
from lib.phase1_ros.topics import ACTIONS

Segment = Callable[[np.ndarray], np.ndarray]
"""Function that returns pixel labels (B, H, W) for images (B, H, W, 3)."""


def read_bags(
    folder: Path, settings: Phase1Ros, image_size: int, segment: Segment, report: Report
) -> Iterator[Episode]:
    """Yields the episodes of all bags in a folder, with one bag in memory at a time.

    Args:
        folder: Folder with .bag, .db3 and .mcap files and rosbag2 folders, at any depth.
        settings: The section phase1_ros of params.yaml.
        image_size: Width and height of the images, pixels.
        segment: Function that gives the pixel labels.
        report: Report to which the bags that cannot be used are added.
    """
    bags, others = find_bags(folder)
    for path, reason in others:
        report.skip(path, reason)
    seen: dict[Path, Path] = {}
    for path in bags:
        name = path.relative_to(folder)
        name = name if path.is_dir() else name.with_suffix("")
        if name in seen:
            report.skip(path, f"another recording has this name ({seen[name].name}); rename one")
            continue
        seen[name] = path
        try:
            recording = read_recording(path, settings, image_size)
            for text in recording.notes:
                report.note(path, text)
            yield from _episodes(path, name.as_posix(), recording, settings, segment, report)
        except UnusableError as error:
            report.skip(path, str(error))


def _episodes(
    path: Path,
    name: str,
    recording: Recording,
    settings: Phase1Ros,
    segment: Segment,
    report: Report,
) -> Iterator[Episode]:
    """Yields an episode for each stretch of a recording without a long silence."""
    max_gap = int(settings.max_gap_s * NS)
    spans = _spans(recording, settings, max_gap)
    short = 0
    for index, (first, last) in enumerate(spans.tolist()):
        ticks = clock(first, last, settings.rate_hz)
        if len(ticks) < 2:
            short += 1
            continue
        episode = _episode(f"{name}/{index:03d}", recording, ticks, max_gap, segment)
        episode.tags["source_file"] = path.name
        found = problems(episode)
        if found:
            report.skip(path, f"{episode.key}: {'; '.join(found)}")
            continue
        missing = sorted(set(recording.signals) - {ACTIONS} - set(_names(episode)))
        if missing:
            report.note(path, f"{episode.key} is not covered by {', '.join(missing)}: left out")
        yield episode
    if short == len(spans):
        raise UnusableError(
            f"no two steps at {settings.rate_hz:g} Hz without a silence of more than "
            f"{settings.max_gap_s:g} s on a topic; raise phase1_ros.max_gap_s or map other topics"
        )
    if short:
        report.skip(path, f"{short} of its {len(spans)} stretches are shorter than two steps")


def _names(episode: Episode) -> list[str]:
    return [name for name, _ in episode.arrays()]


def _spans(recording: Recording, settings: Phase1Ros, max_gap: int) -> np.ndarray:
    """Returns the first and last stamp of each stretch without a long silence, (K, 2), ns."""
    leading = [s for s in (recording.images, *recording.joint_pos.values()) if s is not None]
    still = {*recording.held, ACTIONS}
    leading = leading or [s for n, s in recording.signals.items() if n not in still]
    # A single sample does not tell when a topic is present: its value is held all the time.
    moving = {one.stamps.tobytes(): one for one in leading if len(one) > 1}
    if not moving:
        raise UnusableError(
            "no topic of the robot's state has two samples at different times, but an episode "
            f"needs two (phase1_ros.clock is {settings.clock})"
        )
    spans = overlap(one.spans(max_gap) for one in moving.values())
    if ACTIONS in recording.signals:
        first = recording.signals[ACTIONS].stamps[0]
        spans = overlap([spans, np.array([[first, np.iinfo(np.int64).max]])])
        if not len(spans):
            raise UnusableError(
                f"its first command on {recording.topics[ACTIONS]} comes after its last step; "
                "map another topic in phase1_ros.action_topic"
            )
    return spans


def _episode(
    key: str, recording: Recording, ticks: np.ndarray, max_gap: int, segment: Segment
) -> Episode:
    """Returns one stretch of a recording, resampled to ``ticks``, as an episode."""
    steps = len(ticks)
    arrays: dict[str, np.ndarray] = {}
    tags: dict[str, Any] = {
        "backend": recording.backend,
        "labels": "none",
        "outcome": "unknown",
        "task": "unknown",
        "start_ns": int(ticks[0]),
    }
    if recording.images is not None:
        arrays["obs/image"] = recording.images.hold(ticks)
        arrays["labels/segmentation"] = segment(arrays["obs/image"])
        tags["labels"] = "heuristic"
    if recording.joint_pos:
        columns = [one.interpolate(ticks) for one in recording.joint_pos.values()]
        arrays["obs/joint_pos"] = np.concatenate(columns, axis=1)
        tags["joints"] = list(recording.joint_pos)
        velocity = [v for v in map(recording.joint_vel.get, recording.joint_pos) if v is not None]
        whole = len(velocity) == len(recording.joint_pos)
        if whole and all(_covers(v, ticks, max_gap, False) for v in velocity):
            columns = [v.interpolate(ticks) for v in velocity]
            arrays["obs/joint_vel"] = np.concatenate(columns, axis=1)
    for name, series in recording.signals.items():
        held = name in recording.held
        if name != ACTIONS and _covers(series, ticks, max_gap, held):
            arrays[name] = series.hold(ticks) if held else _smooth(name, series, ticks)
    actions, about = _actions(recording, arrays.get("obs/joint_pos"), ticks)
    tags |= about
    given = {*arrays, ACTIONS} if ACTIONS in recording.signals else set(arrays)
    tags["topics"] = {n: t for n, t in recording.topics.items() if n in given}
    if recording.read < recording.reported:
        tags |= {"messages_reported": recording.reported, "messages_read": recording.read}

    def part(folder: str) -> dict[str, np.ndarray]:
        return {
            name.removeprefix(folder): a.astype(np.float32) if a.dtype == np.float64 else a
            for name, a in arrays.items()
            if name.startswith(folder)
        }

    return Episode(
        key=key,
        obs=part("obs/"),
        actions=actions,
        rewards=np.zeros(steps, np.float32),
        dones=np.zeros(steps, np.uint8),
        vector_rewards=np.zeros((steps, 3), np.float32),
        # Seconds, computed from whole nanoseconds. They stay float64, because float32 would tell
        # steps apart only for hours.
        labels={"time_s": (ticks - ticks[0]) / NS} | part("labels/"),
        tags=tags,
    )


def _actions(
    recording: Recording, positions: np.ndarray | None, ticks: np.ndarray
) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns the actions of an episode, (T, A) in [-1, 1], and the tags that explain them."""
    commands = recording.signals.get(ACTIONS)
    if commands is not None:
        # One scale for the whole bag, so that a command is the same action in all its episodes.
        scale = np.abs(commands.values).max(0)
        scale[scale == 0] = 1
        tags = {"action_space": "ros_command", "action_scale": scale.tolist()}
        return unit_actions(commands.hold(ticks), scale), tags
    if positions is None:
        # Without joints the commands are unknown. The episode gets one action that is always zero,
        # and a tag that says so.
        return np.zeros((len(ticks), 1), np.float32), {"action_space": "none"}
    # The position after the last step is unknown: the last action is no motion.
    delta = np.diff(positions, axis=0, append=positions[-1:])
    largest = float(np.abs(delta).max()) or 1.0
    return unit_actions(delta, largest), {"action_space": "joint_delta", "action_scale": largest}


def _covers(series: Series, ticks: np.ndarray, max_gap: int, held: bool) -> bool:
    """Returns whether a signal is known over a whole episode."""
    if not len(series):
        return False
    if held:
        return series.stamps[0] <= ticks[0] + max_gap
    inside = series.spans(max_gap)
    return bool(
        ((inside[:, 0] <= ticks[0] + max_gap) & (inside[:, 1] >= ticks[-1] - max_gap)).any()
    )


def _smooth(name: str, series: Series, ticks: np.ndarray) -> np.ndarray:
    """Interpolates a measurement; quaternions take the shorter rotation and are normalised."""
    if not name.endswith("_quat"):
        return series.interpolate(ticks)
    values = series.values
    # q and -q are the same rotation: choose the sign that is closer to the previous sample.
    turns = np.where((values[1:] * values[:-1]).sum(1) < 0, -1.0, 1.0)
    signs = np.cumprod(np.append(1.0, turns))[:, None]
    result = Series(series.stamps, values * signs).interpolate(ticks)
    return result / np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-9)
