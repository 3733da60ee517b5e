"""Times two ways of doing the same work, in turns on the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median


def side_by_side(
    plain: Callable[[], object], fast: Callable[[], object], rounds: int
) -> tuple[float, float]:
    """Times two functions in turns, so that other load on the machine affects both alike.

    Args:
        plain: The plain implementation.
        fast: The implementation of this project.
        rounds: Number of timings of each function, after one that is not counted.

    Returns:
        Median seconds of ``plain`` and of ``fast``.
    """
    seconds: dict[Callable[[], object], list[float]] = {plain: [], fast: []}
    for turn in range(rounds + 1):
        for function, taken in seconds.items():
            begin = time.perf_counter()
            function()
            if turn:
                taken.append(time.perf_counter() - begin)
    return median(seconds[plain]), median(seconds[fast])


def report(what: str, unit: str, count: int, plain_s: float, fast_s: float) -> None:
    """Prints both rates and their ratio.

    Args:
        what: Name of the work.
        unit: Name of the items that are counted.
        count: Number of items in each timing.
        plain_s: Median seconds of the plain implementation.
        fast_s: Median seconds of this project's implementation.
    """
    print(
        f"{what}: plain {count / plain_s:,.0f} {unit}/s, here {count / fast_s:,.0f} {unit}/s, "
        f"{plain_s / fast_s:.2f} times as fast"
    )
