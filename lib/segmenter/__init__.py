"""Settings of the segmenter."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lib.params import Count, NonNegative, Positive, Section, Share


class Segmenter(Section):
    """Settings of the U-Net, of the decision when it is used, and of the network that locates."""

    use_neural: bool = False
    widths: Annotated[list[Count], Field(min_length=2, max_length=6)]
    steps: Count
    batch_size: Count
    lr: Positive
    alpha: Share
    focal_alpha: Share
    focal_gamma: NonNegative
    lambda_boundary: NonNegative
    lambda_primitive: NonNegative
    primitive_dice: NonNegative
    f1_activation_threshold: Share
    threshold: Share
    locator_steps: Count
    locator_lr: Positive
    stress_episodes: Count
    stress_severity: Share
