"""What weighting by trust is worth when one source of labels is wrong in a third of its segments.

    python -m benchmarks.trust [SEEDS [STEPS]]

The training episodes of phase 1 become two sources: every third episode keeps its exact labels,
the others are given to a bad labeller. A segment is one primitive in one episode; a third of the
bad labeller's segments carry the name of another primitive throughout their episode: either the
same other one for all segments of a primitive (consistent), or any (random).

Nobody tells the training which they are. The TrustMatrix is estimated as the project does it for
its heuristic labels (lib/ingest/manifest.py): on a few frames of which exact labels exist too, the
trust in a source's label of a primitive is the share of the pixels given it that are of it. A small
U-Net is then trained twice on the same frames in the same order, with that table and with uniform
weights, and both are scored on test episodes with exact labels. About five minutes on two cores.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from statistics import mean

import numpy as np

from lib.compute import start
from lib.episode import PRIMITIVES
from lib.evaluation.segmentation import score
from lib.manifest import Dataset, load_dataset
from lib.models.unet import UNet
from lib.params import load_params
from lib.perception.segmenter import Segmenter
from lib.training.segmenter import train_segmenter

WRONG_SHARE = 1 / 3
EXACT_EVERY = 3  # every third training episode keeps its exact labels
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


def precision(said: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Estimates one source's row of the TrustMatrix.

    Args:
        said: Its primitives on some frames.
        exact: Those of the same pixels.

    Returns:
        (len(PRIMITIVES),) float32: of the pixels given a primitive, the share that are of it.
    """
    given = np.bincount(said.ravel(), minlength=len(PRIMITIVES))
    right = np.bincount(said[said == exact], minlength=len(PRIMITIVES))
    return np.where(given > 0, right / np.maximum(given, 1), 0.5).astype(np.float32)


def two_sources(
    dataset: Dataset, share: float, seed: int, *, consistent: bool
) -> tuple[Dataset, dict[str, np.ndarray], float]:
    """Splits the training episodes into an exact and a bad source.

    Args:
        dataset: Holds ``labels/segmentation``, all exact.
        share: Of the bad source's segments that are wrong.
        seed: Decides which.
        consistent: See ``corrupt``.

    Returns:
        The dataset with sources ``exact`` and ``bad``, the estimated trust of both, and the share
        of the bad source's pixels that are wrong.
    """
    rng = np.random.default_rng(seed)
    train = [e for e in dataset.episodes if e.split == "train"]
    bad = [e for i, e in enumerate(train) if i % EXACT_EVERY]
    keys = {(e.source, e.key) for e in bad}
    episodes = [
        replace(e, source="bad" if (e.source, e.key) in keys else "exact") for e in dataset.episodes
    ]
    exact = dataset.arrays["labels/segmentation"]
    labels = corrupt(exact, [e.rows for e in bad], share, rng, consistent=consistent)
    rows = np.concatenate([np.arange(e.start, e.stop) for e in bad])
    judged = rng.choice(rows, min(TRUST_FRAMES, len(rows)), replace=False)
    trust = {
        "bad": precision(labels[judged], exact[judged]),
        "exact": np.ones(len(PRIMITIVES), np.float32),
    }
    arrays = {**dataset.arrays, "labels/segmentation": labels}
    return Dataset(arrays, episodes), trust, float((labels[rows] != exact[rows]).mean())


def compare(
    dataset: Dataset, seed: int, steps: int, *, consistent: bool, share: float = WRONG_SHARE
) -> tuple[dict[str, float], dict[str, np.ndarray], float]:
    """Trains with and without trust.

    Args:
        dataset: Holds ``obs/image`` and exact ``labels/segmentation``.
        seed: Of the corruption and of the training.
        steps: Of the optimiser.
        consistent: See ``corrupt``.
        share: Of the bad source's segments that are wrong.

    Returns:
        Test mIoU with ``trust`` and with ``uniform`` weights, the trust, the share of wrong pixels.
    """
    params = load_params("compute", "safety", "segmenter")
    settings = params.segmenter.model_copy(update={**SMALL, "steps": steps})
    mixed, trust, wrong = two_sources(dataset, share, seed, consistent=consistent)
    tables = {"trust": trust, "uniform": {name: np.ones_like(row) for name, row in trust.items()}}
    miou = {}
    for name, table in tables.items():
        fabric = start(params.compute, seed)
        model = UNet(num_classes=len(PRIMITIVES), widths=settings.widths)
        train_segmenter(model, mixed, table, settings, params.safety, fabric)
        segmenter = Segmenter(model.cpu(), fabric.autocast)
        scores = score(segmenter, dataset, ["test"], settings.threshold)
        miou[name] = scores.metrics()["primitive_miou"]
    return miou, trust, wrong


def main(seeds: int, steps: int) -> None:
    """Prints a table of both kinds of mistakes.

    Args:
        seeds: How many.
        steps: Of each training.
    """
    dataset = load_dataset("segmenter", ["obs/image", "labels/segmentation"])
    dataset.arrays = {name: a[:, ::HALVE, ::HALVE].copy() for name, a in dataset.arrays.items()}
    lines = ["mistakes    seed  wrong pixels  uniform    trust     gain  estimated trust"]
    for kind in ("consistent", "random"):
        gains = []
        for seed in range(seeds):
            miou, trust, wrong = compare(dataset, seed, steps, consistent=kind == "consistent")
            gains.append(miou["trust"] - miou["uniform"])
            row = zip(PRIMITIVES, trust["bad"].tolist(), strict=True)
            lines.append(
                f"{kind:10} {seed:5} {wrong:13.3f} {miou['uniform']:8.4f} {miou['trust']:8.4f} "
                f"{gains[-1]:+8.4f}  " + " ".join(f"{name} {value:.2f}" for name, value in row)
            )
        lines.append(f"{kind:10}  mean gain of test mIoU {mean(gains):+.4f}")
    print("\n".join(lines))


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    main(*given, *[3, 400][len(given) :])
