"""Loads, checks and runs the frozen vision backbone, and judges how unusual a picture looks.

The backbone learns that a scene is the same under another light, in other colours or from another
camera, so its features hide such a change. It is measured before the backbone, by brightness and
contrast in each part of the picture.

Tensor suffixes: B batch, N steps of a dataset, C channels, H height, W width, D statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.base.console import track
from lib.base.errors import UserError
from lib.base.paths import BACKBONE, relative
from lib.learning.checkpoint import Checkpoint, load_checkpoint
from lib.learning.halves import in_halves, split
from lib.learning.portable import matmul, sqrt
from lib.learning.ridge import Mahalanobis
from lib.models.backbone import Backbone
from lib.models.frozen import folded, freeze, to_unit

ENCODE_BATCH = 128
EMBEDDED_LEVEL = "p4"  # the level that is trained to hold positions
CELL = 16  # pixels; side of the parts of a picture
FIT_BATCH = 512
SMALLEST = 1e-3  # smallest divisor of a statistic, a quarter of a level of intensity
FLOOR = 1e-3  # smallest variance in any direction, as a share of the mean variance


def statistics(images_BHW3: np.ndarray | Tensor) -> Tensor:
    """Returns mean and standard deviation of red, green and blue in each part of a picture, (B, D).

    Args:
        images_BHW3: Pictures, uint8.
    """
    x = to_unit(images_BHW3)
    height, width = (-(-side // CELL) for side in x.shape[-2:])
    mean, square = (F.adaptive_avg_pool2d(y, (height, width)) for y in (x, x.square()))
    spread = sqrt((square - mean.square()).clamp_min(1e-12))
    return torch.cat([mean.flatten(1), spread.flatten(1)], 1)


class LookScale:
    """Distance of a picture from usual pictures."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        """Stores a fit.

        Args:
            tensors: Tensors as returned by ``tensors()``.
        """
        self._mean, self._spread = tensors["mean"], tensors["spread"]
        self._distance = Mahalanobis(tensors["axes"], tensors["variances"])

    @classmethod
    def fit(cls, images_NHW3: np.ndarray, rows: np.ndarray) -> LookScale:
        """Fits the scale on usual pictures.

        Args:
            images_NHW3: Pictures, uint8.
            rows: The usual ones among them.
        """
        batches = range(0, len(rows), FIT_BATCH)
        x = torch.cat([statistics(images_NHW3[rows[i : i + FIT_BATCH]]) for i in batches])
        mean = x.mean(0)
        spread = sqrt((x - mean).square().mean(0)).clamp_min(SMALLEST)
        distance = Mahalanobis.fit(((x - mean) / spread).numpy(), x.shape[1], FLOOR)
        return cls({"mean": mean, "spread": spread, **distance.tensors()})

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors to be saved."""
        return {"mean": self._mean, "spread": self._spread, **self._distance.tensors()}

    def __call__(self, images_BHW3: np.ndarray | Tensor) -> Tensor:
        """Returns the distance of each picture, (B, 1); about 1 for usual pictures.

        Args:
            images_BHW3: Pictures, uint8.
        """
        x = (statistics(images_BHW3) - self._mean) / self._spread
        return sqrt(self._distance(x).clamp_min(1e-12))[:, None]


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
