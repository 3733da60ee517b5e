"""The two scripted baselines. Both receive privileged state, which the policy never receives."""

from __future__ import annotations

import warnings

import numpy as np
from metaworld import policies

from lib.episode import STATE_HAND, STATE_HANDLE
from lib.sim.tasks import Task

# Meta-World's policies warn that their gain can leave the action space. The action is clipped here,
# as the environment does.
warnings.filterwarnings("ignore", "Constant.s. may be too high", UserWarning)

FAST_GAIN = 25.0
FAST_LIFT_M = 0.10
FAST_PULL_M = 0.30


class ScriptedExpert:
    """Meta-World's own scripted policy, its actions clipped to the action space."""

    def __init__(self, task: Task) -> None:
        """Creates the scripted policy of a task.

        Args:
            task: Task that names the policy.
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
    """The expert's phases at full speed: lower lift, higher gain, pull target far behind.

    This is a hand-tuned baseline for policies that claim to be fast. It is made for pulling tasks
    in which the part moves towards negative y.
    """

    def __call__(self, expert_obs: np.ndarray) -> np.ndarray:
        """Returns the action.

        Args:
            expert_obs: (39,) Meta-World's privileged observation.

        Returns:
            (4,) float32 in [-1, 1].
        """
        hand = expert_obs[STATE_HAND]
        grasp = expert_obs[STATE_HANDLE] + np.array([0.0, 0.0, -0.02])
        if np.linalg.norm(hand[:2] - grasp[:2]) > 0.06:
            target = grasp + np.array([0.0, 0.0, FAST_LIFT_M])
        elif abs(hand[2] - grasp[2]) > 0.04:
            target = grasp
        else:
            target = grasp + np.array([0.0, -FAST_PULL_M, 0.0])
        motion = np.clip(FAST_GAIN * (target - hand), -1.0, 1.0)
        return np.append(motion, -1.0).astype(np.float32)
