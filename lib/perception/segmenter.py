"""The segmenter that serves: the U-Net where it proved good enough, else the heuristic.

Tensor suffixes: B batch, C classes, H height, W width, G geometry features.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.checkpoint import load_checkpoint
from lib.console import track
from lib.episode import PRIMITIVES
from lib.errors import UserError
from lib.halves import in_halves, split
from lib.models.folding import folded
from lib.models.heuristic import HeuristicSegmenter
from lib.models.unet import UNet
from lib.paths import SEGMENTER, relative
from lib.perception.encoder import freeze, to_unit
from lib.perception.geometry import geometry_of, quadratic
from lib.ridge import apply_ridge
from lib.skills import skill_phase

MEASURE_BATCH = 16  # what the network makes of it fits the cache
Autocast = Callable[[], AbstractContextManager]


class Segmenter:
    """Primitive probabilities and geometry of pictures.

    Attributes:
        active: Whether the U-Net serves.
        digest: Of the checkpoint it was loaded from; what it measures is stored under it.
    """

    def __init__(
        self, model: UNet | None, autocast: Autocast = nullcontext, digest: str = ""
    ) -> None:
        """Takes a network, or none for the heuristic.

        Args:
            model: A trained U-Net; a frozen copy of it serves.
            autocast: Context in which it runs; bf16 halves its time.
            digest: Of its checkpoint.
        """
        self._autocast, self.digest = autocast, digest
        self.active = model is not None
        self._model = freeze(folded(model)) if model is not None else None
        self._heuristic = HeuristicSegmenter()

    @torch.inference_mode()
    def probabilities(self, images_BHW3: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Segments pictures.

        Args:
            images_BHW3: uint8.

        Returns:
            Primitive probabilities (B, C, H, W), and boundary probabilities (B, H, W), which the
            heuristic does not give.
        """
        found = self._in_halves(images_BHW3, self._look)
        return found[0], found[1] if self.active else None

    @torch.inference_mode()
    def geometry(self, images_BHW3: np.ndarray) -> Tensor:
        """Measures the parts in pictures.

        Args:
            images_BHW3: uint8.

        Returns:
            (B, G) float32; see ``lib.perception.geometry.NAMES``.
        """
        return self._in_halves(images_BHW3, lambda some: [geometry_of(self._look(some)[0])])[0]

    def _look(self, images_BHW3: np.ndarray) -> list[Tensor]:
        if self._model is None:
            labels = torch.from_numpy(self._heuristic.primitives(images_BHW3)).long()
            return [F.one_hot(labels, len(PRIMITIVES)).permute(0, 3, 1, 2).float()]
        boundary, primitive = self._model(to_unit(images_BHW3))
        return [primitive.float().softmax(1), boundary[:, 0].float().sigmoid()]

    def _in_halves(
        self, images_BHW3: np.ndarray, work: Callable[[np.ndarray], list[Tensor]]
    ) -> list[Tensor]:
        with self._autocast():
            return in_halves([partial(work, images_BHW3[p]) for p in split(len(images_BHW3))])

    def measure(self, images_NHW3: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Measures the parts in many pictures.

        Args:
            images_NHW3: uint8.
            rows: Which of them, in this order.

        Returns:
            (len(rows), G) float32.
        """
        starts = range(0, len(rows), MEASURE_BATCH)
        parts = [
            self.geometry(images_NHW3[rows[start : start + MEASURE_BATCH]]).numpy()
            for start in track(starts, "measuring geometry", len(starts), "batches")
        ]
        return np.concatenate(parts)


class SkillRouter:
    """Says which skill is due, from what is seen and felt; the policy never picks its own.

    A ridge regression, calibrated on phase 1, turns geometry and the hand's position into the
    vector from the hand to the handle, in metres. The phase rule of ``lib.skills`` does the rest.
    The gripper is left out: where the hand is does not depend on it, the expert never closes it,
    and what a regression makes of a gripper that it never saw closed is anything.
    """

    def __init__(self, weights: np.ndarray) -> None:
        """Takes the calibration.

        Args:
            weights: Of the ridge on ``quadratic([geometry, hand position])``.
        """
        self.weights = weights

    def to_handle(self, geometry_BG: np.ndarray, proprio_BP: np.ndarray) -> np.ndarray:
        """Returns the vector from the hand to the handle, (B, 3), m.

        Args:
            geometry_BG: What ``Segmenter.geometry`` gave.
            proprio_BP: Hand position and gripper.
        """
        return apply_ridge(self.weights, self.inputs(geometry_BG, proprio_BP))

    @staticmethod
    def inputs(geometry_BG: np.ndarray, proprio_BP: np.ndarray) -> np.ndarray:
        """Returns the inputs of the regression.

        Args:
            geometry_BG: Geometry features.
            proprio_BP: Hand position (3) and gripper.
        """
        hand_B3 = proprio_BP[:, :3]
        return quadratic(np.concatenate([geometry_BG, hand_B3], axis=1).astype(np.float64))

    @staticmethod
    def route(to_handle_B3: np.ndarray, had_hold_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the skill of each robot, and whether it had hold of the handle by now.

        Args:
            to_handle_B3: What ``to_handle`` gave.
            had_hold_B: The second return value of the last call; false at an episode's start.
        """
        return skill_phase(np.zeros_like(to_handle_B3), to_handle_B3, had_hold_B)


def load_segmenter(
    autocast: Autocast = nullcontext, path: Path = SEGMENTER
) -> tuple[Segmenter, SkillRouter]:
    """Loads the segmenter that serves, and its router.

    Args:
        autocast: Context in which the U-Net runs.
        path: Its checkpoint.

    Raises:
        UserError: If the checkpoint is missing, damaged or of other primitives.
    """
    checkpoint = load_checkpoint(path, "segmenter")
    config = checkpoint.config
    if tuple(config["primitives"]) != PRIMITIVES:
        raise UserError(
            f"{relative(path)}: trained on the primitives {', '.join(config['primitives'])}; this "
            f"version has {', '.join(PRIMITIVES)}; run `dvc repro segmenter`"
        )
    model = None
    if config["active"]:
        model = UNet(num_classes=len(PRIMITIVES), widths=config["widths"])
        model.load_state_dict(checkpoint.part("unet"))
    router = SkillRouter(checkpoint.part("router")["weights"].numpy())
    return Segmenter(model, autocast, checkpoint.digest), router
