"""Matrix products and square roots that give the same bits on every processor.

``lib.base.arithmetic`` chooses the instructions of the numerical libraries. MKL does not follow
this choice, and torch calls MKL for matrix products and for ``torch.sqrt``. The functions of this
module avoid MKL. No other module of ``lib`` may call torch's matrix products or its square root
(tests/learning/test_portable.py).

MKL has only one code path that all x86 processors share, and it runs at a fifth of their speed.
NumPy includes OpenBLAS, and the AVX2 kernels of OpenBLAS are the same on every processor once they
are selected (``lib.base.arithmetic``). No sum is split: each of two threads computes half of the
rows, or half of an ensemble's members, and sleeps when it has no work.

Tensor suffixes: B batch, N members of an ensemble, I inputs, O outputs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lib.base import arithmetic
from lib.learning.halves import each_half

WORTH_TWO_THREADS = 1 << 22  # multiplications (about 0.2 ms) from which two threads pay off


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
    """Returns whether ``product`` applies: portable arithmetic, CPU, float32 and no autocast."""
    return (
        arithmetic.is_portable()
        and not torch.is_autocast_enabled("cpu")
        and all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors)
    )


def product(a: Tensor, b: Tensor) -> Tensor:
    """Multiplies matrices as ``torch.matmul`` does, with gradients.

    Args:
        a: Left factor, (..., B, I) float32; ``takes`` must be true for both factors.
        b: Right factor, (..., I, O), with the same leading dimensions as ``a``, at most one.

    Returns:
        (..., B, O).
    """
    return _Product.apply(a, b)


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Multiplies matrices with ``product`` where it applies (see ``takes``), else with torch.

    Args:
        a: Left factor, (B, I).
        b: Right factor, (I, O).

    Returns:
        (B, O).
    """
    return product(a, b) if takes(a, b) else a @ b


def sqrt(x: Tensor) -> Tensor:
    """Returns square roots, accurate to one unit in the last place.

    On a CPU, ``torch.sqrt`` calls MKL. MKL starts from the processor's own approximation of the
    inverse root (RSQRT), so the last bit of the result differs between Intel and AMD.
    ``torch.rsqrt`` rounds as IEEE 754 requires.

    Args:
        x: Floating-point values, 0 or more.
    """
    return x.rsqrt().reciprocal()


class Linear(nn.Linear):
    """``torch.nn.Linear`` for a batch (B, I), with ``product`` where it applies (see ``takes``)."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (B, inputs) to (B, outputs)."""
        if takes(input, self.weight):
            return product(input, self.weight.T) + self.bias
        return super().forward(input)
