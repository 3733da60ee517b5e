"""Measures the gain from trust weights when a label source is wrong in a third of its segments.

    python -m benchmarks.trust [SEEDS [STEPS]]

The training episodes of phase 1 are split into two sources: every third episode keeps its exact
labels, the others are relabelled by a bad labeller. The experiment is repeated with no exact
episode at all, because in the pipeline one source, the simulator, gives nearly all episodes. A
segment is one primitive in one episode. A third of the bad labeller's segments carry the name of
another primitive throughout their episode. The wrong name is either the same for all wrong segments
of a primitive (consistent), or drawn anew for each segment (random).

The training is not told which segments are wrong. Segments are doubted by the project's own method
(lib/phase1_manifest/trust.py), which uses the pictures and the given labels, including the wrong
third. The TrustMatrix is estimated on a few frames of a source that have exact labels as well. Its
entry for a primitive is the share of correct pixels among those that the source gives this
primitive and that are not doubted.

A small U-Net is then trained on the same frames in the same order with

    clean     exact labels, the upper bound
    uniform   full trust in every label
    source    the TrustMatrix alone, trust by source and primitive
    trust     the TrustMatrix and the doubted segments

and scored on test episodes with exact labels. *found* is the share of the wrong pixels that are
doubted, *blamed* that of the correct pixels. The benchmark takes about twelve minutes on one core.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np

from lib.data.dataset import Dataset, load_dataset
from lib.episode import PRIMITIVES
from lib.learning.device import start
from lib.models.unet import UNet
from lib.params import load_params
from lib.phase1_manifest.trust import count_pairs, segment_trust, usual_shares
from lib.segmenter.scores import score
from lib.segmenter.serving import Segmenter
from lib.segmenter.train_segmenter import PixelTrust, train_segmenter

Doubts = dict[tuple[str, str], np.ndarray]
WRONG_SHARE = 1 / 3
EXACT_EVERY = (3, 0)  # every third training episode keeps its exact labels, or none does
TRUST_FRAMES = 200
SMALL = {"widths": [8, 16, 32], "batch_size": 16}
HALVE = 2  # pictures are halved in size: every second pixel is kept


def corrupt(
    labels_NHW: np.ndarray,
    episodes: list[slice],
    share: float,
    rng: np.random.Generator,
    *,
    consistent: bool,
) -> np.ndarray:
    """Returns labels in which a share of the segments carry the name of another primitive.

    Args:
        labels_NHW: Exact primitives.
        episodes: Row slices of the episodes to corrupt.
        share: Share of the segments (one primitive in one episode) that become wrong.
        rng: Random generator that chooses the segments and their wrong names.
        consistent: Whether a primitive is always mistaken for the same other primitive, instead of
            a random one.
    """
    wrong = labels_NHW.copy()
    # In a random cycle of all primitives, each one is mistaken for the one before it.
    cycle = rng.permutation(len(PRIMITIVES))
    taken_for = dict(zip(cycle, np.roll(cycle, 1), strict=True))
    segments = [(e, c) for e in episodes for c in np.unique(labels_NHW[e])]
    for index in rng.permutation(len(segments))[: round(share * len(segments))]:
        rows, true = segments[index]
        others = [c for c in range(len(PRIMITIVES)) if c != true]
        other = taken_for[true] if consistent else rng.choice(others)
        wrong[rows][labels_NHW[rows] == true] = other
    return wrong


def precision(said: np.ndarray, exact: np.ndarray, believed: np.ndarray) -> np.ndarray:
    """Estimates one source's row of the TrustMatrix.

    Args:
        said: Primitives that the source gives on some frames.
        exact: Exact primitives of the same pixels.
        believed: Weight of each pixel. Doubted pixels count less, so that they are not doubted
            twice.

    Returns:
        (len(PRIMITIVES),) float32: for each primitive, the share of correct pixels among those
        that the source gives this primitive.
    """
    size = len(PRIMITIVES)
    given = np.bincount(said.ravel(), believed.ravel(), size)
    right = np.bincount(said.ravel(), (believed * (said == exact)).ravel(), size)
    return np.where(given > 0, right / np.maximum(given, 1e-9), 0.5).astype(np.float32)


@dataclass
class Case:
    """Training data with one bad source of labels, and what is known about that source.

    Attributes:
        dataset: Episodes of the sources ``exact`` and ``bad``.
        wrong: Share of the bad source's pixels that are wrong.
        found: Share of the wrong pixels that are doubted.
        blamed: Share of the correct pixels that are doubted.
        weights: TrustMatrix and doubted segments, by name of the method.
    """

    dataset: Dataset
    wrong: float
    found: float
    blamed: float
    weights: dict[str, tuple[dict[str, np.ndarray], Doubts]]


def two_sources(
    dataset: Dataset, share: float, seed: int, *, consistent: bool, exact_every: int = 0
) -> Case:
    """Splits the training episodes into an exact and a bad source.

    Args:
        dataset: Holds ``obs/image`` and ``labels/segmentation``, all exact.
        share: Share of the bad source's segments that are wrong.
        seed: Seed of the random generator that chooses the wrong segments.
        consistent: See ``corrupt``.
        exact_every: With n, every n-th training episode belongs to the exact source; with 0, none.
    """
    rng = np.random.default_rng(seed)
    train = [e for e in dataset.episodes if e.split == "train"]
    bad = [e for i, e in enumerate(train) if not exact_every or i % exact_every]
    keys = {(e.source, e.key) for e in bad}
    episodes = [
        replace(
            e,
            source="bad" if (e.source, e.key) in keys else "exact",
            key=f"{e.source}/{e.key}",
        )
        for e in dataset.episodes
    ]
    exact = dataset.arrays["labels/segmentation"]
    labels = corrupt(exact, [e.rows for e in bad], share, rng, consistent=consistent)
    mixed = Dataset({**dataset.arrays, "labels/segmentation": labels}, episodes)

    images = dataset.arrays["obs/image"]
    learnt = [e for e in episodes if e.split == "train"]
    pairs = np.array([count_pairs(images[e.rows], labels[e.rows]) for e in learnt])
    usual = usual_shares(pairs)
    tables = {
        (e.source, e.key): segment_trust(p, usual) for e, p in zip(learnt, pairs, strict=True)
    }
    doubts = {key: t.astype(np.float32) for key, t in tables.items() if (t < 1).any()}

    uniform = {name: np.ones(len(PRIMITIVES), np.float32) for name in ("bad", "exact")}
    rows = np.concatenate([np.arange(e.start, e.stop) for e in bad])
    judged = rng.choice(rows, min(TRUST_FRAMES, len(rows)), replace=False)
    said, right = labels[judged], exact[judged]
    believed = PixelTrust(mixed, uniform, doubts)(judged)
    matrices = (
        {**uniform, "bad": precision(said, right, b)} for b in (np.ones_like(believed), believed)
    )
    sources_alone, with_segments = matrices
    return Case(
        mixed,
        wrong=float((labels[rows] != exact[rows]).mean()),
        found=float((believed < 1)[said != right].mean()),
        blamed=float((believed < 1)[said == right].mean()),
        weights={
            "uniform": (uniform, {}),
            "source": (sources_alone, {}),
            "trust": (with_segments, doubts),
        },
    )


def train(
    mixed: Dataset,
    exact: Dataset,
    weights: tuple[dict[str, np.ndarray], Doubts],
    seed: int,
    steps: int,
    split: str = "test",
) -> float:
    """Trains a small U-Net and scores it.

    Args:
        mixed: Dataset for the training.
        exact: Dataset with exact labels for the score.
        weights: TrustMatrix and doubted segments.
        seed: Seed of the training.
        steps: Number of optimiser steps.
        split: Split on which the U-Net is scored.

    Returns:
        The mIoU of the primitives.
    """
    params = load_params("compute", "safety", "segmenter")
    settings = params.segmenter.model_copy(update={**SMALL, "steps": steps})
    fabric = start(params.compute, seed)
    model = UNet(num_classes=len(PRIMITIVES), widths=settings.widths)
    table, doubts = weights
    train_segmenter(model, mixed, table, settings, params.safety, fabric, seed, doubts)
    segmenter = Segmenter(model.cpu(), fabric.autocast)
    return score(segmenter, exact, [split], settings.threshold).metrics()["primitive_miou"]


def main(seeds: int, steps: int) -> None:
    """Prints a table of both kinds of mistakes, with a third and with none of the data exact.

    Args:
        seeds: Number of seeds.
        steps: Number of optimiser steps of each training.
    """
    dataset = load_dataset("segmenter", ["obs/image", "labels/segmentation"])
    dataset.arrays = {name: a[:, ::HALVE, ::HALVE].copy() for name, a in dataset.arrays.items()}
    table = {"exact": np.ones(len(PRIMITIVES), np.float32)}
    one_source = Dataset(dataset.arrays, [replace(e, source="exact") for e in dataset.episodes])
    clean = [train(one_source, dataset, (table, {}), seed, steps) for seed in range(seeds)]
    lines = [
        "exact data  mistakes    seed  wrong pixels  found  blamed    clean  uniform   source  "
        "  trust     gain"
    ]
    for exact_every, kind in itertools.product(EXACT_EVERY, ("consistent", "random")):
        gains = []
        name = f"1 in {exact_every}" if exact_every else "none"
        for seed in range(seeds):
            consistent = kind == "consistent"
            case = two_sources(
                dataset, WRONG_SHARE, seed, consistent=consistent, exact_every=exact_every
            )
            miou = {
                method: train(case.dataset, dataset, weights, seed, steps)
                for method, weights in case.weights.items()
            }
            gains.append(miou["trust"] - miou["uniform"])
            lines.append(
                f"{name:10}  {kind:10} {seed:5} {case.wrong:13.3f} {case.found:6.3f} "
                f"{case.blamed:7.3f} {clean[seed]:8.4f} {miou['uniform']:8.4f} "
                f"{miou['source']:8.4f} {miou['trust']:8.4f} {gains[-1]:+8.4f}"
            )
        lines.append(
            f"{name:10}  {kind:10}  gain of test mIoU: mean {mean(gains):+.4f}, lowest "
            f"{min(gains):+.4f}"
        )
    print("\n".join(lines))


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*given, *[3, 400][len(given) :])
