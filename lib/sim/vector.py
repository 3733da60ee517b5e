"""Several environments stepped together, each in a process of its own."""

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
    # Gymnasium's vector environments carry scalar rewards; LinearReward keeps the vector in info.
    return LinearReward(make_env(**options))


def _ours(module: str) -> bool:
    return module.partition(".")[0] == __name__.partition(".")[0]


def make_vector_env(num_envs: int, **options: Any) -> AsyncVectorEnv:
    """Starts processes with one environment each.

    Episodes never begin by themselves: whoever steps the environments resets the finished ones,
    each with the seed of its next episode (``options={"reset_mask": ...}``).

    Args:
        num_envs: How many.
        **options: Arguments of ``make_env``.

    Returns:
        An environment whose ``info`` holds ``vector_reward``, (num_envs, 3).
    """
    # A child runs the imports of the main module again, torch among them, and that takes seconds
    # for each unless the server has done it.
    multiprocessing.set_forkserver_preload([name for name in sys.modules if _ours(name)])
    return AsyncVectorEnv(
        [partial(_scalar_env, **options)] * num_envs,
        # A forked child would share the parent's OpenGL and threads, and a spawned one imports
        # the simulator anew: the fork server does that once for all.
        context="forkserver",
        autoreset_mode=AutoresetMode.DISABLED,
    )


def reset_some(
    env: AsyncVectorEnv, mask: np.ndarray, seeds: list[int | None], options: dict[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Resets the environments of a mask, leaves the others where they are.

    Args:
        env: From ``make_vector_env``.
        mask: (num_envs,) bool.
        seeds: One each; those outside the mask are not looked at.
        options: For the reset, e.g. ``stress``.
    """
    return env.reset(seed=seeds, options={**options, "reset_mask": mask})
