"""The one training loop: schedule, clipping, NaN guard, progress and curves.

Whoever trains something gives a function that returns the losses of a step; everything that must
hold for every training is here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from lib.console import say, track
from lib.errors import UserError
from lib.params import Safety

CURVE_POINTS = 60  # rows of a loss curve: enough to see, few enough for Git


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
        """Takes over the parameters.

        Args:
            name: Section of params.yaml, for the guard's message.
            parameters: What is trained.
            lr: Peak learning rate.
            safety: Clipping norm and what to do about NaN.
            weight_decay: Of AdamW; with 0 this is Adam.
            schedule: Factor on the learning rate by step.
        """
        self._name, self._safety, self._schedule = name, safety, schedule
        self._parameters = [p for p in parameters if p.requires_grad]
        self._lr = lr
        self._adam = torch.optim.AdamW(
            self._parameters, lr=lr, weight_decay=weight_decay, fused=True
        )
        self.steps = self.skipped = 0

    def step(self, loss: Tensor) -> None:
        """Follows the gradient of a loss, once.

        Args:
            loss: A scalar.

        Raises:
            UserError: On a NaN or infinite gradient, unless ``safety.nan`` is ``clip``: then the
                step is skipped and counted.
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


def warmup_cosine(steps: int, warmup: float) -> Callable[[int], float]:
    """Returns a schedule: linear rise, then half a cosine down to zero.

    Args:
        steps: Total number.
        warmup: Share of them that rises.
    """
    rise = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return factor


def hold_then_fall(steps: int, hold: float, floor: float = 0.1) -> Callable[[int], float]:
    """Returns a schedule: constant, then a straight line down.

    Args:
        steps: Total number; the factor stays at ``floor`` after them.
        hold: Share of them that is constant.
        floor: Factor at the end.
    """
    begin = steps * hold

    def factor(step: int) -> float:
        share = (step - begin) / max(1.0, steps - begin)
        return 1 - (1 - floor) * min(1.0, max(0.0, share))

    return factor


class Curve:
    """Means of logged values over equal stretches of a training, as rows of a CSV file."""

    def __init__(self, steps: int) -> None:
        """Prepares for a number of steps.

        Args:
            steps: Total number.
        """
        self._steps, self._every = steps, max(1, math.ceil(steps / CURVE_POINTS))
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._step = 0
        self.rows: list[dict[str, Any]] = []

    def log(self, values: dict[str, Tensor]) -> None:
        """Takes the values of the next step.

        Args:
            values: Scalars.
        """
        self._step += 1
        for name, value in values.items():
            if not math.isfinite(value):
                continue  # of a step that the guard skipped
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
            self._counts[name] = self._counts.get(name, 0) + 1
        if self._step % self._every == 0 or self._step == self._steps:
            means = {name: total / self._counts[name] for name, total in self._sums.items()}
            self.rows.append({"step": self._step, **means})
            self._sums, self._counts = {}, {}

    @classmethod
    def off(cls, *names: str) -> Curve:
        """Returns the curve of a training that did not happen: one row of zeros, no losses.

        Args:
            *names: Of the values it would have.
        """
        curve = cls(1)
        curve.rows = [dict.fromkeys(("step", *names), 0.0)]
        return curve

    def losses(self) -> dict[str, float]:
        """Returns every value's mean over the last stretch, rounded to 6 digits."""
        last = self.rows[-1]
        return {
            name: round(value, 6) for name, value in last.items() if last["step"] and name != "step"
        }


def fit(
    name: str,
    losses_of_step: Callable[[int], dict[str, Tensor]],
    optimizer: Optimizer,
    steps: int,
    autocast: Callable[[], AbstractContextManager] = nullcontext,
) -> Curve:
    """Trains for a number of steps.

    Args:
        name: What is trained, for the progress bar.
        losses_of_step: Called with the step; returns scalars, ``total`` among them.
        optimizer: Follows ``total``.
        steps: How many.
        autocast: Context of the forward pass; the backward one follows it by itself.

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
