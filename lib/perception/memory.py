"""The frozen spatial RNN: how it is loaded and stepped, and how surprised it is.

Tensor suffixes: B batch, N steps of a dataset, C channels, H height, W width, A action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.checkpoint import load_checkpoint
from lib.errors import UserError
from lib.models.convgru import ConvGRU
from lib.paths import BACKBONE, SPATIAL_RNN, relative
from lib.perception.encoder import freeze
from lib.portable import matmul
from lib.ridge import principal_axes

AHEAD = 6  # steps that surprise looks back: what goes wrong slowly does not show in one


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


class Surprise(NamedTuple):
    """How far some frames are from what was foreseen.

    Attributes:
        value: (B,) squared prediction error in units of nominal episodes; about 1 is nominal.
        ood_severity: (B,) in [0, 1], rising with ``value``.
        novelty_tier: (B,) 0 known, 1 unusual, 2 unknown.
    """

    value: np.ndarray
    ood_severity: np.ndarray
    novelty_tier: np.ndarray


class SurpriseScale:
    """What prediction errors are usual: calibrated on nominal episodes.

    Errors are counted in units of their usual size in their direction: some directions are hard to
    foresee and mean little, others hardly ever err. That is the squared Mahalanobis distance under
    the covariance of nominal errors, as Lee et al. 2018 (arXiv 1807.03888) use it to tell unknown
    inputs, with a covariance of the form of probabilistic PCA (Tipping and Bishop 1999): the first
    K principal axes have a variance each, all others one in common.
    """

    def __init__(
        self,
        axes: Mapping[str, Tensor],
        variances: Mapping[str, Tensor],
        known: float,
        unknown: float,
    ) -> None:
        """Takes a calibration.

        Args:
            axes: (D, K) principal axes of nominal errors by level, D = C H W.
            variances: (K + 1,) along each axis, and last along each of the others.
            known: Value up to which a frame is known: tier 0, severity 0.
            unknown: Value from which it is unknown: tier 2, severity 1.
        """
        self.axes, self.variances = dict(axes), dict(variances)
        self.known, self.unknown = known, unknown

    @classmethod
    def of(
        cls,
        errors: Sequence[Mapping[str, Tensor]],
        held_out: Sequence[Mapping[str, Tensor]],
        components: int,
        quantile: float,
        factor: float,
    ) -> SurpriseScale:
        """Calibrates on nominal episodes.

        Args:
            errors: Prediction errors (T, C, H, W) by level, of each episode: they give the
                covariance.
            held_out: The same of other episodes: they say what is known.
            components: Principal axes, K; fewer where there are not as many dimensions or frames.
            quantile: Share of the held-out frames that are known.
            factor: A frame ``factor`` times as surprising as the least unusual one is unknown.
        """
        axes, variances = {}, {}
        for level in errors[0]:
            x_ND = torch.cat([e[level] for e in errors]).flatten(1).numpy()
            count = min(components, x_ND.shape[1] - 1, len(x_ND))
            squares_D, axes_DK = principal_axes(x_ND, count)
            rest = max(float(squares_D[count:].mean()), 1e-6 * float(squares_D.mean()), 1e-12)
            each = np.append(np.maximum(squares_D[:count], rest), rest)
            axes[level] = torch.from_numpy(axes_DK).float()
            variances[level] = torch.from_numpy(each).float()
        value = cls(axes, variances, 1.0, 2.0).value
        known = float(torch.quantile(torch.cat([value(e) for e in held_out]).double(), quantile))
        return cls(axes, variances, known, known * factor)

    def config(self) -> dict[str, float]:
        """Returns what a checkpoint's configuration keeps of it."""
        return {"known": self.known, "unknown": self.unknown}

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Returns what a checkpoint keeps of it as tensors."""
        return {"surprise_axes": self.axes, "surprise_variances": self.variances}

    def value(self, errors: Mapping[str, Tensor]) -> Tensor:
        """Returns the squared distance of each frame (B,) over its dimensions, all levels alike.

        Args:
            errors: (B, C, H, W) by level.
        """
        shares = []
        for level, axes_DK in self.axes.items():
            x_BD = errors[level].flatten(1)
            along_BK = matmul(x_BD, axes_DK).square()
            # What the axes leave; rounding must not make it negative.
            left_B = (x_BD.square().sum(1) - along_BK.sum(1)).clamp_min(0)
            each, rest = self.variances[level][:-1], self.variances[level][-1]
            shares.append(((along_BK / each).sum(1) + left_B / rest) / x_BD.shape[1])
        return torch.stack(shares).mean(0)

    def judge(self, errors: Mapping[str, Tensor]) -> Surprise:
        """Turns errors into severity and tier.

        Severity rises with the logarithm of the value from 0 at ``known`` to 1 at ``unknown``.

        Args:
            errors: (B, C, H, W) by level.
        """
        value = self.value(errors).double().numpy()
        span = np.log(self.unknown / self.known)
        severity = np.clip(np.log(np.maximum(value, 1e-12) / self.known) / span, 0.0, 1.0)
        tier = (value > self.known).astype(np.int64) + (value >= self.unknown)
        return Surprise(value, severity, tier)


def imagine(
    model: ConvGRU | None, z: Mapping[str, Tensor], actions_TBA: Tensor, h: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Predicts open loop, from one real frame on.

    Args:
        model: The RNN; None for persistence.
        z: Normalised features (B, C, H, W) of the frame by level.
        actions_TBA: Actions taken from that frame on.
        h: Hidden state by level, after the frame was taken in.

    Returns:
        Normalised features by level, T steps after the frame.
    """
    if model is None:
        return dict(z)
    z = model.predict(z, actions_TBA[0], h)
    for before, action in pairwise(actions_TBA):
        h = model.observe(z, before, h)
        z = model.predict(z, action, h)
    return dict(z)


@torch.inference_mode()
def episode_errors(
    model: ConvGRU | None, z: Mapping[str, Tensor], actions_TA: Tensor
) -> dict[str, Tensor]:
    """Predicts frames of an episode from those up to AHEAD steps before each.

    Args:
        model: The RNN in evaluation mode; None for persistence.
        z: Normalised features (T, C, H, W) by level.
        actions_TA: Action taken on each frame.

    Returns:
        Prediction minus truth, (T - AHEAD, C, H, W) by level; the first is about frame AHEAD.
    """
    count = len(actions_TA) - AHEAD
    hidden: dict[str, Tensor] = {}
    if model is not None:
        sequence = {name: x[:, None] for name, x in z.items()}
        _, hidden = model.rollout(sequence, actions_TA[:, None], len(actions_TA))
    taken = torch.stack([actions_TA[step : step + count] for step in range(AHEAD)])
    state = {name: x[:count, 0] for name, x in hidden.items()}
    foreseen = imagine(model, {name: x[:count] for name, x in z.items()}, taken, state)
    return {name: x - z[name][AHEAD:] for name, x in foreseen.items()}


class SpatialMemory:
    """The trained RNN without gradients, or persistence where ``rnn.use_neural`` was off.

    Persistence remembers the last frame: its state is that frame's features.

    Attributes:
        digest: Of its checkpoint.
        levels: Pyramid levels it reads.
        normalize: Of the features.
        surprise: What prediction errors are usual.
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
                f"{relative(path)}: trained on backbone {config['backbone']}, but "
                f"{relative(BACKBONE)} holds {backbone_digest}; run `dvc repro rnn`"
            )
        self.digest = checkpoint.digest
        self.levels: list[str] = list(config["levels"])
        self.normalize = Normalizer(checkpoint.part("mean"), checkpoint.part("std"))
        self.surprise = SurpriseScale(
            checkpoint.part("surprise_axes"),
            checkpoint.part("surprise_variances"),
            **config["surprise"],
        )
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

    @torch.inference_mode()
    def foresee(
        self, features: Mapping[str, Tensor], actions_TBA: Tensor, state: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Foresees a later frame, open loop.

        Args:
            features: Backbone maps (B, C, H, W) of the present frame by level.
            actions_TBA: Actions taken from that frame on.
            state: What ``step`` returned for it.

        Returns:
            Normalised features by level, T steps later.
        """
        return imagine(self._model, self.normalize(features), actions_TBA, state)

    @torch.inference_mode()
    def judge(self, foreseen: Mapping[str, Tensor], features: Mapping[str, Tensor]) -> Surprise:
        """Says how far a frame is from what was foreseen AHEAD steps before it.

        Args:
            foreseen: What ``foresee`` returned for the AHEAD actions that led to the frame; with
                another number of actions the calibration does not hold.
            features: Backbone maps (B, C, H, W) of the frame by level.
        """
        z = self.normalize(features)
        return self.surprise.judge({name: foreseen[name] - z[name] for name in foreseen})
