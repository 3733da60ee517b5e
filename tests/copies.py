"""Copies of the repository, in which tests change and run what they like."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def copy_of_the_files(folder: Path, keep: Callable[[str], bool] = lambda name: True) -> Path:
    """Copies the files that Git knows or would add, as they are now, and nothing built.

    Args:
        folder: Folder for the copy.
        keep: Function from the path of a file to whether it is copied.
    """
    listing = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if keep(name) and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder
