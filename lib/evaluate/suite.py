"""The closed-loop test suite: the same positions for every agent, nominal and stressed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from lib.agent.agents import Agent, PolicyAgent, ScriptAgent, load_policy
from lib.agent.closed_loop import Trajectory, Trial, run_episodes
from lib.agent.vector import make_vector_env
from lib.base.console import say, timed
from lib.base.paths import CLONED_POLICY, POLICY
from lib.evaluate.robot import brief, success_rate
from lib.learning.device import Autocast
from lib.media import beside, contact_sheet, save, write_video
from lib.sim.experts import FastScript, ScriptedExpert
from lib.sim.stress import Stress
from lib.sim.tasks import get_task

MOMENTS = 8  # frames of each episode on the picture sheet
AFTER_SUCCESS = 5  # control steps that a film shows after the first success
# Environments for agents that need no pixels. Few are enough: most of these agents have no batch to
# fill, and each environment takes a while to start.
BLIND_ENVS = 4
CONTROL = "nominal"  # the same positions without stress, among the kinds of stress


def load_robots(task: str, autocast: Autocast) -> dict[str, Agent]:
    """Loads the agents that are tested on all positions.

    Args:
        task: Name of the task.
        autocast: Context in which the networks run.

    Returns:
        ``policy``, ``cloned``, ``scripted`` and ``fast_script``. If policy.use_neural was false,
        the scripted expert takes the place of the policy. If the published policy is the clone,
        both are one agent.

    Raises:
        UserError: If a checkpoint is missing or damaged.
    """
    expert = ScriptAgent(ScriptedExpert(get_task(task)))
    policy = load_policy(POLICY, autocast) or expert
    cloned = load_policy(CLONED_POLICY, autocast) or expert
    return {
        "policy": policy,
        "cloned": policy if _alike(policy, cloned) else cloned,
        "scripted": expert,
        "fast_script": ScriptAgent(FastScript()),
    }


def _alike(one: Agent, other: Agent) -> bool:
    """Returns whether two policies would do the same."""
    if not (isinstance(one, PolicyAgent) and isinstance(other, PolicyAgent)):
        return one is other
    states = (agent.actor.state_dict() for agent in (one, other))
    same = all(torch.equal(*pair) for pair in zip(*(s.values() for s in states), strict=True))
    return same and one.condition == other.condition


class Suite:
    """Test positions, and environments that are started once and serve all agents.

    Episodes run to the horizon, so that success at the last step can be measured too, unless a
    trial asks for an earlier end. Agents that need no pixels run in environments that render none.

    Attributes:
        seeds: Reset seed of each test position.
    """

    def __init__(self, num_envs: int, seeds: Sequence[int], **options: Any) -> None:
        """Starts the environments.

        Args:
            num_envs: Number of environments that are stepped together.
            seeds: Reset seed of each test position.
            **options: Arguments of ``make_env``.
        """
        self.seeds = list(seeds)
        counts = {True: num_envs, False: min(num_envs, BLIND_ENVS)}
        self._environments = {
            pixels: make_vector_env(count, **options, render=pixels, linger=None)
            for pixels, count in counts.items()
        }

    @property
    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest start of the test positions."""
        return self._environments[False].call("positions")[0]

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
        """Runs an agent on a list of trials.

        Args:
            name: Name of the run in the log.
            agent: The agent that drives the robots.
            trials: Episodes to run; by default one per position.
            films: Collector of frames. If given, pictures are rendered even for an agent that
                needs none.

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

    def run_each(
        self,
        agents: Mapping[str, Agent],
        trials: Sequence[Trial] | None = None,
        *,
        when: str = "",
        films: Mapping[str, Films] | None = None,
    ) -> dict[str, list[Trajectory]]:
        """Runs several agents on the same trials. An agent with two names is driven only once.

        Args:
            agents: Agents by name.
            trials: As for ``run``.
            when: What the log says after the name of each agent.
            films: Collectors of frames by name of the agent.

        Returns:
            Trajectories by name of the agent, in the order of the trials.
        """
        driven: dict[int, list[Trajectory]] = {}
        for name, agent in agents.items():
            if id(agent) not in driven:
                watched = (films or {}).get(name)
                driven[id(agent)] = self.run(name + when, agent, trials, films=watched)
        return {name: driven[id(agent)] for name, agent in agents.items()}

    def which_opened(
        self,
        agents: Mapping[str, Agent],
        asked: Sequence[tuple[Mapping[str, float], int, int]],
        when: str,
    ) -> list[dict[str, list[bool]]]:
        """Returns which drawers each agent opens under each of several mixtures of stress.

        Args:
            agents: Agents by name.
            asked: Severities by kind, first position and number of positions.
            when: As for ``run_each``.
        """
        # All trials run in one call, so that no environment idles while the last episode of a
        # mixture is still running.
        trials = [
            trial
            for mixture, first, count in asked
            for trial in self.trials(first + count, stress=Stress(**mixture), linger=0)[first:]
        ]
        found = self.run_each(agents, trials, when=when)
        runs = {name: iter(trajectories) for name, trajectories in found.items()}
        return [
            {name: [t.succeeded for t in islice(mine, count)] for name, mine in runs.items()}
            for _, _, count in asked
        ]

    def trials(self, count: int | None = None, **asked: Any) -> list[Trial]:
        """Returns one trial per position.

        Args:
            count: Number of positions to use, from the first one; by default all.
            **asked: Fields that all trials share: stress, weights or linger.
        """
        return [Trial(seed, **asked) for seed in self.seeds[:count]]

    def brief(self, runs: Mapping[str, Sequence[Trajectory]]) -> dict[str, dict[str, float]]:
        """Returns a few figures of each agent; see ``lib.evaluate.robot.brief``.

        Args:
            runs: Trajectories by name of the agent.
        """
        limits = self.positions
        return {name: brief(trajectories, *limits) for name, trajectories in runs.items()}

    def stressed(
        self,
        agents: Mapping[str, Agent],
        severities: Mapping[float, int],
        kinds: Sequence[str],
        nominal: Mapping[str, Sequence[Trajectory]],
    ) -> list[dict[str, Any]]:
        """Runs agents under each kind of stress, and compares with the same positions without any.

        Args:
            agents: Agents by name.
            severities: Number of positions by severity.
            kinds: Kinds of stress.
            nominal: Trajectories of each agent without stress, on these positions or more.

        Returns:
            One row per severity and kind, and one of the kind ``nominal`` per severity: ``kind``,
            ``severity``, ``episodes`` (of each agent), and under the name of each agent the share
            of its episodes with success at any step, with the interval from ``success_rate``.
        """
        rows: list[dict[str, Any]] = [
            {"kind": kind, "severity": severity, "episodes": count}
            for severity, count in severities.items()
            for kind in (CONTROL, *kinds)
        ]
        stressed = [row for row in rows if row["kind"] != CONTROL]
        asked = [({row["kind"]: row["severity"]}, 0, row["episodes"]) for row in stressed]
        found = iter(self.which_opened(agents, asked, ", stressed"))
        for row in rows:
            count = row["episodes"]
            opened = (
                {name: [t.succeeded for t in nominal[name][:count]] for name in agents}
                if row["kind"] == CONTROL
                else next(found)
            )
            for name in agents:
                row |= success_rate(name, sum(opened[name]), count)
        return rows


def by_kind(rows: Sequence[Mapping[str, Any]], severity: float) -> dict[str, dict[str, float]]:
    """Returns the success rates of policy and expert by kind of stress, as in evaluate.json.

    ``success_any`` is the policy's rate, ``scripted`` the expert's; each has its interval.

    Args:
        rows: Rows from ``Suite.stressed`` for the agents ``policy`` and ``scripted``.
        severity: Severity of the rows to return.
    """
    return {
        row["kind"]: {
            "episodes": row["episodes"],
            **{f"success_any{end}": row[f"policy{end}"] for end in ("", "_low", "_high")},
            **{f"scripted{end}": row[f"scripted{end}"] for end in ("", "_low", "_high")},
        }
        for row in rows
        if row["severity"] == severity
    }


class Films:
    """Collects the frames of chosen episodes and of the worst episode.

    An episode without success is worse than any episode with success. Otherwise the episode with
    more steps is worse.
    """

    def __init__(self, seeds: Iterable[int] = ()) -> None:
        """Chooses the episodes to keep.

        Args:
            seeds: Reset seeds of the episodes that are always kept.
        """
        self._asked = set(seeds)
        self._frames: dict[int, np.ndarray] = {}
        self._badness: dict[int, tuple[bool, int]] = {}

    def take(self, trajectory: Trajectory) -> None:
        """Keeps the frames of an episode, or drops them.

        Args:
            trajectory: A finished episode; its frames are removed from it.
        """
        seed, worst = trajectory.trial.seed, self.worst if self._badness else None
        self._badness[seed] = (not trajectory.succeeded, trajectory.steps)
        # The frames of a hundred episodes take 300 MB. Besides the chosen episodes, only the worst
        # one so far is therefore kept.
        if seed in self._asked or self.worst == seed:
            self._frames[seed] = np.stack(trajectory.frames[: trajectory.steps + AFTER_SUCCESS])
            if self.worst == seed and worst is not None and worst not in self._asked:
                del self._frames[worst]
        trajectory.frames = []

    @property
    def worst(self) -> int:
        """Seed of the worst episode so far, the first of equal ones.

        Raises:
            ValueError: If there was no episode yet.
        """
        return max(self._badness, key=self._badness.__getitem__)

    def of(self, seed: int) -> np.ndarray:
        """Returns the frames of an episode, (T, H, W, 3) uint8.

        Args:
            seed: Reset seed of a chosen episode or of the worst one.
        """
        return self._frames[seed]


def write_films(folder: Path, seeds: Mapping[str, int], left: Films, right: Films) -> None:
    """Writes films that show two agents side by side.

    Args:
        folder: Folder for the films, ``<name>.mp4`` each.
        seeds: Reset seed of the episode by name of its film.
        left: Frames of the agent shown on the left.
        right: Frames of the agent shown on the right, in the same episodes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed in seeds.items():
        write_video(folder / f"{name}.mp4", beside(left.of(seed), right.of(seed)))


def episode_sheet(path: Path, policy: np.ndarray, expert: np.ndarray) -> None:
    """Draws policy and expert at the same control steps of one test episode.

    Args:
        path: PNG file to write.
        policy: Frames of the policy, (T, H, W, 3) uint8.
        expert: Frames of the scripted expert, (U, H, W, 3) uint8.
    """
    moments = np.linspace(0, max(len(policy), len(expert)) - 1, MOMENTS, dtype=int)
    rows = {
        name: film[np.minimum(moments, len(film) - 1)]
        for name, film in (("policy", policy), ("scripted expert", expert))
    }
    at = ", ".join(str(moment) for moment in moments)
    contact_sheet(path, rows, f"The same held-out position, control steps {at}")


def stress_figure(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Draws success by kind and severity of stress, one panel per agent.

    Args:
        path: PNG file to write.
        rows: Rows with ``kind``, ``severity``, ``policy`` and ``scripted``.
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
