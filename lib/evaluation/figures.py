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


def neighbour_sheet(
    path: Path,
    images: np.ndarray,
    hand: np.ndarray,
    queries: np.ndarray,
    found: dict[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    """Shows test frames and the frames of other episodes that each backbone finds most alike.

    Args:
        path: The PNG.
        images: (N, H, W, 3) uint8.
        hand: (N, 3) true position of the hand, m.
        queries: (Q,) rows of the test frames.
        found: Rows and similarities, (Q, K) each, by backbone (``lib.evaluation.probe``).
    """
    # A narrow empty column sets the backbones apart.
    widths = [1.0]
    for rows, _ in found.values():
        widths += [0.15, *[1.0] * rows.shape[1]]
    figure, axes = plt.subplots(
        len(queries),
        len(widths),
        figsize=(1.45 * sum(widths) + 0.4, 1.75 * len(queries) + 0.9),
        width_ratios=widths,
        squeeze=False,
        constrained_layout=True,
    )
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    axes[0, 0].set_title("test frame", fontsize=9)
    for line, query in enumerate(queries):
        axes[line, 0].imshow(images[query], interpolation="nearest")
    column = 1
    for name, (rows, similarities) in found.items():
        column += 1
        for rank in range(rows.shape[1]):
            axes[0, column].set_title(f"{name}: {rank + 1}", fontsize=9)
            for line, query in enumerate(queries):
                row, axis = rows[line, rank], axes[line, column]
                axis.imshow(images[row], interpolation="nearest")
                apart = 100 * np.linalg.norm(hand[row] - hand[query])
                note = f"cos {similarities[line, rank]:.2f}, hand {apart:.1f} cm"
                axis.set_xlabel(note, fontsize=7)
            column += 1
    figure.suptitle(
        "Nearest frames of other episodes by cosine similarity of the frozen features, trained "
        "and random;\nbelow each its similarity and how far its hand is from the test frame's",
        fontsize=10,
    )
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
    # Above everything: over the axis alone it would run under the colour bar.
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
