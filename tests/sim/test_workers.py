"""Work spread over processes: in order, bounded, and honest about workers that are lost."""

import os
import time

import pytest

from lib.base.errors import UserError
from lib.sim import workers
from lib.sim.workers import ordered_map, worker_count, worker_timeout_s


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
    assert list(ordered_map(slow_first, calls, workers=count)) == list(range(9))


def test_a_slow_reader_is_not_run_away_from(monkeypatch):
    """No more than AHEAD calls a worker are begun before their results are asked for."""
    monkeypatch.setattr(workers, "AHEAD", 3)
    begun = []

    def calls():
        for index in range(20):
            begun.append(index)
            yield (index,)

    results = ordered_map(slow_first, calls(), workers=2)
    for taken in range(20):
        assert next(results) == taken
        assert len(begun) <= 6 * (taken // 6 + 1)
    assert len(begun) == 20


def test_a_worker_that_dies_is_one_line():
    """Not a traceback of the pool, and not a hang."""
    with pytest.raises(UserError, match="a worker died"):
        list(ordered_map(die, ((index,) for index in range(6)), workers=2))


def test_a_worker_that_hangs_is_one_line(monkeypatch):
    """The variable to raise is named."""
    monkeypatch.setenv("GOLDEN_PATH_WORKER_TIMEOUT_S", "1")
    with pytest.raises(UserError, match=r"within 1 s; set GOLDEN_PATH_WORKER_TIMEOUT_S"):
        list(ordered_map(time.sleep, ((second,) for second in (0, 3)), workers=2))


@pytest.mark.parametrize("given", ["0", "-1", "two", "inf", "nan", ""])
def test_a_time_limit_that_is_none_is_refused(monkeypatch, given):
    """A positive number of seconds."""
    monkeypatch.setenv("GOLDEN_PATH_WORKER_TIMEOUT_S", given)
    with pytest.raises(UserError, match="GOLDEN_PATH_WORKER_TIMEOUT_S"):
        worker_timeout_s()


@pytest.mark.parametrize("given", ["0", "-1", "two", "1.5", ""])
def test_a_count_that_is_none_is_refused(monkeypatch, given):
    """A whole number from one on."""
    monkeypatch.setenv("GOLDEN_PATH_WORKERS", given)
    with pytest.raises(UserError, match="GOLDEN_PATH_WORKERS"):
        worker_count()
