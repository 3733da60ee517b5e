"""The frozen backbone: how it is saved, refused and run, and the features it leaves for others.

Tensor suffixes: B batch, N steps of a dataset, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from lib.checkpoint import Checkpoint, load_checkpoint
from lib.console import track
from lib.errors import UserError
from lib.files import atomic
from lib.manifest import Dataset
from lib.models.backbone import Backbone
from lib.paths import BACKBONE, FEATURES, relative

FEATURES_SCHEMA = 1
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
        self.model = freeze(model)
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
    return {name: x.float() for name, x in model(to_unit(images_BHW3)).items()}


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


def write_features(
    features: Mapping[str, np.ndarray], dataset: Dataset, digest: str, path: Path = FEATURES
) -> None:
    """Writes the features of every episode, with the digest of the backbone that made them.

    Args:
        features: (N, C, H, W) by level, rows as in the dataset.
        dataset: Says which rows are whose.
        digest: Of the backbone.
        path: The file.
    """
    with atomic(path) as scratch, h5py.File(scratch, "w") as file:
        file.attrs["schema"], file.attrs["backbone"] = FEATURES_SCHEMA, digest
        for item in dataset.episodes:
            for level, values in features.items():
                file.create_dataset(f"{item.source}/{item.key}/{level}", data=values[item.rows])


def load_features(
    dataset: Dataset, levels: Sequence[str], digest: str, path: Path = FEATURES
) -> dict[str, np.ndarray]:
    """Loads features in the row order of a dataset.

    Args:
        dataset: Says which episodes and in which order.
        levels: Levels to load.
        digest: Of the backbone that must have made them.
        path: The file.

    Returns:
        (N, C, H, W) float16 by level.

    Raises:
        UserError: If the file is missing, of another backbone, or lacks a level or an episode.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"{relative(path)}: not readable ({error}); run `dvc repro`") from None
    with file:
        made_by: Any = file.attrs.get("backbone")
        if file.attrs.get("schema") != FEATURES_SCHEMA or made_by != digest:
            raise UserError(
                f"{relative(path)}: made by backbone {made_by}, {relative(BACKBONE)} is {digest}; "
                "run `dvc repro vision`"
            )
        out: dict[str, np.ndarray] = {}
        for level in levels:
            for item in dataset.episodes:
                name = f"{item.source}/{item.key}/{level}"
                if name not in file:
                    raise UserError(
                        f"{relative(path)}: holds no {level} of {item.source}/{item.key}; add "
                        f"{level} to vision.feature_levels"
                    )
                if level not in out:
                    shape = (len(dataset), *file[name].shape[1:])
                    out[level] = np.empty(shape, np.float16)
                file[name].read_direct(out[level], dest_sel=np.s_[item.start : item.stop])
    return out
