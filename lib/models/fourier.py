"""Convolution of small maps as products of their Fourier coefficients.

A k x k convolution of an n x n map with zeros around it is a circular one on n + k // 2 points an
axis: what wraps around falls on outputs that nobody asked for. By the convolution theorem that is
one product a frequency. Half of the frequencies are the conjugates of the others, and a product of
complex numbers v (map) and u (kernel) takes three real ones (Gauss)::

    k1 = (Re v + Im v) Re u,   k2 = Re v (Im u - Re u),   k3 = Im v (Re u + Im u)
    Re vu = k1 - k3,           Im vu = k1 + k2

For 3x3 on 6x6 that makes 73 products instead of 9 * 36 = 324. Minimal filtering (Lavin and Gray
2016, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308) takes 64 for a whole
map, but is ill-conditioned there; a Fourier transform is orthogonal. Both on CPUs: Zlateski et al.
2018, "FFT Convolutions are Faster than Winograd on Modern CPUs, Here is Why", arXiv 1809.07851.

Maps have their places first, (S, ...), so that both transforms are products with a small matrix.
Tensor suffixes: S places of a map, P products, C channels in, N channels out, K taps of a kernel.
"""

from __future__ import annotations

from functools import lru_cache
from math import pi
from typing import NamedTuple

import torch
from torch import Tensor


class Transform(NamedTuple):
    """A convolution as ``synthesis @ ((analysis @ map) * (kernel @ taps))``.

    Attributes:
        analysis: Of maps, (P, S).
        synthesis: Back to maps, (S, P).
        kernel: Of kernels, (P, K).
        inside: (S, K), 1 where a tap of a kernel centred on a place is inside the map, else 0.
    """

    analysis: Tensor
    synthesis: Tensor
    kernel: Tensor
    inside: Tensor

    def to(self, like: Tensor) -> Transform:
        """Returns it with the precision and on the device of a tensor."""
        return Transform(*(matrix.to(like) for matrix in self))

    def kernels(self, weight: Tensor) -> Tensor:
        """Transforms the (N, C, k, k) weight of a convolution into (P, C, N)."""
        return _taps_first(self.kernel, weight)

    def planes(self, weight: Tensor) -> Tensor:
        """What an (N, C, k, k) convolution makes of planes that are 1 everywhere, (S, C, N)."""
        return _taps_first(self.inside, weight)


def _taps_first(matrix: Tensor, weight: Tensor) -> Tensor:
    outs, channels, *_ = weight.shape
    return (matrix @ weight.permute(2, 3, 1, 0).reshape(-1, channels * outs)).view(
        -1, channels, outs
    )


@lru_cache(maxsize=32)
def transform(height: int, width: int, kernel_size: int) -> Transform:
    """Works the matrices of a convolution out, in float64 on the CPU.

    Args:
        height: Of the map.
        width: Of the map.
        kernel_size: Side of the kernel; odd.
    """
    reach = kernel_size // 2
    sides = torch.tensor([height + reach, width + reach])
    extent = torch.tensor([height, width])
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    offsets = torch.arange(-reach, reach + 1)
    taps = torch.cartesian_prod(offsets, offsets)
    frequencies = torch.cartesian_prod(*(torch.arange(side) for side in sides.tolist()))
    row_major = torch.tensor([int(sides[1]), 1])
    number = (frequencies * row_major).sum(-1)
    conjugate = (-frequencies % sides * row_major).sum(-1)

    def waves(frequency: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        turns = (frequency[:, None] * place / sides.double()).sum(-1)
        return (2 * pi * turns).cos(), (2 * pi * turns).sin()

    real, pair = frequencies[number == conjugate], frequencies[number < conjugate]
    (cos, sin), (tap_cos, tap_sin) = waves(pair, places), waves(pair, taps)
    alone, tap_alone = waves(real, places)[0], waves(real, taps)[0]
    # Coefficients are sums of x exp(-i angle): Re v has the cosines, Im v minus the sines.
    back = torch.cat([alone, 2 * (cos - sin), -2 * sin, -2 * cos]).T / int(sides.prod())
    seen = places[:, None] + taps
    return Transform(
        torch.cat([alone, cos - sin, cos, -sin]),
        back.contiguous(),
        torch.cat([tap_alone, tap_cos, tap_sin - tap_cos, tap_cos + tap_sin]),
        ((seen >= 0) & (seen < extent)).all(-1).double(),
    )
