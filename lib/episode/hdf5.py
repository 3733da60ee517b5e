"""What episodes need of HDF5 beyond h5py's front door.

Writing: ten thousand short episodes are a hundred thousand small arrays, and h5py's high-level
calls cost more than the arrays. Reading: only what really lies in the file.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5p, h5s, h5t

from lib.errors import UserError

DAMAGE = (
    OSError,
    LookupError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
)
"""What h5py raises over broken bytes."""

COMPACT_BYTES = 32 * 1024
"""Smaller arrays stand in their object's header (64 KiB at most), which saves an allocation."""

LARGE_BYTES = 256 * 2**20
DEFLATE_MOST = 1032
"""An array beyond LARGE_BYTES must be stored: zlib packs at most this many bytes into one."""

TEXT = h5t.py_create(h5py.string_dtype(), logical=True)
SCALAR = h5s.create(h5s.SCALAR)
_type = lru_cache(maxsize=None)(lambda dtype: h5t.py_create(dtype, logical=True))


class MemberError(UserError):
    """A member of a group that is missing, of another kind, or not in this file."""


# Writing


def _creation(compact: bool) -> h5p.PropDCID:
    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)  # a time stamp would change the bytes
    if compact:
        properties.set_layout(h5d.COMPACT)
    return properties


def _link(encoding: int) -> h5p.PropLCID:
    properties = h5p.create(h5p.LINK_CREATE)
    properties.set_create_intermediate_group(True)
    properties.set_char_encoding(encoding)
    return properties


PLAIN, COMPACT = _creation(False), _creation(True)
ASCII, UTF8 = _link(h5t.CSET_ASCII), _link(h5t.CSET_UTF8)


def _links(name: str) -> h5p.PropLCID:
    return ASCII if name.isascii() else UTF8


def write_group(parent: h5py.Group, name: str) -> h5py.Group:
    """Makes a group.

    Args:
        parent: Where.
        name: Its name.
    """
    return h5py.Group(h5g.create(parent.id, name.encode(), lcpl=_links(name)))


def write_text(group: h5py.Group, name: str, text: str) -> None:
    """Writes an attribute of text.

    Args:
        group: Whose.
        name: The attribute's, new.
        text: Any, UTF-8.
    """
    attribute = h5a.create(group.id, name.encode(), TEXT, SCALAR)
    attribute.write(np.array(text, dtype=h5py.string_dtype()))


def write_count(group: h5py.Group, name: str, count: int) -> None:
    """Writes an attribute of one whole number, 64 bits.

    Args:
        group: Whose.
        name: The attribute's, new.
        count: Its value.
    """
    attribute = h5a.create(group.id, name.encode(), h5t.STD_I64LE, SCALAR)
    attribute.write(np.array(count, np.int64))


def write_array(group: h5py.Group, name: str, array: np.ndarray) -> None:
    """Writes an array, compressed from three axes on.

    Args:
        group: Where.
        name: Its path from there.
        array: (T, ...).
    """
    if array.ndim >= 3 and array.size:
        # Pictures are chunked a few frames each: a training batch reads single frames. Level 1
        # of gzip, which every HDF5 reader has, halves them at little cost.
        chunks = (min(8, len(array)), *array.shape[1:])
        group.create_dataset(
            name, data=array, chunks=chunks, compression="gzip", compression_opts=1
        )
        return
    properties = COMPACT if array.nbytes <= COMPACT_BYTES else PLAIN
    space, kind = h5s.create_simple(array.shape), _type(array.dtype)
    dataset = h5d.create(group.id, name.encode(), kind, space, dcpl=properties, lcpl=_links(name))
    dataset.write(h5s.ALL, h5s.ALL, np.ascontiguousarray(array), kind)


def _source(path: str) -> str:
    return path.replace("%", "%%")  # HDF5 reads "%" as the start of a format


def _shift(rows: int) -> list[tuple[int, int, int]]:
    """Returns which rows to show, from which, and how many."""
    pieces = [(0, 1, rows - 1), (rows - 1, rows - 1, 1)]
    return [piece for piece in pieces if rows and piece[2]]


def write_next(group: h5py.Group, name: str, source: str, array: np.ndarray) -> None:
    """Writes a view of an array of the same file: the same, one row later; no data is copied.

    Args:
        group: Where.
        name: Path of the view from there.
        source: Path of the array from there.
        array: What was written as ``source``, (T, ...). Row t of the view is its row t + 1, and
            the last row is its last.
    """
    space, properties = h5s.create_simple(array.shape), PLAIN.copy()
    # HDF5 reads "." as "this file", so that the file may be renamed.
    path = _source(f"{group.name}/{source}").encode()
    for start, first, count in _shift(len(array)):
        shown, shows = space.copy(), space.copy()
        shown.select_hyperslab((start,) + (0,) * (array.ndim - 1), (count, *array.shape[1:]))
        shows.select_hyperslab((first,) + (0,) * (array.ndim - 1), (count, *array.shape[1:]))
        properties.set_virtual(shown, b".", path, shows)
    h5d.create(
        group.id, name.encode(), _type(array.dtype), space, dcpl=properties, lcpl=_links(name)
    )


# Reading


def member(
    group: h5py.Group,
    name: str,
    kind: type | tuple[type, ...] = h5py.Dataset,
    *,
    holds: str = "biuf",
) -> Any:
    """Returns a member that really lies in this file.

    Links, virtual and external datasets show the content of other files, which nobody checksums.

    Args:
        group: Where.
        name: The member's.
        kind: ``h5py.Group``, ``h5py.Dataset`` or both.
        holds: The kinds of NumPy types that a dataset may have; numbers by default.

    Raises:
        MemberError: If it is missing, of another kind, lies elsewhere, or declares more data than
            the file holds.
    """
    link = group.get(name, getlink=True)
    if link is None:
        raise MemberError("missing")
    if not isinstance(link, h5py.HardLink):
        raise MemberError("a link to elsewhere; copy the data into the file")
    found = group[name]
    if not isinstance(found, kind):
        wanted = " or ".join(k.__name__.lower() for k in np.atleast_1d(kind))
        raise MemberError(f"a {type(found).__name__.lower()}, not a {wanted}")
    if isinstance(found, h5py.Dataset):
        if found.is_virtual or found.external:
            raise MemberError("shows data from elsewhere; copy the data into the file")
        if found.dtype.kind not in holds:
            raise MemberError(f"holds {found.dtype}")
        if not found.shape:
            raise MemberError("holds no rows")
        # Before it is read: a broken shape could ask for all the memory there is.
        if found.nbytes > max(LARGE_BYTES, DEFLATE_MOST * found.id.get_storage_size()):
            raise MemberError(f"damaged: {found.shape} is more than what is stored")
    return found


def is_next(view: h5py.Dataset, array: h5py.Dataset) -> bool:
    """Returns whether a dataset shows an array of the same file one row later.

    Args:
        view: What ``write_next`` wrote; or a copy, then its last row is not looked at.
        array: The array, (T, ...).
    """
    if (view.shape, view.dtype) != (array.shape, array.dtype) or view.external:
        return False
    if not view.is_virtual:
        return np.array_equal(view[:-1], array[1:], equal_nan=True)
    rest = tuple(size - 1 for size in array.shape[1:])
    starts = (0,) * len(rest)
    expected = [
        tuple(((row, *starts), (row + count - 1, *rest)) for row in (start, first))
        for start, first, count in _shift(len(array))
    ]
    sources = view.virtual_sources()
    return [(s.file_name, s.dset_name) for s in sources] == [(".", _source(array.name))] * len(
        expected
    ) and expected == [
        (s.vspace.get_select_bounds(), s.src_space.get_select_bounds()) for s in sources
    ]
