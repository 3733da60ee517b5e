"""Surprise while robots move: compares each predicted frame with the observed frame.

Tensor suffixes: B robots, T steps, A action.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from lib.rnn.memory import SpatialMemory
from lib.rnn.surprise import AHEAD


class Watch:
    """Predicts for each robot the frame AHEAD steps ahead and judges it when it is observed.

    The next open-loop prediction of a robot starts where the last one ends. So each frame costs
    one prediction on average, and a severity is kept for AHEAD steps, until the next is known.

    Attributes:
        severity: (B,) in [0, 1]; 0 until the first predicted frame of an episode is observed.
    """

    def __init__(self, features: Mapping[str, Tensor], state: Mapping[str, Tensor], actions: int):
        """Starts at the first frame.

        Args:
            features: Backbone maps (B, C, H, W) of the first frame by level.
            state: Return value of ``SpatialMemory.step`` for the same frame.
            actions: Number of dimensions of an action.
        """
        count = len(next(iter(features.values())))
        self.severity = np.zeros(count)
        self._features = {name: x.clone() for name, x in features.items()}
        self._state = {name: h.clone() for name, h in state.items()}
        self._taken_TBA = torch.zeros(AHEAD, count, actions)
        self._age = np.zeros(count, np.int64)

    @torch.inference_mode()
    def follow(
        self,
        memory: SpatialMemory,
        features: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        previous_action_BA: Tensor,
        first_B: np.ndarray,
    ) -> None:
        """Updates the severities with the next frame.

        Args:
            memory: Memory that predicts and judges the frames.
            features: Backbone maps (B, C, H, W) of the frame by level.
            state: Return value of ``memory.step`` for the frame.
            previous_action_BA: Action that led to the frame.
            first_B: Whether the frame is the first of its episode.
        """
        self.severity[first_B] = 0.0
        on = np.flatnonzero(~first_B)
        self._taken_TBA[self._age[on], on] = previous_action_BA[on].float()
        self._age[on] += 1
        due = np.flatnonzero(~first_B & (self._age == AHEAD))
        if due.size:
            then, before = (
                {name: x[due] for name, x in kept.items()} for kept in (self._features, self._state)
            )
            foreseen = memory.foresee(then, self._taken_TBA[:, due], before)
            seen = {name: x[due] for name, x in features.items()}
            self.severity[due] = memory.judge(foreseen, seen).ood_severity
        again = np.union1d(due, np.flatnonzero(first_B))
        self._age[again] = 0
        for kept, now in ((self._features, features), (self._state, state)):
            for name, x in kept.items():
                x[again] = now[name][again]
