"""Bags as episodes.

The topics of a robot each have their own clock. Here they meet on one: pictures are held, numbers
are interpolated, and where a topic falls silent for too long the episode ends and the next begins.
Pictures and joints decide about that; other signals come along where they cover an episode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lib.episode import Episode
from lib.episode.check import problems
from lib.ingest.bags import Recording, find_bags, read_recording
from lib.ingest.report import Report, UnusableError
from lib.ingest.series import NS, Series, clock, overlap, unit_actions
from lib.params import Phase1Ros

Segment = Callable[[np.ndarray], np.ndarray]
"""Pixel labels (B, H, W) of pictures (B, H, W, 3)."""


def read_bags(
    folder: Path, settings: Phase1Ros, image_size: int, segment: Segment, report: Report
) -> Iterator[Episode]:
    """Yields the episodes of all bags in a folder, one bag in memory at a time.

    Args:
        folder: Holds .bag, .db3 and .mcap files and rosbag2 folders, at any depth.
        settings: The section phase1_ros of params.yaml.
        image_size: Pixels, square.
        segment: Gives the pixel labels.
        report: Takes the bags that cannot be used.
    """
    bags, others = find_bags(folder)
    for path in others:
        report.skip(path, "not a .bag, .db3 or .mcap file, nor part of a rosbag2 folder")
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
    """Yields the stretches of a recording without silence."""
    max_gap = int(settings.max_gap_s * NS)
    leading = [s for s in (recording.images, *recording.joint_pos.values()) if s is not None]
    leading = leading or [s for n, s in recording.signals.items() if n not in recording.held]
    # A single sample says nothing about when a topic is heard: it holds all the time.
    moving = {one.stamps.tobytes(): one for one in leading if len(one) > 1}
    if not moving:
        raise UnusableError("no topic of the robot's state has two samples; an episode needs two")
    spans = overlap(one.spans(max_gap) for one in moving.values())
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
        else:
            yield episode
    if short == len(spans):
        raise UnusableError(
            f"no two steps at {settings.rate_hz:g} Hz without a silence of more than "
            f"{settings.max_gap_s:g} s on a topic; raise phase1_ros.max_gap_s or map other topics"
        )
    if short:
        report.skip(path, f"{short} of its {len(spans)} stretches are shorter than two steps")


def _episode(
    key: str, recording: Recording, ticks: np.ndarray, max_gap: int, segment: Segment
) -> Episode:
    """Puts a stretch of a recording on the clock ``ticks``."""
    steps = len(ticks)
    arrays: dict[str, np.ndarray] = {"labels/time": (ticks - ticks[0]) / NS}
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
        tags["labels"] = "silver"
    for name, series in recording.signals.items():
        if not _covers(series, ticks, max_gap, name in recording.held):
            continue
        arrays[name] = (
            series.hold(ticks) if name in recording.held else _smooth(name, series, ticks)
        )
    # Without joints nobody knows what was commanded: one action that is always zero, and a tag
    # that says so.
    actions, tags["action_space"] = np.zeros((steps, 1), np.float32), "none"
    if recording.joint_pos:
        joints = list(recording.joint_pos)
        columns = [one.interpolate(ticks) for one in recording.joint_pos.values()]
        position = arrays["obs/joint_pos"] = np.concatenate(columns, axis=1)
        velocity = [recording.joint_vel.get(joint) for joint in joints]
        if all(v is not None and _covers(v, ticks, max_gap, False) for v in velocity):
            columns = [v.interpolate(ticks) for v in velocity]
            arrays["obs/joint_vel"] = np.concatenate(columns, axis=1)
        # At the last step nothing is known to follow: it stays where it is.
        delta = np.diff(position, axis=0, append=position[-1:])
        scale = float(np.abs(delta).max()) or 1.0
        actions = unit_actions(delta, scale)
        tags |= {"action_space": "joint_delta", "action_scale": scale, "joints": joints}
    tags["topics"] = {n: t for n, t in recording.topics.items() if n in arrays}
    if recording.read < recording.reported:
        tags["messages_missing"] = recording.reported - recording.read

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
        labels=part("labels/"),
        tags=tags,
    )


def _covers(series: Series, ticks: np.ndarray, max_gap: int, held: bool) -> bool:
    """Says whether a signal is known over a whole episode."""
    if not len(series):
        return False
    if held:
        return series.stamps[0] <= ticks[0] + max_gap
    inside = series.spans(max_gap)
    return bool(
        ((inside[:, 0] <= ticks[0] + max_gap) & (inside[:, 1] >= ticks[-1] - max_gap)).any()
    )


def _smooth(name: str, series: Series, ticks: np.ndarray) -> np.ndarray:
    """Interpolates a measurement; a quaternion on the shorter way round, and of length one."""
    if not name.endswith("_quat"):
        return series.interpolate(ticks)
    values = series.values
    # q and -q are the same turn: choose the sign nearest to the sample before.
    turns = np.where((values[1:] * values[:-1]).sum(1) < 0, -1.0, 1.0)
    signs = np.cumprod(np.append(1.0, turns))[:, None]
    result = Series(series.stamps, values * signs).interpolate(ticks)
    return result / np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-9)
