"""Boundary and primitive metrics on held-out frames, and the accuracy of the router.

Tensor suffixes: N frames, C classes, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from lib.data.dataset import Dataset, Reference
from lib.episode import PRIMITIVES
from lib.media import PALETTE, save
from lib.models.heuristic import boundary_of
from lib.segmenter.router import SkillRouter
from lib.segmenter.serving import Segmenter
from lib.sim.rollout import RolloutRequest, stressed_rollouts
from lib.sim.stress import Stress

BATCH = 32
EVERY = 2  # every second frame is scored, because consecutive frames look nearly alike
STRESS_STREAM = "segmenter_stress"  # its positions are used in no training and no other evaluation
STRESS_HORIZON = 75  # control steps at most
THRESHOLDS = np.arange(1, 50) / 50


@dataclass
class Scores:
    """Counts over frames, from which all metrics are computed.

    Attributes:
        confusion: (C, C) pixel counts, with the true class by row.
        boundary: (2, 4) pixel counts: correctly predicted, predicted, found and true boundary
            pixels. The first row counts exact matches, the second matches within one pixel.
    """

    confusion: np.ndarray = field(
        default_factory=lambda: np.zeros((len(PRIMITIVES), len(PRIMITIVES)), np.int64)
    )
    boundary: np.ndarray = field(default_factory=lambda: np.zeros((2, 4), np.int64))

    def add(self, truth: np.ndarray, predicted: np.ndarray, boundary: np.ndarray) -> None:
        """Adds some frames to the counts.

        Args:
            truth: True primitives, (N, H, W).
            predicted: Predicted primitives, (N, H, W).
            boundary: Predicted boundaries, (N, H, W) bool.
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

        The dictionary is empty if no frame was added. ``boundary_f1`` counts exact pixels;
        ``boundary_f1_1px`` allows an error of one pixel, diagonals included, in precision and in
        recall. Primitives that do not occur are left out of the means.
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
    """Computes the exact boundary F1 at every threshold in one pass over the frames."""

    def __init__(self) -> None:
        # Pixel counts by predicted probability: below the first threshold, between two
        # neighbouring thresholds, above the last. The first row is for pixels that are not on a
        # boundary, the second for boundary pixels.
        self._counts = np.zeros((2, len(THRESHOLDS) + 1), np.int64)

    def add(self, truth: np.ndarray, probabilities: np.ndarray) -> None:
        """Adds some frames to the counts.

        Args:
            truth: True primitives, (N, H, W).
            probabilities: Predicted probabilities of "this pixel is a boundary", (N, H, W).
        """
        between = np.digitize(probabilities.astype(np.float32), THRESHOLDS.astype(np.float32))
        pairs = boundary_of(truth) * self._counts.shape[1] + between
        self._counts += np.bincount(pairs.ravel(), minlength=self._counts.size).reshape(
            self._counts.shape
        )

    def rows(self) -> list[dict[str, float]]:
        """Returns F1, precision and recall as one row for each threshold."""
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
    task: str, world: str, seed: int, count: int, severity: float, image_size: int
) -> Dataset:
    """Rolls out the expert under changed light and camera pose, both at exactly one severity.

    Args:
        task: Name of a task in lib/sim/tasks.py.
        world: World of the rollouts.
        seed: Seed of the positions, which are drawn from a stream that only this function uses.
        count: Number of episodes.
        severity: Severity of the light stress and of the camera stress, in [0, 1].
        image_size: Side of the square pictures, pixels.

    Returns:
        Test episodes with ``obs/image`` and ``labels/segmentation``.
    """
    asked = RolloutRequest(task, world, seed, image_size, STRESS_HORIZON, stream=STRESS_STREAM)
    rollouts = stressed_rollouts(asked, [Stress(light=severity, camera=severity)] * count)
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
    """Widens masks by ``pixels`` in each direction, diagonals included.

    Args:
        mask_NHW: Masks, bool.
        pixels: Number of pixels; 0 leaves the masks unchanged.
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
        segmenter: Segmenter to be scored, with the U-Net or with the heuristic.
        dataset: Dataset with ``obs/image`` and ``labels/segmentation``.
        splits: Splits of the episodes to be used.
        threshold: Probability from which a pixel is a boundary. It does not affect the heuristic,
            because the boundary of the heuristic is computed from its primitives.
        visual: If true, only episodes with stressed light and camera; if false, only episodes
            without; if None, all.
        curve: Threshold curve to which the same frames are added.
    """
    images, truth = dataset.arrays["obs/image"], dataset.arrays["labels/segmentation"]
    frames = dataset.seen(dataset.rows(splits, visual=visual, exact=True, every=EVERY))
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
    """Returns the share of steps on which the router chooses the same skill as the simulator.

    Args:
        router: Router to be scored.
        dataset: Dataset with ``obs/eef_pos``, ``obs/gripper`` and ``labels/skill``.
        geometry_NG: Geometry features of every step.
        splits: Splits of the episodes to be used.
    """
    proprio = dataset.proprio()
    right = total = 0
    for episode in dataset.episodes:
        if episode.split not in splits:
            continue
        to_handle = router.locate(geometry_NG[episode.rows], proprio[episode.rows])[:, :3]
        had_hold = np.zeros(1, bool)
        for vector, truth in zip(
            to_handle, dataset.arrays["labels/skill"][episode.rows], strict=True
        ):
            skill, had_hold = router.route(vector[None], had_hold)
            right += int(skill[0] == truth)
            total += 1
    return round(right / max(total, 1), 6)


def confusion_figure(path: Path, counts: np.ndarray) -> None:
    """Plots a confusion matrix, with each row as shares of the true class.

    Args:
        path: PNG file to write.
        counts: Pixel counts (C, C), with the true class by row.
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, axis = plt.subplots(figsize=(6.4, 5.6), constrained_layout=True)
    image = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    for row in range(len(PRIMITIVES)):
        for column in range(len(PRIMITIVES)):
            value = shares[row, column]
            colour = "white" if value > 0.5 else "black"
            axis.text(
                column, row, f"{value:.3f}", ha="center", va="center", fontsize=7, color=colour
            )
    axis.set_xticks(range(len(PRIMITIVES)), PRIMITIVES, rotation=40, ha="right")
    axis.set_yticks(range(len(PRIMITIVES)), PRIMITIVES)
    axis.set_xlabel("predicted primitive")
    axis.set_ylabel("true primitive")
    # The title belongs to the figure, because a title of the axis would reach the colour bar.
    figure.suptitle("Segmenter on held-out episodes: share of the true class")
    figure.colorbar(image, label="share of pixels")
    save(figure, path)


def overlay_sheet(
    path: Path,
    images: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    heuristic: np.ndarray,
) -> None:
    """Draws frames above their labels, in four rows: image, truth, U-Net, heuristic.

    Args:
        path: PNG file to write.
        images: Pictures, (N, H, W, 3) uint8.
        truth: True primitives, (N, H, W).
        predicted: Primitives predicted by the U-Net, (N, H, W).
        heuristic: Primitives predicted by the heuristic, (N, H, W).
    """
    rows: Sequence[tuple[str, np.ndarray]] = (
        ("image", images),
        ("truth", PALETTE[truth]),
        ("U-Net", PALETTE[predicted]),
        ("heuristic", PALETTE[heuristic]),
    )
    count = len(images)
    figure, axes = plt.subplots(
        len(rows), count, figsize=(1.7 * count + 0.4, 7.4), squeeze=False, constrained_layout=True
    )
    for (name, pictures), line in zip(rows, axes, strict=True):
        for picture, axis in zip(pictures, line, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(name)
    handles = [
        plt.Rectangle((0, 0), 1, 1, color=colour / 255, label=name)
        for name, colour in zip(PRIMITIVES, PALETTE, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(PRIMITIVES), fontsize=8)
    save(figure, path)
