"""The closed-loop test suite: the same positions for every agent, nominal and stressed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from lib.agent.agents import Agent
from lib.agent.closed_loop import Trajectory, run_episodes
from lib.console import say
from lib.evaluation.figures import contact_sheet
from lib.evaluation.video import beside, write_video
from lib.sim.stress import STRESS_KINDS, Stress
from lib.sim.vector import make_vector_env

MOMENTS = 8  # pictures of an episode on the sheet
AFTER_SUCCESS = 10  # steps that a film goes on


class Suite:
    """Runs agents on test positions."""

    def __init__(self, num_envs: int, **options: Any) -> None:
        """Sets the environments up.

        Args:
            num_envs: Stepped together.
            **options: Arguments of ``make_env``.
        """
        self._num_envs, self._options = num_envs, options

    def _environments(self, **options: Any) -> Any:
        return closing(make_vector_env(self._num_envs, **self._options, **options))

    def nominal(
        self, agents: Mapping[str, Agent], seeds: Sequence[int], filmed: Sequence[int]
    ) -> dict[str, list[Trajectory]]:
        """Runs every agent to the horizon, undisturbed.

        Args:
            agents: By name.
            seeds: Reset seeds, the same for all.
            filmed: Seeds whose pictures are kept, where an agent needs pictures.

        Returns:
            Trajectories by agent, in the order of the seeds.
        """
        runs: dict[str, list[Trajectory]] = {}
        for pixels in (False, True):
            chosen = {name: a for name, a in agents.items() if a.needs_pixels == pixels}
            if not chosen:
                continue
            with self._environments(render=pixels, terminate_on_success=False) as env:
                for name, agent in chosen.items():
                    say(f"evaluate: {name}, {len(seeds)} positions")
                    keep = set(filmed if pixels else ()).__contains__
                    runs[name] = run_episodes(env, agent, list(seeds), keep_frames=keep)
        return runs

    def stressed(
        self, agents: Mapping[str, Agent], seeds: Sequence[int], severity: float
    ) -> dict[str, dict[str, float]]:
        """Runs agents under each kind of stress, until success or the horizon.

        Args:
            agents: By the name that their success rate gets.
            seeds: Reset seeds.
            severity: Of every kind.

        Returns:
            Success rates by kind and agent.
        """
        rates: dict[str, dict[str, float]] = {kind: {} for kind in STRESS_KINDS}
        for name, agent in agents.items():
            say(f"evaluate: {name} under {len(rates)} kinds of stress, {len(seeds)} positions each")
            with self._environments(render=agent.needs_pixels) as env:
                for kind in rates:
                    stress = Stress(**{kind: severity})
                    runs = run_episodes(env, agent, list(seeds), stress=stress)
                    rates[kind][name] = round(float(np.mean([t.terminated for t in runs])), 6)
        return rates

    def film(
        self, agent: Agent, other: Mapping[int, Trajectory], seeds: Sequence[int], folder: Path
    ) -> dict[str, np.ndarray]:
        """Films a script on some positions and puts it beside another agent's pictures.

        Args:
            agent: The script.
            other: Trajectories with frames by seed; where there are none, the script's own.
            seeds: Positions.
            folder: Gets a film a position.

        Returns:
            For the first position, MOMENTS frames of both, by name.
        """
        folder.mkdir(parents=True, exist_ok=True)
        sheet: dict[str, np.ndarray] = {}
        with self._environments(terminate_on_success=False) as env:
            runs = run_episodes(env, agent, list(seeds), keep_frames=set(seeds).__contains__)
        for index, script in enumerate(runs):
            shown = other.get(script.seed, script)
            shown = shown if shown.frames else script
            left, right = (np.stack(t.frames[: t.steps + AFTER_SUCCESS]) for t in (shown, script))
            write_video(folder / f"position_{index}.mp4", beside(left, right))
            if not sheet:
                moments = np.linspace(0, max(len(left), len(right)) - 1, MOMENTS, dtype=int)
                sheet = {
                    "policy": left[np.minimum(moments, len(left) - 1)],
                    "expert": right[np.minimum(moments, len(right) - 1)],
                    "moments": moments,
                }
        return sheet


def episode_sheet(path: Path, sheet: dict[str, np.ndarray]) -> None:
    """Draws policy and expert at the same moments of one test episode.

    Args:
        path: The PNG.
        sheet: What ``Suite.film`` gave.
    """
    moments = ", ".join(str(moment) for moment in sheet["moments"])
    rows = {"policy": sheet["policy"], "scripted expert": sheet["expert"]}
    contact_sheet(path, rows, f"The same held-out position, control steps {moments}")
