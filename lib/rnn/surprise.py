"""Surprise of the spatial RNN: prediction errors relative to their usual size.

Tensor suffixes: B batch, T steps, N steps of a dataset, C channels, H height, W width, A action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.learning.portable import matmul
from lib.learning.ridge import principal_axes
from lib.models.convgru import ConvGRU

AHEAD = 6  # steps between prediction and frame: one step does not show a slow fault


class Surprise(NamedTuple):
    """How far each frame of a batch is from its prediction.

    Attributes:
        value: (B,) squared prediction error relative to nominal episodes; about 1 is nominal.
        ood_severity: (B,) in [0, 1], rising with ``value``.
        novelty_tier: (B,) 0 known, 1 unusual, 2 unknown.
    """

    value: np.ndarray
    ood_severity: np.ndarray
    novelty_tier: np.ndarray


class SurpriseScale:
    """Scale of the prediction errors, calibrated on nominal episodes.

    An error is measured relative to its usual size in its direction. Some directions are hard to
    predict, so errors there mean little; in other directions errors are rare. The measure is the
    squared Mahalanobis distance under the covariance of nominal errors, which Lee et al. 2018
    (arXiv 1807.03888) use to detect unknown inputs. The covariance has the form of probabilistic
    PCA (Tipping and Bishop 1999): each of the first K principal axes has its own variance, and all
    other axes share a common variance.
    """

    def __init__(
        self,
        axes: Mapping[str, Tensor],
        variances: Mapping[str, Tensor],
        known: float,
        unknown: float,
    ) -> None:
        """Stores a calibration.

        Args:
            axes: Principal axes (D, K) of nominal errors by level, with D = C H W.
            variances: Variances (K + 1,) by level: one for each principal axis, then the common
                variance of all other axes.
            known: Largest value at which a frame is known: tier 0, severity 0.
            unknown: Smallest value at which a frame is unknown: tier 2, severity 1.
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
            errors: Prediction errors (T, C, H, W) by level for each episode; they determine the
                covariance.
            held_out: The same for other episodes; they determine the threshold ``known``.
            components: Number of principal axes K; fewer if there are not as many dimensions or
                frames.
            quantile: Share of the held-out frames that are known.
            factor: Ratio of the threshold ``unknown`` to the threshold ``known``.
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
        """Returns the part of the calibration for the configuration of a checkpoint."""
        return {"known": self.known, "unknown": self.unknown}

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Returns the part of the calibration that a checkpoint stores as tensors."""
        return {"surprise_axes": self.axes, "surprise_variances": self.variances}

    def value(self, errors: Mapping[str, Tensor]) -> Tensor:
        """Returns the squared distance of each frame divided by its number of dimensions, (B,).

        The result is the mean over the levels.

        Args:
            errors: Prediction errors (B, C, H, W) by level.
        """
        shares = []
        for level, axes_DK in self.axes.items():
            x_BD = errors[level].flatten(1)
            along_BK = matmul(x_BD, axes_DK).square()
            # Squared error outside the principal axes; rounding must not make it negative.
            left_B = (x_BD.square().sum(1) - along_BK.sum(1)).clamp_min(0)
            each, rest = self.variances[level][:-1], self.variances[level][-1]
            shares.append(((along_BK / each).sum(1) + left_B / rest) / x_BD.shape[1])
        return torch.stack(shares).mean(0)

    def judge(self, errors: Mapping[str, Tensor]) -> Surprise:
        """Converts errors to severity and novelty tier.

        Severity rises with the logarithm of the value from 0 at ``known`` to 1 at ``unknown``.

        Args:
            errors: Prediction errors (B, C, H, W) by level.
        """
        value = self.value(errors).double().numpy()
        span = np.log(self.unknown / self.known)
        severity = np.clip(np.log(np.maximum(value, 1e-12) / self.known) / span, 0.0, 1.0)
        tier = (value > self.known).astype(np.int64) + (value >= self.unknown)
        return Surprise(value, severity, tier)


def imagine(
    model: ConvGRU | None, z: Mapping[str, Tensor], actions_TBA: Tensor, h: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Predicts a later frame, open loop from one real frame.

    Args:
        model: The RNN; None for persistence.
        z: Normalised features (B, C, H, W) of the real frame by level.
        actions_TBA: Actions taken from that frame on.
        h: Hidden state by level, after the update with that frame.

    Returns:
        Normalised features by level, T steps after the real frame.
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
    """Returns the errors of predicting each frame from the frames up to AHEAD steps before it.

    Args:
        model: The RNN in evaluation mode; None for persistence.
        z: Normalised features (T, C, H, W) of an episode by level.
        actions_TA: Action taken on each frame.

    Returns:
        Prediction minus truth, (T - AHEAD, C, H, W) by level; the first entry is for frame AHEAD.
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
