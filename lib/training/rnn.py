"""Training of the spatial RNN: what the features will be, given what the robot does.

Tensor suffixes: T window, B batch, N steps of a dataset, A action.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from lib.halves import in_halves, split
from lib.losses.dynamics import dynamics_loss
from lib.manifest import Dataset
from lib.models.convgru import ConvGRU
from lib.params import Rnn, Safety
from lib.perception.memory import Normalizer
from lib.training.loop import Curve, Optimizer, fit, warmup_cosine


class Windows:
    """Stretches of consecutive frames of one episode."""

    def __init__(
        self,
        features: Mapping[str, np.ndarray],
        dataset: Dataset,
        splits: list[str],
        window: int,
        stride: int = 1,
        without: np.ndarray | None = None,
    ) -> None:
        """Lists every stretch.

        Args:
            features: (N, C, H, W) float16 by level.
            dataset: Holds ``actions`` and the episodes.
            splits: Of the episodes.
            window: Frames of a stretch.
            stride: Frames between two starts.
            without: Rows that no stretch may hold.
        """
        self._features, self._actions, self._window = features, dataset.arrays["actions"], window
        starts = [
            np.arange(e.start, e.stop - window + 1, stride)
            for e in dataset.episodes
            if e.split in splits
        ]
        self.starts = np.concatenate(starts or [np.arange(0)])
        if without is not None:
            bad = np.zeros(len(dataset) + 1, np.int64)
            bad[without + 1] = 1
            before = bad.cumsum()
            self.starts = self.starts[before[self.starts + window] == before[self.starts]]

    def __len__(self) -> int:
        """Returns how many there are."""
        return len(self.starts)

    def batch(self, chosen: np.ndarray) -> tuple[dict[str, Tensor], Tensor]:
        """Returns some of them.

        Args:
            chosen: (B,) indices.

        Returns:
            Features (T, B, C, H, W) by level and actions (T, B, A).
        """
        rows = self.starts[chosen][None] + np.arange(self._window)[:, None]
        maps = {k: torch.from_numpy(v[rows]) for k, v in self._features.items()}
        return maps, torch.from_numpy(self._actions[rows])


def train_rnn(
    model: ConvGRU,
    windows: Windows,
    normalize: Normalizer,
    settings: Rnn,
    safety: Safety,
    fabric: Fabric,
) -> Curve:
    """Trains on windows: real frames through a warm-up, own predictions after it.

    The warm-up of a batch is drawn from one frame to ``settings.warmup``.

    Args:
        model: Trained in place.
        windows: Training windows.
        normalize: Of the features.
        settings: The recipe.
        safety: Clipping and NaN guard.
        fabric: Device and precision.

    Returns:
        Curves of ``prediction``, ``smoothness`` and ``total``.
    """
    model.to(fabric.device).train()
    rng = np.random.default_rng(int(torch.randint(2**31, ())))

    def losses_of_step(step: int) -> dict[str, Tensor]:
        maps, actions = windows.batch(rng.choice(len(windows), settings.batch_size))
        z = {name: x.to(fabric.device) for name, x in normalize(maps).items()}
        # With one real frame it cannot see which way things move: it has to go by the actions.
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
        )

    optimizer = Optimizer(
        "rnn",
        model.parameters(),
        settings.lr,
        safety,
        schedule=warmup_cosine(settings.steps, 0.05),
    )
    return fit("rnn", losses_of_step, optimizer, settings.steps, fabric.autocast)
