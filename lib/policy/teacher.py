"""The teacher: the script that the policy learns from. It receives the privileged state."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from lib.episode import STATE_GRIPPER, STATE_HAND, STATE_HANDLE, STATE_YAW
from lib.sim.env import EXPERT_OBS_SIZE
from lib.sim.experts import TURN, Script

SMOOTH_GAIN = 10.0
SMOOTH_ALIGN_M, SMOOTH_DROP_M = 0.07, 0.04
SMOOTH_LIFT = np.array([0.0, 0.0, 0.12])
SMOOTH_GRASP = np.array([0.0, 0.0, 0.007])  # how far below the handle's centre the hand takes hold
SMOOTH_PULL = np.array([0.0, -0.25, 0.0])


class SmoothScript(Script):
    """The expert's phases without haste: it goes straight and slows down before it arrives.

    Its motion is scaled as a whole and its gain is low. That saves most of the blows and a quarter
    of the energy of ``FastScript`` at the same pace; docs/decisions.md has the figures. Like
    ``FastScript``, it is made for parts that move towards negative y.
    """

    def __init__(self, speed: float) -> None:
        """Stores how fast it is.

        Args:
            speed: Largest action along any axis of the part, in (0, 1].
        """
        self._speed = speed

    def act(self, expert_obs: np.ndarray) -> np.ndarray:
        """Returns the action; see ``Script.act``."""
        hand = expert_obs[STATE_HAND]
        grasp = expert_obs[STATE_HANDLE] - SMOOTH_GRASP
        if math.hypot(*(hand[:2] - grasp[:2])) > SMOOTH_ALIGN_M:
            target = grasp + SMOOTH_LIFT
        elif abs(hand[2] - grasp[2]) > SMOOTH_DROP_M:
            target = grasp
        else:
            target = grasp + SMOOTH_PULL
        motion = SMOOTH_GAIN * (target - hand)
        motion /= max(1.0, float(np.abs(motion).max()) / self._speed)
        return np.append(motion, -1.0)


class Teacher:
    """What the policy learns from: two smooth scripts, a gentle and a brisk one.

    An action between theirs is one at a pace between theirs: as long as the hand has far to go, it
    is a speed in a direction that they share, and later the same action.
    """

    def __init__(self) -> None:
        """Creates the two scripts."""
        self._scripts = (SmoothScript(speed=0.65), SmoothScript(speed=1.0))

    def __call__(self, expert_obs: np.ndarray) -> np.ndarray:
        """Returns the actions at pace 0 and at pace 1, (2, 4) float32.

        Args:
            expert_obs: (39,) Meta-World's privileged observation.
        """
        return np.stack([script(expert_obs) for script in self._scripts])

    def at(self, pace: float) -> Callable[[np.ndarray], np.ndarray]:
        """Returns the script of a pace: a function from the privileged observation to an action.

        Args:
            pace: From 0, gentle, to 1, brisk.
        """
        return lambda expert_obs: at_pace(self(expert_obs), np.array(pace, np.float32))


def at_pace(taught: np.ndarray, pace: np.ndarray) -> np.ndarray:
    """Returns the teacher's actions at given paces.

    Args:
        taught: (..., 2, A) actions at pace 0 and at pace 1.
        pace: (...) paces in [0, 1].
    """
    gentle, brisk = taught[..., 0, :], taught[..., 1, :]
    return gentle + np.asarray(pace)[..., None] * (brisk - gentle)


def recorded_obs(state_TS: np.ndarray) -> np.ndarray:
    """Returns what a script would have observed in recorded states, (T, 39).

    Args:
        state_TS: ``labels/state`` of an episode, see lib/episode.
    """
    seen = np.zeros((len(state_TS), EXPERT_OBS_SIZE))
    for part in (STATE_HAND, STATE_GRIPPER, STATE_HANDLE):
        seen[:, part] = state_TS[:, part]
    half = [float(yaw) / 2 for yaw in state_TS[:, STATE_YAW]]
    seen[:, TURN] = [(math.cos(angle), 0.0, 0.0, math.sin(angle)) for angle in half]
    return seen
