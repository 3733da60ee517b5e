"""Matrix products and square roots that are the same on every processor.

``lib.arithmetic`` chooses the instructions of the numerical libraries; what is here goes round
MKL, which torch calls for products and for ``torch.sqrt``, and which heeds no such choice. Nothing
else in ``lib`` may call either (tests/test_portable.py).

torch multiplies matrices by MKL, whose only code path that all x86 processors share runs at a fifth
of their speed. NumPy brings OpenBLAS, whose AVX2 kernels are the same everywhere once they are
asked for (``lib.arithmetic``). No sum is split: two threads take half of the rows, or of an
ensemble's members, each, and sleep when there is nothing to do.

Tensor suffixes: B batch, N members of an ensemble, I inputs, O outputs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lib import arithmetic
from lib.halves import each_half

WORTH_TWO_THREADS = 1 << 22  # multiplications, about 0.2 ms of them


def _multiply(a: np.ndarray, b: np.ndarray) -> Tensor:
    out = np.empty((*a.shape[:-1], b.shape[-1]), np.float32)
    if out.size * a.shape[-1] < WORTH_TWO_THREADS:
        np.matmul(a, b, out=out)
        return torch.from_numpy(out)

    def multiply(part: slice) -> None:
        np.matmul(a[part], b[part] if b.ndim > 2 else b, out=out[part])

    each_half(multiply, len(a))
    return torch.from_numpy(out)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return _multiply(a.detach().numpy(), b.detach().numpy())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b = (x.detach().numpy().swapaxes(-1, -2) for x in ctx.saved_tensors)
        g = gradient.numpy()
        wants_a, wants_b = ctx.needs_input_grad
        return (
            _multiply(g, b) if wants_a else None,
            _multiply(a, g) if wants_b else None,
        )


def takes(*tensors: Tensor) -> bool:
    """Returns whether ``product`` is the way: portable arithmetic, on the CPU, in float32."""
    return (
        arithmetic.is_portable()
        and not torch.is_autocast_enabled("cpu")
        and all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors)
    )


def product(a: Tensor, b: Tensor) -> Tensor:
    """Multiplies matrices as ``torch.matmul`` does, with gradients.

    Args:
        a: (..., B, I) float32, for which ``takes`` holds.
        b: (..., I, O), with as many leading dimensions, one at most.

    Returns:
        (..., B, O).
    """
    return _Product.apply(a, b)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Multiplies matrices by ``product`` where that is the way, else as torch does.

    Args:
        a: (B, I).
        b: (I, O).

    Returns:
        (B, O).
    """
    return product(a, b) if takes(a, b) else a @ b


def sqrt(x: Tensor) -> Tensor:
    """Returns square roots, within one unit in the last place.

    ``torch.sqrt`` on a CPU is MKL's, which starts from the processor's own approximation of the
    inverse root (RSQRT): its last bit is another one on Intel than on AMD. ``torch.rsqrt`` rounds
    as IEEE 754 asks.

    Args:
        x: 0 or more, floating point.
    """
    return x.rsqrt().reciprocal()


class Linear(nn.Linear):
    """``torch.nn.Linear`` of a batch (B, I), by ``product`` where that is the way."""

    def forward(self, x_BI: Tensor) -> Tensor:
        """Maps (B, inputs) to (B, outputs)."""
        if takes(x_BI, self.weight):
            return product(x_BI, self.weight.T) + self.bias
        return super().forward(x_BI)
