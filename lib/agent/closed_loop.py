"""Robots in closed loop: several environments, one agent, one episode after the other.

The same loop collects training data, validates and tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv

from lib.agent.agents import Agent
from lib.sim.env import CONTROL_STEP_S
from lib.sim.stress import Stress
from lib.sim.vector import reset_some


@dataclass
class Trajectory:
    """One finished episode of T steps.

    Attributes:
        seed: Its reset seed.
        terminated: Ended because the task was done.
        observation: (T, D); (T + 1, D) where the last frame is observed too.
        skill: As many.
        action: (T, A) as the agent gave it.
        reward: (T, 3).
        success: (T,) bool.
        energy_j: (T,) mechanical work.
        damages: (T,) damage events.
        frames: (T, H, W, 3) if they were kept.
    """

    seed: int
    terminated: bool = False
    observation: list[np.ndarray] = field(default_factory=list)
    skill: list[int] = field(default_factory=list)
    action: list[np.ndarray] = field(default_factory=list)
    reward: list[np.ndarray] = field(default_factory=list)
    success: list[bool] = field(default_factory=list)
    energy_j: list[float] = field(default_factory=list)
    damages: list[int] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Control steps until the first success, or all of them."""
        return self.success.index(True) + 1 if any(self.success) else len(self.success)

    @property
    def seconds(self) -> float:
        """Time of ``steps``."""
        return self.steps * CONTROL_STEP_S

    @property
    def joules(self) -> float:
        """Mechanical work within ``steps``."""
        return float(np.sum(self.energy_j[: self.steps]))


class ClosedLoop:
    """Steps all environments; each takes the next seed when its episode is over."""

    def __init__(
        self,
        env: AsyncVectorEnv,
        agent: Agent,
        seeds: Iterator[int],
        *,
        stress: Stress | None = None,
        keep_frames: Callable[[int], bool] = lambda seed: False,
        final: Callable[..., tuple[np.ndarray, np.ndarray]] | None = None,
    ) -> None:
        """Begins an episode in every environment.

        Args:
            env: From ``make_vector_env``; its episodes end at success or at its horizon.
            agent: Drives the robots; reset here.
            seeds: Reset seeds of the episodes. When they run out, environments idle.
            stress: What goes wrong in every episode.
            keep_frames: Whether to keep the pictures of an episode.
            final: Observes an episode's last frame, for learning: ``PolicyAgent.glance``.
        """
        self._final = final
        self._env, self._agent, self._seeds = env, agent, seeds
        self._options: dict[str, Any] = {"stress": stress or Stress()}
        self._keep = keep_frames
        count = env.num_envs
        self._running: list[Trajectory | None] = [None] * count
        self._first = np.ones(count, bool)
        self._previous = np.zeros((count, 4), np.float32)
        self._expert = np.zeros((count, 39))
        agent.reset()
        self._begin(np.ones(count, bool))

    def _begin(self, mask: np.ndarray) -> None:
        seeds: list[int | None] = [None] * len(mask)
        for index in np.flatnonzero(mask):
            seed = next(self._seeds, None)
            self._running[index] = None if seed is None else Trajectory(seed)
            # An idle environment still has to be reset: it is stepped with the others.
            seeds[index] = 0 if seed is None else seed
        self._observation, info = reset_some(self._env, mask, seeds, self._options)
        self._expert[mask] = info["expert_obs"][mask]
        self._first |= mask
        self._previous[mask] = 0.0

    @property
    def idle(self) -> bool:
        """Whether no episode is running."""
        return all(trajectory is None for trajectory in self._running)

    def step(self) -> list[Trajectory]:
        """Moves every robot by one control step.

        Returns:
            The episodes that ended with it, in the order of the environments.
        """
        images, proprio = self._observation["image"], self._observation["proprio"]
        decision = self._agent.act(images, proprio, self._expert, self._previous, self._first)
        for index, running in enumerate(self._running):
            if running is not None:
                running.observation.append(decision.observation[index])
                running.skill.append(int(decision.skill[index]))
                running.action.append(decision.action[index])
                if self._keep(running.seed):
                    running.frames.append(images[index].copy())
        self._observation, _, terminated, truncated, info = self._env.step(decision.action)
        self._expert = info["expert_obs"]
        # What the robot was told to do, not what noise made of it: it knows only that.
        self._previous = decision.action.astype(np.float32)
        self._first = np.zeros(len(self._first), bool)
        over = terminated | truncated
        finished = []
        for index, running in enumerate(self._running):
            if running is None:
                continue
            running.reward.append(info["vector_reward"][index])
            running.success.append(bool(info["success"][index]))
            running.energy_j.append(float(info["energy_j"][index]))
            running.damages.append(int(info["damages"][index]))
            if over[index]:
                running.terminated = bool(terminated[index])
                finished.append(running)
        if over.any():
            if self._final is not None:
                self._close(finished, over)
            self._begin(over)
        return finished

    def _close(self, finished: list[Trajectory], over: np.ndarray) -> None:
        """Adds the observation after the last action, which learning bootstraps from."""
        if not finished:
            return
        observation, skill = self._final(
            self._observation["image"], self._observation["proprio"], self._previous, self._first
        )
        for index, running in enumerate(self._running):
            if running is not None and over[index]:
                running.observation.append(observation[index])
                running.skill.append(int(skill[index]))


def run_episodes(
    env: AsyncVectorEnv,
    agent: Agent,
    seeds: list[int],
    *,
    stress: Stress | None = None,
    keep_frames: Callable[[int], bool] = lambda seed: False,
) -> list[Trajectory]:
    """Runs some episodes to their end.

    Args:
        env: From ``make_vector_env``.
        agent: Drives the robots.
        seeds: Reset seeds.
        stress: What goes wrong in every episode.
        keep_frames: Whether to keep the pictures of an episode.

    Returns:
        Trajectories in the order of the seeds.
    """
    loop = ClosedLoop(env, agent, iter(seeds), stress=stress, keep_frames=keep_frames)
    finished: dict[int, Trajectory] = {}
    while not loop.idle:
        for trajectory in loop.step():
            finished[trajectory.seed] = trajectory
    return [finished[seed] for seed in seeds]
