"""How well the spatial RNN foresees held-out episodes, against persistence."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lib.models.convgru import ConvGRU

HORIZONS = (1, 4, 8)
BATCH = 64


@torch.inference_mode()
def prediction_skill(
    model: ConvGRU | None, windows, normalize, warmup: int, *, seed: int
) -> tuple[dict[str, float], dict[str, float], list[dict[str, float]]]:
    """Open-loop skill after a warm-up of real frames, 1 - MSE / MSE of persistence.

    MSE is that of normalised features, over all windows and positions. Persistence repeats the
    last real frame.

    Args:
        model: The RNN; None for persistence itself, whose skill is 0.
        windows: Held-out windows (``lib.training.rnn.Windows``).
        normalize: Of the features.
        warmup: Real frames.
        seed: Shuffles the actions among windows.

    Returns:
        Skill at HORIZONS; the same with the future actions of other windows; and a row a step
        for a plot.
    """
    steps = 8
    sums = np.zeros((3, steps))  # model, model with shuffled actions, persistence
    rng = np.random.default_rng(seed)
    for start in range(0, len(windows), BATCH):
        maps, actions = windows.batch(np.arange(start, min(start + BATCH, len(windows))))
        z = normalize(maps)
        shuffled = actions.clone()
        shuffled[warmup - 1 :] = actions[warmup - 1 :, rng.permutation(actions.shape[1])]
        for level, real in z.items():
            future = real[warmup : warmup + steps]
            sums[2] += _squared(real[warmup - 1], future)
            for row, given in enumerate((actions, shuffled)):
                if model is None:
                    sums[row] += _squared(real[warmup - 1], future)
                    continue
                predicted, _ = model.rollout(z, given, warmup)
                sums[row] += _squared(predicted[level][warmup - 1 :][:steps], future)
    skill, skill_shuffled = (1 - sums[row] / sums[2] for row in (0, 1))
    rows = [
        {"k": k + 1, "skill": float(skill[k]), "skill_shuffled_actions": float(skill_shuffled[k])}
        for k in range(steps)
    ]
    return (
        {f"k{k}": round(float(skill[k - 1]), 6) for k in HORIZONS},
        {f"k{k}": round(float(skill_shuffled[k - 1]), 6) for k in HORIZONS},
        rows,
    )


def _squared(predicted: Tensor, real_TBCHW: Tensor) -> np.ndarray:
    return ((predicted - real_TBCHW) ** 2).sum((1, 2, 3, 4)).double().numpy()
