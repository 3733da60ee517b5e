"""Closed-loop runs: one agent controls several environments, one episode after the other.

The same loop is used to collect training data, to validate and to test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from gymnasium.vector import AsyncVectorEnv

from lib.agent.agents import Agent, Observed
from lib.agent.vector import reset_some
from lib.sim.env import ACTION_SIZE, CONTROL_STEP_S, EXPERT_OBS_SIZE
from lib.sim.stress import NOMINAL, Stress


@dataclass(frozen=True)
class Trial:
    """Request for one episode.

    Attributes:
        seed: Reset seed of the episode.
        stress: Stress in the episode.
        weights: Preference over OBJECTIVES; None for the default of the agent.
        linger: Control steps that the episode continues after its first success; None to
            continue to the horizon.
        horizon: Largest number of control steps; None for the horizon of the environment.
    """

    seed: int
    stress: Stress = NOMINAL
    weights: Sequence[float] | None = None
    linger: int | None = None
    horizon: int | None = None


@dataclass
class Trajectory:
    """One episode of T steps.

    Attributes:
        trial: Request for this episode.
        number: Index of the trial, from 0.
        observation: (T, D) observations; (T + 1, D) if the last frame is observed too.
        skill: Skill indices, as many as observations.
        severity: Severities of the surprise, as many as observations.
        action: (T, A) actions as the agent gave them.
        reward: (T, 3) vector rewards.
        success: (T,) bool, whether the task was done after the step.
        energy_j: (T,) mechanical work, J.
        damages: (T,) number of damage events.
        expert_obs: (T, 39) privileged observations before each action, for labels only.
        frames: (T, H, W, 3) pictures, if they were kept.
    """

    trial: Trial
    number: int = 0
    observation: list[np.ndarray] = field(default_factory=list)
    skill: list[int] = field(default_factory=list)
    severity: list[float] = field(default_factory=list)
    action: list[np.ndarray] = field(default_factory=list)
    reward: list[np.ndarray] = field(default_factory=list)
    success: list[bool] = field(default_factory=list)
    energy_j: list[float] = field(default_factory=list)
    damages: list[int] = field(default_factory=list)
    expert_obs: list[np.ndarray] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Number of control steps until the first success; without success, all steps."""
        return self.success.index(True) + 1 if self.succeeded else len(self.success)

    @property
    def succeeded(self) -> bool:
        """Whether the task was done at any step."""
        return any(self.success)

    @property
    def finished(self) -> bool:
        """Whether the trial asks for no more steps, even if the environment could continue."""
        linger, horizon = self.trial.linger, self.trial.horizon
        if horizon is not None and len(self.success) >= horizon:
            return True
        return linger is not None and self.succeeded and len(self.success) >= self.steps + linger

    def observe(self, seen: Observed, robot: int) -> None:
        """Appends the observation of one robot."""
        self.observation.append(seen.observation[robot])
        self.skill.append(int(seen.skill[robot]))
        self.severity.append(float(seen.severity[robot]))

    @property
    def value(self) -> np.ndarray:
        """Undiscounted vector return of the first ``steps`` steps, (3,)."""
        return np.sum(self.reward[: self.steps], axis=0)

    @property
    def seconds(self) -> float:
        """Duration of the first ``steps`` steps, s."""
        return self.steps * CONTROL_STEP_S

    @property
    def joules(self) -> float:
        """Mechanical work of the first ``steps`` steps, J."""
        return float(np.sum(self.energy_j[: self.steps]))


class ClosedLoop:
    """Steps all environments; each starts the next trial when its episode is over."""

    def __init__(
        self,
        env: AsyncVectorEnv,
        agent: Agent,
        trials: Iterable[Trial],
        *,
        keep_frames: bool = False,
        final: Callable[..., Observed] | None = None,
    ) -> None:
        """Starts an episode in every environment.

        Args:
            env: Environments from ``make_vector_env``, made with ``linger=None`` because the
                trials decide when an episode ends.
            agent: Agent that controls the robots; it is reset here.
            trials: Requests for the episodes. When there are no more, environments are idle.
            keep_frames: Whether to keep the pictures.
            final: Function that observes the last frame of an episode, which learning needs, such
                as ``PolicyAgent.glance``; None if the last frame is not needed.
        """
        self._final = final
        self._env, self._agent, self._trials = env, agent, enumerate(trials)
        self._keep = keep_frames
        count = env.num_envs
        self._running: list[Trajectory | None] = [None] * count
        self._first = np.ones(count, bool)
        self._previous = np.zeros((count, ACTION_SIZE), np.float32)
        self._expert = np.zeros((count, EXPERT_OBS_SIZE))
        self._weights = np.repeat(np.array([agent.weights]), count, axis=0)
        agent.reset()
        self._begin(np.ones(count, bool))

    def _begin(self, mask: np.ndarray) -> None:
        # An idle environment must be reset too, because it is stepped with the others.
        chosen = [Trial(0)] * len(mask)
        for index in np.flatnonzero(mask):
            self._running[index] = None
            following = next(self._trials, None)
            if following is not None:
                number, trial = following
                self._running[index] = Trajectory(trial, number)
                chosen[index] = trial
                self._weights[index] = trial.weights or self._agent.weights
        # One reset has the same options for all its environments, so there is one for each stress.
        for stress in dict.fromkeys(chosen[index].stress for index in np.flatnonzero(mask)):
            alike = mask & np.array([trial.stress == stress for trial in chosen])
            seeds = [trial.seed if one else None for trial, one in zip(chosen, alike, strict=True)]
            self._observation, info = reset_some(self._env, alike, seeds, {"stress": stress})
            self._expert[alike] = info["expert_obs"][alike]
        self._first |= mask
        self._previous[mask] = 0.0

    @property
    def idle(self) -> bool:
        """Whether no episode is running."""
        return all(trajectory is None for trajectory in self._running)

    def step(self, meanwhile: Callable[[], None] = lambda: None) -> list[Trajectory]:
        """Moves every robot by one control step.

        Args:
            meanwhile: Function that is called once while the environments move.

        Returns:
            The episodes that ended with this step, in the order of the environments.
        """
        images, proprio = self._observation["image"], self._observation["proprio"]
        decision = self._agent.act(
            images, proprio, self._expert, self._previous, self._first, self._weights
        )
        for index, running in enumerate(self._running):
            if running is not None:
                running.observe(decision.observed, index)
                running.action.append(decision.action[index])
                running.expert_obs.append(self._expert[index].copy())
                if self._keep:
                    running.frames.append(images[index].copy())
        self._env.step_async(decision.action)
        meanwhile()
        self._observation, _, terminated, truncated, info = self._env.step_wait()
        self._expert = info["expert_obs"]
        # The commanded action, without noise, because the robot does not know the executed action.
        self._previous = decision.action.astype(np.float32)
        self._first = np.zeros(len(self._first), bool)
        over = terminated | truncated
        finished = []
        for index, running in enumerate(self._running):
            if running is None:
                continue
            running.reward.append(info["vector_reward"][index])
            running.success.append(bool(info["success"][index]))
            running.energy_j.append(float(info["energy_j"][index]))
            running.damages.append(int(info["damages"][index]))
            over[index] |= running.finished
            if over[index]:
                finished.append(running)
        if over.any():
            if self._final is not None and finished:
                self._close(self._final, over)
            self._begin(over)
        return finished

    def _close(self, final: Callable[..., Observed], over: np.ndarray) -> None:
        """Appends the observation after the last action, which bootstrapping needs."""
        seen = final(
            self._observation["image"], self._observation["proprio"], self._previous, self._first
        )
        for index, running in enumerate(self._running):
            if running is not None and over[index]:
                running.observe(seen, index)


def run_episodes(
    env: AsyncVectorEnv,
    agent: Agent,
    trials: Sequence[Trial],
    *,
    keep_frames: bool = False,
    finished: Callable[[Trajectory], None] = lambda trajectory: None,
) -> list[Trajectory]:
    """Runs all trials to their end.

    Args:
        env: Environments from ``make_vector_env``.
        agent: Agent that controls the robots.
        trials: Requests for the episodes.
        keep_frames: Whether to keep the pictures.
        finished: Function that is called with each trajectory as soon as it is complete.

    Returns:
        Trajectories in the order of the trials.
    """
    loop = ClosedLoop(env, agent, trials, keep_frames=keep_frames)
    runs: dict[int, Trajectory] = {}
    while not loop.idle:
        for trajectory in loop.step():
            runs[trajectory.number] = trajectory
            finished(trajectory)
    return [runs[number] for number in range(len(trials))]
