"""The trade-off between pace and energy: one policy under preferences from preset to preset.

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
from lib.evaluate import Evaluate
from lib.evaluate.robot import ratios, summarise
from lib.evaluate.suite import Suite
from lib.media import save
from lib.policy import Policy
from lib.sim.economics import Economics


def hypervolume(gains: np.ndarray) -> float:
    """Returns the area that the policy dominates beyond the scripted expert.

    A point has two coordinates: the policy's units per hour divided by the expert's, and the share
    of the expert's energy per unit that the policy saves. The reference point (1, 0) is the expert
    itself: as fast, no energy saved. A point that is slower or takes more energy than the expert
    adds nothing.

    Args:
        gains: (N, 2): ratio of units per hour, and 1 - ratio of energy per unit.
    """
    return float(moocore.hypervolume(gains, ref=[1.0, 0.0], maximise=True))


def expected_utility(weights_NK: np.ndarray, values_NK: np.ndarray) -> float:
    """Returns the mean of w . V over preferences; V is the vector return reached under w.

    Zintgraf et al. 2015, "Quality Assessment of MORL Algorithms: A Utility-Based Approach".

    Args:
        weights_NK: Preference weights.
        values_NK: Mean undiscounted vector return of an episode under each preference.
    """
    return float((weights_NK * values_NK).sum(1).mean())


class PreferenceSweep:
    """Runs one policy under several preferences and compares it with the scripted expert."""

    def __init__(
        self,
        suite: Suite,
        policy: Agent,
        scripted: Sequence[Trajectory],
        prices: Economics,
        settings: Evaluate,
    ) -> None:
        """Stores what all runs share.

        Args:
            suite: Test positions and environments.
            policy: The policy; each run replaces its published preference by another one.
            scripted: The scripted expert's episodes on all positions of the suite.
            prices: The economics section of params.yaml.
            settings: The evaluate section: energy price and hand-over time.
        """
        self._suite, self._policy, self._scripted = suite, policy, scripted
        self._prices, self._settings = prices, settings

    def presets(
        self, settings: Policy, published: Sequence[Trajectory]
    ) -> dict[str, dict[str, float]]:
        """Runs the policy under every preset on all positions; each episode ends at success.

        Args:
            settings: The policy section, which holds the presets.
            published: Episodes under the published preset, which has already been run.

        Returns:
            For each preset by name: the figures that count until success, with their ``ratios`` to
            the expert.
        """
        return {
            name: self._compared(
                published
                if name == settings.preset
                else self._suite.run(
                    name, self._policy, self._suite.trials(weights=weights, linger=0)
                )
            )
            for name, weights in settings.presets.items()
        }

    def run(self, settings: Policy, count: int, positions: int) -> list[dict[str, float]]:
        """Runs equally spaced preferences from the first preset to the last.

        Args:
            settings: The policy section, which holds the presets.
            count: Number of preferences, at least two.
            positions: Number of the suite's positions to use, from the first one.

        Returns:
            One row per preference: its weights, summary, ratios to the expert at the same
            positions, and vector return.
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
        """Returns ``hypervolume``, ``expected_utility`` and the lowest success rate of a sweep.

        Args:
            rows: Rows from ``run``.
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
        """Returns the figures that count until success, with their ratios to the expert.

        Positions differ in how far the hand has to go, so the expert counts on the same ones only.
        """
        summary, scripted = (
            summarise(episodes, self._prices, self._settings)
            for episodes in (runs, self._scripted[: len(runs)])
        )
        until_success = {
            name: value for name, value in summary.items() if not name.startswith("success_last")
        }
        return until_success | ratios(summary, scripted)


def pareto_figure(
    path: Path, points: Sequence[dict[str, float]], agents: dict[str, dict[str, float]]
) -> None:
    """Plots units per hour against energy per unit: the policy by preference, and other agents.

    Args:
        path: PNG file to write.
        points: Rows from ``PreferenceSweep.run``.
        agents: Summaries of the other agents by name.
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
