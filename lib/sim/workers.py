"""Distributes calls over processes; the results do not depend on the number of processes."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import joblib

from lib.base.errors import UserError

R = TypeVar("R")

AHEAD = 128
"""Largest number of finished results per worker that may wait to be taken."""


def worker_count() -> int:
    """Returns the number of processes to use: GOLDEN_PATH_WORKERS, else one per processor.

    It is not in params.yaml, because results do not depend on it.

    Raises:
        UserError: If the variable is set to anything but a positive whole number.
    """
    given = os.environ.get("GOLDEN_PATH_WORKERS")
    if given is None:
        return os.cpu_count() or 1
    if not given.isdigit() or int(given) < 1:
        raise UserError(f"GOLDEN_PATH_WORKERS={given}: must be a positive whole number")
    return int(given)


def worker_timeout_s() -> float:
    """Returns the longest wait for one result, s: GOLDEN_PATH_WORKER_TIMEOUT_S, else ten minutes.

    It is not in params.yaml, because results do not depend on it.

    Raises:
        UserError: If the variable is set to anything but a positive number.
    """
    given = os.environ.get("GOLDEN_PATH_WORKER_TIMEOUT_S", "600")
    try:
        limit = float(given)
    except ValueError:
        limit = 0.0
    if not 0 < limit < float("inf"):
        raise UserError(f"GOLDEN_PATH_WORKER_TIMEOUT_S={given}: must be a positive number")
    return limit


def late(who: str, limit_s: float) -> UserError:
    """Returns the error of a process that gave nothing in time.

    Args:
        who: What was waited for, with its article.
        limit_s: How long, s.
    """
    return UserError(
        f"{who} gave nothing within {limit_s:g} s; set GOLDEN_PATH_WORKER_TIMEOUT_S to wait longer"
    )


def dead(who: str, how: str) -> UserError:
    """Returns the error of a process that ended by itself.

    Args:
        who: What ended, with its article.
        how: How it ended, e.g. its exit code.
    """
    return UserError(f"{who} died ({how}); is there enough memory?")


def ordered_map(
    function: Callable[..., R],
    arguments: Iterable[tuple[Any, ...]],
    *,
    workers: int | None = None,
) -> Iterator[R]:
    """Yields ``function(*a)`` for each ``a``, in order, computed by several processes.

    Even if the results are taken slowly, at most AHEAD of them wait for each worker.

    Args:
        function: Picklable function; it must not depend on what its process did before.
        arguments: One tuple of arguments per call.
        workers: Number of processes; by default ``worker_count()``.

    Yields:
        The results, in the order of the arguments.

    Raises:
        UserError: If a worker dies or takes too long.
    """
    workers, timeout_s = workers or worker_count(), worker_timeout_s()
    calls = (joblib.delayed(function)(*a) for a in arguments)
    try:
        # A single worker is this process itself, for which no timeout is possible.
        limit = timeout_s if workers > 1 else None
        with joblib.Parallel(workers, return_as="generator", timeout=limit) as parallel:
            # Calls are passed in chunks: joblib alone would compute far ahead of a slow reader,
            # without any limit.
            while some := list(itertools.islice(calls, AHEAD * workers)):
                yield from parallel(some)
    except multiprocessing.TimeoutError:
        raise late("a worker", timeout_s) from None
    except BrokenProcessPool as error:
        raise dead("a worker", str(error)) from None
