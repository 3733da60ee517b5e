"""The frozen perception stack between camera and policy, run once per frame for all robots.

Backbone, spatial memory, segmenter geometry and skill router convert pictures and proprioception
to percepts.

Tensor suffixes: B batch, D features, P proprioception, A action, G geometry features.
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.base.console import track
from lib.base.paths import BACKBONE, FEATURES, GEOMETRY, SEGMENTER, SPATIAL_RNN, relative
from lib.data.dataset import Dataset
from lib.data.frames import load_frames
from lib.learning.device import Autocast
from lib.models.encoder import load_backbone
from lib.rnn.memory import SpatialMemory
from lib.rnn.watch import Watch
from lib.segmenter.serving import load_segmenter


@dataclass
class Percepts:
    """Output of the frozen stack for a batch of frames.

    Attributes:
        direct: (B, 2 P + A + 4 + G) features that are not projected: proprioception, its change
            since the last frame, the action between the two frames, the vector to the handle (m),
            the turn of its part (radians) and the geometry features. The hand trails the target
            that actions move, so force and work depend on both change and action. Both are 0 at the
            start of an episode.
        vision: (B, D) flattened backbone features.
        memory: (B, D) flattened RNN state.
        skill: (B,) skill indices from the router.
        severity: (B,) in [0, 1], how far what is sensed is from what was to be expected.
    """

    direct: np.ndarray
    vision: np.ndarray
    memory: np.ndarray
    skill: np.ndarray
    severity: np.ndarray


@dataclass
class _Remembered:
    """State of the robots after the last frame."""

    memory: dict[str, Tensor]
    had_hold: np.ndarray
    proprio: np.ndarray
    watch: Watch


class Perception:
    """The frozen stack with its state for a fixed number of robots."""

    def __init__(self, autocast: Autocast = nullcontext) -> None:
        """Loads backbone, memory and segmenter.

        Args:
            autocast: Context in which the U-Net runs.

        Raises:
            UserError: If a checkpoint is missing or damaged, or does not match the others.
        """
        self.backbone = load_backbone()
        self.memory = SpatialMemory(backbone_digest=self.backbone.digest)
        self.segmenter, self.router = load_segmenter(autocast)
        self._last: _Remembered | None = None

    def digests(self) -> dict[str, str]:
        """Returns the digest of each checkpoint of the stack, by file name."""
        parts = {BACKBONE: self.backbone, SPATIAL_RNN: self.memory, SEGMENTER: self.segmenter}
        return {relative(path): part.digest for path, part in parts.items()}

    def reset(self) -> None:
        """Clears the state; the next call may have another batch size."""
        self._last = None

    @contextmanager
    def undisturbed(self) -> Generator[None]:
        """Restores the state at the end of the block, so that calls inside do not change it."""
        before = copy.deepcopy(self._last)
        yield
        self._last = before

    def __call__(
        self,
        images_BHW3: np.ndarray,
        proprio_BP: np.ndarray,
        previous_action_BA: np.ndarray,
        first_B: np.ndarray,
    ) -> Percepts:
        """Processes the next frame of each robot.

        Args:
            images_BHW3: Pictures, uint8.
            proprio_BP: Hand position and gripper opening.
            previous_action_BA: Action that led to the frame.
            first_B: Whether the frame is the first of its episode.
        """
        features = self.backbone(images_BHW3)
        geometry = self.segmenter.geometry(images_BHW3).numpy()
        return self.update_state(features, geometry, proprio_BP, previous_action_BA, first_B)

    def update_state(
        self,
        features: dict[str, Tensor],
        geometry_BG: np.ndarray,
        proprio_BP: np.ndarray,
        previous_action_BA: np.ndarray,
        first_B: np.ndarray,
    ) -> Percepts:
        """Performs the stateful part of a call, for frames that are already encoded.

        Args:
            features: Backbone maps by level, and ``look`` and ``hand``; see ``FrozenBackbone``.
            geometry_BG: Geometry features of the same frames.
            proprio_BP: Hand position and gripper opening.
            previous_action_BA: Action that led to the frame.
            first_B: Whether the frame is the first of its episode.
        """
        maps = {level: features[level] for level in self.memory.levels}
        action_BA = torch.as_tensor(previous_action_BA)
        last = self._last
        had_hold = last.had_hold & ~first_B if last else np.zeros(len(first_B), bool)
        located = self.router.locate(geometry_BG, proprio_BP)
        skill, has_hold = self.router.route(located[:, :3], had_hold)
        state = self.memory.step(
            maps, action_BA, last.memory if last else None, torch.as_tensor(first_B)
        )
        watch = last.watch if last else Watch(len(first_B), action_BA.shape[1], proprio_BP.shape[1])
        watch.follow(self.memory, features, state, proprio_BP, action_BA, first_B)
        going_on_B1 = ~first_B[:, None]
        motion_BP = going_on_B1 * (proprio_BP - (last.proprio if last else proprio_BP))
        self._last = _Remembered(state, has_hold, proprio_BP.copy(), watch)
        seen = [x.flatten(1) for x in maps.values()]
        remembered = [state[level].flatten(1) for level in maps]
        moved = [proprio_BP, motion_BP, going_on_B1 * previous_action_BA]
        return Percepts(
            direct=np.concatenate([*moved, located, geometry_BG], 1).astype(np.float32),
            vision=torch.cat(seen, 1).numpy(),
            memory=torch.cat(remembered, 1).numpy(),
            skill=skill.astype(np.int64),
            severity=watch.severity.copy(),
        )


def perceive_dataset(perception: Perception, dataset: Dataset) -> Percepts:
    """Runs the stack over recorded episodes, all episodes in parallel.

    Maps and geometry are read from the files that the vision and segmenter stages wrote.

    Args:
        perception: Perception stack; its state is reset before and after.
        dataset: Dataset with ``obs/eef_pos``, ``obs/gripper`` and ``actions``.

    Returns:
        Percepts of every step, with rows as in the dataset; vision and memory are float16.
    """
    levels, count = perception.memory.levels, len(dataset)
    names = [*levels, "look", "hand"]
    features = load_frames(FEATURES, names, dataset, perception.backbone.digest)
    geometry = load_frames(GEOMETRY, ["geometry"], dataset, perception.segmenter.digest)["geometry"]
    proprio = dataset.proprio()
    actions = dataset.arrays["actions"]
    perception.reset()
    begin = np.array([e.start for e in dataset.episodes])
    length = np.array([len(e) for e in dataset.episodes])
    out: dict[str, Any] = {}
    for step in track(range(int(length.max())), "remembering", int(length.max()), "steps"):
        # Episodes that have ended repeat their last frame; the repeated rows are not kept.
        rows = begin + np.minimum(step, length - 1)
        percepts = perception.update_state(
            {level: torch.from_numpy(f[rows]).float() for level, f in features.items()},
            geometry[rows],
            proprio[rows],
            actions[np.maximum(rows - 1, 0)],
            np.full(len(rows), step == 0),
        )
        alive = step < length
        for name, values in vars(percepts).items():
            if name not in out:
                dtype = np.float16 if name in ("vision", "memory") else values.dtype
                out[name] = np.empty((count, *values.shape[1:]), dtype)
            out[name][rows[alive]] = values[alive]
    perception.reset()
    return Percepts(**out)
