"""Whether the spatial RNN's surprise tells stressed episodes from nominal ones.

The episodes are rolled out for this alone: the scripted expert on positions of their own, nominal
or under one kind of stress. No training and no calibration sees them.

Tensor suffixes: T steps, H height, W width, A action.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch

from lib.console import say
from lib.errors import UserError
from lib.manifest import Dataset
from lib.models.convgru import ConvGRU
from lib.paths import MANIFEST, relative
from lib.perception.memory import Normalizer, SurpriseScale, episode_errors
from lib.sim.env import ManipulationEnv, episode_seed
from lib.sim.experts import ScriptedExpert
from lib.sim.stress import STRESS_KINDS, Stress
from lib.workers import ordered_map

VISUAL = ("light", "camera", "dropout")
DYNAMIC = ("misgrasp", "slip", "push", "dynamics")
EPISODE_QUANTILE = 0.95
STREAM = "surprise-test"  # the score was chosen on the positions of another one
HORIZON = 100  # control steps: the expert needs 86
NOMINAL = frozenset({"action_noise"})  # what a nominal episode of phase 1 may carry


def calibrate(
    model: ConvGRU | None,
    features: Mapping[str, np.ndarray],
    dataset: Dataset,
    normalize: Normalizer,
    quantile: float,
    factor: float,
) -> SurpriseScale:
    """Measures what prediction errors are usual on nominal validation episodes.

    Args:
        model: The RNN in evaluation mode; None for persistence.
        features: (N, C, H, W) by level, rows as in the dataset.
        dataset: Holds ``actions``.
        normalize: Of the features.
        quantile: Of ``SurpriseScale.of``.
        factor: Of ``SurpriseScale.of``.

    Raises:
        UserError: If no episode is nominal.
    """
    nominal = [e for e in dataset.episodes if set(e.tags.get("stress", {})) <= NOMINAL]
    chosen = [e for e in nominal if e.split == "valid"]
    if not chosen:
        say("surprise: no validation episode is nominal, calibrated on the training ones")
        chosen = [e for e in nominal if e.split == "train"]
    if not chosen:
        raise UserError(
            f"{relative(MANIFEST)}: no episode is nominal, so surprise cannot be calibrated; raise "
            "phase1_sima2.episodes"
        )
    errors = []
    for e in chosen:
        z = normalize({level: torch.from_numpy(x[e.rows]) for level, x in features.items()})
        actions = torch.from_numpy(dataset.arrays["actions"][e.rows])
        errors.append(episode_errors(model, z, actions))
    return SurpriseScale.of(errors, quantile, factor)


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


@lru_cache(maxsize=1)
def _worker_env(task: str, image_size: int) -> ManipulationEnv:
    # One environment a process: a second one could disturb the first one's pictures.
    env = ManipulationEnv(task, image_size=image_size, horizon=HORIZON)
    atexit.register(env.close)  # before the OpenGL library goes
    return env


def watch(
    task: str, index: int, seed: int, image_size: int, stress: Stress
) -> tuple[np.ndarray, np.ndarray]:
    """Rolls the expert out once and keeps what it saw and did.

    Args:
        task: A name in lib/sim/tasks.py.
        index: Number of the episode; with the seed it decides everything.
        seed: The data seed; the stream is the suite's own.
        image_size: Pixels, square.
        stress: What goes wrong.

    Returns:
        (T, H, W, 3) uint8 frames and (T, A) float32 actions as executed.
    """
    env = _worker_env(task, image_size)
    expert = ScriptedExpert(env.task)
    observation, info = env.reset(
        seed=episode_seed(seed, index, STREAM), options={"stress": stress}
    )
    images, actions, over = [], [], False
    while not over:
        images.append(observation["image"])
        observation, _, terminated, truncated, info = env.step(expert(info["expert_obs"]))
        actions.append(info["executed"])
        over = terminated or truncated
    return np.stack(images), np.stack(actions).astype(np.float32)


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
        Kind, frames and actions of each episode.
    """
    kinds = suite_kinds(per_kind)
    stresses = [Stress(**({} if kind == "nominal" else {kind: severity})) for kind in kinds]
    arguments = ((task, i, seed, image_size, stress) for i, stress in enumerate(stresses))
    episodes = ordered_map(watch, arguments, timeout_s)
    for kind, (images, actions) in zip(kinds, episodes, strict=True):
        yield kind, images, actions
