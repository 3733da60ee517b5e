"""Training of the spatial RNN, which predicts future features from the actions of the robot.

Tensor suffixes: T window, B batch, A action.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from lib.base.seeds import named_seed
from lib.data.dataset import Windows
from lib.learning.halves import in_halves, split
from lib.learning.loop import Curve, Optimizer, fit, warmup_cosine
from lib.losses.dynamics import dynamics_loss
from lib.models.convgru import ConvGRU
from lib.params import Safety
from lib.rnn import Rnn
from lib.rnn.normalizer import Normalizer


def train_rnn(
    model: ConvGRU,
    windows: Windows,
    normalize: Normalizer,
    settings: Rnn,
    safety: Safety,
    fabric: Fabric,
    seed: int,
    seen_N: np.ndarray,
) -> Curve:
    """Trains the RNN on windows: on real frames in a warm-up, then on its own predictions.

    The length of the warm-up is drawn for each batch, from one frame to ``settings.warmup``. The
    RNN takes in black pictures, but none is a target: nothing foretells that a camera fails, and
    the error of one black picture is as large as that of a hundred others.

    Args:
        model: RNN, trained in place.
        windows: Training windows.
        normalize: Normaliser of the features.
        settings: Training settings.
        safety: Settings of the gradient clipping and the NaN guard.
        fabric: Lightning Fabric, which sets device and precision.
        seed: Seed for the choice of the windows and their warm-ups.
        seen_N: Whether the picture of each row of the dataset is not black.

    Returns:
        Loss curves of ``prediction``, ``smoothness`` and ``total``.
    """
    model.to(fabric.device).train()
    rng = np.random.default_rng(named_seed(seed, "windows"))
    following = np.arange(1, settings.window)

    def losses_of_step(step: int) -> dict[str, Tensor]:
        chosen = rng.choice(len(windows), settings.batch_size)
        maps, actions = windows.batch(chosen)
        seen_TB = torch.from_numpy(seen_N[windows.starts[chosen] + following[:, None]])
        z = {name: x.to(fabric.device) for name, x in normalize(maps).items()}
        # With only one real frame the model cannot see motion, so it must learn to use the actions.
        warmup = int(rng.integers(1, settings.warmup + 1))
        actions = actions.to(fabric.device)

        def rollout(part: slice) -> list[Tensor]:
            mine = {name: x[:, part] for name, x in z.items()}
            predicted, hidden = model.rollout(mine, actions[:, part], warmup)
            return [*predicted.values(), *hidden.values()]

        works = [partial(rollout, part) for part in split(actions.shape[1])]
        outs = [x.float() for x in in_halves(works, model.parameters(), dim=1)]
        levels = len(model.levels)
        return dynamics_loss(
            outs[:levels],
            [z[name][1:] for name in model.levels],
            outs[levels:],
            settings.alpha,
            settings.beta,
            seen_TB.to(fabric.device),
        )

    optimizer = Optimizer(
        "rnn",
        model.parameters(),
        settings.lr,
        safety,
        schedule=warmup_cosine(settings.steps),
    )
    return fit("rnn", losses_of_step, optimizer, settings.steps, fabric.autocast)
