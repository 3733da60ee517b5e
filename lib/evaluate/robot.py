"""Figures of closed-loop episodes: success, pace, energy, damage and economic value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, chi2

from lib.agent.closed_loop import Trajectory
from lib.evaluate import Evaluate
from lib.sim import economics
from lib.sim.economics import Economics
from lib.sim.env import start_of

# A pause between two drawers, s, for which the pace is stated besides that of evaluate.hand_over_s.
PAUSE_S = 1.0


def success_rate(name: str, successes: int, attempts: int) -> dict[str, float]:
    """Returns a success rate with its 95 % Wilson interval.

    Args:
        name: Name of the rate; the bounds are called ``<name>_low`` and ``<name>_high``.
        successes: Number of successful attempts.
        attempts: Number of attempts, at least one.
    """
    bounds = binomtest(successes, attempts).proportion_ci(method="wilson")
    values = {"": successes / attempts, "_low": bounds.low, "_high": bounds.high}
    return {name + end: round(float(value), 6) for end, value in values.items()}


def event_rate(name: str, events: int, attempts: int) -> dict[str, float]:
    """Returns the number of events per attempt with its 95 % interval.

    The interval is the exact one of a Poisson rate (Garwood 1936, "Fiducial Limits for the Poisson
    Distribution"). It assumes that the events come independently of each other.

    Args:
        name: Name of the rate; the bounds are called ``<name>_low`` and ``<name>_high``.
        events: Number of events in all attempts.
        attempts: Number of attempts, at least one.
    """
    low = chi2.ppf(0.025, 2 * events) / 2 if events else 0.0
    high = chi2.ppf(0.975, 2 * events + 2) / 2
    values = {"": events, "_low": low, "_high": high}
    return {name + end: round(float(value) / attempts, 6) for end, value in values.items()}


def opened(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Returns how many episodes there are, and the rate of those with success at any step.

    Args:
        trajectories: The episodes, at least one.
    """
    count = len(trajectories)
    successes = sum(t.succeeded for t in trajectories)
    return {"episodes": count, **success_rate("success_any", successes, count)}


def brief(
    trajectories: Sequence[Trajectory], low: np.ndarray, high: np.ndarray
) -> dict[str, float]:
    """Summarises the episodes of one agent in a few figures.

    Args:
        trajectories: The episodes, at least one.
        low: Lowest start of the world, see ``ManipulationEnv.positions``.
        high: Highest start.

    Returns:
        ``episodes``, ``success_any`` with its interval, ``steps_mean``, and ``best_third``: the
        highest success rate in a third of the range of any variable of the start. An agent that
        opens all drawers of one corner has learnt something that its mean rate hides.
    """
    done = np.array([t.succeeded for t in trajectories])
    starts = np.array([start_of(t.trial.seed, low, high) for t in trajectories])
    varies = high > low
    third = np.minimum(3 * (starts - low)[:, varies] / (high - low)[varies], 2.999).astype(int)
    parts = [done[column == index] for column in third.T for index in range(3)]
    return {
        **opened(trajectories),
        "best_third": round(max(float(part.mean()) for part in parts if len(part)), 6),
        "steps_mean": round(float(np.mean([t.steps for t in trajectories])), 6),
    }


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
    successes = sum(t.succeeded for t in trajectories)
    blows = sum(sum(t.damages[: t.steps]) for t in trajectories)
    seconds = float(np.mean([t.seconds for t in trajectories]))
    rate = successes / count
    mpl = economics.mpl_units_per_hour(rate, seconds, settings.hand_over_s)
    wh = economics.energy_wh_per_unit(sum(t.joules for t in trajectories), successes)
    values = {
        **opened(trajectories),
        **success_rate("success_last", sum(bool(t.success[-1]) for t in trajectories), count),
        "steps_mean": float(np.mean([t.steps for t in trajectories])),
        "mpl_units_per_hour": mpl,
        "mpl_with_pause": economics.mpl_units_per_hour(rate, seconds, PAUSE_S),
        "energy_wh_per_unit": wh,
        **event_rate("damage_rate", blows, count),
        "wage_parity": economics.wage_parity(
            mpl,
            wh,
            blows / count * economics.mpl_units_per_hour(1.0, seconds, settings.hand_over_s),
            unit_price=prices.unit_price,
            energy_price_kwh=settings.energy_price_kwh,
            damage_cost=prices.damage_cost,
            wage_per_hour=prices.wage_per_hour,
        ),
    }
    return {name: round(value, 6) for name, value in values.items()}


def ratios(policy: Mapping[str, float], scripted: Mapping[str, float]) -> dict[str, float]:
    """Returns the policy's units per hour and energy per unit, each divided by the baseline's.

    Args:
        policy: Summary of the policy's episodes.
        scripted: Summary of the baseline's episodes at the same positions. Where its figure is 0,
            the ratio is 0.

    Returns:
        ``mpl_ratio``, ``mpl_ratio_with_pause`` and ``energy_ratio``.
    """
    names = {
        "mpl_ratio": "mpl_units_per_hour",
        "mpl_ratio_with_pause": "mpl_with_pause",
        "energy_ratio": "energy_wh_per_unit",
    }
    return {
        ratio: round(policy[name] / scripted[name], 6) if scripted[name] else 0.0
        for ratio, name in names.items()
    }


def best_ratios(presets: Mapping[str, Mapping[str, float]]) -> dict[str, float | str]:
    """Returns the best ratios to the scripted expert, and the preset that each was reached under.

    Args:
        presets: Figures by name of the preset, with those of ``ratios``.
    """
    fastest = max(presets, key=lambda name: presets[name]["mpl_ratio"])
    thriftiest = min(presets, key=lambda name: presets[name]["energy_ratio"])
    return {
        "mpl": presets[fastest]["mpl_ratio"],
        "mpl_with_pause": presets[fastest]["mpl_ratio_with_pause"],
        "mpl_preset": fastest,
        "energy": presets[thriftiest]["energy_ratio"],
        "energy_preset": thriftiest,
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
