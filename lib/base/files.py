"""Atomic, byte-stable writing of the small text files that Git or DVC keeps."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib.base.errors import UserError
from lib.base.paths import relative


@contextmanager
def atomic(path: Path) -> Generator[Path]:
    """Yields a scratch path beside ``path`` and moves it into place when the block succeeds.

    If the writer fails or is killed, ``path`` stays as it was: outs are complete or absent.

    Args:
        path: Path of the finished file; missing parent folders are created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept, because some writers (imageio, matplotlib) choose the format by it.
    scratch = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` atomically as UTF-8, without changing its line ends.

    Args:
        path: Path of the file.
        text: Content of the file.
    """
    with atomic(path) as scratch:
        scratch.write_bytes(text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes strict JSON, indented by two spaces, with the keys in the given order.

    Args:
        path: Path of the file.
        value: Plain Python values; floats must be finite.

    Raises:
        UserError: On NaN or infinity. Such a number means that there was too little data to measure
            the value. It is not valid JSON, and DVC would always show it as changed.
    """
    for key, number in _numbers(value):
        if not math.isfinite(number):
            raise UserError(
                f"{relative(path)}: {key} is {number}: too little data to tell; raise "
                "phase1_sima2.episodes or phase1_sima2.horizon"
            )
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Yields the dotted key and the value of every float in nested values."""
    if isinstance(value, float):
        yield key, value
    elif isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, item in items:
            yield from _numbers(item, f"{key}.{name}" if key else str(name))


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: Path of the file.

    Raises:
        UserError: If the file is missing or is not a JSON object.
    """
    try:
        value = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"{relative(path)}: not found; `dvc repro` writes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{relative(path)}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{relative(path)}: holds a {type(value).__name__}, not a JSON object")
    return value


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as CSV, with floats of 6 significant digits.

    Args:
        path: Path of the file.
        rows: At least one row. The header holds every key that occurs, in order of appearance. A
            key that a row lacks gives an empty cell.
    """
    buffer = io.StringIO()
    header = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(buffer, fieldnames=header, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    write_text(path, buffer.getvalue())
