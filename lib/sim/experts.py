"""The two scripted baselines. Both see the true state, which the policy never does."""

from __future__ import annotations

import warnings

import numpy as np
from metaworld import policies

from lib.sim.tasks import Task

# Its policies warn that their gain leaves the action space; we clip, as the environment does.
warnings.filterwarnings("ignore", "Constant.s. may be too high", UserWarning)

FAST_GAIN = 25.0
FAST_LIFT_M = 0.10
FAST_PULL_M = 0.30


class ScriptedExpert:
    """Meta-World's own scripted policy, its actions clipped to the action space."""

    def __init__(self, task: Task) -> None:
        """Takes the expert of a task.

        Args:
            task: Names the policy.
        """
        self._policy = getattr(policies, task.expert)()

    def __call__(self, expert_obs: np.ndarray) -> np.ndarray:
        """Returns the action.

        Args:
            expert_obs: (39,) Meta-World's privileged observation.

        Returns:
            (4,) float32 in [-1, 1].
        """
        action = self._policy.get_action(expert_obs)
        return np.minimum(np.maximum(action, -1.0), 1.0).astype(np.float32)


class FastScript:
    """The expert's phases at full speed: a lower lift, a higher gain, a pull far behind.

    A hand-tuned baseline for a policy that claims to be fast; for pulling tasks whose part moves
    towards negative y.
    """

    def __call__(self, expert_obs: np.ndarray) -> np.ndarray:
        """Returns the action.

        Args:
            expert_obs: (39,) Meta-World's privileged observation.

        Returns:
            (4,) float32 in [-1, 1].
        """
        hand, grasp = expert_obs[:3], expert_obs[4:7] + np.array([0.0, 0.0, -0.02])
        if np.linalg.norm(hand[:2] - grasp[:2]) > 0.06:
            target = grasp + np.array([0.0, 0.0, FAST_LIFT_M])
        elif abs(hand[2] - grasp[2]) > 0.04:
            target = grasp
        else:
            target = grasp + np.array([0.0, -FAST_PULL_M, 0.0])
        motion = np.clip(FAST_GAIN * (target - hand), -1.0, 1.0)
        return np.append(motion, -1.0).astype(np.float32)
