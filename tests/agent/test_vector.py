"""Tests of the environments in processes: what dies or hangs ends the run with one line."""

import os
import signal
import time
from contextlib import closing
from functools import partial

import pytest

from lib.agent.vector import Environments, make_vector_env
from lib.base.errors import UserError
from lib.sim.env import make_env

LIMIT = "GOLDEN_PATH_WORKER_TIMEOUT_S"
CALLS = {
    "reset": lambda env: env.reset(seed=[1, 2]),
    "step": lambda env: env.step(env.action_space.sample()),
    "call": lambda env: env.call("positions"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_process_that_dies_is_one_line(name):
    """Not three tracebacks; no other process is left, and closing is possible."""
    with closing(make_vector_env(2, render=False)) as env:
        env.reset(seed=[1, 2])
        os.kill(env.processes[1].pid, signal.SIGKILL)
        env.processes[1].join()
        with pytest.raises(UserError, match=r"process of an environment died \(exit code .*-9"):
            CALLS[name](env)
        assert env.closed
    assert not any(process.is_alive() for process in env.processes)


def test_a_process_that_hangs_is_one_line(monkeypatch):
    """Even one that is stopped, which no SIGTERM would end."""
    with closing(make_vector_env(2, render=False)) as env:
        env.reset(seed=[1, 2])
        monkeypatch.setenv(LIMIT, "1")
        os.kill(env.processes[0].pid, signal.SIGSTOP)
        with pytest.raises(UserError, match=f"within 1 s; set {LIMIT}"):
            env.step(env.action_space.sample())
    for process in env.processes:
        process.join(10)
        assert not process.is_alive()


def here_only(here):
    """An environment that any other process waits for in vain."""
    if os.getpid() != here:
        time.sleep(600)
    return make_env(render=False)


def test_a_start_that_hangs_is_one_line(monkeypatch):
    """Gymnasium has no limit there."""
    monkeypatch.setenv(LIMIT, "1")
    with pytest.raises(UserError, match=f"within 1 s; set {LIMIT}"):
        Environments([partial(here_only, os.getpid())], context="forkserver")


@pytest.mark.filterwarnings("ignore")
def test_an_error_of_an_environment_stays_what_it_was():
    """Its process is alive and has passed it on."""
    with closing(make_vector_env(1, render=False)) as env, pytest.raises(AttributeError):
        env.call("nothing_of_that_name")
