"""Finds the recordings in a folder, and lists the other files with the reason."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

NOT_RECORDINGS = (".md", ".dvc", ".txt")
"""Suffixes of files that may lie beside recordings and are ignored."""


def find(
    folder: Path, suffixes: Sequence[str], bundle: str | None = None
) -> tuple[list[Path], list[tuple[Path, str]]]:
    """Returns the recordings in a folder and its subfolders, and the paths that are no recordings.

    The order is fixed. Hidden files are ignored; links to files and folders are followed.

    Args:
        folder: Folder to search; it need not exist.
        suffixes: Suffixes of recordings, e.g. ``(".bag",)``.
        bundle: Name of a file; a folder that holds such a file is one recording.

    Returns:
        Recordings that are readable as files, and all other paths with the reason.
    """
    found: list[Path] = []
    others: list[tuple[Path, str]] = []
    if _is(folder.is_dir):
        _walk(folder, suffixes, bundle, [folder.resolve()], found, others)
    return found, others


def _walk(
    folder: Path,
    suffixes: Sequence[str],
    bundle: str | None,
    above: list[Path],
    found: list[Path],
    others: list[tuple[Path, str]],
) -> None:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        others.append((folder, f"a folder that cannot be listed ({error.strerror})"))
        return
    for path in entries:
        is_folder = _is(path.is_dir)
        if path.name.startswith(".") or (path.suffix in NOT_RECORDINGS and not is_folder):
            continue
        reason = _named_wrongly(path)
        if reason is None and is_folder and not (bundle and _is((path / bundle).exists)):
            real, before = path.resolve(), len(found) + len(others)
            if real in above:
                reason = "a link to a folder that it lies in"
            else:
                _walk(path, suffixes, bundle, [*above, real], found, others)
                if len(found) + len(others) == before:
                    reason = "a folder that holds no recording"
                else:
                    continue
        elif reason is None:
            reason = _unreadable(path, is_folder, suffixes, bundle)
        if reason is None:
            found.append(path)
        else:
            others.append((path, reason))


def _named_wrongly(path: Path) -> str | None:
    try:
        path.name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    return None


def _unreadable(
    path: Path, is_folder: bool, suffixes: Sequence[str], bundle: str | None
) -> str | None:
    """Returns what is wrong with a path before it is opened, or None if it may be a recording."""
    if not is_folder:
        if path.suffix not in suffixes:
            kinds = " or ".join(suffixes)
            return f"not a {kinds} file" + (f", nor a folder with {bundle}" if bundle else "")
        if not _is(path.exists):
            return "a link to a file that is not there"
        if not _is(path.is_file):  # reading a pipe would wait for ever
            return "neither a file nor a folder"
        if not path.stat().st_size:
            return "an empty file"
    return None if os.access(path, os.R_OK) else "not allowed to be read; change its permissions"


def _is(question: Callable[[], bool]) -> bool:
    """Returns the answer of the file system, or False if the file system gives an error."""
    try:
        return question()
    except OSError:
        return False
