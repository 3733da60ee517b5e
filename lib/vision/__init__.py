"""Settings of the vision backbone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lib.params import Count, Level, NonNegative, Positive, Section, Share


class Vision(Section):
    """Settings of the backbone and of its contrastive training."""

    use_neural: bool = False
    size: Literal["tiny", "small", "400MF"]
    block: Literal["X", "Y"]
    pyramid_channels: Count
    steps: Count
    batch_size: Annotated[int, Field(ge=2)]
    lr: Positive
    weight_decay: NonNegative
    warmup: Share
    temperature: Positive
    projection_dim: Count
    reconstruction: NonNegative
    motion: NonNegative
    state: NonNegative
    shift_px: Annotated[int, Field(ge=0, le=32)]
    blur: Share
    colour: Share
    noise: NonNegative
    ridge: Positive
    feature_levels: Annotated[list[Level], Field(min_length=1, max_length=3)]
