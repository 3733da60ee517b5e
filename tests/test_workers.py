"""Work spread over processes: in order, bounded, and honest about workers that are lost."""

import os
import time

import pytest

from lib import workers
from lib.errors import UserError
from lib.workers import ordered_map, worker_count


def slow_first(index: int) -> int:
    """The earlier the call, the longer it takes."""
    time.sleep(0.05 / (index + 1))
    return index


def die(index: int) -> int:
    """Ends the process as the kernel does when memory runs out."""
    if index == 3:
        os._exit(9)
    return index


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_the_order_of_the_calls(count):
    """Whoever finishes first."""
    calls = ((index,) for index in range(9))
    assert list(ordered_map(slow_first, calls, 60, workers=count)) == list(range(9))


def test_a_slow_reader_is_not_run_away_from(monkeypatch):
    """No more than AHEAD calls a worker are begun before their results are asked for."""
    monkeypatch.setattr(workers, "AHEAD", 3)
    begun = []

    def calls():
        for index in range(20):
            begun.append(index)
            yield (index,)

    results = ordered_map(slow_first, calls(), 60, workers=2)
    for taken in range(20):
        assert next(results) == taken
        assert len(begun) <= 6 * (taken // 6 + 1)
    assert len(begun) == 20


def test_a_worker_that_dies_is_one_line():
    """Not a traceback of the pool, and not a hang."""
    with pytest.raises(UserError, match="a worker died"):
        list(ordered_map(die, ((index,) for index in range(6)), 60, workers=2))


def test_a_worker_that_hangs_is_one_line():
    """The parameter to raise is named."""
    with pytest.raises(UserError, match=r"safety\.worker_timeout_s"):
        list(ordered_map(time.sleep, ((second,) for second in (0, 3)), 1, workers=2))


@pytest.mark.parametrize("given", ["0", "-1", "two", "1.5", ""])
def test_a_count_that_is_none_is_refused(monkeypatch, given):
    """A whole number from one on."""
    monkeypatch.setenv("GOLDEN_PATH_WORKERS", given)
    with pytest.raises(UserError, match="GOLDEN_PATH_WORKERS"):
        worker_count()
