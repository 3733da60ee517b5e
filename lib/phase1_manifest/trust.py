"""Finds mislabelled segments of an episode by a comparison with the heuristic segmenter.

A segment is the set of pixels with a given label on which the heuristic segmenter, which uses only
the images, sees a given primitive. The heuristic makes errors, but similar ones in every episode:
for example, a tenth of the pixels that it takes for the drawer belong to the case. If an episode
labels nearly all of these pixels as table, the labels of that segment are doubted.

No exact label is needed for this. The usual share is the median over episodes, which hardly
changes as long as most episodes are labelled correctly.

Array suffixes: E episodes, L label given, S primitive seen, H height, W width.
"""

from __future__ import annotations

import numpy as np

from lib.episode import PRIMITIVES
from lib.models.heuristic import HeuristicSegmenter

FRAMES = 8  # number of frames per episode, spread over the episode
DOUBT_RATIO = 3.0  # a share is doubted if it exceeds this multiple of the median share ...
LITTLE = 0.02  # ... by more than this: a smaller excess may be an error of the heuristic
SCARCE = 20  # pixels added to the denominator, so that shares of rarely seen primitives shrink to 0
FEWEST = 10  # smallest number of episodes from which the usual shares are computed


def count_pairs(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts the pixels of some frames of an episode by given label and by primitive seen.

    Args:
        images: (T, H, W, 3) uint8 array, or an object that gives such arrays when it is indexed.
        labels: (T, H, W) primitives, an array or such an object.

    Returns:
        (L, S) int64; zeros if all chosen images are black.
    """
    size = len(PRIMITIVES)
    rows = np.unique(np.linspace(0, len(labels) - 1, FRAMES).astype(int)) if len(labels) else []
    rows = [row for row in rows if images[row].any()]  # a dropped frame is black
    if not rows:
        return np.zeros((size, size), np.int64)
    seen = HeuristicSegmenter().primitives(images[rows])
    pairs = labels[rows].astype(np.int64) * size + seen
    return np.bincount(pairs.ravel(), minlength=size**2).reshape(size, size)


def usual_shares(pairs_ELS: np.ndarray) -> np.ndarray | None:
    """Returns the usual share of each label among the pixels that are seen as each primitive.

    Args:
        pairs_ELS: ``count_pairs`` of episodes; most of them must be labelled correctly.

    Returns:
        (L, S) in [0, 1], the median over the episodes; None if there are too few episodes.
    """
    return np.median(_shares(pairs_ELS), axis=0) if len(pairs_ELS) >= FEWEST else None


def segment_trust(pairs_LS: np.ndarray, usual_LS: np.ndarray | None) -> np.ndarray:
    """Returns how far each segment of an episode can be trusted.

    Among the pixels that are seen as s, the share with label l is usually u; in this episode it is
    o. If all pixels beyond the usual share are labelled wrongly, the share u / o of the segment's
    pixels is labelled correctly. This is the segment's precision.

    Args:
        pairs_LS: ``count_pairs`` of the episode.
        usual_LS: Result of ``usual_shares``.

    Returns:
        (L, S) in [0, 1]; 1 where the label agrees with the primitive seen, and where the share is
        not unusually large.
    """
    trust = np.ones(pairs_LS.shape)
    if usual_LS is None:
        return trust
    share = _shares(pairs_LS)
    doubted = share > DOUBT_RATIO * usual_LS + LITTLE
    np.fill_diagonal(doubted, False)
    trust[doubted] = usual_LS[doubted] / share[doubted]
    return trust


def doubted_segments(trust_LS: np.ndarray) -> dict[str, dict[str, float]]:
    """Returns the segments that are not fully trusted, by the names of their primitives.

    Args:
        trust_LS: Result of ``segment_trust``.

    Returns:
        ``{label: {primitive seen: trust}}``.
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
