"""HDF5 files from elsewhere: only numbers that really lie in the file are read."""

from __future__ import annotations

import re
from typing import Any

import h5py
import numpy as np

from lib.episode.hdf5 import MemberError, member
from lib.ingest.report import UnusableError


def child(group: h5py.Group, name: str, kind: type | tuple[type, ...]) -> Any:
    """Returns a member that really lies in this file.

    Links, virtual and external datasets make a recording show the content of other files, which
    nobody checksums. No recorder writes them.

    Args:
        group: Holds the member.
        name: Its name.
        kind: ``h5py.Group``, ``h5py.Dataset`` or both.

    Raises:
        UnusableError: If it is missing, of another kind, no numbers, or lies elsewhere.
    """
    try:
        return member(group, name, kind)
    except MemberError as error:
        raise UnusableError(f"{group.name.rstrip('/')}/{name}: {error}") from None


def holds(group: h5py.Group, name: str) -> bool:
    """Says whether a member is there, were it only a link.

    Args:
        group: Holds the member.
        name: Its name.
    """
    return group.get(name, getlink=True) is not None


def members(group: h5py.Group) -> list[str]:
    """Returns the names in a group, in the order of the text.

    Args:
        group: A group.

    Raises:
        UnusableError: If one is no text.
    """
    names = list(group)
    if not all(isinstance(name, str) for name in names):  # h5py gives broken UTF-8 as bytes
        raise UnusableError(f"{group.name} holds a name that is not UTF-8")
    return names


def numbered(group: h5py.Group, prefix: str) -> list[str]:
    """Returns the members called ``prefix`` and a number, in the order of the numbers.

    As text, demo_10 comes before demo_2.

    Args:
        group: A group.
        prefix: E.g. ``demo_``.
    """
    names = [n for n in group if isinstance(n, str) and re.fullmatch(prefix + "[0-9]{1,18}", n)]
    return sorted(names, key=lambda name: int(name.removeprefix(prefix)))


def array(group: h5py.Group, name: str) -> np.ndarray:
    """Returns an array of numbers as float32, (T, D).

    Args:
        group: Holds the dataset.
        name: Its name.

    Raises:
        UnusableError: If it is missing, no numbers, not of one or two dimensions, or elsewhere.
    """
    dataset = child(group, name, h5py.Dataset)
    if dataset.ndim not in (1, 2):
        raise UnusableError(f"{name} is {dataset.ndim}-dimensional")
    with np.errstate(over="ignore"):  # too large for float32 is infinite, and found as that
        values = dataset[()].astype(np.float32)
    return values[:, None] if values.ndim == 1 else values
