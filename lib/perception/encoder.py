"""The frozen backbone: how it is loaded, refused and run.

Tensor suffixes: B batch, N steps of a dataset, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lib.checkpoint import Checkpoint, load_checkpoint
from lib.console import track
from lib.errors import UserError
from lib.halves import in_halves, split
from lib.models.backbone import Backbone
from lib.models.folding import folded
from lib.paths import BACKBONE, relative

ENCODE_BATCH = 128


def to_unit(images_BHW3: np.ndarray | Tensor) -> Tensor:
    """Turns pictures into network input.

    Args:
        images_BHW3: uint8.

    Returns:
        (B, 3, H, W) float32 in [0, 1], channels last in memory.
    """
    images = torch.as_tensor(images_BHW3)
    return images.permute(0, 3, 1, 2).float().div_(255)


class FrozenBackbone:
    """A trained backbone in evaluation mode, without gradients.

    Attributes:
        digest: Of its weights; features and checkpoints that rest on it name it.
        image_size: Pixels, square.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Builds it from a checkpoint.

        Args:
            checkpoint: Of kind ``backbone``.
        """
        config = checkpoint.config
        model = Backbone(config["size"], config["block"], config["pyramid_channels"])
        model.load_state_dict(checkpoint.part("backbone"))
        self.model = freeze(folded(model))
        self.digest = checkpoint.digest
        self.image_size = config["image_size"]

    def __call__(self, images_BHW3: np.ndarray | Tensor) -> dict[str, Tensor]:
        """Returns the pyramid of some pictures, float32.

        Args:
            images_BHW3: uint8.

        Raises:
            UserError: If they are of another size than those it was trained on.
        """
        if images_BHW3.shape[1] != self.image_size:
            raise UserError(
                f"{relative(BACKBONE)}: trained on {self.image_size} pixels, given "
                f"{images_BHW3.shape[1]}; run `dvc repro`"
            )
        return encode(self.model, images_BHW3)


def load_backbone(path: Path = BACKBONE) -> FrozenBackbone:
    """Loads the frozen backbone.

    Args:
        path: Its checkpoint.

    Raises:
        UserError: If the checkpoint is missing, damaged, of another kind, or not frozen.
    """
    checkpoint = load_checkpoint(path, "backbone")
    if not checkpoint.config.get("frozen"):
        raise UserError(f"{relative(path)}: the backbone is not frozen; run `dvc repro vision`")
    return FrozenBackbone(checkpoint)


def freeze(model: nn.Module) -> nn.Module:
    """Switches a network to evaluation and its gradients off.

    Args:
        model: Changed in place.
    """
    model.eval()
    return model.requires_grad_(False).to(memory_format=torch.channels_last)


@torch.inference_mode()
def encode(model: Backbone, images_BHW3: np.ndarray | Tensor) -> dict[str, Tensor]:
    """Runs a backbone over a batch.

    Args:
        model: In evaluation mode.
        images_BHW3: uint8.

    Returns:
        float32 maps by level.
    """
    works = [
        lambda part=part: list(model(to_unit(images_BHW3[part])).values())
        for part in split(len(images_BHW3))
    ]
    return {name: x.float() for name, x in zip(model.channels, in_halves(works), strict=True)}


def encode_all(
    model: Backbone, images_NHW3: np.ndarray, levels: Sequence[str], label: str
) -> dict[str, np.ndarray]:
    """Encodes the pictures of a dataset, each once.

    Args:
        model: In evaluation mode.
        images_NHW3: uint8.
        levels: Levels to keep.
        label: For the progress bar.

    Returns:
        (N, C, H, W) float16 by level.
    """
    out: dict[str, np.ndarray] = {}
    starts = range(0, len(images_NHW3), ENCODE_BATCH)
    for start in track(starts, label, len(starts), "batches"):
        maps = encode(model, images_NHW3[start : start + ENCODE_BATCH])
        for level in levels:
            values = maps[level].half().numpy()
            if level not in out:
                out[level] = np.empty((len(images_NHW3), *values.shape[1:]), np.float16)
            out[level][start : start + len(values)] = values
    return out
