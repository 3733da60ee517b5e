"""Surprise while robots move: compares each frame with what was expected of it.

Tensor suffixes: B robots, T steps, H steps of history (the latest first), P proprioception,
A action.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from lib.rnn.memory import SpatialMemory
from lib.rnn.motion import HISTORY
from lib.rnn.surprise import AHEAD, present


class Watch:
    """Predicts frames and motions for each robot and judges them when they are observed.

    The next open-loop prediction of a robot starts where the last one ends. So each frame costs
    one prediction on average, and its value is kept for AHEAD steps, until the next is known.

    Attributes:
        severity: (B,) in [0, 1] of the last frame.
    """

    def __init__(self, robots: int, actions: int, proprio: int):
        """Starts before the first frame.

        Args:
            robots: Number of robots.
            actions: Number of dimensions of an action.
            proprio: Number of dimensions of the proprioception.
        """
        self.severity = np.zeros(robots)
        self._features: dict[str, Tensor] = {}
        self._state: dict[str, Tensor] = {}
        self._taken_TBA = torch.zeros(AHEAD, robots, actions)
        self._age = np.zeros(robots, np.int64)
        self._foreseen = np.zeros(robots)
        self._proprio = np.zeros((robots, proprio))
        self._motion_BHP = np.zeros((robots, HISTORY, proprio))
        self._action_BHA = np.zeros((robots, HISTORY, actions))

    @torch.inference_mode()
    def follow(
        self,
        memory: SpatialMemory,
        features: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        proprio_BP: np.ndarray,
        previous_action_BA: Tensor,
        first_B: np.ndarray,
    ) -> None:
        """Updates the severities with the next frame.

        Args:
            memory: Memory that predicts and judges the frames.
            features: Return value of ``FrozenBackbone`` for the frame.
            state: Return value of ``memory.step`` for the frame.
            proprio_BP: Proprioception at the frame.
            previous_action_BA: Action that led to the frame.
            first_B: Whether the frame is the first of its episode.
        """
        now = {name: features[name] for name in memory.levels}
        values = {
            **memory.surprise.by_sense(present(features["look"], features["hand"], proprio_BP)),
            "motion": self._feel(memory, proprio_BP, previous_action_BA, first_B),
            "foreseen": self._foresee(memory, now, state, previous_action_BA, first_B),
        }
        worst = np.max([np.asarray(value) for value in values.values()], axis=0)
        self.severity = memory.surprise.judge(worst).ood_severity

    def _feel(
        self,
        memory: SpatialMemory,
        proprio_BP: np.ndarray,
        previous_action_BA: Tensor,
        first_B: np.ndarray,
    ) -> np.ndarray:
        """Returns the value of the sense ``motion``, (B,); 0 at the first frame."""
        self._action_BHA = np.roll(self._action_BHA, 1, axis=1)
        self._action_BHA[:, 0] = previous_action_BA.numpy()
        expected = memory.motion.predict(self._proprio, self._motion_BHP, self._action_BHA)
        moved = proprio_BP.astype(np.float64) - self._proprio
        error = torch.from_numpy(moved[:, :3] - expected)
        self._motion_BHP = np.roll(self._motion_BHP, 1, axis=1)
        self._motion_BHP[:, 0] = moved
        for history in (self._motion_BHP, self._action_BHA):
            history[first_B] = 0.0
        self._proprio = proprio_BP.astype(np.float64)
        return np.where(first_B, 0.0, memory.surprise.by_sense({"motion": error})["motion"])

    def _foresee(
        self,
        memory: SpatialMemory,
        features: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        previous_action_BA: Tensor,
        first_B: np.ndarray,
    ) -> np.ndarray:
        """Returns the value of the last predicted frame, (B,); 0 until there is one."""
        if not self._features:
            self._features = {name: x.clone() for name, x in features.items()}
            self._state = {name: h.clone() for name, h in state.items()}
        self._foreseen[first_B] = 0.0
        on = np.flatnonzero(~first_B)
        self._taken_TBA[self._age[on], on] = previous_action_BA[on].float()
        self._age[on] += 1
        due = np.flatnonzero(~first_B & (self._age == AHEAD))
        if due.size:
            then, before = (
                {name: x[due] for name, x in kept.items()} for kept in (self._features, self._state)
            )
            foreseen = memory.foresee(then, self._taken_TBA[:, due], before)
            seen = memory.normalize({name: x[due] for name, x in features.items()})
            errors = {name: foreseen[name] - seen[name] for name in foreseen}
            self._foreseen[due] = memory.surprise.value(errors)
        again = np.union1d(due, np.flatnonzero(first_B))
        self._age[again] = 0
        for kept, now in ((self._features, features), (self._state, state)):
            for name, x in kept.items():
                x[again] = now[name][again]
        return self._foreseen
