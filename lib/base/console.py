"""Output for the user while a stage runs: text lines and progress bars, on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

T = TypeVar("T")

console = Console(stderr=True, highlight=False, soft_wrap=True)

# Without a terminal, a progress bar would fill the log. One line in this many seconds replaces it.
LINE_EVERY_S = 20.0


spent: dict[str, float] = {}
"""Seconds that this process spent on each label of ``timed`` and ``track``."""


@contextmanager
def timed(label: str) -> Generator[None]:
    """Adds the seconds of a block to ``spent``; a nested block counts under both labels.

    Args:
        label: Name of the work that the block does.
    """
    start = time.monotonic()
    try:
        yield
    finally:
        spent[label] = spent.get(label, 0.0) + time.monotonic() - start


def say(message: str) -> None:
    """Prints one line.

    Args:
        message: Plain text. Markup is not interpreted, so file names with brackets are safe.
    """
    console.print(message, markup=False)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.1f} {self.unit}/s")


def track(items: Iterable[T], label: str, total: int, unit: str = "it") -> Iterator[T]:
    """Yields the items, shows the progress, the rate and the time left, and counts the seconds.

    Args:
        items: Items to iterate over.
        label: Name of the work.
        total: Number of items.
        unit: Name of an item, for the rate.

    Yields:
        The items, unchanged.
    """
    with timed(label):
        yield from _shown(items, label, total, unit)


def _shown(items: Iterable[T], label: str, total: int, unit: str) -> Iterator[T]:
    if console.is_terminal and not os.environ.get("GOLDEN_PATH_QUIET"):
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(unit),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as progress:
            yield from progress.track(items, total=total, description=label)
        return
    start = shown = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - shown >= LINE_EVERY_S and done < total:
            shown = now
            rate = done / (now - start)
            left = (total - done) / rate
            say(f"{label}: {done}/{total} {unit}, {rate:,.1f} {unit}/s, {left:.0f} s left")
    sys.stderr.flush()
