"""What became of the recordings in a folder: those left out, each with the reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lib.console import say
from lib.files import write_json
from lib.paths import relative


class UnusableError(Exception):
    """A recording, or a part of it, cannot be used. The message says why and the way out."""


@dataclass
class Report:
    """Fills while recordings are read; each line is said once, when it is found.

    Attributes:
        skipped: ``{"file", "reason"}`` of everything left out.
    """

    skipped: list[dict[str, str]] = field(default_factory=list)

    def skip(self, path: Path, reason: str) -> None:
        """Notes that a recording, or a part of it, is left out.

        Args:
            path: The file.
            reason: Why, and the way out.
        """
        # Readers put whole paths into their messages; outs name nothing outside the repository.
        reason = " ".join(reason.replace(str(path), path.name).split())
        self.skipped.append({"file": _name(path), "reason": reason})
        say(f"skipped {_name(path)}: {reason}")

    def note(self, path: Path, text: str) -> None:
        """Says something odd about a recording that is used all the same.

        Args:
            path: The file.
            text: What is odd.
        """
        say(f"{_name(path)}: {text}")

    def write(self, path: Path) -> None:
        """Writes what was left out as JSON, for the manifest.

        Args:
            path: The file.
        """
        write_json(path, {"skipped": self.skipped})


def _name(path: Path) -> str:
    """Returns the name the user gave: DVC may have put a link to its cache in the file's place."""
    return (Path(relative(path.parent)) / path.name).as_posix()
