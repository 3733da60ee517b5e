"""Settings for turning ROS bags into episodes."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from lib.params import Positive, Section

_FIELD = r"[A-Za-z]\w*(\.([A-Za-z]\w*|-?\d+))*"
_SELECTION = re.compile(rf"/[^\s:,]+(:{_FIELD}(,{_FIELD})*)?", re.ASCII)
_ARRAY = re.compile(r"(labels/)?[A-Za-z]\w*", re.ASCII)


def _selection(value: str) -> str:
    if not _SELECTION.fullmatch(value):
        raise ValueError(f"{value!r} is neither /topic nor /topic:field.path,other.path")
    return value


def _array(value: str) -> str:
    if not _ARRAY.fullmatch(value):
        raise ValueError(f"{value!r} is neither a name such as wrench nor labels/ and a name")
    return value


def _actions(value: str) -> str:
    return value if value == "joints" else _selection(value)


class Phase1Ros(Section):
    """Settings of the reader of ROS bags."""

    rate_hz: Annotated[float, Field(gt=0, le=1000)]
    max_gap_s: Positive
    clock: Literal["bag", "header"]
    image_topic: str
    joint_topic: str
    action_topic: Annotated[str, AfterValidator(_actions)]
    signals: dict[
        Annotated[str, AfterValidator(_array)], Annotated[str, AfterValidator(_selection)]
    ]
