"""What the robot should feel: predicts how its hand moves from how it moved and what was asked.

A hand that slips, is pushed, pulls something heavy or is felt too late moves otherwise.

Tensor suffixes: B robots, T steps, H steps of history (the latest first), P proprioception,
A action.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from lib.learning.ridge import apply_ridge, fit_ridge

HISTORY = 3  # steps; the hand trails its target by two
PENALTY = 1.0  # of the ridge regression


class MotionModel:
    """Linear prediction of the hand's next motion, fitted by ridge regression."""

    def __init__(self, weights: np.ndarray) -> None:
        """Stores the weights.

        Args:
            weights: Return value of ``fit_ridge``, (inputs + 1, 3).
        """
        self.weights = weights

    @classmethod
    def fit(cls, episodes: Sequence[tuple[np.ndarray, np.ndarray]]) -> MotionModel:
        """Fits the model.

        Args:
            episodes: Proprioception (T, P) and actions (T, A) of each episode.
        """
        inputs = [_inputs(*_histories(*episode)) for episode in episodes]
        motions = [np.diff(proprio[:, :3].astype(np.float64), axis=0) for proprio, _ in episodes]
        return cls(fit_ridge(np.concatenate(inputs), np.concatenate(motions), PENALTY))

    def errors(self, proprio_TP: np.ndarray, actions_TA: np.ndarray) -> np.ndarray:
        """Returns true minus predicted motion to each frame but the first, (T - 1, 3), m.

        Args:
            proprio_TP: Proprioception of an episode.
            actions_TA: Action taken on each frame.
        """
        motion = np.diff(proprio_TP[:, :3].astype(np.float64), axis=0)
        return motion - self.predict(*_histories(proprio_TP, actions_TA))

    def predict(
        self, proprio_BP: np.ndarray, motion_BHP: np.ndarray, action_BHA: np.ndarray
    ) -> np.ndarray:
        """Returns the expected motion of the hand to the next frame, (B, 3), m.

        Args:
            proprio_BP: Present proprioception.
            motion_BHP: Changes of the proprioception up to the present frame; 0 before the start.
            action_BHA: The present action and those before it; 0 before the start.
        """
        return apply_ridge(self.weights, _inputs(proprio_BP, motion_BHP, action_BHA))

    def tensors(self) -> dict[str, Tensor]:
        """Returns the weights as a checkpoint stores them."""
        return {"weights": torch.from_numpy(self.weights)}


def _inputs(proprio_BP: np.ndarray, motion_BHP: np.ndarray, action_BHA: np.ndarray) -> np.ndarray:
    place = proprio_BP.astype(np.float64)
    histories = [x.reshape(len(x), -1) for x in (motion_BHP, action_BHA)]
    # How far the hand follows depends on where it is; the square lets that bend.
    return np.concatenate([place, place**2, *histories], 1)


def _histories(
    proprio_TP: np.ndarray, actions_TA: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the arguments of ``MotionModel.predict`` for all frames but the last."""
    motion = np.diff(proprio_TP.astype(np.float64), axis=0, prepend=proprio_TP[:1])

    def windows(x: np.ndarray) -> np.ndarray:
        padded = np.concatenate([np.zeros((HISTORY - 1, x.shape[1])), x])
        return sliding_window_view(padded, HISTORY, axis=0)[..., ::-1].swapaxes(1, 2)[:-1]

    return proprio_TP[:-1], windows(motion), windows(actions_TA)
