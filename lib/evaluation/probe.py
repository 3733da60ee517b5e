"""Linear probes: what a ridge regression can read from frozen features on held-out episodes."""

from __future__ import annotations

import numpy as np

from lib.manifest import Dataset
from lib.ridge import apply_ridge, fit_ridge

# Columns of labels/state; see lib/sim/env.py.
TARGETS = {"hand_x": 0, "hand_y": 1, "hand_z": 2, "drawer_x": 4, "drawer_opening": 7}


def r2(truth_NK: np.ndarray, predicted_NK: np.ndarray) -> np.ndarray:
    """Coefficient of determination, 1 - residual / total variance, by column.

    Args:
        truth_NK: Targets.
        predicted_NK: Predictions.

    Returns:
        (K,).
    """
    residual = ((truth_NK - predicted_NK) ** 2).sum(0)
    return 1 - residual / ((truth_NK - truth_NK.mean(0)) ** 2).sum(0)


def telling(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Returns those of some rows whose picture shows the state beside it: not black, and not late.

    Args:
        dataset: Holds ``obs/image`` and the episodes' tags.
        rows: Some of its rows.
    """
    late = np.zeros(len(dataset), bool)
    for e in dataset.episodes:
        late[e.rows] = "latency" in e.tags.get("stress_steps", {})
    return dataset.seen(rows[~late[rows]])


def probe(
    features_NCHW: np.ndarray, states_NS: np.ndarray, dataset: Dataset, penalty: float
) -> tuple[dict[str, float], dict[str, float], dict[str, np.ndarray]]:
    """Fits on training episodes, scores on test episodes; only on pictures that can tell.

    Args:
        features_NCHW: Frozen features of every step of the dataset.
        states_NS: Its labels/state.
        dataset: Its splits and ``obs/image``.
        penalty: Of the ridge.

    Returns:
        R2 by target with their minimum, and root mean square errors in mm: on test episodes under
        nominal light and camera, and on those under stressed ones (empty where there are none);
        and for plots the truth and prediction of the nominal test steps.
    """
    x = features_NCHW.reshape(len(features_NCHW), -1)
    y = states_NS[:, list(TARGETS.values())].astype(np.float64)
    train = telling(dataset, dataset.rows(["train"])[::2])  # neighbours in time are nearly the same
    weights = fit_ridge(x[train], y[train], penalty)
    scores, scatter = [], {}
    for visual in (True, False):
        rows = telling(dataset, dataset.rows(["test"], visual=visual))
        scatter = {"truth": y[rows], "predicted": apply_ridge(weights, x[rows].astype(np.float64))}
        scores.append(_scores(**scatter))
    stressed, nominal = scores
    return nominal, stressed, scatter


def _scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    if len(truth) < 2:
        return {}
    values = {f"{name}_r2": float(v) for name, v in zip(TARGETS, r2(truth, predicted), strict=True)}
    values["min_r2"] = min(values.values())
    error = 1000 * np.sqrt(((truth - predicted) ** 2).mean(0))
    values |= {f"{name}_mm": float(v) for name, v in zip(TARGETS, error, strict=True)}
    return {name: round(value, 6) for name, value in values.items()}


def neighbours(
    features_NCHW: np.ndarray, dataset: Dataset, queries: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the frames of other episodes that look most alike to frozen features.

    An episode gives its nearest frame only: the frames around it are nearly the same picture.

    Args:
        features_NCHW: Frozen features of every step of the dataset.
        dataset: Its episodes.
        queries: (Q,) rows.
        count: How many, at most; fewer where there are fewer other episodes.

    Returns:
        Rows (Q, K) and their cosine similarities to the query, (Q, K), the nearest first. The mean
        over all frames is taken off first, or everything would be alike.
    """
    x = features_NCHW.reshape(len(features_NCHW), -1).astype(np.float32)
    x -= x.mean(0)
    x /= np.linalg.norm(x, axis=1, keepdims=True) + 1e-12
    similarity = x[queries] @ x.T
    best = np.empty((len(queries), len(dataset.episodes)), np.int64)
    values = np.empty(best.shape, np.float32)
    for column, episode in enumerate(dataset.episodes):
        part = similarity[:, episode.rows]
        best[:, column] = part.argmax(1) + episode.start
        own = (queries >= episode.start) & (queries < episode.stop)
        values[:, column] = np.where(own, -np.inf, part.max(1))
    count = min(count, len(dataset.episodes) - 1)
    order = np.argsort(-values, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(best, order, 1), np.take_along_axis(values, order, 1)
