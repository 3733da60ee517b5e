"""Training loop of the models: schedule, gradient clipping, NaN guard, progress and loss curves.

The caller supplies a function that returns the losses of a step. Everything that must hold for
every training is implemented here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from lib.base.console import say, track
from lib.base.errors import UserError
from lib.learning.device import Autocast
from lib.params import Safety

CURVE_POINTS = 60  # rows of a loss curve: enough to show its shape, few enough to keep in Git


class Optimizer:
    """AdamW with gradient clipping and a guard against NaN and infinity."""

    def __init__(
        self,
        name: str,
        parameters: Iterable[torch.nn.Parameter],
        lr: float,
        safety: Safety,
        *,
        weight_decay: float = 0.0,
        schedule: Callable[[int], float] | None = None,
    ) -> None:
        """Creates an AdamW optimiser for the parameters.

        Args:
            name: Section of params.yaml, for the message of the NaN guard.
            parameters: Parameters to train; those without gradients are left out.
            lr: Peak learning rate.
            safety: Gradient clipping norm, and the reaction to NaN.
            weight_decay: Weight decay of AdamW; with 0 the optimiser is Adam.
            schedule: Function from the step number to a factor on the learning rate.
        """
        self._name, self._safety, self._schedule = name, safety, schedule
        self._parameters = [p for p in parameters if p.requires_grad]
        self._lr = lr
        self._adam = torch.optim.AdamW(
            self._parameters, lr=lr, weight_decay=weight_decay, fused=True
        )
        self.steps = self.skipped = 0

    def step(self, loss: Tensor) -> None:
        """Computes the gradient of a loss, clips it and takes an optimiser step.

        Args:
            loss: Scalar loss.

        Raises:
            UserError: If the loss or gradient is NaN or infinite, unless ``safety.nan`` is
                ``clip``. In that case the step is skipped and counted.
        """
        if self._schedule is not None:
            for group in self._adam.param_groups:
                group["lr"] = self._lr * self._schedule(self.steps)
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._safety.max_grad_norm)
        self.steps += 1
        if torch.isfinite(norm) and torch.isfinite(loss):
            self._adam.step()
        elif self._safety.nan == "clip":
            self.skipped += 1
        else:
            raise UserError(
                f"{self._name}: loss {loss.item():g}, gradient norm {norm.item():g} at step "
                f"{self.steps}; lower {self._name}.lr, or set safety.nan to clip to skip such steps"
            )


def warmup_cosine(steps: int, warmup: float = 0.05) -> Callable[[int], float]:
    """Returns a learning rate schedule: linear warm-up, then half a cosine down to zero.

    Args:
        steps: Total number of optimiser steps.
        warmup: Share of the steps in which the learning rate rises.
    """
    rise = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return factor


def hold_then_fall(steps: int, hold: float, floor: float = 0.1) -> Callable[[int], float]:
    """Returns a learning rate schedule: constant, then a linear decrease.

    Args:
        steps: Total number of optimiser steps; after them the factor stays at ``floor``.
        hold: Share of the steps in which the learning rate is constant.
        floor: Factor at the end.
    """
    begin = steps * hold

    def factor(step: int) -> float:
        share = (step - begin) / max(1.0, steps - begin)
        return 1 - (1 - floor) * min(1.0, max(0.0, share))

    return factor


class Curve:
    """Means of logged values over equal intervals of a training, as rows of a CSV file."""

    def __init__(self, steps: int) -> None:
        """Creates an empty curve.

        Args:
            steps: Total number of training steps.
        """
        self._steps, self._every = steps, max(1, math.ceil(steps / CURVE_POINTS))
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._step = 0
        self.rows: list[dict[str, Any]] = []

    def log(self, values: dict[str, Tensor]) -> None:
        """Adds the values of the next step.

        Args:
            values: Scalars by name.
        """
        self._step += 1
        for name, value in values.items():
            if not math.isfinite(value):
                continue  # the NaN guard skipped this step
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
            self._counts[name] = self._counts.get(name, 0) + 1
        if self._step % self._every == 0 or self._step == self._steps:
            means = {name: total / self._counts[name] for name, total in self._sums.items()}
            self.rows.append({"step": self._step, **means})
            self._sums, self._counts = {}, {}

    @classmethod
    def off(cls, *names: str) -> Curve:
        """Returns the curve of a training that is switched off: one row of zeros, no losses.

        Args:
            *names: Names of the values that a training would log.
        """
        curve = cls(1)
        curve.rows = [dict.fromkeys(("step", *names), 0.0)]
        return curve

    def losses(self) -> dict[str, float]:
        """Returns the mean of every value over the last interval, rounded to 6 decimal places."""
        last = self.rows[-1]
        return {
            name: round(value, 6) for name, value in last.items() if last["step"] and name != "step"
        }


def fit(
    name: str,
    losses_of_step: Callable[[int], dict[str, Tensor]],
    optimizer: Optimizer,
    steps: int,
    autocast: Autocast = nullcontext,
) -> Curve:
    """Trains for a number of optimiser steps.

    Args:
        name: Name of the model, for the progress bar.
        losses_of_step: Function from the step number to scalar losses by name, with ``total``
            among them.
        optimizer: Optimiser that minimises ``total``.
        steps: Number of optimiser steps.
        autocast: Context of the forward pass; the backward pass adopts its precision by itself.

    Returns:
        The curve of all scalars.
    """
    curve = Curve(steps)
    for step in track(range(steps), name, steps, "steps"):
        with autocast():
            losses = losses_of_step(step)
        optimizer.step(losses["total"])
        curve.log({key: value.detach() for key, value in losses.items()})
    if optimizer.skipped:
        say(f"{name}: {optimizer.skipped} steps skipped for NaN or infinity")
    return curve
