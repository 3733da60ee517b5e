"""The closed-loop test suite: the same positions for every agent, nominal and stressed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from lib.agent.agents import Agent
from lib.agent.closed_loop import Trajectory, Trial, run_episodes
from lib.console import say, timed
from lib.media import beside, contact_sheet, save, write_video
from lib.sim.stress import STRESS_KINDS, Stress
from lib.sim.vector import make_vector_env

MOMENTS = 8  # pictures of an episode on the sheet
AFTER_SUCCESS = 5  # steps that a film goes on
BLIND_ENVS = 2  # without pictures there is no batch to fill, and each takes a while to start


class Suite:
    """Test positions, and environments that are started once for all that runs on them.

    Episodes go on to the horizon, so that success at its last step can be told too, unless a trial
    asks for less. Agents that look at nothing run where nothing is rendered.
    """

    def __init__(self, num_envs: int, seeds: Sequence[int], **options: Any) -> None:
        """Starts the environments.

        Args:
            num_envs: Stepped together.
            seeds: Reset seeds of the positions.
            **options: Arguments of ``make_env``.
        """
        self._seeds = list(seeds)
        counts = {True: num_envs, False: min(num_envs, BLIND_ENVS)}
        self._environments = {
            pixels: make_vector_env(count, **options, render=pixels, linger=None)
            for pixels, count in counts.items()
        }

    def close(self) -> None:
        """Stops the environments."""
        for env in self._environments.values():
            env.close()

    def run(
        self,
        name: str,
        agent: Agent,
        trials: Sequence[Trial] | None = None,
        *,
        films: Films | None = None,
    ) -> list[Trajectory]:
        """Runs an agent.

        Args:
            name: For the log.
            agent: Drives the robots.
            trials: Episodes; by default one on each position.
            films: Takes the pictures that it wants; they are rendered for that.

        Returns:
            Trajectories in the order of the trials, without pictures.
        """
        env = self._environments[agent.needs_pixels or films is not None]
        with timed(name):
            runs = run_episodes(
                env,
                agent,
                self.trials() if trials is None else trials,
                keep_frames=films is not None,
                finished=films.take if films else lambda trajectory: None,
            )
        rate = np.mean([t.succeeded for t in runs])
        say(f"evaluate: {name}: success {rate:.2f} of {len(runs)} episodes")
        return runs

    def trials(self, count: int | None = None, **asked: Any) -> list[Trial]:
        """Returns an episode on each position.

        Args:
            count: Only on the first so many of them.
            **asked: Stress, weights or linger of each.
        """
        return [Trial(seed, **asked) for seed in self._seeds[:count]]

    def stressed(
        self, agents: Mapping[str, Agent], severities: Mapping[float, int]
    ) -> list[dict[str, Any]]:
        """Runs agents under each kind of stress.

        Args:
            agents: By name.
            severities: Number of positions by severity.

        Returns:
            A row a severity and kind: ``kind``, ``severity``, ``positions``, and by the name of
            each agent the share of episodes with success at any step.
        """
        rows: list[dict[str, Any]] = [
            {"kind": kind, "severity": severity, "positions": count}
            for severity, count in severities.items()
            for kind in STRESS_KINDS
        ]
        trials = [
            self.trials(row["positions"], stress=Stress(**{row["kind"]: row["severity"]}), linger=0)
            for row in rows
        ]
        # All at once, so that no environment idles while the last episode of a kind goes on.
        every = [trial for asked in trials for trial in asked]
        for name, agent in agents.items():
            runs = iter(self.run(f"{name}, stressed", agent, every))
            for row, asked in zip(rows, trials, strict=True):
                done = [next(runs).succeeded for _ in asked]
                row[name] = round(float(np.mean(done)), 6)
        return rows


def by_kind(rows: Sequence[Mapping[str, Any]], severity: float) -> dict[str, dict[str, float]]:
    """Returns the rates of policy and expert by kind of stress, as metrics have them.

    Args:
        rows: From ``Suite.stressed``, with ``policy`` and ``scripted``.
        severity: Which of them.
    """
    return {
        row["kind"]: {"success_any": row["policy"], "scripted": row["scripted"]}
        for row in rows
        if row["severity"] == severity
    }


class Films:
    """The pictures of some episodes: those asked for, and the worst of all.

    An episode without success is worse than any with it; else the one with more steps is.
    """

    def __init__(self, seeds: Sequence[int] = ()) -> None:
        """Asks for episodes.

        Args:
            seeds: Kept in any case.
        """
        self._asked = set(seeds)
        self._frames: dict[int, np.ndarray] = {}
        self._badness: dict[int, tuple[bool, int]] = {}

    def take(self, trajectory: Trajectory) -> None:
        """Keeps the pictures of an episode, or lets them go.

        Args:
            trajectory: Finished; its pictures are taken out of it.
        """
        seed, worst = trajectory.trial.seed, self.worst
        self._badness[seed] = (not trajectory.succeeded, trajectory.steps)
        # A hundred episodes are 300 MB: only one that may be the worst is held besides.
        if seed in self._asked or self.worst == seed:
            self._frames[seed] = np.stack(trajectory.frames[: trajectory.steps + AFTER_SUCCESS])
            if self.worst == seed and worst is not None and worst not in self._asked:
                del self._frames[worst]
        trajectory.frames = []

    @property
    def worst(self) -> int | None:
        """Seed of the worst episode so far, the first of equals; None before any."""
        return max(self._badness, key=self._badness.__getitem__, default=None)

    def of(self, seed: int) -> np.ndarray:
        """Returns the pictures of an episode, (T, H, W, 3) uint8.

        Args:
            seed: Asked for, or the worst.
        """
        return self._frames[seed]


def write_films(folder: Path, seeds: Mapping[str, int], left: Films, right: Films) -> None:
    """Writes films of two agents side by side.

    Args:
        folder: Gets ``<name>.mp4`` for each.
        seeds: Episodes by the name of their film.
        left: Pictures of one agent.
        right: Of another one, in the same episodes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in seeds.items():
        write_video(folder / f"{name}.mp4", beside(left.of(seed), right.of(seed)))


def episode_sheet(path: Path, policy: np.ndarray, expert: np.ndarray) -> None:
    """Draws policy and expert at the same moments of one test episode.

    Args:
        path: The PNG.
        policy: Its pictures, (T, H, W, 3) uint8.
        expert: Of the scripted expert.
    """
    moments = np.linspace(0, max(len(policy), len(expert)) - 1, MOMENTS, dtype=int)
    rows = {
        name: film[np.minimum(moments, len(film) - 1)]
        for name, film in (("policy", policy), ("scripted expert", expert))
    }
    at = ", ".join(str(moment) for moment in moments)
    contact_sheet(path, rows, f"The same held-out position, control steps {at}")


def stress_figure(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draws success by kind and severity of stress, a panel an agent.

    Args:
        path: The PNG.
        rows: With ``kind``, ``severity``, ``policy`` and ``scripted``.
    """
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    severities = sorted({row["severity"] for row in rows})
    figure, axes = plt.subplots(
        1, 2, figsize=(2.2 + 1.3 * len(severities) * 2, 4.6), sharey=True, constrained_layout=True
    )
    for name, axis in zip(("policy", "scripted"), axes, strict=True):
        rates = np.full((len(kinds), len(severities)), np.nan)
        for row in rows:
            rates[kinds.index(row["kind"]), severities.index(row["severity"])] = row[name]
        image = axis.imshow(rates, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
        for (line, column), rate in np.ndenumerate(rates):
            colour = "black" if 0.2 < rate < 0.8 else "white"
            axis.text(
                column, line, f"{rate:.2f}", ha="center", va="center", fontsize=9, color=colour
            )
        axis.set_xticks(range(len(severities)), [f"{severity:g}" for severity in severities])
        axis.set_yticks(range(len(kinds)), [kind.replace("_", " ") for kind in kinds])
        axis.set_xlabel("severity")
        axis.set_title(name)
    figure.colorbar(image, ax=axes, label="success at any step")
    figure.suptitle("Held-out positions under each kind of stress")
    save(figure, path)
