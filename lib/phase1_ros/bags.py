"""Reads the chosen topics of ROS 1 and ROS 2 bags without a ROS installation.

Images become obs/image and labels/segmentation. Joint states become obs/joint_pos, obs/joint_vel
and actions. lib/phase1_ros/fields.py says what the other types become. params.yaml can map any
topic to an array.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from lib.ingest.folders import find
from lib.ingest.pictures import decode, square
from lib.ingest.report import UnusableError, some
from lib.ingest.series import NS, Series
from lib.phase1_ros import Phase1Ros
from lib.phase1_ros.fields import COMMANDS, SIGNALS, default_fields, numbers
from lib.phase1_ros.topics import Plan, choose

BAG_SUFFIXES = (".bag", ".db3", ".mcap")
METADATA = "metadata.yaml"


class JointSample(NamedTuple):
    """A JointState message.

    Attributes:
        stamp: Time of the message, ns.
        position: Positions of the joints; empty if the driver does not measure them.
        velocity: Velocities of the joints; empty if the driver does not measure them.
    """

    stamp: int
    position: np.ndarray
    velocity: np.ndarray


Joints = dict[tuple[str, ...], list[JointSample]]
"""JointState messages, grouped by the joints that they name."""


@dataclass
class Recording:
    """The signals read from a bag, each on its own clock.

    Attributes:
        backend: ``"ros1"`` or ``"ros2"``.
        topics: Topic from which each array was read, by path of the array.
        images: (N, size, size, 3) uint8.
        joint_pos: Positions of each joint, (N, 1) rad or m, with joints in the messages' order.
        joint_vel: Velocities of each joint, (N, 1) rad/s or m/s; joints without them are missing.
        signals: (N, D) by path in the episode; ``topics.ACTIONS`` is the key of mapped commands.
        held: Names of the signals that hold their value until the next sample.
        reported: Number of messages that the bag's index announces for these topics.
        read: Number of messages that the bag yielded.
        notes: Anything unusual about the bag.
    """

    backend: str
    topics: dict[str, str] = field(default_factory=dict)
    images: Series | None = None
    joint_pos: dict[str, Series] = field(default_factory=dict)
    joint_vel: dict[str, Series] = field(default_factory=dict)
    signals: dict[str, Series] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    reported: int = 0
    read: int = 0
    notes: list[str] = field(default_factory=list)


def find_bags(folder: Path) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Returns the bags in a folder and its subfolders, and all other paths with the reason.

    Args:
        folder: Folder to search. A rosbag2 folder inside it is one bag; without its metadata.yaml,
            each of its storage files is one bag.
    """
    return find(folder, BAG_SUFFIXES, METADATA)


def read_recording(path: Path, settings: Phase1Ros, image_size: int) -> Recording:
    """Reads the chosen topics of a bag.

    Args:
        path: A .bag, .db3 or .mcap file or a rosbag2 folder.
        settings: The section phase1_ros of params.yaml.
        image_size: Width and height of the images, pixels.

    Raises:
        UnusableError: If the bag cannot be read or holds no usable data.
    """
    attempts = [[path]]
    if path.is_dir():
        # If metadata.yaml describes a topic differently from the storage file, e.g. in its quality
        # of service, the folder announces messages but yields none. The storage file alone yields
        # them.
        attempts.append(sorted(p for p in path.iterdir() if p.suffix in BAG_SUFFIXES))
    best: Recording | None = None
    reason: UnusableError | None = None
    promised = 0
    for paths in filter(None, attempts):
        try:
            recording = _read(paths, settings, image_size)
        except UnusableError as error:
            reason = reason or error
            continue
        promised = max(promised, recording.reported)
        if best is None or recording.read > best.read:
            best = recording
        if best.read >= promised:
            break
    if best is None:
        raise reason or UnusableError("it holds no storage file")
    if not best.read:
        raise UnusableError(f"its index lists {promised} messages, but none can be read")
    if reason is not None:
        best.notes.append(f"read from its storage files alone, because: {reason}")
    best.reported = promised
    if best.read < promised:
        best.notes.append(f"its index lists {promised} messages, but only {best.read} can be read")
    return best


def _read(paths: list[Path], settings: Phase1Ros, image_size: int) -> Recording:
    """Reads the chosen topics of one recording, given as a folder or as its files."""
    try:
        reader = AnyReader(paths, default_typestore=get_typestore(Stores.ROS2_HUMBLE))
        with reader:
            plan = choose(reader, settings)
            collector = _Collector(plan, settings.clock, image_size)
            wanted = [c for c in reader.connections if plan.kinds.get(c.topic) == c.msgtype]
            for connection, stamp, raw in reader.messages(wanted):
                message = reader.deserialize(raw, connection.msgtype)
                collector.take(connection.topic, connection.msgtype, stamp, message)
            recording = collector.recording("ros2" if reader.is2 else "ros1")
            recording.reported = sum(c.msgcount for c in wanted)
            return recording
    except UnusableError:
        raise
    except Exception as error:  # Broken bytes can raise any kind of error in rosbags.
        raise UnusableError(
            f"not readable as a ROS bag ({type(error).__name__}: {error})"
        ) from None


class _Collector:
    """Takes the messages of a bag one by one and collects their values."""

    def __init__(self, plan: Plan, clock: str, image_size: int) -> None:
        self._plan, self._clock, self._image_size = plan, clock, image_size
        self._names = {one.name for one in plan.mapped}
        self._topics = {one.name: one.selection for one in plan.mapped}
        self._images: tuple[list[int], list[np.ndarray]] = ([], [])
        self._joints: Joints = {}
        self._signals: dict[str, list[tuple[int, np.ndarray]]] = {}
        self._held: set[str] = set()
        self._unstamped: set[str] = set()
        self._read = 0

    def take(self, topic: str, kind: str, bag_stamp: int, message: Any) -> None:
        """Adds the values of one message from a topic that is read.

        Args:
            topic: Topic of the message.
            kind: Type of the message.
            bag_stamp: Time at which the message was recorded, ns.
            message: The message.

        Raises:
            UnusableError: If the message does not hold the fields that params.yaml asks for.
        """
        self._read += 1
        plan, stamp = self._plan, _stamp(message, bag_stamp, self._clock)
        mapped = [one for one in plan.mapped if one.topic == topic]
        if stamp is None:
            if mapped or topic in (plan.image, plan.joint):
                raise UnusableError(f"{topic}: no header stamps; set phase1_ros.clock to bag")
            self._unstamped.add(topic)
            return
        if topic == plan.image:
            self._topics["obs/image"] = topic
            self._images[0].append(stamp)
            self._images[1].append(square(decode(message), self._image_size))
        elif topic == plan.joint:
            self._topics["obs/joint_pos"] = topic
            self._joints.setdefault(tuple(message.name), []).append(
                JointSample(stamp, np.asarray(message.position), np.asarray(message.velocity))
            )
        for one in mapped:
            try:
                self._keep(one.name, stamp, message, one.fields or default_fields(message))
            except UnusableError as error:
                raise UnusableError(f"{one.key}: {error}") from None
        for name, path in SIGNALS.get(kind, {}).items():
            # Uses the first topic of each type; a mapping in params.yaml has priority.
            if name not in self._names and self._topics.setdefault(name, topic) == topic:
                self._keep(name, stamp, message, [path])

    def _keep(self, name: str, stamp: int, message: Any, fields: list[str]) -> None:
        value, whole = numbers(message, fields)
        if value is None:
            return
        self._signals.setdefault(name, []).append((stamp, value))
        # Counts, switches and commands are held, because values between them have no meaning.
        if whole or message.__msgtype__ in COMMANDS:
            self._held.add(name)

    def recording(self, backend: str) -> Recording:
        """Returns everything that was collected, in the order of the stamps.

        Args:
            backend: ``"ros1"`` or ``"ros2"``.

        Raises:
            UnusableError: If a signal that params.yaml asks for has no finite numbers, or has
                different lengths in different messages.
        """
        found = Recording(backend, topics=self._topics, held=self._held, read=self._read)
        if not self._read:
            return found  # the caller reports that no message could be read
        if self._images[0]:
            found.images = Series.of(self._images[0], np.stack(self._images[1]))
        found.joint_pos = _by_joint(self._joints, "position")
        found.joint_vel = _by_joint(self._joints, "velocity")
        lost = {n for names in self._joints for n in names} - set(found.joint_pos)
        if lost:
            found.notes.append(f"no finite position of the joints {some(sorted(lost))}: left out")
        keys = {one.name: one.key for one in self._plan.mapped}
        for name in [*keys, *(n for n in self._signals if n not in keys)]:
            samples = self._signals.get(name, [])
            lengths = sorted({len(value) for _, value in samples})
            if len(lengths) == 1:
                series = Series.of([stamp for stamp, _ in samples], [value for _, value in samples])
                if len(series):
                    found.signals[name] = series
                    continue
            where = self._topics[name]
            reason = f"{where} holds no finite number"
            if len(lengths) > 1:
                reason = f"the length of {where} changes ({some(map(str, lengths))} numbers)"
            if name in keys:
                raise UnusableError(f"{keys[name]}: {reason}")
            found.notes.append(f"{reason}: {name} is left out")
        found.notes += [
            f"{topic} has no header stamps, and phase1_ros.clock is header: left out"
            for topic in sorted(self._unstamped)
        ]
        return found


def _stamp(message: Any, bag_stamp: int, which: str) -> int | None:
    """Returns the time of a message, ns; None if the header should give it but does not."""
    if which == "bag":
        return bag_stamp
    header = getattr(message, "header", None)
    stamp = header.stamp.sec * NS + header.stamp.nanosec if header else 0
    return stamp or None


def _by_joint(messages: Joints, part: Literal["position", "velocity"]) -> dict[str, Series]:
    """Returns one series per joint; arm and gripper may share a topic in separate messages."""
    samples: dict[str, tuple[list[int], list[float]]] = {}
    for names, group in messages.items():
        for message in group:
            measured = getattr(message, part)
            if len(measured) == len(names):
                for name, value in zip(names, measured, strict=True):
                    stamps, values = samples.setdefault(name, ([], []))
                    stamps.append(message.stamp)
                    values.append(value)
    series = {n: Series.of(s, np.array(v, float)[:, None]) for n, (s, v) in samples.items()}
    return {name: one for name, one in series.items() if len(one)}
