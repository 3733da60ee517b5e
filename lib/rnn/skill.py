"""Prediction skill of the spatial RNN on held-out episodes, compared with persistence."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lib.base.seeds import named_seed
from lib.models.convgru import ConvGRU

HORIZONS = (1, 4, 8)
STEPS = max(HORIZONS)
BATCH = 64


@torch.inference_mode()
def prediction_skill(
    model: ConvGRU | None, windows, normalize, warmup: int, *, seed: int, controls: bool = True
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Measures the skill of predictions after a warm-up of real frames.

    Skill is 1 - MSE / MSE of persistence. The MSE is taken on normalised features, over all
    windows and positions. Persistence repeats the last real frame. Open loop, the model continues
    from its own predictions. With teacher forcing, it sees every real frame and predicts the next
    frame.

    Args:
        model: The RNN; None for persistence itself, which has a skill of 0.
        windows: Held-out windows (``lib.data.dataset.Windows``), ``warmup + STEPS`` frames each.
        normalize: Normaliser of the features.
        warmup: Number of real frames before the predictions.
        seed: Seed of the permutation that pairs each window with the actions of another window.
        controls: Whether to measure the other results besides ``skill``, at four times the work.

    Returns:
        A dictionary of results and a list of rows for a plot, one row for each step. ``skill`` is
        open loop at HORIZONS. ``skill_teacher_forced`` is with teacher forcing.
        ``skill_shuffled_actions`` is open loop with the actions after the warm-up from another
        window. ``skill_shuffled_windows`` is open loop with all actions from another window.
    """
    rng = np.random.default_rng(named_seed(seed, "shuffled windows"))
    others = rng.permutation(len(windows))
    names = ("skill", "skill_shuffled_actions", "skill_shuffled_windows")[: 3 if controls else 1]
    errors = {name: np.zeros(STEPS) for name in (*names, "persistence")}
    forced = {"model": 0.0, "persistence": 0.0}
    for start in range(0, len(windows), BATCH):
        chosen = np.arange(start, min(start + BATCH, len(windows)))
        maps, actions = windows.batch(chosen)
        z, taken = normalize(maps), [actions]
        for real in z.values():
            errors["persistence"] += _squared(real[warmup - 1], real[warmup:])
        if controls:
            _, other = windows.batch(others[chosen])
            later = actions.clone()
            later[warmup - 1 :] = other[warmup - 1 :]
            taken += [later, other]
            predicted = _rollout(model, z, actions, len(actions))
            for level, real in z.items():
                forced["model"] += _squared(predicted[level][warmup - 1 :], real[warmup:]).sum()
                forced["persistence"] += _squared(real[warmup - 1 : -1], real[warmup:]).sum()
        for name, mine in zip(names, taken, strict=True):
            predicted = _rollout(model, z, mine, warmup)
            for level, real in z.items():
                errors[name] += _squared(predicted[level][warmup - 1 :], real[warmup:])
    skill = {name: 1 - errors[name] / errors["persistence"] for name in names}
    rows = [{"k": k + 1, **{name: float(skill[name][k]) for name in names}} for k in range(STEPS)]
    metrics: dict[str, Any] = {
        name: {f"k{k}": round(float(skill[name][k - 1]), 6) for k in HORIZONS} for name in names
    }
    if controls:
        metrics["skill_teacher_forced"] = round(1 - forced["model"] / forced["persistence"], 6)
    return metrics, rows


def _rollout(
    model: ConvGRU | None, z: dict[str, Tensor], actions_TBA: Tensor, warmup: int
) -> dict[str, Tensor]:
    """Returns the predictions (T - 1, B, C, H, W) of the model, or of persistence."""
    if model is not None:
        return model.rollout(z, actions_TBA, warmup)[0]
    seen = torch.arange(len(actions_TBA) - 1).clamp_max(warmup - 1)
    return {level: real[seen] for level, real in z.items()}


def _squared(predicted: Tensor, real_TBCHW: Tensor) -> np.ndarray:
    return ((predicted - real_TBCHW) ** 2).sum((1, 2, 3, 4)).double().numpy()
