"""Figures of robots in closed loop: success, pace, energy, damage, and what that is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from lib import economics
from lib.agent.closed_loop import Trajectory
from lib.params import Economics


def interval(successes: int, attempts: int) -> tuple[float, float]:
    """Returns the 95 % Wilson interval of a rate.

    Args:
        successes: Of the attempts.
        attempts: At least one.
    """
    bounds = binomtest(successes, attempts).proportion_ci(method="wilson")
    return round(float(bounds.low), 6), round(float(bounds.high), 6)


def summarise(trajectories: Sequence[Trajectory], prices: Economics) -> dict[str, float]:
    """Sums up episodes of one agent; time and energy count until the first success.

    Args:
        trajectories: At least one.
        prices: The economics section of params.yaml.

    Returns:
        The metrics of metrics/evaluate.json for one agent; docs/metrics.md explains each.
    """
    count = len(trajectories)
    any_success = sum(t.succeeded for t in trajectories)
    low, high = interval(any_success, count)
    last = sum(t.success[-1] for t in trajectories)
    rate = any_success / count
    mpl = economics.mpl_units_per_hour(
        rate, float(np.mean([t.seconds for t in trajectories])), prices.hand_over_s
    )
    wh = economics.energy_wh_per_unit(sum(t.joules for t in trajectories), any_success)
    values = {
        "success_any": rate,
        "success_any_low": low,
        "success_any_high": high,
        "success_last": last / count,
        "steps_mean": float(np.mean([t.steps for t in trajectories])),
        "mpl_units_per_hour": mpl,
        "energy_wh_per_unit": wh,
        "damage_rate": float(np.mean([sum(t.damages[: t.steps]) for t in trajectories])),
        "wage_parity": economics.wage_parity(
            mpl, wh, prices.unit_price, prices.energy_price_kwh, prices.wage_per_hour
        ),
    }
    return {name: round(value, 6) for name, value in values.items()}


def ratios(policy: dict[str, float], scripted: dict[str, float]) -> dict[str, float]:
    """Compares two summaries: units an hour and energy a unit, policy over scripted.

    Args:
        policy: Of the policy.
        scripted: Of the baseline.
    """
    names = {"mpl": "mpl_units_per_hour", "energy": "energy_wh_per_unit"}
    return {
        short: round(policy[name] / scripted[name], 6) if scripted[name] else 0.0
        for short, name in names.items()
    }


def episode_rows(runs: Mapping[str, Sequence[Trajectory]]) -> list[dict[str, Any]]:
    """Returns a row an agent and episode, for the table of all episodes.

    Args:
        runs: Trajectories by agent.
    """
    return [
        {
            "episode": index,
            "agent": name,
            "success": int(trajectory.succeeded),
            "steps": trajectory.steps,
            "energy_j": trajectory.joules,
        }
        for name, trajectories in runs.items()
        for index, trajectory in enumerate(trajectories)
    ]
