"""Reads and writes the HDF5 objects of episode files through h5py's low-level interface.

Writing: ten thousand short episodes are a hundred thousand small arrays, and h5py's high-level
calls cost more time than the arrays. Reading: only data that the file itself stores are accepted.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5p, h5s, h5t

from lib.base.errors import UserError

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
"""Exceptions that h5py raises on damaged files."""

COMPACT_BYTES = 32 * 1024
"""Arrays up to this size are stored in the object header (64 KiB at most): one allocation less."""

LARGE_BYTES = 256 * 2**20
DEFLATE_MOST = 1032
"""Largest array to accept: LARGE_BYTES, or DEFLATE_MOST times the size that is stored in the file.

zlib packs at most DEFLATE_MOST bytes into one byte.
"""

TEXT = h5t.py_create(h5py.string_dtype(), logical=True)
SCALAR = h5s.create(h5s.SCALAR)
_type = lru_cache(maxsize=None)(lambda dtype: h5t.py_create(dtype, logical=True))


class MemberError(UserError):
    """A member of a group that is missing, of another kind, or not stored in this file."""


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
    """Creates a group.

    Args:
        parent: Group in which the new group is created.
        name: Name of the new group.
    """
    return h5py.Group(h5g.create(parent.id, name.encode(), lcpl=_links(name)))


def write_text(group: h5py.Group, name: str, text: str) -> None:
    """Writes a text attribute.

    Args:
        group: Group that gets the attribute.
        name: Name of the attribute, which must not exist yet.
        text: Any text; stored as UTF-8.
    """
    attribute = h5a.create(group.id, name.encode(), TEXT, SCALAR)
    attribute.write(np.array(text, dtype=h5py.string_dtype()))


def write_count(group: h5py.Group, name: str, count: int) -> None:
    """Writes an integer attribute of 64 bits.

    Args:
        group: Group that gets the attribute.
        name: Name of the attribute, which must not exist yet.
        count: Value of the attribute.
    """
    attribute = h5a.create(group.id, name.encode(), h5t.STD_I64LE, SCALAR)
    attribute.write(np.array(count, np.int64))


def write_array(group: h5py.Group, name: str, array: np.ndarray) -> None:
    """Writes an array; arrays with three or more axes are compressed.

    Args:
        group: Group that the path starts from.
        name: Path of the array, relative to the group.
        array: Values, (T, ...).
    """
    if array.ndim >= 3 and array.size:
        # A chunk holds only a few pictures, because a training batch reads single frames. Gzip at
        # level 1, which every HDF5 reader supports, halves their size at little cost.
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
    """Returns the pieces of a shifted view: first row in the view, first source row, row count."""
    pieces = [(0, 1, rows - 1), (rows - 1, rows - 1, 1)]
    return [piece for piece in pieces if rows and piece[2]]


def write_next(group: h5py.Group, name: str, source: str, array: np.ndarray) -> None:
    """Writes a virtual dataset that shows an array of the same file one row later, without a copy.

    Args:
        group: Group that both paths start from.
        name: Path of the view, relative to the group.
        source: Path of the array, relative to the group.
        array: Values that were written as ``source``, (T, ...). Row t of the view is row t + 1 of
            the array. The last row of the view is the last row of the array.
    """
    space, properties = h5s.create_simple(array.shape), PLAIN.copy()
    # HDF5 reads "." as "this file", so the view stays valid when the file is renamed.
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
    """Returns a member of a group, after a check that this file stores it.

    Links, virtual datasets and external datasets show the content of other files. No checksum
    covers those files.

    Args:
        group: Group that holds the member.
        name: Name of the member.
        kind: Expected type: ``h5py.Group``, ``h5py.Dataset`` or both.
        holds: Kind codes of the NumPy types that a dataset may have; numbers by default.

    Raises:
        MemberError: If the member is missing, of another kind, stored elsewhere, or declares more
            data than the file can hold.
    """
    link = group.get(name, getlink=True)
    if link is None:
        raise MemberError("missing")
    if not isinstance(link, h5py.HardLink):
        raise MemberError("a link to elsewhere; copy the data into the file")
    found = group[name]
    if not isinstance(found, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(k.__name__.lower() for k in kinds)
        raise MemberError(f"a {type(found).__name__.lower()}, not a {wanted}")
    if isinstance(found, h5py.Dataset):
        if found.is_virtual or found.external:
            raise MemberError("shows data from elsewhere; copy the data into the file")
        if found.dtype.kind not in holds:
            raise MemberError(f"holds {found.dtype}")
        if not found.shape:
            raise MemberError("holds no rows")
        # Checked before the data are read, because a damaged shape could request all memory.
        if found.nbytes > max(LARGE_BYTES, DEFLATE_MOST * found.id.get_storage_size()):
            raise MemberError(f"damaged: {found.shape} is more than what is stored")
    return found


def is_next(view: h5py.Dataset, array: h5py.Dataset) -> bool:
    """Returns whether a dataset shows an array of the same file one row later.

    Args:
        view: Virtual dataset from ``write_next``, or a plain dataset with copied rows. The last row
            of a plain dataset is not compared.
        array: Array that the view should show, (T, ...).
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
