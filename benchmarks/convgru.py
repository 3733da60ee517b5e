"""The ConvGRU over sequences against a cell that is called step by step.

    python -m benchmarks.convgru [--threads 2] [--rounds 9]

Plain: every step concatenates input and state and convolves update gate, reset gate and candidate
one by one, as the equations are written. Here: products of Fourier coefficients, one transform a
map, and all gradients of a weight in one product. Equal weights, equal outputs. Teacher-forced,
every frame is real; open loop, only those of the warm-up.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.side_by_side import report, side_by_side
from lib.models.convgru import ConvGRU, append_action
from lib.params import load_params


def step_by_step(
    model: ConvGRU, level: str, z_TBCHW: Tensor, actions_TBA: Tensor, warmup: int
) -> Tensor:
    """Predictions of the same model, written as its equations.

    Args:
        model: Gives the weights.
        level: Which level.
        z_TBCHW: Features.
        actions_TBA: Action taken on each frame.
        warmup: Number of leading frames that are real; the others are its own predictions.
    """
    cell, residual = model.cells[level], model.residuals[level]
    from_input = cell.input.weight.chunk(3)
    biases = cell.input.bias.chunk(3)
    from_state = [*cell.gates.weight.chunk(2), cell.candidate.weight]
    update, reset, candidate = (
        torch.cat(pair, dim=1) for pair in zip(from_input, from_state, strict=True)
    )
    h = z_TBCHW.new_zeros(z_TBCHW.shape[1], model.hidden_channels, *z_TBCHW.shape[3:])
    previous, predictions = torch.zeros_like(actions_TBA[0]), []
    for t, action in enumerate(actions_TBA[:-1]):
        z = z_TBCHW[t] if t < warmup else predictions[-1]
        x = append_action(z, previous)
        joined = torch.cat([x, h], dim=1)
        u = F.conv2d(joined, update, biases[0], padding=1).sigmoid()
        r = F.conv2d(joined, reset, biases[1], padding=1).sigmoid()
        new = F.conv2d(torch.cat([x, r * h], dim=1), candidate, biases[2], padding=1).tanh()
        h = (1 - u) * h + u * new
        predictions.append(z + residual(append_action(h, action)))
        previous = action
    return torch.stack(predictions)


def main() -> None:
    """Checks that both agree and times them, forward and backward."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    settings = load_params("rnn").rnn
    channels, batch, steps = 48, settings.batch_size, settings.window
    model = ConvGRU({"p4": channels}, 4, settings.hidden_channels)
    z, actions = torch.randn(steps, batch, channels, 6, 6), torch.randn(steps, batch, 4)

    def plain(warmup: int) -> Tensor:
        return step_by_step(model, "p4", z, actions, warmup)

    def fast(warmup: int) -> Tensor:
        return model.rollout({"p4": z}, actions, warmup)[0]["p4"]

    def compare(what: str, warmup: int, *, train: bool) -> None:
        def work(forward: Callable[[int], Tensor]) -> None:
            predicted = forward(warmup)
            if train:
                predicted.float().square().mean().backward()

        with torch.inference_mode(not train):
            seconds = side_by_side(lambda: work(plain), lambda: work(fast), given.rounds)
        report(f"ConvGRU, {what}", "frames", (steps - 1) * batch, *seconds)

    # Open loop, weights of 0.05 let predictions grow to 30 and rounding with them: float64 and the
    # plain loop are 1e-5 apart there, too.
    for name, warmup, spread in (
        ("teacher-forced", steps, 0.05),
        ("open loop", settings.warmup, 0.03),
    ):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, spread)
        torch.testing.assert_close(fast(warmup), plain(warmup), rtol=1e-5, atol=1e-5)
        compare(f"{name}, forward", warmup, train=False)
        compare(f"{name}, forward and backward", warmup, train=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            compare(f"{name}, forward and backward, bf16 autocast", warmup, train=True)


if __name__ == "__main__":
    main()
