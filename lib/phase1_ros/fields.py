"""Extracts numbers from ROS messages by dotted paths: ``wrench.force``, ``points.-1.positions``.

A path may end at a number, an array of numbers, or a message in which all fields are numbers. A
number within the path selects an item of a list. Without a mapping, each type becomes:

=================================  ==================================================
message type                       becomes
=================================  ==================================================
geometry_msgs/PoseStamped          obs/eef_pos (m), obs/eef_quat (x, y, z, w)
geometry_msgs/TwistStamped         obs/eef_vel (m/s, then rad/s)
geometry_msgs/WrenchStamped        obs/wrench (N, then N m)
trajectory_msgs/JointTrajectory    labels/joint_target, from the last point
std_msgs/Float64MultiArray         labels/command
=================================  ==================================================
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from lib.ingest.report import UnusableError, some

SIGNALS: dict[str, dict[str, str]] = {
    "geometry_msgs/msg/PoseStamped": {
        "obs/eef_pos": "pose.position",
        "obs/eef_quat": "pose.orientation",
    },
    "geometry_msgs/msg/TwistStamped": {"obs/eef_vel": "twist"},
    "geometry_msgs/msg/WrenchStamped": {"obs/wrench": "wrench"},
    "trajectory_msgs/msg/JointTrajectory": {"labels/joint_target": "points.-1.positions"},
    "std_msgs/msg/Float64MultiArray": {"labels/command": "data"},
}
"""For each message type, the arrays that it fills, each with its field of the message."""

COMMANDS = ("trajectory_msgs/msg/JointTrajectory", "std_msgs/msg/Float64MultiArray")
"""Types that are held until the next message; other types are measurements and interpolated."""


def default_fields(message: Any) -> list[str]:
    """Returns the fields to read from a message if a mapping names no fields.

    Args:
        message: A message of any type.
    """
    kind = message.__msgtype__
    if kind in SIGNALS:
        return list(SIGNALS[kind].values())
    names = field_names(message)
    if kind == "sensor_msgs/msg/JointState":
        return ["position"]
    return ["data"] if "data" in names else [name for name in names if name != "header"]


def field_names(message: Any) -> list[str]:
    """Returns the names of a message's fields; empty if the value is not a message.

    Args:
        message: A message, or a value inside one.
    """
    if not dataclasses.is_dataclass(message):
        return []
    return [f.name for f in dataclasses.fields(message) if not f.name.startswith("__")]


def numbers(message: Any, fields: Sequence[str]) -> tuple[np.ndarray | None, bool]:
    """Returns the numbers in some fields of a message, concatenated.

    Args:
        message: A message of any type.
        fields: Dotted paths of the fields.

    Returns:
        (D,) float64, or None if this message holds nothing there, e.g. a trajectory without
        points; and whether any of the values is an integer or a boolean.

    Raises:
        UnusableError: If a field does not exist or holds no numbers.
    """
    parts: list[np.ndarray] = []
    for path in fields:
        value = _follow(message, path)
        if value is None:
            return None, False
        _flatten(value, path, parts)
    whole = any(part.dtype.kind != "f" for part in parts)
    vector = np.concatenate([np.ravel(part).astype(float) for part in parts] or [np.zeros(0)])
    return (vector if len(vector) else None), whole


def _follow(message: Any, path: str) -> Any:
    """Returns the value at a path, or None if a list along the path is too short."""
    value = message
    for part in path.split("."):
        if isinstance(value, list | tuple | np.ndarray) and re.fullmatch(r"-?\d+", part):
            if not -len(value) <= int(part) < len(value):
                return None
            value = value[int(part)]
        elif part in field_names(value):
            value = getattr(value, part)
        else:
            there = some(field_names(value), 12) or "no fields"
            raise UnusableError(
                f"{message.__msgtype__} has no {path!r}; in the place of {part!r} it has {there}"
            )
    return value


def _flatten(value: Any, path: str, parts: list[np.ndarray]) -> None:
    """Appends every number in a value, in the order of the fields."""
    if names := field_names(value):
        for name in names:
            _flatten(getattr(value, name), f"{path}.{name}", parts)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _flatten(item, f"{path}.{index}", parts)
    else:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise UnusableError(f"{path!r} holds text, no numbers; name fields with numbers")
        parts.append(array)
