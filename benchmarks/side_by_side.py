"""Two ways of doing the same work, timed in turns on the same machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median


def side_by_side(
    plain: Callable[[], object], fast: Callable[[], object], rounds: int
) -> tuple[float, float]:
    """Times two functions in turns, so that whatever else the machine does strikes both alike.

    Args:
        plain: The plain way.
        fast: The way of this project.
        rounds: Timings of each, after one that does not count.

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
        unit: What is counted.
        count: How many of them each timing did.
        plain_s: Median seconds of the plain way.
        fast_s: Median seconds of this project's.
    """
    print(
        f"{what}: plain {count / plain_s:,.0f} {unit}/s, here {count / fast_s:,.0f} {unit}/s, "
        f"{plain_s / fast_s:.2f} times as fast"
    )
