"""Replay buffer of multi-step transitions from finished episodes.

Tensor suffixes: T steps of an episode, B batch, D observation, A action, K objectives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lib.sim.env import ACTION_SIZE


@dataclass
class Batch:
    """Batch of sampled transitions.

    Attributes:
        obs: (B, D) observations.
        skill: (B,) skill indices.
        severity: (B,) how surprising the situation was, in [0, 1].
        action: (B, A) actions.
        reward: (B, K) discounted sum of rewards over up to n steps.
        discount: (B,) gamma to the power of the number of these steps.
        terminated: (B,) whether the task was done within these steps.
        next_obs: (B, D) observations after these steps.
        next_skill: (B,) skill indices after these steps.
        next_severity: (B,) severities after these steps.
        expert: (B, 2, A) actions that the teacher would have taken at pace 0 and at pace 1.
    """

    obs: Tensor
    skill: Tensor
    severity: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    terminated: Tensor
    next_obs: Tensor
    next_skill: Tensor
    next_severity: Tensor
    expert: Tensor

    def __len__(self) -> int:
        """Returns the number of transitions."""
        return len(self.skill)

    @staticmethod
    def join(first: Batch, second: Batch) -> Batch:
        """Concatenates two batches."""
        return Batch(**{k: torch.cat([v, getattr(second, k)]) for k, v in vars(first).items()})


def n_step(
    reward_TK: np.ndarray, observed: int, terminated: bool, n: int, gamma: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sums rewards over the next n steps, or fewer at the end of an episode.

    Args:
        reward_TK: Rewards of an episode.
        observed: Number of observations: T, or T + 1 if the last frame was observed too.
        terminated: Whether the episode ended because the task was done.
        n: Number of steps of a return.
        gamma: Discount per step.

    Returns:
        For each of M usable steps: the return (M, K), the discount of the following value (M,),
        the index of the following observation (M,), and whether the episode has ended there (M,).
        A last step without a following observation is left out, unless the task was done.
    """
    steps = len(reward_TK)
    usable = steps if terminated or observed > steps else steps - 1
    starts = np.arange(usable)
    stops = np.minimum(starts + n, steps if terminated else observed - 1)
    total = np.zeros((usable, reward_TK.shape[1]))
    for offset in range(n):
        inside = starts + offset < stops
        rows = np.minimum(starts + offset, steps - 1)
        total += (gamma**offset) * inside[:, None] * reward_TK[rows]
    done = terminated & (stops == steps)
    return total, gamma ** (stops - starts), np.minimum(stops, observed - 1), done


class Replay:
    """Replay buffer of transitions, sampled uniformly."""

    def __init__(self, capacity: int, obs_dim: int, n: int, gamma: float, objectives: int = 3):
        """Allocates the arrays.

        Args:
            capacity: Largest number of transitions; when it is reached, the oldest are overwritten.
            obs_dim: Number of features of an observation.
            n: Number of steps of a return.
            gamma: Discount per step.
            objectives: Number of objectives of the reward.
        """
        self._n, self._gamma = n, gamma
        self._capacity, self._next, self.size = capacity, 0, 0
        self._arrays: dict[str, np.ndarray] = {
            "obs": np.zeros((capacity, obs_dim), np.float32),
            "skill": np.zeros(capacity, np.int64),
            "severity": np.zeros(capacity, np.float32),
            "action": np.zeros((capacity, ACTION_SIZE), np.float32),
            "reward": np.zeros((capacity, objectives), np.float32),
            "discount": np.zeros(capacity, np.float32),
            "terminated": np.zeros(capacity, bool),
            "next_obs": np.zeros((capacity, obs_dim), np.float32),
            "next_skill": np.zeros(capacity, np.int64),
            "next_severity": np.zeros(capacity, np.float32),
            "expert": np.zeros((capacity, 2, ACTION_SIZE), np.float32),
        }

    def add(
        self,
        obs: np.ndarray,
        skill: np.ndarray,
        severity: np.ndarray,
        action_TA: np.ndarray,
        reward_TK: np.ndarray,
        terminated: bool,
        expert_T2A: np.ndarray,
    ) -> None:
        """Adds an episode.

        Args:
            obs: Observations, (T, D) or (T + 1, D).
            skill: Skill indices, (T,) or (T + 1,).
            severity: Severities of the surprise, (T,) or (T + 1,).
            action_TA: Executed actions.
            reward_TK: Rewards.
            terminated: Whether the episode ended because the task was done.
            expert_T2A: The teacher's actions at both paces.
        """
        reward, discount, follow, done = n_step(
            reward_TK, len(obs), terminated, self._n, self._gamma
        )
        count = len(reward)
        rows = (self._next + np.arange(count)) % self._capacity
        values = {
            "obs": obs[:count],
            "skill": skill[:count],
            "severity": severity[:count],
            "action": action_TA[:count],
            "reward": reward,
            "discount": discount,
            "terminated": done,
            "next_obs": obs[follow],
            "next_skill": skill[follow],
            "next_severity": severity[follow],
            "expert": expert_T2A[:count],
        }
        for name, array in values.items():
            self._arrays[name][rows] = array
        self._next = int(self._next + count) % self._capacity
        self.size = min(self.size + count, self._capacity)

    def sample(self, count: int, rng: np.random.Generator, *, balanced: bool = False) -> Batch:
        """Draws transitions with replacement.

        Args:
            count: Number of transitions.
            rng: Random generator.
            balanced: Whether to draw transitions of all skills equally often.
        """
        if not balanced:
            rows = rng.integers(0, self.size, count)
        else:
            # Pulling is a third of the steps and recovering a thirtieth. Uniform draws would train
            # the head of a rare skill too seldom.
            skill = self._arrays["skill"][: self.size]
            pools = [np.flatnonzero(skill == s) for s in np.unique(skill)]
            which = rng.integers(0, len(pools), count)
            sizes = np.array([len(pool) for pool in pools])
            offset = (rng.random(count) * sizes[which]).astype(int)
            rows = np.array([pools[w][o] for w, o in zip(which, offset, strict=True)])
        return Batch(**{k: torch.from_numpy(v[rows]) for k, v in self._arrays.items()})
