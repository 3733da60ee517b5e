"""Reads HDF5 files from other sources; only numbers that are stored in the file itself count."""

from __future__ import annotations

import re
from typing import Any

import h5py
import numpy as np

from lib.base.hdf5 import MemberError, member
from lib.ingest.report import UnusableError


def child(group: h5py.Group, name: str, kind: type | tuple[type, ...]) -> Any:
    """Returns a member of a group that is stored in this file itself.

    Links, virtual datasets and external datasets make a recording show the content of other files,
    for which there is no checksum. No recorder writes them.

    Args:
        group: Group that holds the member.
        name: Name of the member.
        kind: Permitted types: ``h5py.Group``, ``h5py.Dataset`` or both.

    Raises:
        UnusableError: If it is missing, has another type, holds no numbers, or is stored elsewhere.
    """
    try:
        return member(group, name, kind)
    except MemberError as error:
        raise UnusableError(f"{group.name.rstrip('/')}/{name}: {error}") from None


def holds(group: h5py.Group, name: str) -> bool:
    """Returns whether a member exists, even if it is only a link.

    Args:
        group: Group that may hold the member.
        name: Name of the member.
    """
    return group.get(name, getlink=True) is not None


def members(group: h5py.Group) -> list[str]:
    """Returns the names of a group's members, in alphabetical order.

    Args:
        group: A group.

    Raises:
        UnusableError: If a name is not valid UTF-8.
    """
    names = list(group)
    if not all(isinstance(name, str) for name in names):  # h5py gives broken UTF-8 as bytes
        raise UnusableError(f"{group.name} holds a name that is not UTF-8")
    return names


def numbered(group: h5py.Group, prefix: str) -> list[str]:
    """Returns the members with names of ``prefix`` and a number, in the order of the numbers.

    In alphabetical order, demo_10 would come before demo_2.

    Args:
        group: A group.
        prefix: Prefix of the names, e.g. ``demo_``.
    """
    names = [n for n in group if isinstance(n, str) and re.fullmatch(prefix + "[0-9]{1,18}", n)]
    return sorted(names, key=lambda name: int(name.removeprefix(prefix)))


def array(group: h5py.Group, name: str) -> np.ndarray:
    """Returns an array of numbers as float32, (T, D).

    Args:
        group: Group that holds the dataset.
        name: Name of the dataset.

    Raises:
        UnusableError: If it is missing, holds no numbers, does not have one or two dimensions, or
            is stored elsewhere.
    """
    dataset = child(group, name, h5py.Dataset)
    if dataset.ndim not in (1, 2):
        raise UnusableError(f"{name} is {dataset.ndim}-dimensional")
    with np.errstate(over="ignore"):  # overflow gives infinity, rejected later
        values = dataset[()].astype(np.float32)
    return values[:, None] if values.ndim == 1 else values
