"""Settings of the policy."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from lib.params import (
    Count,
    Horizon,
    NonNegative,
    Positive,
    Preference,
    Section,
    Share,
    check_shares,
)


class Policy(Section):
    """Settings of behaviour cloning and multi-objective SAC."""

    use_neural: bool = False
    hidden: Annotated[list[Count], Field(min_length=1, max_length=4)]
    vision_components: Count
    memory_components: Count
    critics: Annotated[int, Field(ge=2)]
    bc_steps: Count
    batch_size: Annotated[int, Field(ge=2, multiple_of=2)]
    lr: Positive
    lr_hold: Share
    gamma: Annotated[float, Field(gt=0, lt=1)]
    n_step: Count
    tau: Annotated[float, Field(gt=0, le=1)]
    target_entropy: float
    init_temperature: Positive
    imitation_steps: Annotated[int, Field(ge=0)]
    offline_steps: Annotated[int, Field(ge=0)]
    online_steps: Annotated[int, Field(ge=0)]
    updates_per_step: NonNegative
    bc_start: NonNegative
    bc_floor: NonNegative
    bc_anneal: Count
    linger: Annotated[int, Field(ge=0)]
    num_envs: Annotated[int, Field(ge=1, le=64)]
    horizon: Horizon
    presets: Annotated[dict[str, Preference], Field(min_length=1)]
    preset: str
    validations: Count
    validate_every: Count
    validate_episodes: Count

    @model_validator(mode="after")
    def _presets_are_shares(self) -> Policy:
        for name, weights in self.presets.items():
            check_shares(f"presets: the weights of {name}", weights)
        if self.preset not in self.presets:
            known = ", ".join(self.presets)
            raise ValueError(f"preset: {self.preset} is not one of the presets: {known}")
        return self

    @property
    def weights(self) -> list[float]:
        """Returns the preference that the policy is published for."""
        return self.presets[self.preset]

    def pace_at(self, energy: np.ndarray | float) -> np.ndarray:
        """Returns the pace at which the teacher serves a preference, in [0, 1].

        It falls linearly with the weight of energy: from 1 at the preset with the lowest weight to
        0 at the one with the highest.

        Args:
            energy: Weights of energy in the preferences, of any shape.
        """
        asked = [weights[-1] for weights in self.presets.values()]
        low, high = min(asked), max(asked)
        if low == high:
            return np.ones_like(energy)
        return np.clip((high - np.asarray(energy)) / (high - low), 0.0, 1.0)
