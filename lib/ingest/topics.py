"""Which topics of a bag are read, and for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rosbags.highlevel import AnyReader

from lib.ingest.fields import SIGNALS
from lib.ingest.pictures import colourfulness
from lib.ingest.report import UnusableError, some
from lib.params import Phase1Ros

IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
JOINT_TYPES = ("sensor_msgs/msg/JointState",)

ACTIONS = "actions"
"""Name of the mapped commands among the signals."""

TAKEN = ("obs/image", "labels/segmentation", "labels/time_s")
"""Arrays that no mapping may replace."""

TAKEN_BY_JOINTS = ("obs/joint_pos", "obs/joint_vel")
"""The same, in a bag whose joints are read."""


@dataclass(frozen=True)
class Mapped:
    """An array that params.yaml asks for.

    Attributes:
        name: Its path in the episode, or ACTIONS.
        selection: ``/topic`` or ``/topic:field,field``.
        key: The parameter that says so, for messages.
    """

    name: str
    selection: str
    key: str

    @property
    def topic(self) -> str:
        """Where the messages are."""
        return self.selection.partition(":")[0]

    @property
    def fields(self) -> list[str]:
        """Dotted paths in a message; none for what its type holds by default."""
        return [path for path in self.selection.partition(":")[2].split(",") if path]


@dataclass(frozen=True)
class Plan:
    """What is read from a bag.

    Attributes:
        kinds: Message type of each topic that is read.
        image: The camera's topic, if there is one.
        joint: The joints' topic, if there is one.
        mapped: Arrays that params.yaml asks for.
    """

    kinds: dict[str, str]
    image: str | None
    joint: str | None
    mapped: list[Mapped]


def choose(reader: AnyReader, settings: Phase1Ros) -> Plan:
    """Decides what is read from a bag.

    Args:
        reader: Open.
        settings: The section phase1_ros of params.yaml.

    Raises:
        UnusableError: If a topic that is asked for is not there, or nothing of use is.
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
                f"{one.key}: {one.name} is what pictures or joints become; choose another name"
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
    """Returns the first of the most colourful cameras, as their first pictures are."""

    def rank(topic: str) -> int:
        first = next(reader.messages([c for c in reader.connections if c.topic == topic]), None)
        return colourfulness(reader.deserialize(first[2], first[0].msgtype)) if first else 0

    return max(topics, key=rank)
