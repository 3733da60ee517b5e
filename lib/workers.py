"""Work spread over processes, with results that do not depend on how many there are."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import joblib

from lib.errors import UserError

R = TypeVar("R")

AHEAD = 128
"""Calls for each worker that may be finished before the first of them is taken."""


def worker_count() -> int:
    """Returns how many processes to use: GOLDEN_PATH_WORKERS, else one a processor.

    It is no parameter, because results do not depend on it.

    Raises:
        UserError: If the variable is set to anything but a positive whole number.
    """
    given = os.environ.get("GOLDEN_PATH_WORKERS")
    if given is None:
        return os.cpu_count() or 1
    if not given.isdigit() or int(given) < 1:
        raise UserError(f"GOLDEN_PATH_WORKERS={given}: must be a positive whole number")
    return int(given)


def ordered_map(
    function: Callable[..., R],
    arguments: Iterable[tuple[Any, ...]],
    timeout_s: float,
    workers: int | None = None,
) -> Iterator[R]:
    """Yields ``function(*a)`` for each ``a``, in order, computed by several processes.

    However slowly the results are taken, no more than AHEAD of them wait for each worker.

    Args:
        function: Picklable; must not depend on what its process did before.
        arguments: One tuple a call.
        timeout_s: Longest wait for one result of another process.
        workers: Processes; ``worker_count()`` unless given.

    Yields:
        The results, in the order of the arguments.

    Raises:
        UserError: If a worker dies or takes too long.
    """
    workers = workers or worker_count()
    calls = (joblib.delayed(function)(*a) for a in arguments)
    try:
        # One worker is this process, which cannot give up on itself.
        limit = timeout_s if workers > 1 else None
        with joblib.Parallel(workers, return_as="generator", timeout=limit) as parallel:
            # joblib itself would run ahead of a slow reader without end.
            while some := list(itertools.islice(calls, AHEAD * workers)):
                yield from parallel(some)
    except multiprocessing.TimeoutError:
        raise UserError(
            f"a worker gave no result within {timeout_s:g} s; raise safety.worker_timeout_s"
        ) from None
    except BrokenProcessPool as error:
        raise UserError(f"a worker died ({error}); is there enough memory?") from None
