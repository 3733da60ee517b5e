"""What became of the recordings in a folder: those left out, each with the reason."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lib.console import say
from lib.files import write_json
from lib.paths import ROOT, relative

LONGEST = 280
"""Characters of a reason; what a parser says about broken bytes can be endless."""


class UnusableError(Exception):
    """A recording, or a part of it, cannot be used. The message says why and the way out."""


@dataclass
class Report:
    """Fills while recordings are read; each line is said once, when it is found.

    Attributes:
        skipped: ``{"file", "reason"}`` of everything left out.
        notes: ``{"file", "note"}`` of what is odd about recordings that are used all the same.
    """

    skipped: list[dict[str, str]] = field(default_factory=list)
    notes: list[dict[str, str]] = field(default_factory=list)

    def skip(self, path: Path, reason: str) -> None:
        """Notes that a recording, or a part of it, is left out.

        Args:
            path: The file.
            reason: Why, and the way out.
        """
        name, reason = _name(path), _one_line(path, reason)
        self.skipped.append({"file": name, "reason": reason})
        say(f"skipped {name}: {reason}")

    def note(self, path: Path, text: str) -> None:
        """Says something odd about a recording that is used all the same.

        Args:
            path: The file.
            text: What is odd.
        """
        name, text = _name(path), _one_line(path, text)
        self.notes.append({"file": name, "note": text})
        say(f"{name}: {text}")

    def write(self, path: Path) -> None:
        """Writes what was left out and what is odd as JSON, for the manifest.

        Args:
            path: The file.
        """
        write_json(path, {"skipped": self.skipped, "notes": self.notes})


def some(names: Iterable[str], most: int = 6) -> str:
    """Returns names for a message that has to stay one line.

    Args:
        names: At least one.
        most: Only so many are named.
    """
    every = list(names)
    rest = len(every) - most
    return ", ".join(every[:most]) + (f" and {rest} more" if rest > 0 else "")


def _name(path: Path) -> str:
    """Returns the name the user gave: a link, perhaps DVC's to its cache, may be in its place."""
    try:
        name = path.relative_to(ROOT)
    except ValueError:
        name = Path(relative(path.parent)) / path.name
    return name.as_posix().encode(errors="backslashreplace").decode()


def _one_line(path: Path, text: str) -> str:
    """Returns a reader's message as one short line that names no place on this machine."""
    for place in (str(path), str(path.resolve())):
        text = text.replace(place, path.name)
    text = re.sub(re.escape(tempfile.gettempdir()) + r"/\w+/", "", text)
    text = text.replace(f"{ROOT}/", "")
    text = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
