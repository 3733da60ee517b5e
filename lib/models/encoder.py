"""Loads, checks and runs the frozen vision backbone.

Tensor suffixes: B batch, N steps of a dataset, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.base.console import track
from lib.base.errors import UserError
from lib.base.paths import BACKBONE, relative
from lib.learning.checkpoint import Checkpoint, load_checkpoint
from lib.learning.halves import in_halves, split
from lib.learning.portable import matmul
from lib.models.backbone import Backbone
from lib.models.frozen import folded, freeze, to_unit
from lib.models.look import LookScale

ENCODE_BATCH = 128
EMBEDDED_LEVEL = "p4"  # the level that is trained to hold positions


class FrozenBackbone:
    """A trained backbone in evaluation mode, without gradients.

    Attributes:
        digest: Digest of the weights. Features and checkpoints that depend on the backbone store
            this digest.
        image_size: Side of the square pictures, pixels.
        look: Function from pictures to how unusual they look.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Builds the backbone from a checkpoint.

        Args:
            checkpoint: Checkpoint of kind ``backbone``.
        """
        config = checkpoint.config
        model = Backbone(config["size"], config["block"], config["pyramid_channels"])
        model.load_state_dict(checkpoint.part("backbone"))
        self.model = freeze(folded(model))
        self.digest = checkpoint.digest
        self.image_size = config["image_size"]
        self.look = LookScale(checkpoint.part("look"))
        self._hand = checkpoint.part("hand")["weights"]

    def __call__(self, images_BHW3: np.ndarray | Tensor) -> dict[str, Tensor]:
        """Returns the feature pyramid of a batch of pictures, its ``look`` and ``hand``, float32.

        Args:
            images_BHW3: Pictures, uint8.

        Raises:
            UserError: If the pictures differ in size from those that the backbone was trained on.
        """
        if images_BHW3.shape[1] != self.image_size:
            raise UserError(
                f"{relative(BACKBONE)}: trained on {self.image_size} pixels, given "
                f"{images_BHW3.shape[1]}; run `dvc repro`"
            )
        maps = encode(self.model, images_BHW3)
        return maps | {"look": self.look(images_BHW3), "hand": self.hand(maps[EMBEDDED_LEVEL])}

    @torch.inference_mode()
    def hand(self, map_BCHW: Tensor) -> Tensor:
        """Returns where the hand is seen, (B, 3), m.

        Args:
            map_BCHW: Maps of EMBEDDED_LEVEL.
        """
        return matmul(map_BCHW.flatten(1), self._hand[:-1]) + self._hand[-1]


def load_backbone(path: Path = BACKBONE) -> FrozenBackbone:
    """Loads the frozen backbone.

    Args:
        path: Path of the checkpoint.

    Raises:
        UserError: If the checkpoint is missing, damaged, of another kind, or not frozen.
    """
    checkpoint = load_checkpoint(path, "backbone")
    if not checkpoint.config.get("frozen"):
        raise UserError(f"{relative(path)}: the backbone is not frozen; run `dvc repro vision`")
    return FrozenBackbone(checkpoint)


@torch.inference_mode()
def encode(model: Backbone, images_BHW3: np.ndarray | Tensor) -> dict[str, Tensor]:
    """Runs a backbone over a batch.

    Args:
        model: Backbone in evaluation mode.
        images_BHW3: Pictures, uint8.

    Returns:
        Feature maps by level, float32.
    """
    works = [
        lambda part=part: list(model(to_unit(images_BHW3[part])).values())
        for part in split(len(images_BHW3))
    ]
    return {name: x.float() for name, x in zip(model.channels, in_halves(works), strict=True)}


def encode_all(
    encoder: Callable[[np.ndarray], dict[str, Tensor]],
    images_NHW3: np.ndarray,
    names: Sequence[str],
    label: str,
) -> dict[str, np.ndarray]:
    """Encodes every picture of a dataset once.

    Args:
        encoder: Function from a batch of pictures to tensors by name.
        images_NHW3: Pictures, uint8.
        names: Names of the tensors to keep, such as pyramid levels.
        label: Label of the progress bar.

    Returns:
        Arrays (N, ...) by name, float16.
    """
    out: dict[str, np.ndarray] = {}
    starts = range(0, len(images_NHW3), ENCODE_BATCH)
    for start in track(starts, label, len(starts), "batches"):
        found = encoder(images_NHW3[start : start + ENCODE_BATCH])
        for name in names:
            values = found[name].half().numpy()
            if name not in out:
                out[name] = np.empty((len(images_NHW3), *values.shape[1:]), np.float16)
            out[name][start : start + len(values)] = values
    return out
