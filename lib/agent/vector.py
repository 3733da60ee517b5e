"""Several environments that are stepped together, each in its own process."""

from __future__ import annotations

import multiprocessing
import sys
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from mo_gymnasium.wrappers import LinearReward

from lib.sim.env import make_env


def _scalar_env(**options: Any) -> gym.Env:
    # Gymnasium's vector environments need scalar rewards; LinearReward keeps the vector in info.
    return LinearReward(make_env(**options))


def _ours(module: str) -> bool:
    return module.partition(".")[0] == __name__.partition(".")[0]


def make_vector_env(num_envs: int, **options: Any) -> AsyncVectorEnv:
    """Starts processes with one environment each.

    Episodes never start automatically. The caller resets the finished environments, each with the
    seed of its next episode (``options={"reset_mask": ...}``).

    Args:
        num_envs: Number of environments.
        **options: Arguments of ``make_env``.

    Returns:
        A vector environment with ``vector_reward``, (num_envs, 3), in its ``info``.
    """
    # Each child repeats the imports of the main module, torch included. That takes seconds for each
    # child, unless the fork server has imported the modules before.
    multiprocessing.set_forkserver_preload([name for name in sys.modules if _ours(name)])
    return AsyncVectorEnv(
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
