"""Settings of the spatial RNN."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from lib.params import Count, Level, NonNegative, Positive, Section, Share


class Rnn(Section):
    """Settings of the spatial RNN and of its surprise."""

    use_neural: bool = False
    levels: Annotated[list[Level], Field(min_length=1, max_length=3)]
    hidden_channels: Count
    window: Annotated[int, Field(ge=10)]
    warmup: Count
    steps: Count
    batch_size: Count
    lr: Positive
    alpha: NonNegative
    beta: NonNegative
    surprise_components: Count
    known_quantile: Annotated[float, Field(gt=0, lt=1)]
    unknown_factor: Annotated[float, Field(gt=1)]
    surprise_episodes: Count
    surprise_severity: Share

    @model_validator(mode="after")
    def _horizon_fits(self) -> Rnn:
        if self.window < self.warmup + 8:
            raise ValueError(
                f"window: {self.window} frames, but skill is measured 8 steps after a warm-up of "
                f"{self.warmup}; at least {self.warmup + 8} are needed"
            )
        return self
