"""Loss of the spatial RNN: forward dynamics and temporal smoothness.

Tensor suffixes: T time, B batch, C channels, H height, W width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def dynamics_loss(
    predicted: Sequence[Tensor],
    target: Sequence[Tensor],
    hidden: Sequence[Tensor],
    alpha: float,
    beta: float,
    seen_TB: Tensor | None = None,
) -> dict[str, Tensor]:
    """Computes the forward-dynamics loss over the levels of a feature pyramid.

    L = alpha L_prediction + beta L_smoothness, where, averaged over the levels,

    * L_prediction is the mean squared error against the target with its gradient stopped, so
      that an encoder cannot lower the loss by making its features easy to predict;
    * L_smoothness is the mean of (h_{t+1} - h_t)^2 over time, batch, channels and space.

    The loss uses means instead of sums, so that alpha and beta keep their meaning when the window,
    the batch size or the image size changes.

    Args:
        predicted: Predicted features of each level, any shape.
        target: Features of the frames that followed, in the shapes of ``predicted``.
        hidden: Hidden states of each level, (T, B, C, H, W) with T >= 2.
        alpha: Weight of the prediction loss.
        beta: Weight of the smoothness loss.
        seen_TB: Which targets count in the prediction loss, bool; by default all. Without any, the
            prediction loss is 0.

    Returns:
        Scalars under "total", "prediction" and "smoothness".

    Raises:
        ValueError: If the numbers of levels or the shapes differ, or if a level has hidden states
            of fewer than two time steps.
    """
    if not len(predicted) == len(target) == len(hidden) >= 1:
        raise ValueError(
            "dynamics_loss needs as many predictions as targets and hidden states, "
            f"got {len(predicted)}, {len(target)} and {len(hidden)}"
        )
    for y, t, h in zip(predicted, target, hidden, strict=True):
        if y.shape != t.shape:
            raise ValueError(f"predicted {tuple(y.shape)} against target {tuple(t.shape)}")
        if len(h) < 2:
            raise ValueError(f"smoothness needs two time steps or more, got {len(h)}")
    prediction = torch.stack(
        [_mean_square(y - t.detach(), seen_TB) for y, t in zip(predicted, target, strict=True)]
    ).mean()
    smoothness = torch.stack([h.diff(dim=0).square().mean() for h in hidden]).mean()
    total = alpha * prediction + beta * smoothness
    return {"total": total, "prediction": prediction, "smoothness": smoothness}


def _mean_square(error: Tensor, seen_TB: Tensor | None) -> Tensor:
    if seen_TB is None:
        return error.square().mean()
    squares_TB = error.square().flatten(2).mean(2)
    return (squares_TB * seen_TB).sum() / seen_TB.sum().clamp_min(1)
