"""Place of the handle and choice of the skill that is due, from pictures and proprioception.

Tensor suffixes: B batch, N steps, G geometry features, P proprioception, L what is located.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.base.seeds import named_seed
from lib.data.dataset import Dataset
from lib.episode import STATE_HAND, STATE_HANDLE, STATE_YAW
from lib.learning.halves import small_operations
from lib.learning.loop import Optimizer, fit
from lib.params import Safety
from lib.segmenter import Segmenter
from lib.segmenter.geometry import NAMES
from lib.segmenter.locator import Locator
from lib.sim.skills import skill_phase

LOCATED = 4
"""What is located: the vector from the hand to the handle (3, m) and the turn of its part (rad)."""
UNITS = torch.tensor([0.1, 0.1, 0.1, 1.0])  # that bring errors of vector and turn to one order
# Errors above this many of these units, 1 cm or 6 degrees, count by their size and not their
# square: of a handle that is hidden, nobody knows the place.
BETA = 0.1
BATCH, WEIGHT_DECAY = 256, 0.3
HAND_SIZE = 3


class SkillRouter:
    """Locates the handle and chooses the skill that is due; the policy never chooses its own.

    A network, trained on phase 1, converts the geometry features and the hand position to the
    vector from the hand to the handle and the turn of the part. The rule of ``lib.sim.skills`` then
    gives the skill. The gripper is not an input. The position of the hand does not depend on it,
    and the expert never closes it, so the network would give arbitrary results for a closed one.
    """

    def __init__(self, locator: torch.nn.Module) -> None:
        """Stores the network.

        Args:
            locator: Network from [geometry, hand position] to the LOCATED numbers, in UNITS.
        """
        self._locator = locator.eval().requires_grad_(False)

    @torch.inference_mode()
    def locate(self, geometry_BG: np.ndarray, proprio_BP: np.ndarray) -> np.ndarray:
        """Returns where the handle is and how its part is turned, (B, LOCATED).

        Args:
            geometry_BG: Return value of ``Segmenter.geometry``.
            proprio_BP: Hand position (3) and gripper opening.
        """
        return (self._locator(locator_inputs(geometry_BG, proprio_BP)) * UNITS).numpy()

    @staticmethod
    def route(to_handle_B3: np.ndarray, had_hold_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the skill of each robot and whether it has held the handle in this episode.

        Args:
            to_handle_B3: First three numbers of ``locate``, the vector to the handle, m.
            had_hold_B: Second return value of the last call; false at the start of an episode.
        """
        return skill_phase(np.zeros_like(to_handle_B3), to_handle_B3, had_hold_B)


def build_locator() -> Locator:
    """Builds an untrained network for ``SkillRouter``."""
    return Locator(len(NAMES) + HAND_SIZE, LOCATED)


def locator_inputs(geometry_BG: np.ndarray, proprio_BP: np.ndarray) -> Tensor:
    """Returns the inputs of the network, (B, G + 3) float32.

    Args:
        geometry_BG: Geometry features.
        proprio_BP: Hand position (3) and gripper opening.
    """
    hand_B3 = proprio_BP[:, :HAND_SIZE]
    return torch.from_numpy(np.concatenate([geometry_BG, hand_B3], 1).astype(np.float32))


def train_locator(
    dataset: Dataset, geometry_NG: np.ndarray, settings: Segmenter, safety: Safety, seed: int
) -> Locator:
    """Trains the network that locates the handle.

    Args:
        dataset: Training episodes with ``obs/eef_pos``, ``obs/gripper`` and ``labels/state``.
        geometry_NG: Geometry features of every step, from the segmenter in use.
        settings: Training settings.
        safety: Settings of the gradient clipping and the NaN guard.
        seed: Seed for the first weights and for the choice of the steps.
    """
    x_NI = locator_inputs(geometry_NG, dataset.proprio())
    state_NS = dataset.arrays["labels/state"].astype(np.float32)
    vector_N3 = state_NS[:, STATE_HANDLE] - state_NS[:, STATE_HAND]
    truth_NL = torch.from_numpy(np.c_[vector_N3, state_NS[:, STATE_YAW]]) / UNITS
    with torch.random.fork_rng():
        torch.manual_seed(named_seed(seed, "locator"))
        locator = build_locator()
    locator.scale_by(x_NI.numpy())
    rng = np.random.default_rng(named_seed(seed, "located steps"))

    def losses_of_step(step: int) -> dict[str, Tensor]:
        rows = torch.from_numpy(rng.integers(0, len(x_NI), BATCH))
        # Smooth L1: Girshick 2015, "Fast R-CNN" (arXiv 1504.08083).
        return {"total": F.smooth_l1_loss(locator(x_NI[rows]), truth_NL[rows], beta=BETA)}

    optimizer = Optimizer(
        "segmenter",
        locator.parameters(),
        settings.locator_lr,
        safety,
        weight_decay=WEIGHT_DECAY,
        schedule=lambda step: 1 - step / settings.locator_steps,
    )
    with small_operations():
        fit("locator", losses_of_step, optimizer, settings.locator_steps)
    return locator
