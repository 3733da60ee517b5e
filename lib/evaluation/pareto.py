"""The dial between pace and energy: one policy under preferences from one preset to another.

Tensor suffixes: N preferences, K objectives.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import moocore
import numpy as np

from lib.agent.agents import Agent
from lib.agent.closed_loop import Trajectory
from lib.episode import OBJECTIVES
from lib.evaluation.robot import ratios, summarise
from lib.evaluation.suite import Suite
from lib.media import save
from lib.params import Economics, Policy


def hypervolume(gains: np.ndarray) -> float:
    """Area of what the policy dominates and the scripted expert does not.

    Each point is how many times the expert's units an hour, and what share of its energy a unit is
    saved. The reference point is the expert itself: as fast, nothing saved. A point that is slower
    or takes more energy than the expert adds nothing.

    Args:
        gains: (N, 2): ratio of units an hour, 1 - ratio of energy a unit.
    """
    return float(moocore.hypervolume(gains, ref=[1.0, 0.0], maximise=True))


def expected_utility(weights_NK: np.ndarray, values_NK: np.ndarray) -> float:
    """Mean over preferences of w . V, V being what the policy reaches under w.

    Zintgraf et al. 2015, "Quality Assessment of MORL Algorithms: A Utility-Based Approach".

    Args:
        weights_NK: Preferences.
        values_NK: Mean undiscounted vector return of an episode under each.
    """
    return float((weights_NK * values_NK).sum(1).mean())


class Dial:
    """Runs one policy under several preferences, against the scripted expert."""

    def __init__(
        self, suite: Suite, policy: Agent, scripted: dict[str, float], prices: Economics
    ) -> None:
        """Takes what all runs share.

        Args:
            suite: Positions and environments.
            policy: Under the preference it was published for.
            scripted: Summary of the scripted expert.
            prices: The economics section of params.yaml.
        """
        self._suite, self._policy, self._scripted, self._prices = suite, policy, scripted, prices

    def presets(self, settings: Policy, published: dict[str, float]) -> dict[str, dict[str, float]]:
        """Runs every preset on all positions, until success.

        Args:
            settings: The presets.
            published: Summary under the published one, which has run already.

        Returns:
            By name: the summary, without what the policy does after success, with ``mpl_ratio``
            and ``energy_ratio`` against the expert.
        """
        return {
            name: compared(published, self._scripted)
            if name == settings.preset
            else self._compared(
                self._suite.run(name, self._policy, self._suite.trials(weights=weights, linger=0))
            )
            for name, weights in settings.presets.items()
        }

    def sweep(self, settings: Policy, count: int, positions: int) -> list[dict[str, float]]:
        """Runs equally spaced preferences from the first preset to the last.

        Args:
            settings: The presets.
            count: Preferences, two or more.
            positions: Of the suite's.

        Returns:
            A row a preference: its weights, summary, ratios, and vector return.
        """
        first, *_, last = [*settings.presets.values()] * 2
        preferences = np.linspace(first, last, count).round(6).tolist()
        trials = [
            self._suite.trials(positions, weights=weights, linger=0) for weights in preferences
        ]
        every = [trial for asked in trials for trial in asked]
        runs = self._suite.run(f"{count} preferences", self._policy, every)
        rows = []
        for weights, asked in zip(preferences, trials, strict=True):
            mine, runs = runs[: len(asked)], runs[len(asked) :]
            value = np.mean([t.value for t in mine], axis=0).round(6).tolist()
            rows.append(
                {
                    **dict(zip((f"weight_{o}" for o in OBJECTIVES), weights, strict=True)),
                    **self._compared(mine),
                    **dict(zip((f"return_{o}" for o in OBJECTIVES), value, strict=True)),
                }
            )
        return rows

    def scores(self, rows: Sequence[dict[str, float]]) -> dict[str, float]:
        """Sums up a sweep: ``hypervolume``, ``expected_utility`` and the lowest success rate.

        Args:
            rows: What ``sweep`` gave.
        """
        gains = np.array([[row["mpl_ratio"], 1 - row["energy_ratio"]] for row in rows])
        weights, values = (
            np.array([[row[f"{kind}_{o}"] for o in OBJECTIVES] for row in rows])
            for kind in ("weight", "return")
        )
        figures = {
            "hypervolume": hypervolume(gains),
            "expected_utility": expected_utility(weights, values),
            "success_any_min": min(row["success_any"] for row in rows),
        }
        return {name: round(value, 6) for name, value in figures.items()}

    def _compared(self, runs: Sequence[Trajectory]) -> dict[str, float]:
        return compared(summarise(runs, self._prices), self._scripted)


def compared(summary: dict[str, float], scripted: dict[str, float]) -> dict[str, float]:
    """Returns a summary until success, with its ratios to the scripted expert.

    Args:
        summary: From ``summarise``.
        scripted: The expert's.
    """
    until_success = {name: value for name, value in summary.items() if name != "success_last"}
    both = ratios(summary, scripted)
    return {**until_success, "mpl_ratio": both["mpl"], "energy_ratio": both["energy"]}


def pareto_figure(
    path: Path, points: Sequence[dict[str, float]], agents: dict[str, dict[str, float]]
) -> None:
    """Plots units an hour against energy a unit: the policy under each preference, and scripts.

    Args:
        path: The PNG.
        points: What ``Dial.sweep`` gave.
        agents: Summaries of others by name.
    """
    figure, axis = plt.subplots(figsize=(7.6, 5.2), constrained_layout=True)
    mpl, energy = (
        [point[key] for point in points] for key in ("mpl_units_per_hour", "energy_wh_per_unit")
    )
    axis.plot(mpl, energy, "-", color="grey", linewidth=0.8, zorder=1)
    shown = axis.scatter(
        mpl, energy, c=[point["weight_energy"] for point in points], cmap="viridis", zorder=2
    )
    figure.colorbar(shown, label="weight of energy in the preference")
    for name, marker in zip(agents, "sD^v", strict=False):
        values = agents[name]
        axis.plot(
            values["mpl_units_per_hour"],
            values["energy_wh_per_unit"],
            marker,
            color="black",
            markersize=7,
            label=name.replace("_", " "),
        )
    axis.set_xlabel("drawers an hour (more is better)")
    axis.set_ylabel("energy a drawer, Wh (less is better)")
    axis.set_title("One policy under preferences from throughput to energy")
    axis.legend(loc="best", fontsize=9)
    axis.grid(alpha=0.3)
    save(figure, path)
