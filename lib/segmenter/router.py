"""Choice of the skill that is due, from pictures and proprioception.

Tensor suffixes: B batch, N steps, G geometry features, P proprioception.
"""

from __future__ import annotations

import numpy as np

from lib.data.dataset import Dataset
from lib.episode import STATE_HAND, STATE_HANDLE
from lib.learning.ridge import apply_ridge, fit_ridge
from lib.segmenter.geometry import quadratic
from lib.sim.skills import skill_phase


class SkillRouter:
    """Chooses the skill that is due; the policy never chooses its own skill.

    A ridge regression, calibrated on phase 1, converts the geometry features and the hand position
    to the vector from the hand to the handle, in metres. The rule of ``lib.sim.skills`` then gives
    the skill. The gripper is not an input. The position of the hand does not depend on it, and the
    expert never closes it, so the regression would give arbitrary results for a closed gripper.
    """

    def __init__(self, weights: np.ndarray) -> None:
        """Stores the calibration.

        Args:
            weights: Weights of the ridge regression on ``quadratic([geometry, hand position])``.
        """
        self.weights = weights

    def to_handle(self, geometry_BG: np.ndarray, proprio_BP: np.ndarray) -> np.ndarray:
        """Returns the vector from the hand to the handle, (B, 3), m.

        Args:
            geometry_BG: Return value of ``Segmenter.geometry``.
            proprio_BP: Hand position (3) and gripper opening.
        """
        return apply_ridge(self.weights, self.inputs(geometry_BG, proprio_BP))

    @staticmethod
    def inputs(geometry_BG: np.ndarray, proprio_BP: np.ndarray) -> np.ndarray:
        """Returns the inputs of the regression.

        Args:
            geometry_BG: Geometry features.
            proprio_BP: Hand position (3) and gripper opening.
        """
        hand_B3 = proprio_BP[:, :3]
        return quadratic(np.concatenate([geometry_BG, hand_B3], axis=1).astype(np.float64))

    @staticmethod
    def route(to_handle_B3: np.ndarray, had_hold_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the skill of each robot and whether it has held the handle in this episode.

        Args:
            to_handle_B3: Return value of ``to_handle``.
            had_hold_B: Second return value of the last call; false at the start of an episode.
        """
        return skill_phase(np.zeros_like(to_handle_B3), to_handle_B3, had_hold_B)


ROUTER_RIDGE = 1.0


def calibrate_router(dataset: Dataset, geometry_NG: np.ndarray) -> SkillRouter:
    """Fits the regression of the router for the vector from the hand to the handle.

    Args:
        dataset: Dataset with ``obs/eef_pos``, ``obs/gripper`` and ``labels/state``; only the
            training episodes are used.
        geometry_NG: Geometry features of every step, from the segmenter in use.
    """
    train = dataset.rows(["train"])
    state = dataset.arrays["labels/state"][train]
    inputs = SkillRouter.inputs(geometry_NG[train], dataset.proprio()[train])
    return SkillRouter(
        fit_ridge(inputs, state[:, STATE_HANDLE] - state[:, STATE_HAND], ROUTER_RIDGE)
    )
