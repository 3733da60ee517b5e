"""Boundary and primitive metrics on held-out frames, and the router's accuracy.

Tensor suffixes: N frames, C classes, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from lib.episode import PRIMITIVES
from lib.manifest import Dataset, Reference
from lib.models.heuristic import boundary_of
from lib.perception.segmenter import Segmenter, SkillRouter
from lib.sim.rollout import stressed_rollouts
from lib.sim.stress import Stress

BATCH = 32
EVERY = 2  # neighbouring frames are nearly the same: every second one is scored
STRESS_STREAM = "segmenter_stress"  # positions that no training and no other evaluation uses
STRESS_HORIZON = 75  # control steps at most
THRESHOLDS = np.arange(1, 50) / 50


@dataclass
class Scores:
    """Counts over frames, from which every metric follows.

    Attributes:
        confusion: (C, C) pixels, true class by row.
        boundary: (2, 3) true positives, predicted, true; exactly, and within one pixel.
    """

    confusion: np.ndarray = field(
        default_factory=lambda: np.zeros((len(PRIMITIVES), len(PRIMITIVES)), np.int64)
    )
    boundary: np.ndarray = field(default_factory=lambda: np.zeros((2, 4), np.int64))

    def add(self, truth: np.ndarray, predicted: np.ndarray, boundary: np.ndarray) -> None:
        """Takes some frames.

        Args:
            truth: (N, H, W) primitives.
            predicted: (N, H, W) primitives.
            boundary: (N, H, W) bool, predicted.
        """
        pairs = truth.astype(np.int64) * len(PRIMITIVES) + predicted
        self.confusion += np.bincount(pairs.ravel(), minlength=len(PRIMITIVES) ** 2).reshape(
            self.confusion.shape
        )
        real = boundary_of(truth)
        for row, width in enumerate((0, 1)):
            self.boundary[row] += (
                (boundary & grow(real, width)).sum(),
                boundary.sum(),
                (real & grow(boundary, width)).sum(),
                real.sum(),
            )

    def metrics(self) -> dict[str, float]:
        """Returns the metrics, rounded to 6 digits.

        Without a single frame there is nothing to say: an empty dictionary.
        ``boundary_f1`` counts exact pixels; ``boundary_f1_1px`` forgives one pixel, diagonals
        included, in precision and in recall. Primitives that do not occur are left out of means.
        """
        if not self.confusion.any():
            return {}
        hit = np.diag(self.confusion)
        union = self.confusion.sum(0) + self.confusion.sum(1) - hit
        iou = hit / np.maximum(union, 1)
        f1 = 2 * hit / np.maximum(self.confusion.sum(0) + self.confusion.sum(1), 1)
        present = self.confusion.sum(1) > 0
        exact, near = (
            2 * p * r / max(p + r, 1e-12)
            for p, r in ((a / max(b, 1), c / max(d, 1)) for a, b, c, d in self.boundary)
        )
        values = {
            "boundary_f1": exact,
            "boundary_f1_1px": near,
            "primitive_miou": iou[present].mean() if present.any() else 0.0,
            "primitive_f1": f1[present].mean() if present.any() else 0.0,
            "handle_iou": iou[PRIMITIVES.index("handle")],
        }
        return {name: round(float(value), 6) for name, value in values.items()}


class ThresholdCurve:
    """Exact boundary F1 at every threshold, from one pass over the frames."""

    def __init__(self) -> None:
        # Pixels by probability (below the first threshold, between two, above the last), for
        # those that are no boundary and those that are.
        self._counts = np.zeros((2, len(THRESHOLDS) + 1), np.int64)

    def add(self, truth: np.ndarray, probabilities: np.ndarray) -> None:
        """Takes some frames.

        Args:
            truth: (N, H, W) primitives.
            probabilities: (N, H, W) of "this pixel is a boundary".
        """
        between = np.digitize(probabilities.astype(np.float32), THRESHOLDS.astype(np.float32))
        pairs = boundary_of(truth) * self._counts.shape[1] + between
        self._counts += np.bincount(pairs.ravel(), minlength=self._counts.size).reshape(
            self._counts.shape
        )

    def rows(self) -> list[dict[str, float]]:
        """Returns F1, precision and recall by threshold."""
        false, true = self._counts[:, ::-1].cumsum(1)[:, -2::-1]
        precision = true / np.maximum(true + false, 1)
        recall = true / max(self._counts[1].sum(), 1)
        f1 = 2 * true / np.maximum(true + false + self._counts[1].sum(), 1)
        columns = {"threshold": THRESHOLDS, "f1": f1, "precision": precision, "recall": recall}
        return [
            {name: round(float(column[i]), 6) for name, column in columns.items()}
            for i in range(len(THRESHOLDS))
        ]


def stressed_episodes(
    task: str, seed: int, count: int, severity: float, image_size: int, timeout_s: float
) -> Dataset:
    """Rolls the expert out under another light and camera, both of exactly one severity.

    Args:
        task: A name in lib/sim/tasks.py.
        seed: Of the positions; the stream is the function's own.
        count: Episodes.
        severity: Of light and of camera, in [0, 1].
        image_size: Pixels, square.
        timeout_s: Longest wait for one episode.

    Returns:
        Test episodes with ``obs/image`` and ``labels/segmentation``.
    """
    rollouts = stressed_rollouts(
        [Stress(light=severity, camera=severity)] * count,
        task,
        seed,
        STRESS_STREAM,
        horizon=STRESS_HORIZON,
        image_size=image_size,
        timeout_s=timeout_s,
    )
    references: list[Reference] = []
    images, labels = [], []
    for item in rollouts:
        start = references[-1].stop if references else 0
        references.append(
            Reference(STRESS_STREAM, item.key, "test", start, start + len(item), item.tags)
        )
        images.append(item.obs["image"])
        labels.append(item.labels["segmentation"])
    arrays = {"obs/image": np.concatenate(images), "labels/segmentation": np.concatenate(labels)}
    return Dataset(arrays, references)


def grow(mask_NHW: np.ndarray, pixels: int) -> np.ndarray:
    """Widens masks by a square of ``pixels`` in each direction.

    Args:
        mask_NHW: bool.
        pixels: 0 leaves it as it is.
    """
    if pixels == 0:
        return mask_NHW
    maps = torch.from_numpy(mask_NHW[:, None].astype(np.float32))
    return F.max_pool2d(maps, 2 * pixels + 1, 1, pixels)[:, 0].numpy() > 0


def score(
    segmenter: Segmenter,
    dataset: Dataset,
    splits: Sequence[str],
    threshold: float,
    *,
    visual: bool | None = None,
    curve: ThresholdCurve | None = None,
) -> Scores:
    """Compares a segmenter with exact labels on held-out episodes; black pictures are left out.

    Args:
        segmenter: The U-Net or the heuristic.
        dataset: Holds ``obs/image`` and ``labels/segmentation``.
        splits: Of the episodes.
        threshold: Probability from which a pixel is a boundary. The heuristic's boundary is that
            of its primitives.
        visual: Only episodes with (or without) stressed light and camera.
        curve: Takes the same frames.
    """
    images, truth = dataset.arrays["obs/image"], dataset.arrays["labels/segmentation"]
    chosen = [
        np.arange(e.start, e.stop, EVERY)
        for e in dataset.episodes
        if e.split in splits
        and e.tags["labels"] == "exact"
        and visual in (None, bool(e.tags["visual"]))
    ]
    frames = dataset.seen(np.concatenate([*chosen, np.arange(0)]))
    scores = Scores()
    for start in range(0, len(frames), BATCH):
        rows = frames[start : start + BATCH]
        probabilities, boundary = segmenter.probabilities(images[rows])
        predicted = probabilities.argmax(1).numpy().astype(np.uint8)
        edges = boundary_of(predicted) if boundary is None else boundary.numpy() >= threshold
        scores.add(truth[rows], predicted, edges)
        if curve is not None:
            curve.add(truth[rows], edges if boundary is None else boundary.numpy())
    return scores


def router_accuracy(
    router: SkillRouter, dataset: Dataset, geometry_NG: np.ndarray, splits: list[str]
) -> float:
    """Share of steps on which the router names the simulator's skill.

    Args:
        router: The router.
        dataset: Holds ``obs/eef_pos``, ``obs/gripper`` and ``labels/skill``.
        geometry_NG: Of every step.
        splits: Of the episodes.
    """
    proprio = dataset.proprio()
    right = total = 0
    for episode in dataset.episodes:
        if episode.split not in splits:
            continue
        to_handle = router.to_handle(geometry_NG[episode.rows], proprio[episode.rows])
        had_hold = np.zeros(1, bool)
        for vector, truth in zip(
            to_handle, dataset.arrays["labels/skill"][episode.rows], strict=True
        ):
            skill, had_hold = router.route(vector[None], had_hold)
            right += int(skill[0] == truth)
            total += 1
    return round(right / max(total, 1), 6)
