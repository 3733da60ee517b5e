"""Figures of closed-loop episodes: success, pace, energy, damage and economic value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from lib.agent.closed_loop import Trajectory
from lib.evaluate import Evaluate
from lib.sim import economics
from lib.sim.economics import Economics


def interval(successes: int, attempts: int) -> tuple[float, float]:
    """Returns the 95 % Wilson interval of a success rate.

    Args:
        successes: Number of successful attempts.
        attempts: Number of attempts, at least one.
    """
    bounds = binomtest(successes, attempts).proportion_ci(method="wilson")
    return round(float(bounds.low), 6), round(float(bounds.high), 6)


def summarise(
    trajectories: Sequence[Trajectory], prices: Economics, settings: Evaluate
) -> dict[str, float]:
    """Summarises the episodes of one agent; time and energy count until the first success.

    Args:
        trajectories: The episodes, at least one.
        prices: The economics section of params.yaml.
        settings: The evaluate section: energy price and hand-over time.

    Returns:
        The metrics of metrics/evaluate.json for one agent; docs/metrics.md explains each.
    """
    count = len(trajectories)
    any_success = sum(t.succeeded for t in trajectories)
    low, high = interval(any_success, count)
    last = sum(t.success[-1] for t in trajectories)
    rate = any_success / count
    mpl = economics.mpl_units_per_hour(
        rate, float(np.mean([t.seconds for t in trajectories])), settings.hand_over_s
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
            mpl, wh, prices.unit_price, settings.energy_price_kwh, prices.wage_per_hour
        ),
    }
    return {name: round(value, 6) for name, value in values.items()}


def ratios(policy: dict[str, float], scripted: dict[str, float]) -> dict[str, float]:
    """Returns the policy's units per hour and energy per unit, each divided by the baseline's.

    Args:
        policy: Summary of the policy's episodes.
        scripted: Summary of the baseline's episodes. Where its figure is 0, the ratio is 0.
    """
    names = {"mpl": "mpl_units_per_hour", "energy": "energy_wh_per_unit"}
    return {
        short: round(policy[name] / scripted[name], 6) if scripted[name] else 0.0
        for short, name in names.items()
    }


def episode_rows(runs: Mapping[str, Sequence[Trajectory]]) -> list[dict[str, Any]]:
    """Returns one row per agent and episode, for the table of all episodes.

    Args:
        runs: Trajectories by name of the agent.
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
