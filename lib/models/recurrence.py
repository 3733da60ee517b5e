"""The rollout of a ConvGRU level on transformed maps, with a backward pass of its own.

Equations and weights are those of ``lib.models.convgru``; convolutions are products of transforms
(``lib.models.fourier``). Every map is transformed once for all convolutions that read it, and the
shares of input and state are added before the one transform back. Action and bias are constant
over space: what a convolution makes of them is a small product a place. Autograd would work out
the gradient of each weight at each step; here one product over all steps does it at the end.

Tensor suffixes: S places of a map, P products, T time, B batch, C channels of the features,
N hidden channels, G channels of both gates (2 N), A action dimensions and a one.
"""

from __future__ import annotations

from collections import defaultdict
from math import prod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.models.fourier import Transform, transform

LEAST_BATCH = 16  # below, the transformed weights are read for too few rows: bf16 gains nothing
LARGEST_SIDE = 10  # above, the transforms cost a forward pass what the products save


def pays(z_TBCHW: Tensor) -> bool:
    """Whether ``rollout`` is the faster way: on the CPU, for small maps in batches."""
    batch, side = z_TBCHW.shape[1], max(z_TBCHW.shape[3:])
    return z_TBCHW.device.type == "cpu" and batch >= LEAST_BATCH and side <= LARGEST_SIDE


def rollout(
    cell: nn.Module,
    residual: nn.Module,
    z_TBCHW: Tensor,
    previous_TBA: Tensor,
    warmup: int,
) -> tuple[Tensor, Tensor]:
    """Runs a level, in the precision of autocast where that is on.

    Args:
        cell: A ``ConvGRUCell``.
        residual: Two convolutions with SiLU in between, of the cell's kernel size.
        z_TBCHW: Real features.
        previous_TBA: Action taken before each frame.
        warmup: Number of leading frames that are real, T at most.

    Returns:
        Predictions (T - 1, B, C, H, W) and hidden states (T, B, N, H, W).
    """
    weight, size = cell.candidate.weight, z_TBCHW.shape[3:]
    device = weight.device.type
    dtype = weight.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        matrices = transform(*size, weight.shape[-1]).to(weight)
        weights = Weights.of(cell, residual, matrices, dtype)
        one = previous_TBA.new_ones(*previous_TBA.shape[:2], 1)
        results = Recurrence.apply(
            z_TBCHW.to(weight.dtype).permute(3, 4, 0, 1, 2).flatten(0, 1).contiguous(),
            torch.cat([previous_TBA, one], dim=-1).to(dtype),
            warmup,
            torch.is_grad_enabled(),
            matrices.analysis.to(dtype),
            matrices.synthesis.to(dtype),
            *weights,
        )
    predictions, hidden = (x.unflatten(0, size).permute(2, 3, 4, 0, 1) for x in results)
    return predictions, hidden


class Weights(NamedTuple):
    """Transformed weights of a level, differentiable functions of its parameters.

    Attributes:
        input_gates: Input's share of update and reset gate, (P, C, G).
        state_gates: State's share of them, (P, N, G).
        input_candidate: Input's share of the candidate, (P, C, N).
        state_candidate: The reset state's share of it, (P, N, N).
        first: First convolution of the residual, (P, N, N).
        last: Last convolution of the residual, (P, N, C).
        plain_gates: What previous action and bias give to the gates, (S, A, G).
        plain_candidate: What they give to the candidate, (S, A, N).
        plain_first: What action and bias give to the residual's first convolution, (S, A, N).
        bias: Bias of the last one, (C,).
    """

    input_gates: Tensor
    state_gates: Tensor
    input_candidate: Tensor
    state_candidate: Tensor
    first: Tensor
    last: Tensor
    plain_gates: Tensor
    plain_candidate: Tensor
    plain_first: Tensor
    bias: Tensor

    @classmethod
    def of(
        cls, cell: nn.Module, residual: nn.Module, matrices: Transform, dtype: torch.dtype
    ) -> Weights:
        """Transforms the weights of a cell and of a residual."""
        first, _, last = residual
        hidden, channels = len(cell.candidate.weight), len(last.weight)
        gates, candidate = cell.input.weight.split([2 * hidden, hidden])
        gates_bias, candidate_bias = cell.input.bias.split([2 * hidden, hidden])

        def plain(weight: Tensor, bias: Tensor) -> Tensor:
            planes = matrices.planes(weight)
            return torch.cat([planes, bias.expand(len(planes), 1, -1)], dim=1)

        weights = cls(
            matrices.kernels(gates[:, :channels]),
            matrices.kernels(cell.gates.weight),
            matrices.kernels(candidate[:, :channels]),
            matrices.kernels(cell.candidate.weight),
            matrices.kernels(first.weight[:, :hidden]),
            matrices.kernels(last.weight),
            plain(gates[:, channels:], gates_bias),
            plain(candidate[:, channels:], candidate_bias),
            plain(first.weight[:, hidden:], first.bias),
            last.bias,
        )
        return cls(*(weight.to(dtype) for weight in weights))


class Buffers:
    """Memory that outlives its user: with fresh pages for all, a third of a forward pass is faults.

    What an object of this class gave out serves the next one as soon as the object is gone.
    """

    _free: dict[tuple[int, torch.dtype], list[Tensor]] = defaultdict(list)

    def __init__(self) -> None:
        self._taken: list[Tensor] = []

    def take(self, dtype: torch.dtype, *shape: int) -> Tensor:
        """Returns a CPU tensor with anything in it."""
        free = self._free[prod(shape), dtype]
        with torch.inference_mode(False):
            flat = free.pop() if free else torch.empty(prod(shape), dtype=dtype)
        self._taken.append(flat)
        return flat.view(shape)

    def __del__(self) -> None:
        if sum(map(len, self._free.values())) > 100:  # of many shapes: keep none for ever
            self._free.clear()
        for flat in self._taken:
            self._free[len(flat), flat.dtype].append(flat)


class Recurrence(torch.autograd.Function):
    """``rollout`` with places first: predictions (S, T - 1, B, C) and states (S, T, B, N)."""

    @staticmethod
    def forward(ctx, z_STBC, previous_TBA, warmup, keep, analysis_PS, synthesis_SP, *weights):
        """Runs the level; ``keep`` says whether ``backward`` may be called."""
        w, dtype = Weights(*weights), weights[0].dtype
        places, steps, batch, channels = z_STBC.shape
        products, hidden = w.first.shape[:2]
        gates_width = 2 * hidden
        buffers = Buffers()

        def stack(rows: int, width: int) -> Tensor:
            if keep:
                return buffers.take(dtype, rows, steps, batch, width)
            # The same memory for each step: it stays in the processor's cache.
            one = torch.empty(rows, 1, batch, width, dtype=dtype)
            return one.expand(rows, steps, batch, width)

        def constant(given_BA: Tensor, weight_SAN: Tensor, out: Tensor) -> None:
            torch.bmm(given_BA.expand(places, -1, -1), weight_SAN, out=out)

        def analyse(maps_SBC: Tensor, out_PBC: Tensor) -> None:
            torch.mm(analysis_PS, maps_SBC.flatten(1).to(dtype), out=out_PBC.flatten(1))

        def add_synthesis(out_SBC: Tensor, products_PBC: Tensor) -> None:
            out_SBC.flatten(1).addmm_(synthesis_SP, products_PBC.flatten(1))

        h = z_STBC.new_empty(places, steps + 1, batch, hidden)
        predictions = z_STBC.new_empty(places, steps - 1, batch, channels)
        # Transforms of input, state, reset state and the residual's middle. Entry t of the state
        # is the one before frame t; entry t of the middle belongs to the prediction of frame t.
        vx, vh, vr, vm = (stack(products, n) for n in (channels, hidden, hidden, hidden))
        gates, candidate, middle = (stack(places, n) for n in (gates_width, hidden, hidden))
        wide = torch.empty(products, batch, gates_width, dtype=dtype)
        narrow = torch.empty(products, batch, hidden, dtype=dtype)
        last = torch.empty(products, batch, channels, dtype=dtype)
        h[:, 0], vh[:, 0], vm[:, 0] = 0, 0, 0
        x = z_STBC[:, 0]
        for t in range(steps):
            if t:
                residual = middle[:, t]
                analyse(h[:, t], vh[:, t])
                constant(previous_TBA[t], w.plain_first, residual)
                add_synthesis(residual, torch.bmm(vh[:, t], w.first, out=narrow))
                analyse(F.silu(residual), vm[:, t])
                torch.bmm(vm[:, t], w.last, out=last)
                change = torch.mm(synthesis_SP, last.flatten(1))
                change = change.view(places, batch, channels).add_(w.bias)
                torch.add(x, change.to(x.dtype), out=predictions[:, t - 1])
                x = z_STBC[:, t] if t < warmup else predictions[:, t - 1]
            g, c, old = gates[:, t], candidate[:, t], h[:, t]
            analyse(x, vx[:, t])
            torch.bmm(vx[:, t], w.input_gates, out=wide).baddbmm_(vh[:, t], w.state_gates)
            constant(previous_TBA[t], w.plain_gates, g)
            add_synthesis(g, wide)
            u, r = g.sigmoid_().chunk(2, dim=-1)
            analyse(r * old.to(dtype), vr[:, t])
            torch.bmm(vx[:, t], w.input_candidate, out=narrow)
            narrow.baddbmm_(vr[:, t], w.state_candidate)
            constant(previous_TBA[t], w.plain_candidate, c)
            add_synthesis(c, narrow)
            c.mul_(2).sigmoid_().mul_(2).sub_(1)  # tanh, in a third of its time
            torch.lerp(old, c.to(old.dtype), u.to(old.dtype), out=h[:, t + 1])
        if keep:
            ctx.buffers, ctx.warmup = buffers, warmup
            ctx.stacks = vx, vh, vr, vm, gates, candidate, middle
            ctx.save_for_backward(previous_TBA, analysis_PS, synthesis_SP, h, *weights)
        return predictions, h[:, 1:]

    @staticmethod
    def backward(ctx, d_predictions, d_hidden):
        """Goes back through time, then works out the gradients of all weights."""
        with torch.autocast(d_hidden.device.type, enabled=False):
            return _backward(ctx, d_predictions, d_hidden)


def _backward(ctx, d_predictions: Tensor, d_hidden: Tensor) -> tuple[Tensor | None, ...]:
    """The chain rule, step by step; names are those of ``forward``, d_x the gradient of x."""
    previous_TBA, analysis_PS, synthesis_SP, h, *weights = ctx.saved_tensors
    vx, vh, vr, vm, gates, candidate, middle = ctx.stacks
    dtype, warmup, buffers = weights[0].dtype, ctx.warmup, Buffers()
    products, steps, batch, channels = vx.shape
    places, _, _, hidden = candidate.shape
    w = Weights(*(x.transpose(1, 2).contiguous() for x in weights[:6]), *weights[6:])
    to_products, to_places = synthesis_SP.T.contiguous(), analysis_PS.T.contiguous()

    def stack(rows: int, width: int) -> Tensor:
        return buffers.take(dtype, rows, steps, batch, width)

    def analyse(maps_SBC: Tensor, out_PBC: Tensor) -> None:
        torch.mm(to_products, maps_SBC.flatten(1).to(dtype), out=out_PBC.flatten(1))

    def synthesise(products_PBC: Tensor) -> Tensor:
        return torch.mm(to_places, products_PBC.flatten(1)).view(places, batch, -1)

    d_gates, d_candidate, d_middle = (stack(places, n) for n in (2 * hidden, hidden, hidden))
    # Gradients of the products of gates, candidate and the residual's two convolutions.
    mg, mc, mm, ml = (stack(products, n) for n in (2 * hidden, hidden, hidden, channels))
    d_middle[:, 0], mm[:, 0], ml[:, 0] = 0, 0, 0
    dz = h.new_zeros(places, steps, batch, channels) if ctx.needs_input_grad[0] else None
    d_last = h.new_zeros(channels)
    dh, dp = d_hidden[:, -1], 0
    for t in reversed(range(steps)):
        u, r = gates[:, t].chunk(2, dim=-1)
        c, old = candidate[:, t], h[:, t].to(dtype)
        du, dr = d_gates[:, t].chunk(2, dim=-1)
        taken = dh.to(dtype) * u
        torch.mul(taken, 1 - c * c, out=d_candidate[:, t])
        analyse(d_candidate[:, t], mc[:, t])
        reset = synthesise(torch.bmm(mc[:, t], w.state_candidate)) * r
        torch.mul(taken * (1 - u), c - old, out=du)
        torch.mul(reset * (1 - r), old, out=dr)
        analyse(d_gates[:, t], mg[:, t])
        # dp: gradient of frame t by what rests on it through prediction t + 1.
        dx = dp
        if t >= warmup or dz is not None:
            m = torch.bmm(mg[:, t], w.input_gates)
            dx = dx + synthesise(m.baddbmm_(mc[:, t], w.input_candidate)).to(h.dtype)
        if t < warmup and dz is not None:
            dz[:, t] = dx
        if not t:
            break
        dp = d_predictions[:, t - 1]
        if t >= warmup:
            dp = dp + dx
        d_last += dp.sum((0, 1))
        analyse(dp, ml[:, t])
        d = synthesise(torch.bmm(ml[:, t], w.last))
        s = middle[:, t]
        torch.ops.aten.silu_backward.grad_input(d, s, grad_input=d_middle[:, t])
        analyse(d_middle[:, t], mm[:, t])
        m = torch.bmm(mg[:, t], w.state_gates).baddbmm_(mm[:, t], w.first)
        change = synthesise(m).add_(reset).sub_(taken)
        dh = dh + change.to(dh.dtype) + d_hidden[:, t - 1]

    def over_time(v: Tensor, m: Tensor) -> Tensor:
        return torch.bmm(v.flatten(1, 2).transpose(1, 2), m.flatten(1, 2))

    def over_places(given_TBA: Tensor, d: Tensor) -> Tensor:
        return torch.bmm(given_TBA.flatten(0, 1).T.expand(places, -1, -1), d.flatten(1, 2))

    gradients = Weights(
        over_time(vx, mg),
        over_time(vh, mg),
        over_time(vx, mc),
        over_time(vr, mc),
        over_time(vh, mm),
        over_time(vm, ml),
        over_places(previous_TBA, d_gates),
        over_places(previous_TBA, d_candidate),
        over_places(previous_TBA, d_middle),
        d_last.to(dtype),
    )
    return dz, None, None, None, None, None, *gradients
