"""Settings for turning Isaac Lab recordings into episodes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lib.params import Horizon, Section, Share


class Phase1Isaac(Section):
    """Settings of the reader of Isaac Lab recordings and of the MuJoCo stand-in."""

    num_rollouts: Annotated[int, Field(ge=0)]
    horizon: Horizon
    action_noise: Share
    min_alignment: Share
    image: Annotated[str, Field(min_length=1)]
