"""Checks and shows episode files.

``python -m lib.episode check FILE...`` prints the defects of the files, one line for each; a folder
stands for the .hdf5 files in it. ``python -m lib.episode show FILE`` describes the content of a
file; ``--demo N`` describes one of its episodes. ``--sheet OUT.png`` and ``--video OUT.mp4`` write
images and a video.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lib.base.errors import UserError
from lib.base.paths import relative
from lib.episode import open_file


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code: 0 if there was no error and no defect.

    Args:
        arguments: Arguments of the command line; ``None`` takes those of the process.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a key may hold unprintable text
    options = _parser().parse_args(arguments)
    try:
        return _check(options.files) if options.command == "check" else _show(options)
    except UserError as error:
        print(error, file=sys.stderr)
    except OSError as error:  # an output file cannot be written, e.g. no space
        print(error, file=sys.stderr)
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib.episode", description="Episode files.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="say what is wrong with files; exit code 2 if any is")
    check.add_argument("files", nargs="+", type=Path, metavar="FILE", help="or a folder of .hdf5")
    show = commands.add_parser("show", help="say what a file holds")
    show.add_argument("file", type=Path, metavar="FILE")
    show.add_argument("--demo", type=_number, metavar="N", help="this episode, from 0")
    show.add_argument("--sheet", type=_with(".png"), metavar="OUT.png", help="write pictures")
    show.add_argument("--video", type=_with(".mp4"), metavar="OUT.mp4", help="write a film")
    return parser


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0")
    return int(text)


def _with(suffix: str) -> Callable[[str], Path]:
    def path(text: str) -> Path:
        if Path(text).suffix != suffix:
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {suffix}")
        return Path(text)

    return path


def _check(given: Sequence[Path]) -> int:
    from lib.episode.check import check_files

    files, empty = [], []
    for path in given:
        # A name that begins with a dot belongs to a file that is still being written.
        inside = [file for file in sorted(path.glob("*.hdf5")) if file.name[0] != "."]
        files += inside if path.is_dir() else [path]
        empty += [path] if path.is_dir() and not inside else []
    found = {path: ["a folder without .hdf5 files"] for path in empty} | check_files(files)
    for path, lines in found.items():
        for line in lines:
            print(f"{relative(path)}: {line}")
        if not lines:
            with open_file(path) as file:
                episodes, steps = len(file["data"]), file["data"].attrs["total"]
            print(f"{relative(path)}: ok, {episodes} episodes, {steps} steps")
    return 2 if any(found.values()) else 0


def _show(options: argparse.Namespace) -> int:
    from lib.episode import show

    if options.sheet:
        show.write_sheet(options.file, options.sheet, options.demo)
    if options.video:
        show.write_film(options.file, options.video, options.demo or 0)
    written = [path for path in (options.sheet, options.video) if path]
    if written:
        lines = [f"wrote {relative(path)}" for path in written]
    elif options.demo is None:
        lines = show.summary(options.file)
    else:
        lines = show.one_demo(options.file, options.demo)
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
