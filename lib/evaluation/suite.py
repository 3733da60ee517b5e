"""The closed-loop test suite: the same positions for every agent, nominal and stressed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lib.agent.agents import Agent
from lib.agent.closed_loop import Trajectory, run_episodes
from lib.console import say
from lib.media import beside, contact_sheet, write_video
from lib.sim.stress import STRESS_KINDS, Stress
from lib.sim.vector import make_vector_env

MOMENTS = 8  # pictures of an episode on the sheet
AFTER_SUCCESS = 10  # steps that a film goes on


class Suite:
    """Test positions, and environments that are started once for all that runs on them.

    Every episode goes on to the horizon, so that success at its last step can be told too. Agents
    that look at nothing run where nothing is rendered.
    """

    def __init__(self, num_envs: int, seeds: Sequence[int], **options: Any) -> None:
        """Starts the environments.

        Args:
            num_envs: Stepped together.
            seeds: Reset seeds of the positions.
            **options: Arguments of ``make_env``.
        """
        self._seeds = list(seeds)
        self._environments = {
            pixels: make_vector_env(num_envs, **options, render=pixels, terminate_on_success=False)
            for pixels in (False, True)
        }

    def close(self) -> None:
        """Stops the environments."""
        for env in self._environments.values():
            env.close()

    def run(
        self,
        name: str,
        agent: Agent,
        *,
        count: int | None = None,
        stress: Stress | None = None,
        filmed: int = 0,
    ) -> list[Trajectory]:
        """Runs an agent.

        Args:
            name: For the log.
            agent: Drives the robots.
            count: Only on so many positions.
            stress: What goes wrong.
            filmed: Keep the pictures of so many positions; they are taken for that.

        Returns:
            Trajectories in the order of the positions.
        """
        seeds = self._seeds[:count]
        kept = set(seeds[:filmed])
        env = self._environments[agent.needs_pixels or bool(filmed)]
        runs = run_episodes(env, agent, seeds, stress=stress, keep_frames=kept.__contains__)
        rate = np.mean([any(t.success) for t in runs])
        under = "".join(f", {kind} {s:g}" for kind, s in (stress or Stress()).active().items())
        say(f"evaluate: {name}{under}: {rate:.2f} of {len(runs)} positions")
        return runs

    def stressed(
        self, agents: Mapping[str, Agent], count: int, severity: float
    ) -> dict[str, dict[str, float]]:
        """Runs agents under each kind of stress.

        Args:
            agents: By the name that their success rate gets.
            count: Positions.
            severity: Of every kind.

        Returns:
            Share of episodes with success at any step, by kind and agent.
        """
        rates: dict[str, dict[str, float]] = {kind: {} for kind in STRESS_KINDS}
        for name, agent in agents.items():
            for kind in rates:
                stress = Stress(**{kind: severity})
                runs = self.run(name, agent, count=count, stress=stress)
                rates[kind][name] = round(float(np.mean([any(t.success) for t in runs])), 6)
        return rates


def write_films(
    folder: Path, left: Sequence[Trajectory], right: Sequence[Trajectory]
) -> dict[str, np.ndarray]:
    """Writes a film a position, two agents side by side.

    Args:
        folder: Gets ``position_<i>.mp4``.
        left: Trajectories with frames; one without shows the right one's.
        right: Trajectories with frames of the same positions.

    Returns:
        Of the first position MOMENTS frames of ``left`` and ``right``, and the ``moments``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sheet: dict[str, np.ndarray] = {}
    for index, (shown, other) in enumerate(zip(left, right, strict=True)):
        pair = (shown if shown.frames else other, other)
        films = [np.stack(t.frames[: t.steps + AFTER_SUCCESS]) for t in pair]
        write_video(folder / f"position_{index}.mp4", beside(*films))
        if not sheet:
            moments = np.linspace(0, max(map(len, films)) - 1, MOMENTS, dtype=int)
            for name, film in zip(("left", "right"), films, strict=True):
                sheet[name] = film[np.minimum(moments, len(film) - 1)]
            sheet["moments"] = moments
    return sheet


def episode_sheet(path: Path, sheet: dict[str, np.ndarray]) -> None:
    """Draws policy and expert at the same moments of one test episode.

    Args:
        path: The PNG.
        sheet: What ``write_films`` gave.
    """
    moments = ", ".join(str(moment) for moment in sheet["moments"])
    rows = {"policy": sheet["left"], "scripted expert": sheet["right"]}
    contact_sheet(path, rows, f"The same held-out position, control steps {moments}")
