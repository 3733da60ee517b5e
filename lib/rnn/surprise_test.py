"""Test of whether the surprise of the spatial RNN separates stressed from nominal episodes.

The episodes are rolled out only for this test, by the scripted expert on positions that are used
for nothing else, nominal or under one kind of stress. Training and calibration do not use them.

Tensor suffixes: T steps, H height, W width, A action.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from lib.base.console import say
from lib.base.errors import UserError
from lib.base.paths import MANIFEST, relative
from lib.data.dataset import Dataset, Reference
from lib.models.convgru import ConvGRU
from lib.rnn.motion import MotionModel
from lib.rnn.normalizer import Normalizer
from lib.rnn.surprise import Sensed, SurpriseScale, episode_deviations
from lib.sim.rollout import RolloutRequest, stressed_rollouts
from lib.sim.stress import Stress, stress_kinds

EPISODE_QUANTILE = 0.95
STREAM = "surprise-test"  # the episode score was chosen on the positions of another stream
HORIZON = 70  # control steps; the expert needs 60 in the wide world
NOMINAL = frozenset({"action_noise"})  # stress kinds that a nominal episode of phase 1 may have


def calibrate(
    model: ConvGRU | None,
    seen: Mapping[str, np.ndarray],
    dataset: Dataset,
    normalize: Normalizer,
    *,
    components: int,
    quantile: float,
    factor: float,
) -> tuple[MotionModel, SurpriseScale]:
    """Fits the model of the motion and calibrates the scale of surprise, on nominal episodes.

    The training episodes give the model and the covariances, because these need many episodes. The
    validation episodes show how large deviations are on episodes that were not trained on.

    Args:
        model: The RNN in evaluation mode; None for persistence.
        seen: Features (N, C, H, W) by level, and ``look`` and ``hand`` (see ``FrozenBackbone``),
            with rows as in the dataset.
        dataset: Dataset with ``obs/eef_pos``, ``obs/gripper`` and ``actions``.
        normalize: Normaliser of the features.
        components: Number of principal axes with their own variance.
        quantile: Share of the validation frames that are known.
        factor: Ratio of the threshold for unknown frames to the threshold for known frames.

    Raises:
        UserError: If no training or validation episode is nominal.
    """
    nominal = [e for e in dataset.episodes if set(e.tags.get("stress", {})) <= NOMINAL]
    train, valid = ([e for e in nominal if e.split == split] for split in ("train", "valid"))
    if not train and not valid:
        raise UserError(
            f"{relative(MANIFEST)}: no episode is nominal, so surprise cannot be calibrated; raise "
            "phase1_sima2.episodes"
        )
    if not train or not valid:
        say("surprise: only one split has nominal episodes, so it alone sets covariance and scale")

    proprio, actions = dataset.proprio(), dataset.arrays["actions"]
    motion = MotionModel.fit([(proprio[e.rows], actions[e.rows]) for e in train or valid])

    def deviations(episodes: Sequence[Reference]) -> list[dict[str, torch.Tensor]]:
        found = []
        for e in episodes:
            mine = {name: torch.from_numpy(x[e.rows]) for name, x in seen.items()}
            sensed = Sensed(
                normalize(mine), mine["look"], mine["hand"], proprio[e.rows], actions[e.rows]
            )
            found.append(episode_deviations(model, motion, sensed))
        return found

    of_train, of_valid = deviations(train), deviations(valid)
    both = (of_train or of_valid, of_valid or of_train)
    return motion, SurpriseScale.of(*both, components, quantile, factor)


def episode_score(scale: SurpriseScale, deviations: Mapping[str, torch.Tensor]) -> float:
    """Returns the surprise of an episode: the 0.95 quantile of ``SurpriseScale.value``.

    This quantile shows a fault that lasts for a twentieth of an episode, but not a single odd
    frame.

    Args:
        scale: Calibrated scale of surprise.
        deviations: Return value of ``episode_deviations``.
    """
    return float(torch.quantile(scale.value(deviations).double(), EPISODE_QUANTILE))


def separation(scores: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Measures how well the scores of episodes separate stressed from nominal episodes.

    Args:
        scores: Stress kind and score of each episode of a suite.

    Returns:
        AUROC of all kinds together (``auroc``), and of each kind by name.
    """
    by_kind: dict[str, list[float]] = {}
    for kind, value in scores:
        by_kind.setdefault(kind, []).append(value)
    nominal = by_kind.pop("nominal")
    together = [value for values in by_kind.values() for value in values]
    return {
        "auroc": round(auroc(together, nominal), 6),
        **{kind: round(auroc(values, nominal), 6) for kind, values in by_kind.items()},
    }


def auroc(stressed: Sequence[float], nominal: Sequence[float]) -> float:
    """Returns the probability that a stressed score exceeds a nominal one; ties count half.

    Args:
        stressed: Scores of stressed episodes, which should be high.
        nominal: Scores of nominal episodes, which should be low.
    """
    high, low = np.asarray(stressed)[:, None], np.asarray(nominal)[None]
    return float((high > low).mean() + 0.5 * (high == low).mean())


def suite_kinds(world: str, per_kind: int) -> list[str]:
    """Returns the kind of each episode: ``3 * per_kind`` nominal episodes, then each stress kind.

    Args:
        world: World of the episodes.
        per_kind: Number of episodes for each stress kind.
    """
    kinds = [kind for kind in stress_kinds(world) for _ in range(per_kind)]
    return ["nominal"] * 3 * per_kind + kinds


def suite(
    task: str, world: str, seed: int, image_size: int, per_kind: int, severity: float
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Rolls out the episodes of ``suite_kinds``.

    Args:
        task: Name of a task in lib/sim/tasks.py.
        world: World of the rollouts.
        seed: Data seed.
        image_size: Side of the square pictures, pixels.
        per_kind: Number of episodes for each stress kind.
        severity: Severity of the one stress kind that is active in an episode.

    Yields:
        Kind, (T, H, W, 3) uint8 frames, (T, P) float32 proprioception and (T, A) float32 actions of
        each episode. The actions are the commanded ones, because a robot does not know how noise or
        a slip changed them.
    """
    kinds = suite_kinds(world, per_kind)
    asked = RolloutRequest(
        task, world, seed, image_size, HORIZON, stream=STREAM, pixel_labels=False
    )
    stresses = [Stress(**({} if kind == "nominal" else {kind: severity})) for kind in kinds]
    rollouts = stressed_rollouts(asked, stresses)
    for kind, item in zip(kinds, rollouts, strict=True):
        proprio = np.concatenate([item.obs["eef_pos"], item.obs["gripper"]], 1)
        yield kind, item.obs["image"], proprio, item.labels["command"]
