"""Linear probes: how well ridge regression predicts the true state from frozen features.

The probes are scored on held-out episodes.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from lib.data.dataset import Dataset
from lib.episode import STATE_HAND, STATE_OPENING, STATE_PLACE, STATE_YAW
from lib.learning.ridge import apply_ridge, fit_ridge
from lib.media import save

# Targets of the regression: the name of each and its column in labels/state.
TARGETS = {
    **{f"hand_{axis}": STATE_HAND.start + i for i, axis in enumerate("xyz")},
    "drawer_x": STATE_PLACE.start,
    "drawer_y": STATE_PLACE.start + 1,
    "drawer_yaw": STATE_YAW,
    "drawer_opening": STATE_OPENING,
}
# Factor and name of the unit in which the error of each target is stated.
UNITS = dict.fromkeys(TARGETS, (1000.0, "mm")) | {"drawer_yaw": (180 / np.pi, "deg")}
FIXED = 1e-6  # a target with a smaller standard deviation is the same in every episode


def r2(truth_NK: np.ndarray, predicted_NK: np.ndarray) -> np.ndarray:
    """Returns the coefficient of determination of each column, 1 - residual / total variance.

    Args:
        truth_NK: True values.
        predicted_NK: Predicted values.

    Returns:
        Coefficients, (K,).
    """
    residual = ((truth_NK - predicted_NK) ** 2).sum(0)
    return 1 - residual / ((truth_NK - truth_NK.mean(0)) ** 2).sum(0)


def telling(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Returns only the rows with a picture that shows the state recorded at the same step.

    Rows with a black picture and all rows of episodes with late pictures are left out.

    Args:
        dataset: Dataset with ``obs/image`` and the tags of the episodes.
        rows: Rows of the dataset to choose from.
    """
    late = np.zeros(len(dataset), bool)
    for e in dataset.episodes:
        late[e.rows] = "latency" in e.tags.get("stress_steps", {})
    return dataset.seen(rows[~late[rows]])


def fit_probe(features_NCHW: np.ndarray, dataset: Dataset, penalty: float) -> np.ndarray:
    """Fits a probe on training episodes.

    Only the rows that ``telling`` returns are used.

    Args:
        features_NCHW: Frozen features of every step of the dataset.
        dataset: Dataset with the splits, the tags, ``obs/image`` and ``labels/state``.
        penalty: Penalty of the ridge regression.

    Returns:
        Weights (D + 1, K), as of ``lib.learning.ridge.fit_ridge``, in the order of TARGETS.
    """
    views = dataset.part(lambda e: bool(e.tags.get("views")))
    films = dataset.part(lambda e: not e.tags.get("views"))
    # Consecutive frames of a film look nearly alike.
    train = np.concatenate([films.rows(["train"], every=2), views.rows(["train"])])
    train = telling(dataset, np.sort(train))
    return fit_ridge(_flat(features_NCHW)[train], truth_of(dataset)[train], penalty)


def _flat(features_NCHW: np.ndarray) -> np.ndarray:
    return features_NCHW.reshape(len(features_NCHW), -1)


def truth_of(dataset: Dataset) -> np.ndarray:
    """Returns the true value of each of TARGETS at every step, (N, len(TARGETS)) float64.

    Args:
        dataset: Dataset with ``labels/state``.
    """
    return dataset.arrays["labels/state"][:, list(TARGETS.values())].astype(np.float64)


def probe(
    weights: np.ndarray, features_NCHW: np.ndarray, dataset: Dataset
) -> tuple[dict[str, float], dict[str, float], dict[str, np.ndarray]]:
    """Scores a probe on test episodes.

    Only the rows that ``telling`` returns are used.

    Args:
        weights: Return value of ``fit_probe``.
        features_NCHW: Frozen features of every step of the dataset.
        dataset: Dataset with the splits, the tags, ``obs/image`` and ``labels/state``.

    Returns:
        Two dictionaries of scores and the data for plots. The scores are the R2 of each target that
        differs between episodes, the minimum of these, and the root mean square errors in mm, of
        the turn in degrees. The first dictionary is for
        test episodes under nominal light and camera, the second for test episodes under stressed
        light and camera (empty if there are none). The plot data are the truth and the prediction
        of the nominal test steps.
    """
    x, y = _flat(features_NCHW), truth_of(dataset)
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
    differs = truth.std(0) > FIXED
    names = [name for name, varies in zip(TARGETS, differs, strict=True) if varies]
    truth, predicted = truth[:, differs], predicted[:, differs]
    values = {f"{name}_r2": float(v) for name, v in zip(names, r2(truth, predicted), strict=True)}
    values["min_r2"] = min(values.values())
    errors = np.sqrt(((truth - predicted) ** 2).mean(0))
    for name, error in zip(names, errors.tolist(), strict=True):
        factor, unit = UNITS[name]
        values[f"{name}_{unit}"] = factor * error
    return {name: round(value, 6) for name, value in values.items()}


def neighbours(
    features_NCHW: np.ndarray, dataset: Dataset, queries: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the frames of other episodes with the most similar frozen features.

    Only the nearest frame of each episode is used, because the frames around it are nearly the
    same picture.

    Args:
        features_NCHW: Frozen features of every step of the dataset.
        dataset: Dataset with the episodes.
        queries: Rows of the query frames, (Q,).
        count: Largest number K of frames to find; fewer if there are fewer other episodes.

    Returns:
        Rows (Q, K) and their cosine similarities to the query, (Q, K), the nearest first. The mean
        over all frames is subtracted first; otherwise all frames would be similar.
    """
    x = _flat(features_NCHW).astype(np.float32)
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


def probe_scatter(path: Path, scatter: dict[str, np.ndarray], scores: dict[str, float]) -> None:
    """Plots the predictions of the probe against the truth, with one panel for each target.

    Args:
        path: PNG file to write.
        scatter: ``truth`` and ``predicted``, (N, K) each, in metres.
        scores: Scores from ``probe``, with the R2 of each target.
    """
    figure, axes = plt.subplots(
        1, len(TARGETS), figsize=(3 * len(TARGETS), 3.4), constrained_layout=True
    )
    for column, (name, axis) in enumerate(zip(TARGETS, axes, strict=True)):
        truth, predicted = scatter["truth"][:, column], scatter["predicted"][:, column]
        axis.plot(truth, predicted, ".", markersize=2, alpha=0.4)
        if len(truth):
            ends = [truth.min(), truth.max()]
            axis.plot(ends, ends, "k-", linewidth=0.8)
        axis.set_title(f"{name}: R² {scores.get(f'{name}_r2', float('nan')):.3f}")
        axis.set_xlabel("truth, rad" if name == "drawer_yaw" else "truth, m")
    axes[0].set_ylabel("read from frozen features")
    save(figure, path)


def neighbour_sheet(
    path: Path,
    images: np.ndarray,
    hand: np.ndarray,
    queries: np.ndarray,
    found: dict[str, tuple[np.ndarray, np.ndarray]],
) -> None:
    """Draws test frames and the most similar frames of other episodes for each backbone.

    Args:
        path: PNG file to write.
        images: Pictures, (N, H, W, 3) uint8.
        hand: True positions of the hand, (N, 3), m.
        queries: Rows of the test frames, (Q,).
        found: Rows and similarities from ``neighbours``, (Q, K) each, by name of the backbone.
    """
    # A narrow empty column separates the backbones.
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
