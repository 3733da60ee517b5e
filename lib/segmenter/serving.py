"""The segmenter in use: the U-Net if its validation score is high enough, else the heuristic.

Tensor suffixes: B batch, C classes, H height, W width, G geometry features.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.base.console import track
from lib.base.errors import UserError
from lib.base.paths import SEGMENTER, relative
from lib.episode import PRIMITIVES
from lib.learning.checkpoint import load_checkpoint
from lib.learning.device import Autocast
from lib.learning.halves import in_halves, split
from lib.models.frozen import folded, freeze, to_unit
from lib.models.heuristic import HeuristicSegmenter
from lib.models.unet import UNet
from lib.segmenter.geometry import geometry_of
from lib.segmenter.router import SkillRouter, build_locator

MEASURE_BATCH = 16  # the activations of such a batch fit into the processor cache


class Segmenter:
    """Computes primitive probabilities and geometry features of pictures.

    Attributes:
        active: Whether the U-Net is used.
        digest: Digest of the loaded checkpoint; geometry files store it to name their maker.
    """

    def __init__(
        self, model: UNet | None, autocast: Autocast = nullcontext, digest: str = ""
    ) -> None:
        """Prepares the U-Net, or the heuristic if there is no U-Net.

        Args:
            model: Trained U-Net, of which a frozen copy is used; None for the heuristic.
            autocast: Context in which the U-Net runs; bf16 halves its run time.
            digest: Digest of the checkpoint.
        """
        self._autocast, self.digest = autocast, digest
        self.active = model is not None
        self._model = freeze(folded(model)) if model is not None else None
        self._heuristic = HeuristicSegmenter()

    @torch.inference_mode()
    def probabilities(self, images_BHW3: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Segments pictures.

        Args:
            images_BHW3: Pictures, uint8.

        Returns:
            Primitive probabilities (B, C, H, W), and boundary probabilities (B, H, W). The latter
            are None for the heuristic.
        """
        found = self._in_halves(images_BHW3, self._look)
        return found[0], found[1] if self.active else None

    @torch.inference_mode()
    def geometry(self, images_BHW3: np.ndarray) -> Tensor:
        """Measures the geometry features of the parts in pictures.

        Args:
            images_BHW3: Pictures, uint8.

        Returns:
            Geometry features (B, G) float32; see ``lib.segmenter.geometry.NAMES``.
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
        """Measures the geometry features of the parts in many pictures, in batches.

        Args:
            images_NHW3: Pictures, uint8.
            rows: Rows of the pictures to measure, in this order.

        Returns:
            Geometry features (len(rows), G) float32.
        """
        starts = range(0, len(rows), MEASURE_BATCH)
        parts = [
            self.geometry(images_NHW3[rows[start : start + MEASURE_BATCH]]).numpy()
            for start in track(starts, "measuring geometry", len(starts), "batches")
        ]
        return np.concatenate(parts)


def load_segmenter(
    autocast: Autocast = nullcontext, path: Path = SEGMENTER
) -> tuple[Segmenter, SkillRouter]:
    """Loads the segmenter in use and its router.

    Args:
        autocast: Context in which the U-Net runs.
        path: Checkpoint file.

    Raises:
        UserError: If the checkpoint is missing or damaged, or was trained on other primitives.
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
    locator = build_locator()
    locator.load_state_dict(checkpoint.part("locator"))
    return Segmenter(model, autocast, checkpoint.digest), SkillRouter(locator)
