"""Surprise: how far what the robot senses is from what was to be expected.

Tensor suffixes: B batch, T steps, N steps of a dataset, C channels, H height, W width, A action,
P proprioception.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.learning.ridge import Mahalanobis
from lib.models.convgru import ConvGRU
from lib.rnn.motion import MotionModel

AHEAD = 6  # steps between prediction and frame: one step does not show a slow fault


class Surprise(NamedTuple):
    """How far each frame of a batch is from its prediction.

    Attributes:
        value: (B,) deviation of the most surprised sense, relative to the largest that is usual.
        ood_severity: (B,) in [0, 1], rising with ``value``.
        novelty_tier: (B,) 0 known, 1 unusual, 2 unknown.
    """

    value: np.ndarray
    ood_severity: np.ndarray
    novelty_tier: np.ndarray


class SurpriseScale:
    """Scale of what differs from what was expected, calibrated on nominal episodes.

    Each sense has a deviation (see ``episode_deviations``). It is measured as a Mahalanobis
    distance, in units of the largest that is usual. The most surprised sense decides: what one does
    not notice, another may.
    """

    def __init__(
        self,
        distances: Mapping[str, Mahalanobis],
        limits: Mapping[str, float],
        known: float,
        unknown: float,
    ) -> None:
        """Stores a calibration.

        Args:
            distances: Distance of the deviations by sense.
            limits: Largest usual distance by sense.
            known: Largest value at which a frame is known: tier 0, severity 0.
            unknown: Smallest value at which a frame is unknown: tier 2, severity 1.
        """
        self.distances, self.limits = dict(distances), dict(limits)
        self.known, self.unknown = known, unknown

    @classmethod
    def of(
        cls,
        deviations: Sequence[Mapping[str, Tensor]],
        held_out: Sequence[Mapping[str, Tensor]],
        components: int,
        quantile: float,
        factor: float,
    ) -> SurpriseScale:
        """Calibrates on nominal episodes.

        Args:
            deviations: Deviations by sense for each episode, see ``episode_deviations``; they
                determine the distances.
            held_out: The same for other episodes; they determine the limits.
            components: Number of principal axes of each distance; fewer if there are not as many
                dimensions or frames.
            quantile: Share of the held-out frames that are known.
            factor: Ratio of the threshold ``unknown`` to the threshold ``known``.
        """

        def limit(values: Tensor) -> float:
            return float(torch.quantile(values.double(), quantile))

        distances, limits = {}, {}
        for sense in deviations[0]:
            x_ND = torch.cat([d[sense] for d in deviations]).flatten(1).float()
            distances[sense] = Mahalanobis.fit(x_ND.numpy(), components)
            others = torch.cat([d[sense] for d in held_out]).flatten(1).float()
            limits[sense] = max(limit(distances[sense](others)), 1e-12)
        value = cls(distances, limits, 1.0, 2.0).value
        known = limit(torch.cat([value(d) for d in held_out]))
        return cls(distances, limits, known, known * factor)

    @classmethod
    def load(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> SurpriseScale:
        """Restores a calibration from a checkpoint.

        Args:
            config: Return value of ``config()``.
            tensors: Return value of ``tensors()``.
        """
        distances = {
            sense: Mahalanobis(tensors[f"{sense}.axes"], tensors[f"{sense}.variances"])
            for sense in config["limits"]
        }
        return cls(distances, **config)

    def config(self) -> dict[str, Any]:
        """Returns the part of the calibration for the configuration of a checkpoint."""
        return {"limits": self.limits, "known": self.known, "unknown": self.unknown}

    def tensors(self) -> dict[str, Tensor]:
        """Returns the part of the calibration that a checkpoint stores as tensors."""
        return {
            f"{sense}.{name}": tensor
            for sense, distance in self.distances.items()
            for name, tensor in distance.tensors().items()
        }

    def by_sense(self, deviations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the distance of each frame in units of the largest usual one, (B,) by sense.

        Args:
            deviations: Deviations (B, ...) by sense, of all senses or of some.
        """
        return {
            sense: self.distances[sense](x.flatten(1).float()) / self.limits[sense]
            for sense, x in deviations.items()
        }

    def value(self, deviations: Mapping[str, Tensor]) -> Tensor:
        """Returns the value of the most surprised sense at each frame of an episode, (T,).

        Args:
            deviations: Return value of ``episode_deviations``. A sense that says nothing of the
                first frames is not surprised by them.
        """
        values = self.by_sense(deviations).values()
        steps = max(map(len, values))
        return torch.stack([F.pad(x, (steps - len(x), 0)) for x in values]).amax(0)

    def judge(self, value_B: np.ndarray) -> Surprise:
        """Converts values to severity and novelty tier.

        Severity rises with the logarithm of the value from 0 at ``known`` to 1 at ``unknown``.

        Args:
            value_B: Value of the most surprised sense.
        """
        value = np.asarray(value_B, np.float64)
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


@dataclass
class Sensed:
    """What the robot sensed in an episode.

    Attributes:
        z: Normalised features (T, C, H, W) by level.
        look: (T, 1) how unusual each picture looks, see ``LookScale``.
        hand: (T, 3) where the hand is seen, m.
        proprio: (T, P) proprioception.
        actions: (T, A) action taken on each frame.
    """

    z: Mapping[str, Tensor]
    look: Tensor
    hand: Tensor
    proprio: np.ndarray
    actions: np.ndarray


@torch.inference_mode()
def episode_deviations(
    model: ConvGRU | None, motion: MotionModel, sensed: Sensed
) -> dict[str, Tensor]:
    """Returns how an episode differs from what was expected, by sense.

    Args:
        model: The RNN in evaluation mode; None for persistence.
        motion: Model of the hand's motion.
        sensed: The episode.

    Returns:
        For the last frames of the episode each: by level, the error of predicting a frame from
        those up to AHEAD steps before, (T - AHEAD, C, H, W); ``look`` (T, 1); ``hand``, where the
        hand is seen minus where it is felt, (T, 3) m; ``motion``, the error of predicting the
        motion of the hand, (T - 1, 3) m.
    """
    actions = torch.from_numpy(sensed.actions)
    count = len(actions) - AHEAD
    hidden: dict[str, Tensor] = {}
    if model is not None:
        sequence = {name: x[:, None] for name, x in sensed.z.items()}
        _, hidden = model.rollout(sequence, actions[:, None], len(actions))
    taken = torch.stack([actions[step : step + count] for step in range(AHEAD)])
    state = {name: x[:count, 0] for name, x in hidden.items()}
    foreseen = imagine(model, {name: x[:count] for name, x in sensed.z.items()}, taken, state)
    return {
        **{name: x - sensed.z[name][AHEAD:] for name, x in foreseen.items()},
        **present(sensed.look, sensed.hand, sensed.proprio),
        "motion": torch.from_numpy(motion.errors(sensed.proprio, sensed.actions)),
    }


def present(look_B1: Tensor, hand_B3: Tensor, proprio_BP: np.ndarray) -> dict[str, Tensor]:
    """Returns the deviations that need no other frame; see ``episode_deviations``.

    Args:
        look_B1: How unusual each picture looks.
        hand_B3: Where the hand is seen, m.
        proprio_BP: Proprioception.
    """
    felt = torch.from_numpy(np.ascontiguousarray(proprio_BP[:, :3]))
    return {"look": look_B1.float(), "hand": hand_B3.float() - felt}
