"""Several environments that are stepped together, each in its own process."""

from __future__ import annotations

import multiprocessing
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from multiprocessing import connection
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from mo_gymnasium.wrappers import LinearReward

from lib.sim.env import make_env
from lib.sim.workers import dead, late, worker_timeout_s

REAP_S = 1.0  # time until the death of a process whose pipe is broken is known, s


def _scalar_env(**options: Any) -> gym.Env:
    # Gymnasium's vector environments need scalar rewards; LinearReward keeps the vector in info.
    return LinearReward(make_env(**options))


def _ours(module: str) -> bool:
    return module.partition(".")[0] == __name__.partition(".")[0]


class Environments(AsyncVectorEnv):
    """Gymnasium's environments in processes of their own, with a time limit on every wait.

    A process that dies, or that gives nothing for ``worker_timeout_s()``, ends them all with one
    ``UserError``. Gymnasium's own limits leave out the start, and its ``close`` waits for ever for
    a process that is stopped.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        """Starts the processes; arguments as of ``AsyncVectorEnv``."""
        self.processes: list[multiprocessing.Process] = []
        with self._watched():
            super().__init__(*args, **options)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Resets environments; see ``AsyncVectorEnv.reset``."""
        with self._watched():
            return super().reset(**options)

    def step_async(self, actions: Any) -> None:
        """Sends the actions; see ``AsyncVectorEnv.step_async``."""
        with self._watched():
            super().step_async(actions)

    def step_wait(self, timeout: float | None = None) -> tuple[Any, ...]:
        """Waits for the step to end; see ``AsyncVectorEnv.step_wait``."""
        with self._watched():
            return super().step_wait(timeout)

    def call(self, name: str, *args: Any, **options: Any) -> tuple[Any, ...]:
        """Calls a method of every environment; see ``AsyncVectorEnv.call``."""
        with self._watched():
            return super().call(name, *args, **options)

    @contextmanager
    def _watched(self) -> Generator[None]:
        """Turns what a slow or dead process causes into one ``UserError``."""
        limit_s, done, over = worker_timeout_s(), threading.Event(), threading.Event()

        def watch() -> None:
            wait_s = limit_s
            # Again and again, because the start may still be adding processes.
            while not done.wait(wait_s):
                over.set()
                self._kill()
                wait_s = REAP_S

        threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        except (EOFError, OSError):
            started = self._started()
            ended = set(connection.wait([process.sentinel for process in started], REAP_S))
            codes = [str(process.exitcode) for process in started if process.sentinel in ended]
            if not codes:
                raise  # an error of an environment, which its process passed on
            self._kill()
            for process in started:
                process.join()
            self.closed = True
            if over.is_set():
                raise late("an environment", limit_s) from None
            how = f"exit code {', '.join(codes)}"
            raise dead("the process of an environment", how) from None
        finally:
            done.set()

    def _started(self) -> list[multiprocessing.Process]:
        return [process for process in self.processes if process.pid is not None]

    def _kill(self) -> None:
        for process in self._started():
            process.kill()


def make_vector_env(num_envs: int, **options: Any) -> Environments:
    """Starts processes with one environment each.

    Episodes never start automatically. The caller resets the finished environments, each with the
    seed of its next episode (``options={"reset_mask": ...}``).

    Args:
        num_envs: Number of environments.
        **options: Arguments of ``make_env``.

    Returns:
        A vector environment with ``vector_reward``, (num_envs, 3), in its ``info``.

    Raises:
        UserError: If a process dies or takes too long, here or in any later call.
    """
    # Each child repeats the imports of the main module, torch included. That takes seconds for each
    # child, unless the fork server has imported the modules before.
    multiprocessing.set_forkserver_preload([name for name in sys.modules if _ours(name)])
    return Environments(
        [partial(_scalar_env, **options)] * num_envs,
        # A forked child would share OpenGL and threads with its parent, and a spawned child would
        # import the simulator again. The fork server imports it once for all children.
        context="forkserver",
        autoreset_mode=AutoresetMode.DISABLED,
    )


def reset_some(
    env: AsyncVectorEnv, mask: np.ndarray, seeds: list[int | None], options: dict[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Resets the environments of a mask and leaves the others unchanged.

    Args:
        env: Environments from ``make_vector_env``.
        mask: Which environments to reset, (num_envs,) bool.
        seeds: One seed for each environment; seeds outside the mask are ignored.
        options: Options of the reset, e.g. ``stress``.
    """
    return env.reset(seed=seeds, options={**options, "reset_mask": mask})
