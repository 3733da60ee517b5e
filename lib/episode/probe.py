"""Checks one episode file after the other for lib.episode.check and reports the defects.

This runs in a separate process (``python -m lib.episode.probe``), because broken bytes can make
HDF5 write beyond its own memory, and then the process dies. Each line of standard input is a
request, ``{"path", "skip"}``; ``skip`` lists the demos over which an earlier process crashed. Each
line of standard output is a record: ``{"line"}`` is a finding, ``{"begins"}`` is the demo that is
read next, ``{"content", "split", "label"}`` is the digest of a demo that could be read, and
``{"end"}`` comes last.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lib.base.errors import UserError
from lib.base.hdf5 import DAMAGE, MemberError, is_next, member
from lib.base.paths import relative
from lib.episode import SPLITS, Episode, fingerprint, open_file
from lib.episode.check import problems

ARRAYS = ("actions", "rewards", "dones", "vector_rewards")

ENV_ARGS = {"env_name", "type", "env_kwargs"}
"""Keys that robomimic's loader looks for."""

LONGEST_S = 300
"""A demo that takes longer to read than this is broken: HDF5 can loop for ever."""

Record = dict[str, Any]


@dataclass
class _File:
    """Facts about a file against which its demos are checked.

    Attributes:
        masks: How often each demo is named, by split.
        skip: Demos that are not opened.
        keys: First demo that has a key, by key.
    """

    masks: dict[str, Counter[str]]
    skip: list[str]
    keys: dict[str, str] = field(default_factory=dict)


def look(path: Path, skip: list[str]) -> Iterator[Record]:
    """Yields the records about a file, as described at the top of this module.

    Args:
        path: The file; its content may be anything.
        skip: Demos that are not opened.
    """
    for found in _look(path, skip):
        yield {"line": _one_line(found)} if isinstance(found, str) else found
    yield {"end": True}


def _one_line(text: str) -> str:
    # Names in a broken file may hold anything, even half of a UTF-8 character.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _look(path: Path, skip: list[str]) -> Iterator[str | Record]:
    if not path.is_file():
        yield "a folder, not a file" if path.is_dir() else "not found"
        return
    try:
        with open_file(path) as file:
            masks = _masks(file)
            data = _named("data", lambda: member(file, "data", h5py.Group))
            yield from _file_attributes(file, data)
            yield from _check_data(data, _File(masks, skip))
    except UserError as error:
        yield str(error).removeprefix(f"{relative(path)}: ")
    except DAMAGE as error:
        yield f"damaged ({error})"


def _named(name: str, reading: Callable[[], Any]) -> Any:
    """Returns the result of ``reading``, or raises an error that names what could not be read.

    Raises:
        MemberError: If the reading fails; the message begins with the name.
    """
    try:
        return reading()
    except MemberError as error:
        raise MemberError(f"{name}: {error}") from None
    except DAMAGE as error:
        raise MemberError(f"{name}: damaged ({error})") from None


def _masks(file: h5py.File) -> dict[str, Counter[str]]:
    def names(split: str) -> Counter[str]:
        listed = member(member(file, "mask", h5py.Group), split, holds="SO")[()]
        return Counter(name.decode() for name in listed.tolist())

    return {split: _named(f"mask/{split}", lambda split=split: names(split)) for split in SPLITS}


def _file_attributes(file: h5py.File, data: h5py.Group) -> Iterator[str]:
    if not isinstance(file.attrs.get("source"), str):
        yield "attrs['source']: no text"
    if not isinstance(_json(file, "legend", "{}"), dict):
        yield "attrs['legend']: no JSON object"
    environment = _json(data, "env_args")
    if not isinstance(environment, dict) or not environment.keys() >= ENV_ARGS:
        yield "data.attrs['env_args']: no JSON object with env_name, type and env_kwargs"


def _json(group: h5py.Group, name: str, default: str | None = None) -> Any:
    """Returns the value of an attribute that holds JSON, or None if it holds no JSON."""
    try:
        return json.loads(group.attrs.get(name, default))
    except DAMAGE:
        return None


def _check_data(data: h5py.Group, file: _File) -> Iterator[str | Record]:
    names = [str(name) for name in data]
    numbered = (name for name in names if re.fullmatch(r"demo_[0-9]{1,9}", name))
    demos = sorted(numbered, key=lambda name: int(name[5:]))
    known = set(demos)
    yield from (f"data/{name}: not a demo" for name in names if name not in known)
    gap = next((i for i, name in enumerate(demos) if name != f"demo_{i}"), None)
    if gap is not None:
        yield f"demo_{gap} is missing; demos are numbered from 0 without gaps"
    for split, named in file.masks.items():
        for name, times in named.items():
            if name not in known:
                yield f"mask/{split}: names {name}, which does not exist"
            elif times > 1:
                yield f"mask/{split}: names {name} {times} times"
    lengths = []
    for name in demos:
        steps = yield from _check_demo(data, name, file)
        lengths.append(steps)
    total = data.attrs.get("total")
    # The number of steps in a damaged demo is unknown, so the total cannot be checked.
    known_lengths = [length for length in lengths if length is not None]
    if len(known_lengths) == len(lengths) and total != sum(known_lengths):
        yield f"data.attrs['total'] says {total}, its demos have {sum(known_lengths)} steps"


def _check_demo(
    data: h5py.Group, name: str, file: _File
) -> Generator[str | Record, None, int | None]:
    """Yields the defects of a demo; returns its number of steps, or None if it is unreadable."""
    label = name
    if name in file.skip:
        yield f"{label}: damaged (HDF5 crashes over it)"
        return None
    yield {"begins": name}
    try:
        group = member(data, name, h5py.Group)
        key = group.attrs.get("key")
        label = f"{name} (key {key})"
        if not isinstance(key, str):
            yield f"{label}: key: no text"
        elif file.keys.setdefault(key, name) != name:
            yield f"{label}: {file.keys[key]} has this key too"
        splits = [split for split, named in file.masks.items() if name in named]
        if len(splits) != 1:
            yield f"{label}: in {'the masks ' + ' and '.join(splits) if splits else 'no mask'}"
        episode = _load(group)
        counted = group.attrs.get("num_samples")
        if counted is None or counted != len(episode):
            yield f"{label}: num_samples says {counted}, actions have {len(episode)} steps"
        yield from (f"{label}: {line}" for line in problems(episode))
        yield from (f"{label}: {line}" for line in _views(group))
        if splits:
            yield {"content": fingerprint(episode), "split": splits[0], "label": _one_line(label)}
        return len(episode)
    except MemberError as error:
        yield f"{label}: {error}"
    except DAMAGE as error:
        yield f"{label}: damaged ({error})"
    return None


def _load(group: h5py.Group) -> Episode:
    """Reads a demo; every array must be stored in this file.

    Raises:
        MemberError: If an array or the tags cannot be read; the message names them.
    """

    def array(name: str) -> np.ndarray:
        folder, _, leaf = name.rpartition("/")
        return _named(name, lambda: member(group[folder] if folder else group, leaf)[()])

    def arrays(folder: str) -> dict[str, np.ndarray]:
        names = _named(folder, lambda: list(member(group, folder, h5py.Group)))
        return {name: array(f"{folder}/{name}") for name in map(str, names)}

    tags = _json(group, "tags")
    if not isinstance(tags, dict):
        raise MemberError("tags: no JSON object")
    return Episode(
        key=str(group.attrs.get("key")),
        obs=arrays("obs"),
        **{name: array(name) for name in ARRAYS},
        labels=arrays("labels") if group.get("labels", getlink=True) is not None else {},
        tags=tags,
    )


def _views(group: h5py.Group) -> Iterator[str]:
    """Yields a finding where next_obs, if present, is not a view of obs one step later."""
    if group.get("next_obs", getlink=True) is None:
        return  # only robomimic's loader needs it
    obs, views = group["obs"], member(group, "next_obs", h5py.Group)
    if set(obs) != set(views):
        yield "next_obs: other arrays than obs"
        return
    for name in obs:
        linked = not isinstance(views.get(name, getlink=True), h5py.HardLink)
        shown = f"next_obs/{name}"
        if linked or not _named(shown, lambda name=name: is_next(views[name], obs[name])):
            yield f"{shown}: not a view of obs/{name}, one step later"


def main() -> None:
    """Answers the requests on standard input until there are no more."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="ascii")
    nowhere = open(os.devnull, "w")  # noqa: PTH123, SIM115 - for as long as the process
    for request in map(json.loads, sys.stdin):
        for record in look(Path(request["path"]), request["skip"]):
            faulthandler.dump_traceback_later(LONGEST_S, exit=True, file=nowhere)
            print(json.dumps(record), flush=True)
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main()
