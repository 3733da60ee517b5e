"""The two scripted baselines. Both receive privileged state, which the policy never receives."""

from __future__ import annotations

import math
import warnings

import numpy as np
from metaworld import policies

from lib.episode import STATE_HAND, STATE_HANDLE
from lib.sim.tasks import Task
from lib.sim.world import turn_by

# Meta-World's policies warn that their gain can leave the action space. The action is clipped here,
# as the environment does.
warnings.filterwarnings("ignore", "Constant.s. may be too high", UserWarning)

TURN = slice(7, 11)  # quaternion of the part in Meta-World's observation

FAST_GAIN = 25.0
FAST_LIFT_M = 0.10
FAST_PULL_M = 0.30


def yaw_of(quaternion: np.ndarray) -> float:
    """Returns the angle of a turn around the vertical axis, radians.

    Args:
        quaternion: (4,) w, x, y, z.
    """
    w, x, y, z = quaternion.tolist()
    return math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def _clipped(action: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(action, -1.0), 1.0)


class Script:
    """A script in the frame of the part that it moves, as if the part were never turned."""

    def act(self, expert_obs: np.ndarray) -> np.ndarray:
        """Returns the action for a part that is not turned, (4,); it may exceed [-1, 1].

        Args:
            expert_obs: (39,) Meta-World's privileged observation, in the part's frame.
        """
        raise NotImplementedError

    def __call__(self, expert_obs: np.ndarray) -> np.ndarray:
        """Returns the action.

        Args:
            expert_obs: (39,) Meta-World's privileged observation.

        Returns:
            (4,) float32 in [-1, 1].
        """
        yaw = yaw_of(expert_obs[TURN])
        if yaw == 0.0:
            return _clipped(self.act(expert_obs)).astype(np.float32)
        turn = turn_by(yaw)
        handle, straight = expert_obs[STATE_HANDLE], expert_obs.copy()
        straight[STATE_HAND] = handle + (expert_obs[STATE_HAND] - handle) @ turn
        action = _clipped(self.act(straight))
        motion = turn @ action[:3]
        # Scaled as a whole, because clipping each axis would change the direction.
        motion /= max(1.0, float(np.abs(motion).max()))
        return np.append(motion, action[3]).astype(np.float32)


class ScriptedExpert(Script):
    """Meta-World's own scripted policy, in the part's frame, clipped to the action space."""

    def __init__(self, task: Task) -> None:
        """Creates the scripted policy of a task.

        Args:
            task: Task that names the policy.
        """
        self._policy = getattr(policies, task.expert)()

    def act(self, expert_obs: np.ndarray) -> np.ndarray:
        """Returns the action; see ``Script.act``."""
        return self._policy.get_action(expert_obs)


class FastScript(Script):
    """The expert's phases at full speed: lower lift, higher gain, pull target far behind.

    This is a hand-tuned baseline for policies that claim to be fast. It is made for pulling tasks
    in which the part moves towards negative y.
    """

    def act(self, expert_obs: np.ndarray) -> np.ndarray:
        """Returns the action; see ``Script.act``."""
        hand = expert_obs[STATE_HAND]
        grasp = expert_obs[STATE_HANDLE] + np.array([0.0, 0.0, -0.02])
        if np.linalg.norm(hand[:2] - grasp[:2]) > 0.06:
            target = grasp + np.array([0.0, 0.0, FAST_LIFT_M])
        elif abs(hand[2] - grasp[2]) > 0.04:
            target = grasp
        else:
            target = grasp + np.array([0.0, -FAST_PULL_M, 0.0])
        return np.append(FAST_GAIN * (target - hand), -1.0)
