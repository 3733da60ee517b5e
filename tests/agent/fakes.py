"""Robots without a simulator, and a perception without networks, for tests of what happens between.

A robot is a point on a line. It succeeds beyond 0.5, and its picture is as bright as it is far.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from lib.agent.perception import Percepts
from lib.agent.projector import SMALLEST_UNIT

SIDE = 4  # of the square pictures, pixels
GOAL = 0.5


def pictures(place: np.ndarray) -> np.ndarray:
    """Returns the picture of each robot, which is as bright as it is far and never black.

    Args:
        place: Place of each robot.
    """
    brightness = 1 + (200 * np.clip(place, 0, 1)).astype(np.uint8)
    return np.broadcast_to(brightness[:, None, None, None], (len(place), SIDE, SIDE, 3)).copy()


class PointRobots:
    """Takes the place of the environments from ``make_vector_env``.

    Attributes:
        resets: (seed, stress) of every episode, in the order of their starts.
        steps: For every step, the seed of each robot's episode and the action of each robot.
    """

    def __init__(self, num_envs: int, **options: Any) -> None:
        """Stores the options; ``horizon`` is the only one with an effect."""
        self.num_envs, self.options = num_envs, options
        self.resets: list[tuple[int, Any]] = []
        self.steps: list[tuple[list[int], np.ndarray]] = []
        self.seeds = [-1] * num_envs
        self.at, self.age = np.zeros(num_envs), np.zeros(num_envs, int)

    @classmethod
    def noted_in(cls, made: list[PointRobots]) -> Callable[..., PointRobots]:
        """Returns what takes the place of ``make_vector_env``.

        Args:
            made: List to which every set of robots is appended.
        """

        def make(num_envs: int, **options: Any) -> PointRobots:
            made.append(cls(num_envs, **options))
            return made[-1]

        return make

    def call(self, name: str) -> list[Any]:
        """Answers ``positions``: the start of a robot is between 0 and 0.3."""
        assert name == "positions"
        return [(np.array([0.0]), np.array([0.3]))] * self.num_envs

    def _observe(self) -> dict[str, np.ndarray]:
        proprio = np.zeros((self.num_envs, 4), np.float32)
        proprio[:, 0] = self.at
        return {"image": pictures(self.at), "proprio": proprio}

    def _info(self, **more: np.ndarray) -> dict[str, np.ndarray]:
        return {"expert_obs": np.zeros((self.num_envs, 39)), **more}

    def reset(self, *, seed: list[int | None], options: dict[str, Any]) -> tuple[Any, Any]:
        """Starts episodes where the mask says so."""
        for index in np.flatnonzero(options["reset_mask"]):
            self.seeds[index] = seed[index]
            self.resets.append((seed[index], options["stress"]))
            self.at[index] = np.random.default_rng(seed[index]).uniform(0, 0.3)
            self.age[index] = 0
        return self._observe(), self._info()

    def step_async(self, actions: np.ndarray) -> None:
        """Takes the actions."""
        self.steps.append((list(self.seeds), np.array(actions)))
        self._actions = np.array(actions, np.float64)

    def step_wait(self) -> tuple[Any, ...]:
        """Moves the robots."""
        moved = 0.1 * self._actions[:, 0]
        self.at += moved
        self.age += 1
        reward = np.stack([self.at - 1, -0.01 + 0 * moved, -np.abs(moved)], 1)
        info = self._info(
            vector_reward=reward,
            success=self.at > GOAL,
            energy_j=np.abs(moved),
            damages=np.zeros(self.num_envs, int),
        )
        over = self.age >= self.options["horizon"]
        return self._observe(), reward[:, 0], np.zeros(self.num_envs, bool), over, info

    def close(self) -> None:
        """Does nothing."""


class PointPerception:
    """Takes the place of ``Perception``: knows the robot's place from its picture alone.

    Its memory is the number of frames since the start of the episode.

    Attributes:
        given: Arguments of every call that was not undone.
    """

    def __init__(self, *_: Any) -> None:
        """Starts without memory."""
        self.backbone = SimpleNamespace(image_size=SIDE)
        self.given: list[tuple[np.ndarray, ...]] = []
        self._frames: np.ndarray | None = None

    def reset(self) -> None:
        """Forgets."""
        self._frames = None

    def digests(self) -> dict[str, str]:
        """Returns nothing to check."""
        return {}

    @contextmanager
    def undisturbed(self):
        """Undoes what happens in the block."""
        before, count = self._frames, len(self.given)
        yield
        self._frames = before
        del self.given[count:]

    def __call__(self, images, proprio, previous_action, first) -> Percepts:
        """Processes a frame of each robot."""
        self.given.append((images.copy(), proprio, previous_action.copy(), first.copy()))
        before = np.zeros(len(images)) if self._frames is None else self._frames
        self._frames = np.where(first, 0, before + 1)
        place = images[:, 0, 0, 0] / 200.0
        return percepts(place, previous_action, self._frames)


def percepts(place: np.ndarray, previous_action: np.ndarray, frames: np.ndarray) -> Percepts:
    """Returns percepts of robots.

    Args:
        place: Place of each robot.
        previous_action: Action that led there.
        frames: Frames since the start of the episode.
    """
    direct = np.zeros((len(place), len(SMALLEST_UNIT)), np.float32)
    direct[:, 0], direct[:, 8:12] = place, previous_action
    vision, memory = (np.repeat(x[:, None], 4, 1).astype(np.float32) for x in (place, frames))
    vision[:, 1], memory[:, 1] = place**2, np.sin(frames)
    skill = (place > GOAL / 2).astype(np.int64) + 1
    return Percepts(direct, vision, memory, skill, (frames % 3) / 4.0)
