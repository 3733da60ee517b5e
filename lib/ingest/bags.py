"""ROS 1 and ROS 2 bags, read without ROS: which topics are of use, and what their messages hold.

=================================  ==================================================
message type                       becomes
=================================  ==================================================
sensor_msgs/Image, CompressedImage obs/image, labels/segmentation
sensor_msgs/JointState             obs/joint_pos, obs/joint_vel, actions
geometry_msgs/PoseStamped          obs/eef_pos (m), obs/eef_quat (x, y, z, w)
geometry_msgs/TwistStamped         obs/eef_vel (m/s, then rad/s)
geometry_msgs/WrenchStamped        obs/wrench (N, then N m)
trajectory_msgs/JointTrajectory    labels/joint_target, its last point
std_msgs/Float64MultiArray         labels/command
=================================  ==================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

from lib.ingest.pictures import colourfulness, decode, square
from lib.ingest.report import UnusableError
from lib.ingest.series import NS, Series
from lib.params import Phase1Ros

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
JOINT_TYPES = ("sensor_msgs/msg/JointState",)
BAG_SUFFIXES = (".bag", ".db3", ".mcap")
NOT_RECORDINGS = (".md", ".dvc", ".txt")


@dataclass(frozen=True)
class Signal:
    """What the messages of a type hold besides pictures and joints.

    Attributes:
        read: Gives the arrays (D,) of a message, by their path in the episode.
        hold: A command holds until the next; a measurement is interpolated.
    """

    read: Callable[[Any], dict[str, np.ndarray]]
    hold: bool = False


def _numbers(*parts: Any) -> np.ndarray:
    return np.array([getattr(part, axis) for part in parts for axis in "xyz"], float)


def _pose(message: Any) -> dict[str, np.ndarray]:
    turn = message.pose.orientation
    return {
        "obs/eef_pos": _numbers(message.pose.position),
        "obs/eef_quat": np.append(_numbers(turn), turn.w),
    }


SIGNALS: dict[str, Signal] = {
    "geometry_msgs/msg/PoseStamped": Signal(_pose),
    "geometry_msgs/msg/TwistStamped": Signal(
        lambda m: {"obs/eef_vel": _numbers(m.twist.linear, m.twist.angular)}
    ),
    "geometry_msgs/msg/WrenchStamped": Signal(
        lambda m: {"obs/wrench": _numbers(m.wrench.force, m.wrench.torque)}
    ),
    "trajectory_msgs/msg/JointTrajectory": Signal(
        lambda m: (
            {"labels/joint_target": np.asarray(m.points[-1].positions, float)} if m.points else {}
        ),
        hold=True,
    ),
    "std_msgs/msg/Float64MultiArray": Signal(
        lambda m: {"labels/command": np.asarray(m.data, float)}, hold=True
    ),
}


@dataclass
class Recording:
    """The topics of a bag that are used, each on its own clock.

    Attributes:
        backend: ``"ros1"`` or ``"ros2"``.
        topics: Which topic became what.
        images: (N, size, size, 3) uint8.
        joint_pos: For each joint (N, 1) rad or m, in the order of the messages.
        joint_vel: The same, rad/s or m/s; joints without velocities are missing.
        signals: (N, D) by path in the episode.
        held: Which signals are commands.
        reported: Messages that the bag's index promises for these topics.
        read: Messages that it gave.
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


def find_bags(folder: Path) -> tuple[list[Path], list[Path]]:
    """Returns the bags in a folder and its subfolders, and the files that are none.

    Args:
        folder: A rosbag2 folder inside is one bag.
    """
    bags, others = [], []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.suffix in NOT_RECORDINGS:
            continue
        if path.is_dir() and not (path / "metadata.yaml").exists():
            inner = find_bags(path)
            bags += inner[0]
            others += inner[1]
        elif path.is_dir() or path.suffix in BAG_SUFFIXES:
            bags.append(path)
        else:
            others.append(path)
    return bags, others


def read_recording(path: Path, settings: Phase1Ros, image_size: int) -> Recording:
    """Reads the topics of a bag.

    Args:
        path: A .bag, .db3 or .mcap file or a rosbag2 folder.
        settings: The section phase1_ros of params.yaml.
        image_size: Pixels, square.

    Raises:
        UnusableError: If it cannot be read or holds nothing of use.
    """
    attempts = [[path]]
    if path.is_dir():
        # A folder whose metadata.yaml describes a topic otherwise than the storage file, e.g. in
        # its quality of service, promises messages and yields none. The bare file yields them.
        attempts.append(sorted(p for p in path.iterdir() if p.suffix in BAG_SUFFIXES))
    best: Recording | None = None
    reason: UnusableError | None = None
    for paths in filter(None, attempts):
        try:
            recording = _read(paths, settings, image_size)
        except UnusableError as error:
            reason = reason or error
            continue
        if best is None or recording.read > best.read:
            best = recording
        if best.read >= best.reported:
            break
    if best is None:
        raise reason or UnusableError("it holds no storage file")
    if not best.read:
        raise UnusableError(f"it promises {best.reported} messages on its topics and yields none")
    return best


def _read(paths: list[Path], settings: Phase1Ros, image_size: int) -> Recording:
    """Reads the chosen topics of one recording, given as a folder or as its files."""
    images: list[np.ndarray] = []
    image_stamps: list[int] = []
    joints: dict[tuple[str, ...], list[tuple[int, np.ndarray, np.ndarray]]] = {}
    signals: dict[str, list[tuple[int, np.ndarray]]] = {}
    try:
        reader = AnyReader(paths, default_typestore=get_typestore(Stores.ROS2_HUMBLE))
        with reader:
            recording = Recording("ros2" if reader.is2 else "ros1")
            chosen = _choose_topics(reader, settings)
            wanted = [c for c in reader.connections if chosen.get(c.topic) == c.msgtype]
            recording.reported = sum(c.msgcount for c in wanted)
            for connection, bag_stamp, raw in reader.messages(wanted) if wanted else ():
                message = reader.deserialize(raw, connection.msgtype)
                recording.read += 1
                topic, kind = connection.topic, connection.msgtype
                stamp = _stamp(message, bag_stamp, settings.clock)
                if kind in IMAGE_TYPES or kind in JOINT_TYPES:
                    if stamp is None:
                        raise UnusableError(
                            f"{topic}: no header stamps; set phase1_ros.clock to bag"
                        )
                elif stamp is None:
                    continue
                if kind in IMAGE_TYPES:
                    recording.topics["obs/image"] = topic
                    image_stamps.append(stamp)
                    images.append(square(decode(message), image_size))
                elif kind in JOINT_TYPES:
                    recording.topics["obs/joint_pos"] = topic
                    joints.setdefault(tuple(message.name), []).append(
                        (stamp, np.asarray(message.position), np.asarray(message.velocity))
                    )
                else:
                    for name, value in SIGNALS[kind].read(message).items():
                        if recording.topics.setdefault(name, topic) == topic:
                            signals.setdefault(name, []).append((stamp, value))
                            recording.held |= {name} if SIGNALS[kind].hold else set()
    except UnusableError:
        raise
    except Exception as error:  # rosbags' parsers raise whatever broken bytes lead them to.
        raise UnusableError(
            f"not readable as a ROS bag ({type(error).__name__}: {error})"
        ) from None
    if images:
        recording.images = Series.of(image_stamps, np.stack(images))
    recording.joint_pos = _by_joint(joints, 1)
    recording.joint_vel = _by_joint(joints, 2)
    for name, samples in signals.items():
        if len({len(value) for _, value in samples}) == 1:
            recording.signals[name] = Series.of(*map(list, zip(*samples, strict=True)))
    return recording


def _choose_topics(reader: AnyReader, settings: Phase1Ros) -> dict[str, str]:
    """Returns the message type of each topic that is read."""
    present = {c.topic: c.msgtype for c in reader.connections if c.msgcount}

    def mapped(parameter: str, types: tuple[str, ...]) -> list[str]:
        topic = getattr(settings, parameter)
        candidates = [name for name, kind in present.items() if kind in types]
        if topic == "none":
            return []
        if topic != "auto" and topic not in candidates:
            raise UnusableError(
                f"no messages of {types[0]} on {topic!r}; phase1_ros.{parameter} can be: "
                + ", ".join([*candidates, "auto", "none"])
            )
        return candidates if topic == "auto" else [topic]

    image, joint = mapped("image_topic", IMAGE_TYPES), mapped("joint_topic", JOINT_TYPES)
    if len(image) > 1:

        def rank(topic: str) -> int:
            first = next(reader.messages([c for c in reader.connections if c.topic == topic]), None)
            return colourfulness(reader.deserialize(first[2], first[0].msgtype)) if first else 0

        image = [max(image, key=rank)]  # the first of the most colourful
    chosen = [*image, *joint[:1], *(name for name, kind in present.items() if kind in SIGNALS)]
    if not chosen:
        found = ", ".join(sorted(set(present.values()))) or "no messages at all"
        raise UnusableError(f"no topic of a type that is read; it has {found}")
    return {topic: present[topic] for topic in chosen}


def _stamp(message: Any, bag_stamp: int, which: str) -> int | None:
    """Returns the time of a message, ns; none if its header was to say it and does not."""
    if which == "bag":
        return bag_stamp
    header = getattr(message, "header", None)
    stamp = header.stamp.sec * NS + header.stamp.nanosec if header else 0
    return stamp or None


def _by_joint(
    messages: dict[tuple[str, ...], list[tuple[int, np.ndarray, np.ndarray]]], part: int
) -> dict[str, Series]:
    """Takes JointState messages apart: arm and gripper may share a topic, each with its names."""
    samples: dict[str, tuple[list[int], list[float]]] = {}
    for names, group in messages.items():
        for message in group:
            if len(message[part]) == len(names):  # empty where the driver does not measure it
                for name, value in zip(names, message[part], strict=True):
                    stamps, values = samples.setdefault(name, ([], []))
                    stamps.append(message[0])
                    values.append(value)
    series = {n: Series.of(s, np.array(v, float)[:, None]) for n, (s, v) in samples.items()}
    return {name: one for name, one in series.items() if len(one)}
