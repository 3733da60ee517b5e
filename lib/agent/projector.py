"""Projection of percepts to the observation of the policy, fitted on phase 1.

Tensor suffixes: B batch, D features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lib.agent.perception import Percepts
from lib.learning.portable import matmul
from lib.learning.ridge import principal_axes
from lib.segmenter.geometry import NAMES
from lib.segmenter.router import LOCATED

CLIP = 5.0  # standard deviations
# Smallest divisors of the direct features, by group. The expert keeps its gripper open to within
# 0.1 mm, so without a lower bound any touch of the fingers would be far outside the usual range.
# The order is: positions of hand (m) and gripper (share of its span), their motions and the action
# that led to the frame, vector to the handle (m), turn of its part (radians) and geometry features.
HAND, GRIPPER = [0.01] * 3, [0.1]
HAND_MOTION, GRIPPER_MOTION = [0.002] * 3, [0.04]
DIRECT = {
    "proprioception": HAND + GRIPPER,
    "motion": HAND_MOTION + GRIPPER_MOTION + [0.1] * 4,
    "geometry": [0.01] * (LOCATED + len(NAMES)),
}
SMALLEST_UNIT = [unit for units in DIRECT.values() for unit in units]
# Groups of an observation, in their order: after the direct features come the components of both
# maps.
GROUPS = (*DIRECT, "backbone", "memory")


class Projector:
    """Projects percepts to observations: scaled direct features, principal components of the maps.

    The direct features have zero mean and unit variance. All components of a map are divided by
    the standard deviation of the first component. With a divisor for each, the last components
    would become as large as the first, although they only tell single pictures apart and hold
    nothing general.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        """Stores the fitted tensors.

        Args:
            tensors: Tensors as returned by ``tensors()``.
        """
        self._tensors = {name: tensor.float() for name, tensor in tensors.items()}

    @classmethod
    def fit(cls, percepts: Percepts, vision_components: int, memory_components: int) -> Projector:
        """Fits the projection on phase-1 percepts; no labels are used.

        Args:
            percepts: Percepts of the training steps.
            vision_components: Number of principal components of the backbone features.
            memory_components: Number of principal components of the RNN state.
        """
        tensors: dict[str, Tensor] = {}
        kept = {"vision": vision_components, "memory": memory_components}
        for name, components in kept.items():
            x = getattr(percepts, name).astype(np.float32)
            mean = x.mean(0)
            variances, axes = principal_axes(x - mean, components)
            tensors[f"{name}_mean"] = torch.from_numpy(mean)
            scaled = axes / np.sqrt(max(variances[0], 1e-8))
            tensors[f"{name}_components"] = torch.from_numpy(scaled).float()
        tensors["direct_mean"] = torch.from_numpy(percepts.direct.mean(0))
        tensors["direct_std"] = torch.from_numpy(
            np.maximum(percepts.direct.std(0), np.array(SMALLEST_UNIT, np.float32))
        )
        return cls(tensors)

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors to be saved."""
        return self._tensors

    @property
    def dim(self) -> int:
        """Number of features of an observation."""
        t = self._tensors
        components = t["vision_components"].shape[1] + t["memory_components"].shape[1]
        return len(t["direct_mean"]) + components

    def columns(self, group: str) -> slice:
        """Returns which features of an observation belong to a group.

        Args:
            group: One of GROUPS.
        """
        maps = (self._tensors[f"{name}_components"].shape[1] for name in ("vision", "memory"))
        ends = np.cumsum([0, *map(len, DIRECT.values()), *maps]).tolist()
        index = GROUPS.index(group)
        return slice(ends[index], ends[index + 1])

    def __call__(self, percepts: Percepts) -> np.ndarray:
        """Returns observations, (B, dim) float32 in [-CLIP, CLIP].

        Args:
            percepts: Percepts of any number of frames.
        """
        t = self._tensors
        direct = (torch.from_numpy(percepts.direct) - t["direct_mean"]) / t["direct_std"]
        parts = [direct]
        for name in ("vision", "memory"):
            x = torch.from_numpy(getattr(percepts, name)).float() - t[f"{name}_mean"]
            parts.append(matmul(x, t[f"{name}_components"]))
        return torch.cat(parts, 1).clamp(-CLIP, CLIP).numpy()
