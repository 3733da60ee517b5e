"""The frozen spatial RNN: how it is loaded and stepped.

Tensor suffixes: B batch, N steps of a dataset, C channels, H height, W width, A action.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.checkpoint import load_checkpoint
from lib.errors import UserError
from lib.models.convgru import ConvGRU
from lib.paths import SPATIAL_RNN, relative
from lib.perception.encoder import freeze


class Normalizer:
    """Zero mean and unit variance for each channel of each level."""

    def __init__(self, mean: Mapping[str, Tensor], std: Mapping[str, Tensor]) -> None:
        """Takes the statistics.

        Args:
            mean: (C, 1, 1) by level.
            std: (C, 1, 1) by level.
        """
        self.mean, self.std = dict(mean), dict(std)

    @classmethod
    def of(cls, features: Mapping[str, np.ndarray]) -> Normalizer:
        """Measures the statistics.

        Args:
            features: (N, C, H, W) by level.
        """
        mean, std = {}, {}
        for level, values in features.items():
            x = values.astype(np.float32)
            mean[level] = torch.from_numpy(x.mean((0, 2, 3)))[:, None, None]
            std[level] = torch.from_numpy(x.std((0, 2, 3)) + 1e-4)[:, None, None]
        return cls(mean, std)

    def __call__(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Normalises maps.

        Args:
            features: (..., C, H, W) by level.
        """
        return {k: (features[k].float() - self.mean[k]) / self.std[k] for k in self.mean}


class SpatialMemory:
    """The trained RNN without gradients, or persistence where ``rnn.use_neural`` was off.

    Persistence remembers the last frame: its state is that frame's features.

    Attributes:
        levels: Pyramid levels it reads.
    """

    def __init__(self, path: Path = SPATIAL_RNN, *, backbone_digest: str) -> None:
        """Loads the checkpoint.

        Args:
            path: The file.
            backbone_digest: Of the backbone whose features it will be given.

        Raises:
            UserError: If it is missing, damaged, or was trained on another backbone's features.
        """
        checkpoint = load_checkpoint(path, "spatial_rnn")
        config = checkpoint.config
        if config["backbone"] != backbone_digest:
            raise UserError(
                f"{relative(path)}: trained on backbone {config['backbone']}, not on "
                f"{backbone_digest}; run `dvc repro rnn`"
            )
        self.levels: list[str] = list(config["levels"])
        self.normalize = Normalizer(checkpoint.part("mean"), checkpoint.part("std"))
        self._model: ConvGRU | None = None
        if config["use_neural"]:
            model = ConvGRU(config["levels"], config["action_dim"], config["hidden_channels"])
            model.load_state_dict(checkpoint.part("rnn"))
            self._model = freeze(model)

    @torch.inference_mode()
    def step(
        self,
        features: Mapping[str, Tensor],
        previous_action_BA: Tensor,
        state: dict[str, Tensor] | None,
        first_B: Tensor,
    ) -> dict[str, Tensor]:
        """Takes in a frame.

        Args:
            features: Backbone maps (B, C, H, W) by level.
            previous_action_BA: Action that led to the frame.
            state: What the last call returned; None at the very first.
            first_B: Whether the frame is the first of its episode: memory starts afresh.

        Returns:
            Hidden maps by level.
        """
        z = self.normalize(features)
        if self._model is None:
            return z
        if state is None:
            sizes = {name: tuple(x.shape[-2:]) for name, x in z.items()}
            state = self._model.initial_state(len(first_B), sizes)
        keep_B = (~first_B).float()
        state = {name: h * keep_B[:, None, None, None] for name, h in state.items()}
        return self._model.observe(z, previous_action_BA * keep_B[:, None], state)
