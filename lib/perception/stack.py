"""Everything frozen between the camera and the policy, run once a frame for all robots.

Backbone, spatial memory, segmenter geometry and skill router turn pictures and proprioception
into percepts; a projector, fitted on phase 1, turns percepts into the policy's observation.

Tensor suffixes: B batch, N steps, D features, P proprioception, A action.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.console import track
from lib.manifest import Dataset
from lib.paths import BACKBONE, FEATURES, GEOMETRY, SEGMENTER, SPATIAL_RNN, relative
from lib.perception.encoder import load_backbone
from lib.perception.geometry import NAMES
from lib.perception.memory import SpatialMemory
from lib.perception.segmenter import Autocast, load_segmenter
from lib.perception.store import load_frames
from lib.perception.watch import Watch
from lib.portable import matmul
from lib.ridge import principal_axes

CLIP = 5.0  # standard deviations
# Smallest unit of what is fed in directly. The expert keeps its gripper open to within 0.1 mm: in
# units of that, any touch of the fingers would be out of all bounds. Positions and motions of the
# hand (m), of the gripper (share of its span), actions, the vector to the handle (m), geometry.
HAND, GRIPPER = [0.01] * 3, [0.1]
HAND_MOTION, GRIPPER_MOTION = [0.002] * 3, [0.04]
SMALLEST_UNIT = [
    *(HAND + GRIPPER),
    *(HAND_MOTION + GRIPPER_MOTION),
    *[0.1] * 4,
    *[0.01] * (3 + len(NAMES)),
]


@dataclass
class Percepts:
    """What the frozen stack makes of a batch of frames.

    Attributes:
        direct: (B, 2 P + A + 3 + G) proprioception, its change since the last frame, the action
            between them, vector to the handle (m), geometry. The hand trails the target that
            actions move, so force and work depend on both; at an episode's start both are 0.
        vision: (B, D) flattened backbone features.
        memory: (B, D) flattened RNN state.
        skill: (B,) indices from the router.
        severity: (B,) in [0, 1], how far what was last foreseen was from what came.
    """

    direct: np.ndarray
    vision: np.ndarray
    memory: np.ndarray
    skill: np.ndarray
    severity: np.ndarray


@dataclass
class _Remembered:
    """What is known of the robots from the frames before."""

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
            UserError: If one is missing, damaged, or does not belong to the others.
        """
        self.backbone = load_backbone()
        self.memory = SpatialMemory(backbone_digest=self.backbone.digest)
        self.segmenter, self.router = load_segmenter(autocast)
        self._last: _Remembered | None = None

    def digests(self) -> dict[str, str]:
        """Returns the digest of each checkpoint of the stack, by the file's name."""
        parts = {BACKBONE: self.backbone, SPATIAL_RNN: self.memory, SEGMENTER: self.segmenter}
        return {relative(path): part.digest for path, part in parts.items()}

    def reset(self) -> None:
        """Forgets everything; the next call may have another batch size."""
        self._last = None

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Lets calls inside the block look without remembering."""
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
        """Takes in the next frame of each robot.

        Args:
            images_BHW3: uint8.
            proprio_BP: Hand position and gripper.
            previous_action_BA: Action that led to the frame.
            first_B: Whether the frame is the first of its episode.
        """
        features = self.backbone(images_BHW3)
        geometry = self.segmenter.geometry(images_BHW3).numpy()
        return self.follow(features, geometry, proprio_BP, previous_action_BA, first_B)

    def follow(
        self,
        features: dict[str, Tensor],
        geometry_BG: np.ndarray,
        proprio_BP: np.ndarray,
        previous_action_BA: np.ndarray,
        first_B: np.ndarray,
    ) -> Percepts:
        """The part of a call that has state, for frames that are encoded already.

        Args:
            features: Backbone maps by level.
            geometry_BG: Of the same frames.
            proprio_BP: Hand position and gripper.
            previous_action_BA: Action that led to the frame.
            first_B: Whether the frame is the first of its episode.
        """
        features = {level: features[level] for level in self.memory.levels}
        action_BA = torch.as_tensor(previous_action_BA)
        last = self._last
        had_hold = last.had_hold & ~first_B if last else np.zeros(len(first_B), bool)
        to_handle = self.router.to_handle(geometry_BG, proprio_BP)
        skill, has_hold = self.router.route(to_handle, had_hold)
        state = self.memory.step(
            features, action_BA, last.memory if last else None, torch.as_tensor(first_B)
        )
        if last:
            watch = last.watch
            watch.follow(self.memory, features, state, action_BA, first_B)
        else:
            watch = Watch(features, state, action_BA.shape[1])
        going_on_B1 = ~first_B[:, None]
        motion_BP = going_on_B1 * (proprio_BP - (last.proprio if last else proprio_BP))
        self._last = _Remembered(state, has_hold, proprio_BP.copy(), watch)
        seen = [x.flatten(1) for x in features.values()]
        remembered = [state[level].flatten(1) for level in features]
        moved = [proprio_BP, motion_BP, going_on_B1 * previous_action_BA]
        return Percepts(
            direct=np.concatenate([*moved, to_handle, geometry_BG], 1).astype(np.float32),
            vision=torch.cat(seen, 1).numpy(),
            memory=torch.cat(remembered, 1).numpy(),
            skill=skill.astype(np.int64),
            severity=watch.severity.copy(),
        )


def perceive_dataset(perception: Perception, dataset: Dataset) -> Percepts:
    """Runs the stack over recorded episodes, all episodes side by side.

    Maps and geometry come from the files that the vision and segmenter stages left.

    Args:
        perception: Its state is reset before and after.
        dataset: Holds ``obs/eef_pos``, ``obs/gripper`` and ``actions``.

    Returns:
        Percepts of every step, rows as in the dataset; vision and memory float16.
    """
    levels, count = perception.memory.levels, len(dataset)
    features = load_frames(FEATURES, levels, dataset, perception.backbone.digest)
    geometry = load_frames(GEOMETRY, ["geometry"], dataset, perception.segmenter.digest)["geometry"]
    proprio = dataset.proprio()
    actions = dataset.arrays["actions"]
    perception.reset()
    begin = np.array([e.start for e in dataset.episodes])
    length = np.array([len(e) for e in dataset.episodes])
    out: dict[str, Any] = {}
    for step in track(range(int(length.max())), "remembering", int(length.max()), "steps"):
        # Episodes that are over repeat their last frame; those rows are not kept.
        rows = begin + np.minimum(step, length - 1)
        percepts = perception.follow(
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


class Projector:
    """Percepts to observations: zero mean and unit variance, principal components of the maps.

    Components share one unit, the spread of the first: each in its own would blow the last ones,
    which tell one picture from another and nothing that holds for all, up to the size of the first.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        """Takes what ``fit`` made.

        Args:
            tensors: As in ``tensors()``.
        """
        self._tensors = {name: tensor.float() for name, tensor in tensors.items()}

    @classmethod
    def fit(cls, percepts: Percepts, vision_components: int, memory_components: int) -> Projector:
        """Fits the components on phase-1 percepts; no labels are used.

        Args:
            percepts: Of training steps.
            vision_components: Kept of the features.
            memory_components: Kept of the RNN state.
        """
        tensors: dict[str, Tensor] = {}
        kept = {"vision": vision_components, "memory": memory_components}
        for name, components in kept.items():
            x = getattr(percepts, name).astype(np.float32)
            mean = x.mean(0)
            variances, axes = principal_axes(x - mean, components)
            tensors[f"{name}_mean"] = torch.from_numpy(mean)
            scaled = axes / np.sqrt(max(variances[0], 1e-8))
            tensors[f"{name}_components"] = torch.from_numpy(scaled).float()
        tensors["direct_mean"] = torch.from_numpy(percepts.direct.mean(0))
        tensors["direct_std"] = torch.from_numpy(
            np.maximum(percepts.direct.std(0), np.array(SMALLEST_UNIT, np.float32))
        )
        return cls(tensors)

    def tensors(self) -> dict[str, Tensor]:
        """Returns what is saved."""
        return self._tensors

    @property
    def dim(self) -> int:
        """Features of an observation."""
        t = self._tensors
        components = t["vision_components"].shape[1] + t["memory_components"].shape[1]
        return len(t["direct_mean"]) + components

    def __call__(self, percepts: Percepts) -> np.ndarray:
        """Returns observations, (B, dim) float32 in [-CLIP, CLIP].

        Args:
            percepts: Of any number of frames.
        """
        t = self._tensors
        direct = (torch.from_numpy(percepts.direct) - t["direct_mean"]) / t["direct_std"]
        parts = [direct]
        for name in ("vision", "memory"):
            x = torch.from_numpy(getattr(percepts, name)).float() - t[f"{name}_mean"]
            parts.append(matmul(x, t[f"{name}_components"]))
        return torch.cat(parts, 1).clamp(-CLIP, CLIP).numpy()
