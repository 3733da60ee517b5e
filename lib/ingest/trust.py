"""Which segments of an episode are mislabelled, judged by someone who saw the pictures alone.

A segment is what an episode labels as one primitive where the heuristic segmenter sees one. The
heuristic errs, but much the same way in every episode: of what it takes for drawer, a tenth is
case. So an episode in which nearly all of it is called table is not believed there.

No exact label is needed for this: what is usual is the median over episodes, which does not move
as long as most of them are right.

Array suffixes: E episodes, L label given, S primitive seen, H height, W width.
"""

from __future__ import annotations

import numpy as np

from lib.episode import PRIMITIVES
from lib.models.heuristic import HeuristicSegmenter

FRAMES = 8  # of an episode, spread over it
MOST = 3.0  # a share is doubted from so many times the usual one
LITTLE = 0.02  # and this much more: whatever is rarer has happened to the heuristic before
SCARCE = 20  # pixels: shares of a primitive that is hardly seen shrink towards none
FEWEST = 10  # episodes, below which nothing is usual


def count_pairs(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts the pixels of some frames of an episode by what they are called and seen as.

    Args:
        images: (T, H, W, 3) uint8, or anything that indexing gives such.
        labels: (T, H, W) primitives, likewise.

    Returns:
        (L, S) int64; without a picture that shows something, zeros.
    """
    size = len(PRIMITIVES)
    rows = np.unique(np.linspace(0, len(labels) - 1, FRAMES).astype(int)) if len(labels) else []
    rows = [row for row in rows if images[row].any()]  # a dropped picture is black
    if not rows:
        return np.zeros((size, size), np.int64)
    seen = HeuristicSegmenter().primitives(images[rows])
    pairs = labels[rows].astype(np.int64) * size + seen
    return np.bincount(pairs.ravel(), minlength=size**2).reshape(size, size)


def usual_shares(pairs_ELS: np.ndarray) -> np.ndarray | None:
    """Returns what share of what is seen as one primitive usually bears each label.

    Args:
        pairs_ELS: ``count_pairs`` of episodes most of which are labelled rightly.

    Returns:
        (L, S) in [0, 1], the median over the episodes; None if they are too few to tell.
    """
    return np.median(_shares(pairs_ELS), axis=0) if len(pairs_ELS) >= FEWEST else None


def segment_trust(pairs_LS: np.ndarray, usual_LS: np.ndarray | None) -> np.ndarray:
    """Says how far to trust each segment of an episode.

    Of pixels that are seen as s, the share u is usually called l, and here it is o. If what goes
    beyond the usual is wrong, u / o of the segment's pixels are right: its precision.

    Args:
        pairs_LS: ``count_pairs`` of the episode.
        usual_LS: ``usual_shares``.

    Returns:
        (L, S) in [0, 1]; 1 where label and judge agree and where a share is not extraordinary.
    """
    trust = np.ones(pairs_LS.shape)
    if usual_LS is None:
        return trust
    share = _shares(pairs_LS)
    doubted = share > MOST * usual_LS + LITTLE
    np.fill_diagonal(doubted, False)
    trust[doubted] = usual_LS[doubted] / share[doubted]
    return trust


def doubted_segments(trust_LS: np.ndarray) -> dict[str, dict[str, float]]:
    """Puts the segments that are not fully trusted into words.

    Args:
        trust_LS: ``segment_trust``.

    Returns:
        ``{label: {seen as: trust}}``.
    """
    return {
        PRIMITIVES[label]: {
            PRIMITIVES[seen]: round(float(row[seen]), 4) for seen in np.flatnonzero(row < 1)
        }
        for label, row in enumerate(trust_LS)
        if (row < 1).any()
    }


def _shares(pairs: np.ndarray) -> np.ndarray:
    return pairs / (pairs.sum(-2, keepdims=True) + SCARCE)
