"""Chooses which topics of a bag are read and which arrays they fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rosbags.highlevel import AnyReader

from lib.ingest.pictures import colourfulness
from lib.ingest.report import UnusableError, some
from lib.phase1_ros import Phase1Ros
from lib.phase1_ros.fields import SIGNALS

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
JOINT_TYPES = ("sensor_msgs/msg/JointState",)

ACTIONS = "actions"
"""Key of the mapped commands among the signals."""

TAKEN = ("obs/image", "labels/segmentation", "labels/time_s")
"""Arrays that no mapping may replace."""

TAKEN_BY_JOINTS = ("obs/joint_pos", "obs/joint_vel")
"""Arrays that no mapping may replace if the joints of the bag are read."""


@dataclass(frozen=True)
class Mapped:
    """An array that params.yaml asks for.

    Attributes:
        name: Path of the array in the episode, or ACTIONS.
        selection: ``/topic`` or ``/topic:field,field``.
        key: Name of the parameter that asks for the array, for error messages.
    """

    name: str
    selection: str
    key: str

    @property
    def topic(self) -> str:
        """Topic of the messages."""
        return self.selection.partition(":")[0]

    @property
    def fields(self) -> list[str]:
        """Dotted paths in a message; empty for the default fields of its type."""
        return [path for path in self.selection.partition(":")[2].split(",") if path]


@dataclass(frozen=True)
class Plan:
    """Topics and arrays that are read from a bag.

    Attributes:
        kinds: Message type of each topic that is read.
        image: Topic of the camera, if there is one.
        joint: Topic of the joints, if there is one.
        mapped: Arrays that params.yaml asks for.
    """

    kinds: dict[str, str]
    image: str | None
    joint: str | None
    mapped: list[Mapped]


def choose(reader: AnyReader, settings: Phase1Ros) -> Plan:
    """Decides what is read from a bag.

    Args:
        reader: Open reader of the bag.
        settings: The section phase1_ros of params.yaml.

    Raises:
        UnusableError: If a topic that params.yaml asks for is missing, or no topic can be used.
    """
    present = {c.topic: c.msgtype for c in reader.connections if c.msgcount}
    images = _candidates(present, settings.image_topic, "image_topic", IMAGE_TYPES)
    joints = _candidates(present, settings.joint_topic, "joint_topic", JOINT_TYPES)
    image = _most_colourful(reader, images) if len(images) > 1 else next(iter(images), None)
    joint = next(iter(joints), None)
    mapped = _mapped(settings)
    for one in mapped:
        if one.topic not in present:
            there = some(present) or "no messages at all"
            raise UnusableError(f"{one.key}: no messages on {one.topic}; the bag has {there}")
        if one.name in TAKEN or (joint and one.name in TAKEN_BY_JOINTS):
            raise UnusableError(
                f"{one.key}: {one.name} is reserved for pictures or joints; choose another name"
            )
    topics = [image, joint, *(one.topic for one in mapped)]
    topics += [name for name, kind in present.items() if kind in SIGNALS]
    kinds = {topic: present[topic] for topic in topics if topic}
    if not kinds:
        found = some(sorted(set(present.values()))) or "no messages at all"
        raise UnusableError(f"no topic of a type that is read; it has {found}")
    for topic, kind in kinds.items():
        if kind not in reader.typestore.types:
            raise UnusableError(
                f"{topic} holds {kind}, which the bag does not define; record it in a bag that "
                "holds definitions, or map another topic in phase1_ros"
            )
    return Plan(kinds, image, joint, mapped)


def _mapped(settings: Phase1Ros) -> list[Mapped]:
    found = [
        Mapped(name if "/" in name else f"obs/{name}", selection, f"phase1_ros.signals.{name}")
        for name, selection in settings.signals.items()
    ]
    if settings.action_topic != "joints":
        found.append(Mapped(ACTIONS, settings.action_topic, "phase1_ros.action_topic"))
    return found


def _candidates(
    present: dict[str, str], topic: str, parameter: str, types: Sequence[str]
) -> list[str]:
    found = [name for name, kind in present.items() if kind in types]
    if topic == "none":
        return []
    if topic == "auto":
        return found
    if topic not in found:
        raise UnusableError(
            f"no messages of {types[0]} on {topic!r}; phase1_ros.{parameter} can be: "
            + some(["auto", "none", *found], 8)
        )
    return [topic]


def _most_colourful(reader: AnyReader, topics: list[str]) -> str:
    """Returns the camera with the highest colour rank of its first image; of equals, the first."""

    def rank(topic: str) -> int:
        first = next(reader.messages([c for c in reader.connections if c.topic == topic]), None)
        return colourfulness(reader.deserialize(first[2], first[0].msgtype)) if first else 0

    return max(topics, key=rank)
