"""What weighting by trust is worth when one source of labels is wrong in a third of its segments.

    python -m benchmarks.trust [SEEDS [STEPS]]

The training episodes of phase 1 become two sources: every third episode keeps its exact labels,
the others are given to a bad labeller. Then again with no exact episode at all: in the pipeline
the simulator gives 160 of 168. A segment is one primitive in one episode; a third of the bad
labeller's segments carry the name of another primitive throughout their episode: either the same
other one for all segments of a primitive (consistent), or any (random).

Nobody tells the training which they are. Segments are doubted as the project does it
(lib/ingest/trust.py), which looks at pictures and at the labels as they are, a third wrong and
all. The TrustMatrix is what is known of a source on a few frames of which exact labels exist too:
of the pixels given a primitive, and not doubted, the share that are of it.

A small U-Net is then trained on the same frames in the same order with

    clean     exact labels, the most there is to keep
    uniform   every label trusted
    source    the TrustMatrix alone, trust by source and primitive
    trust     the TrustMatrix and the doubted segments

and scored on test episodes with exact labels. *found* and *blamed* are the shares of the wrong and
of the right pixels that are doubted. About twelve minutes on one core.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, replace
from statistics import mean

import numpy as np

from lib.compute import start
from lib.episode import PRIMITIVES
from lib.evaluation.segmentation import score
from lib.ingest.trust import count_pairs, segment_trust, usual_shares
from lib.manifest import Dataset, load_dataset
from lib.models.unet import UNet
from lib.params import load_params
from lib.perception.segmenter import Segmenter
from lib.training.segmenter import PixelTrust, train_segmenter

Doubts = dict[tuple[str, str], np.ndarray]
WRONG_SHARE = 1 / 3
EXACT_EVERY = (3, 0)  # every third training episode keeps its exact labels, or none does
TRUST_FRAMES = 200
SMALL = {"widths": [8, 16, 32], "batch_size": 16}
HALVE = 2  # pictures of half the size: every second pixel


def corrupt(
    labels_NHW: np.ndarray,
    episodes: list[slice],
    share: float,
    rng: np.random.Generator,
    *,
    consistent: bool,
) -> np.ndarray:
    """Renames a share of the segments; returns new labels.

    Args:
        labels_NHW: Exact primitives.
        episodes: Rows of the episodes to be corrupted.
        share: Of the segments (a primitive in an episode) that are wrong.
        rng: Decides which, and what they are called.
        consistent: A primitive is always taken for the same other one, else for any.
    """
    wrong = labels_NHW.copy()
    # Along one random cycle every primitive has one that it is taken for.
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
        said: Its primitives on some frames.
        exact: Those of the same pixels.
        believed: How much each pixel counts: what is doubted anyway need not be doubted twice.

    Returns:
        (len(PRIMITIVES),) float32: of the pixels given a primitive, the share that are of it.
    """
    size = len(PRIMITIVES)
    given = np.bincount(said.ravel(), believed.ravel(), size)
    right = np.bincount(said.ravel(), (believed * (said == exact)).ravel(), size)
    return np.where(given > 0, right / np.maximum(given, 1e-9), 0.5).astype(np.float32)


@dataclass
class Case:
    """Training data of which one source is bad, and what is known of it.

    Attributes:
        dataset: With the sources ``exact`` and ``bad``.
        wrong: Share of the training pixels that are wrong.
        found: Share of the wrong pixels that are doubted.
        blamed: Share of the right pixels that are doubted.
        weights: By method: the TrustMatrix, and the doubted segments.
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
        share: Of the bad source's segments that are wrong.
        seed: Decides which.
        consistent: See ``corrupt``.
        exact_every: Of the training episodes, each so-manyth is of the exact source; 0 = none.
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
        mixed: What it is trained on.
        exact: What it is scored on.
        weights: TrustMatrix and doubted segments.
        seed: Of the training.
        steps: Of the optimiser.
        split: On which it is scored.

    Returns:
        mIoU.
    """
    params = load_params("compute", "safety", "segmenter")
    settings = params.segmenter.model_copy(update={**SMALL, "steps": steps})
    fabric = start(params.compute, seed)
    model = UNet(num_classes=len(PRIMITIVES), widths=settings.widths)
    table, doubts = weights
    train_segmenter(model, mixed, table, settings, params.safety, fabric, doubts)
    segmenter = Segmenter(model.cpu(), fabric.autocast)
    return score(segmenter, exact, [split], settings.threshold).metrics()["primitive_miou"]


def main(seeds: int, steps: int) -> None:
    """Prints a table of both kinds of mistakes, with a third of the training data exact and none.

    Args:
        seeds: How many.
        steps: Of each training.
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
