"""The frozen spatial RNN in use: loading, stepping, prediction and surprise.

Tensor suffixes: B batch, T steps, C channels, H height, W width, A action.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lib.base.errors import UserError
from lib.base.paths import BACKBONE, SPATIAL_RNN, relative
from lib.learning.checkpoint import load_checkpoint
from lib.models.convgru import ConvGRU
from lib.models.frozen import freeze
from lib.rnn.motion import MotionModel
from lib.rnn.normalizer import Normalizer
from lib.rnn.surprise import SurpriseScale, imagine


class SpatialMemory:
    """The trained RNN without gradients, or persistence if ``rnn.use_neural`` was off.

    Persistence predicts no change. Its state is the normalised features of the last frame.

    Attributes:
        digest: Digest of the checkpoint.
        levels: Pyramid levels that the RNN reads.
        normalize: Normaliser of the features.
        motion: Model of the hand's motion.
        surprise: Calibrated scale of what differs from what was expected.
    """

    def __init__(self, path: Path = SPATIAL_RNN, *, backbone_digest: str) -> None:
        """Loads the checkpoint.

        Args:
            path: Checkpoint file.
            backbone_digest: Digest of the backbone that will supply the features.

        Raises:
            UserError: If the checkpoint is missing or damaged, or was trained on the features of
                another backbone.
        """
        checkpoint = load_checkpoint(path, "spatial_rnn")
        config = checkpoint.config
        if config["backbone"] != backbone_digest:
            raise UserError(
                f"{relative(path)}: trained on backbone {config['backbone']}, but "
                f"{relative(BACKBONE)} holds {backbone_digest}; run `dvc repro rnn`"
            )
        self.digest = checkpoint.digest
        self.levels: list[str] = list(config["levels"])
        self.normalize = Normalizer(checkpoint.part("mean"), checkpoint.part("std"))
        self.motion = MotionModel(checkpoint.part("motion")["weights"].numpy())
        self.surprise = SurpriseScale.load(config["surprise"], checkpoint.part("surprise"))
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
        """Updates the memory with a frame.

        Args:
            features: Backbone maps (B, C, H, W) by level.
            previous_action_BA: Action that led to the frame.
            state: Return value of the last call; None at the very first call.
            first_B: Whether the frame is the first of its episode; the memory is then reset.

        Returns:
            Hidden maps by level, the new state.
        """
        z = self.normalize(features)
        if self._model is None:
            return z
        if state is None:
            sizes = {name: (x.shape[-2], x.shape[-1]) for name, x in z.items()}
            state = self._model.initial_state(len(first_B), sizes)
        keep_B = (~first_B).float()
        state = {name: h * keep_B[:, None, None, None] for name, h in state.items()}
        return self._model.observe(z, previous_action_BA * keep_B[:, None], state)

    @torch.inference_mode()
    def foresee(
        self, features: Mapping[str, Tensor], actions_TBA: Tensor, state: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Predicts the features of a later frame, open loop.

        Args:
            features: Backbone maps (B, C, H, W) of the present frame by level.
            actions_TBA: Actions taken from the present frame on.
            state: Return value of ``step`` for the present frame.

        Returns:
            Normalised features by level, T steps later.
        """
        return imagine(self._model, self.normalize(features), actions_TBA, state)
