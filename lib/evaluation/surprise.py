"""Whether the spatial RNN's surprise tells stressed episodes from nominal ones.

The episodes are rolled out for this alone: the scripted expert on positions of their own, nominal
or under one kind of stress. No training and no calibration sees them.

Tensor suffixes: T steps, H height, W width, A action.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from lib.console import say
from lib.errors import UserError
from lib.manifest import Dataset
from lib.models.convgru import ConvGRU
from lib.paths import MANIFEST, relative
from lib.perception.memory import Normalizer, SurpriseScale, episode_errors
from lib.sim.rollout import stressed_rollouts
from lib.sim.stress import STRESS_KINDS, Stress

VISUAL = ("light", "camera", "dropout")
DYNAMIC = ("misgrasp", "slip", "push", "dynamics")
EPISODE_QUANTILE = 0.95
STREAM = "surprise-test"  # the score was chosen on the positions of another one
HORIZON = 50  # control steps: the expert needs 44
NOMINAL = frozenset({"action_noise"})  # what a nominal episode of phase 1 may carry


def calibrate(
    model: ConvGRU | None,
    features: Mapping[str, np.ndarray],
    dataset: Dataset,
    normalize: Normalizer,
    *,
    components: int,
    quantile: float,
    factor: float,
) -> SurpriseScale:
    """Measures what prediction errors are usual on nominal episodes.

    Training episodes give their covariance, of which there must be many; validation episodes say
    how large they are where nobody trained.

    Args:
        model: The RNN in evaluation mode; None for persistence.
        features: (N, C, H, W) by level, rows as in the dataset.
        dataset: Holds ``actions``.
        normalize: Of the features.
        components: Of ``SurpriseScale.of``.
        quantile: Of ``SurpriseScale.of``.
        factor: Of ``SurpriseScale.of``.

    Raises:
        UserError: If no episode is nominal.
    """
    nominal = [e for e in dataset.episodes if set(e.tags.get("stress", {})) <= NOMINAL]
    train, valid = ([e for e in nominal if e.split == split] for split in ("train", "valid"))
    if not train and not valid:
        raise UserError(
            f"{relative(MANIFEST)}: no episode is nominal, so surprise cannot be calibrated; raise "
            "phase1_sima2.episodes"
        )
    if not train or not valid:
        say("surprise: nominal episodes of one split only, which calibrate alone")
    errors = {}
    for name, chosen in (("train", train or valid), ("valid", valid or train)):
        errors[name] = [
            episode_errors(
                model,
                normalize({level: torch.from_numpy(x[e.rows]) for level, x in features.items()}),
                torch.from_numpy(dataset.arrays["actions"][e.rows]),
            )
            for e in chosen
        ]
    return SurpriseScale.of(errors["train"], errors["valid"], components, quantile, factor)


def episode_score(scale: SurpriseScale, errors: Mapping[str, torch.Tensor]) -> float:
    """Returns the surprise of an episode: the 0.95 quantile of ``SurpriseScale.value``.

    What goes wrong for a twentieth of an episode shows, a single odd frame does not.

    Args:
        scale: The calibration.
        errors: What ``episode_errors`` gave.
    """
    return float(torch.quantile(scale.value(errors).double(), EPISODE_QUANTILE))


def separation(scores: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Says how well the scores of episodes tell stressed ones from nominal ones.

    Args:
        scores: Kind and score of each episode of a suite.

    Returns:
        AUROC of the visual and dynamic kinds together (``auroc``), and of each kind alone.
    """
    by_kind: dict[str, list[float]] = {}
    for kind, value in scores:
        by_kind.setdefault(kind, []).append(value)
    nominal = by_kind.pop("nominal")
    together = [v for kind in (*VISUAL, *DYNAMIC) for v in by_kind[kind]]
    return {
        "auroc": round(auroc(together, nominal), 6),
        **{kind: round(auroc(values, nominal), 6) for kind, values in by_kind.items()},
    }


def auroc(stressed: Sequence[float], nominal: Sequence[float]) -> float:
    """Returns the probability that a stressed score exceeds a nominal one; ties count half.

    Args:
        stressed: Scores that should be high.
        nominal: Scores that should be low.
    """
    high, low = np.asarray(stressed)[:, None], np.asarray(nominal)[None]
    return float((high > low).mean() + 0.5 * (high == low).mean())


def suite_kinds(per_kind: int) -> list[str]:
    """Returns the kind of each episode: three times ``per_kind`` nominal, then each stress.

    Args:
        per_kind: Episodes of each stress.
    """
    return ["nominal"] * 3 * per_kind + [kind for kind in STRESS_KINDS for _ in range(per_kind)]


def suite(
    task: str, seed: int, image_size: int, per_kind: int, severity: float, timeout_s: float
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Rolls the episodes of ``suite_kinds`` out.

    Args:
        task: A name in lib/sim/tasks.py.
        seed: The data seed.
        image_size: Pixels, square.
        per_kind: Episodes of each stress.
        severity: Of the one kind that is active.
        timeout_s: Longest wait for one episode.

    Yields:
        Kind, (T, H, W, 3) uint8 frames and (T, A) float32 actions of each episode. The actions are
        those asked for: of what noise or a slip made of them a robot knows nothing.
    """
    kinds = suite_kinds(per_kind)
    rollouts = stressed_rollouts(
        [Stress(**({} if kind == "nominal" else {kind: severity})) for kind in kinds],
        task,
        seed,
        STREAM,
        horizon=HORIZON,
        image_size=image_size,
        timeout_s=timeout_s,
        pixel_labels=False,
    )
    for kind, item in zip(kinds, rollouts, strict=True):
        yield kind, item.obs["image"], item.labels["command"]
