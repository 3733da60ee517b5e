"""Pictures for people: small PNG files with titles, units and legends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from lib.episode import PRIMITIVES
from lib.evaluation.probe import TARGETS
from lib.media import PALETTE, save


def probe_scatter(path: Path, scatter: dict[str, np.ndarray], scores: dict[str, float]) -> None:
    """Plots what the probe reads against the truth, a panel a target.

    Args:
        path: The PNG.
        scatter: ``truth`` and ``predicted``, (N, K), in metres.
        scores: R2 by target.
    """
    figure, axes = plt.subplots(1, len(TARGETS), figsize=(15, 3.4), constrained_layout=True)
    for column, (name, axis) in enumerate(zip(TARGETS, axes, strict=True)):
        truth, predicted = scatter["truth"][:, column], scatter["predicted"][:, column]
        axis.plot(truth, predicted, ".", markersize=2, alpha=0.4)
        if len(truth):
            ends = [truth.min(), truth.max()]
            axis.plot(ends, ends, "k-", linewidth=0.8)
        axis.set_title(f"{name}: R² {scores.get(f'{name}_r2', float('nan')):.3f}")
        axis.set_xlabel("truth, m")
    axes[0].set_ylabel("read from frozen features, m")
    save(figure, path)


def confusion_figure(path: Path, counts: np.ndarray) -> None:
    """Plots a confusion matrix, each row as shares of the true class.

    Args:
        path: The PNG.
        counts: (C, C) pixels, true class by row.
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
    axis.set_title("Segmenter on held-out episodes: share of the true class")
    figure.colorbar(image, label="share of pixels")
    save(figure, path)


def overlay_sheet(
    path: Path,
    images: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    heuristic: np.ndarray,
) -> None:
    """Shows frames beside their labels: image, truth, U-Net, heuristic.

    Args:
        path: The PNG.
        images: (N, H, W, 3) uint8.
        truth: (N, H, W) primitives.
        predicted: (N, H, W) primitives.
        heuristic: (N, H, W) primitives.
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
