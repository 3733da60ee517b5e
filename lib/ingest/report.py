"""Reports which recordings of a folder were left out, each with the reason."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lib.base.console import say
from lib.base.files import write_json
from lib.base.paths import ROOT, relative

LONGEST = 280
"""Largest number of characters in a reason; a parser's error over broken bytes can be very long."""


class UnusableError(Exception):
    """A recording, or a part of it, cannot be used. The message says why and what to do."""


@dataclass
class Report:
    """Findings that are collected while recordings are read; each is printed when it is found.

    Attributes:
        skipped: ``{"file", "reason"}`` of everything that is left out.
        notes: ``{"file", "note"}`` of anything unusual in recordings that are still used.
    """

    skipped: list[dict[str, str]] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)

    def skip(self, path: Path, reason: str) -> None:
        """Records and prints that a recording, or a part of it, is left out.

        Args:
            path: The file.
            reason: Why it is left out, and what to do.
        """
        name, reason = _name(path), _one_line(path, reason)
        self.skipped.append({"file": name, "reason": reason})
        say(f"skipped {name}: {reason}")

    def note(self, path: Path, text: str) -> None:
        """Records and prints something unusual about a recording that is still used.

        Args:
            path: The file.
            text: What is unusual.
        """
        name, text = _name(path), _one_line(path, text)
        self.notes.append({"file": name, "note": text})
        say(f"{name}: {text}")

    def write(self, path: Path) -> None:
        """Writes everything left out and all notes as JSON, for the manifest.

        Args:
            path: The JSON file.
        """
        write_json(path, {"skipped": self.skipped, "notes": self.notes})


def some(names: Iterable[str], most: int = 6) -> str:
    """Returns a list of names for a message that has to stay on one line.

    Args:
        names: The names.
        most: Largest number of names that are listed; the others are counted.
    """
    every = list(names)
    rest = len(every) - most
    return ", ".join(every[:most]) + (f" and {rest} more" if rest > 0 else "")


def _name(path: Path) -> str:
    """Returns the name that the user gave; a link, e.g. DVC's to its cache, is not resolved."""
    try:
        name = path.relative_to(ROOT)
    except ValueError:
        name = Path(relative(path.parent)) / path.name
    return name.as_posix().encode(errors="backslashreplace").decode()


def _one_line(path: Path, text: str) -> str:
    """Returns a reader's message as one short line without absolute paths of this machine."""
    for place in (str(path), str(path.resolve())):
        text = text.replace(place, path.name)
    text = re.sub(re.escape(tempfile.gettempdir()) + r"/\w+/", "", text)
    text = text.replace(f"{ROOT}/", "")
    text = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
