"""Settings of the closed-loop evaluation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from lib.params import Count, Horizon, NonNegative, Section, Seed, Share


class Evaluate(Section):
    """Settings of the closed-loop test on held-out positions."""

    suite: Literal["test", "dev"]
    seed: Seed
    episodes: Count
    other_episodes: Count
    baseline_episodes: Count
    exchange_episodes: Count
    horizon: Horizon
    stress_episodes: Count
    stress_severity: Share
    stress_severe_episodes: Count
    sweep_weights: Annotated[int, Field(ge=2)]
    sweep_episodes: Count
    videos: Count
    energy_price_kwh: NonNegative
    hand_over_s: NonNegative
    num_envs: Annotated[int, Field(ge=1, le=64)]
