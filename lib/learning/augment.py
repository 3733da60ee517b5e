"""Random views of pictures for contrastive learning.

This module replaces kornia's transforms, which make many passes over the whole batch and would cost
as much time as the network. Here a few passes over one picture, which fits into the processor's
cache, do the same work.

Tensor suffixes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lib.learning.halves import each_half

NOISE_BANK = 1 << 20  # noise samples drawn once; each view uses a contiguous part of them


class Augment:
    """Random shift, blur, colour change and noise, all drawn from one generator."""

    def __init__(
        self,
        shift_px: int,
        colour: float,
        noise: float,
        generator: torch.Generator,
        *,
        blur: float = 0.0,
    ) -> None:
        """Sets the strength of each change.

        Args:
            shift_px: Largest shift along each axis, pixels; border pixels are repeated.
            colour: Largest relative change of brightness and contrast, as a share. The gain of
                each colour channel varies by up to a quarter of this share more.
            noise: Standard deviation of pixel noise, for intensities in [0, 1].
            generator: Random generator for all draws.
            blur: Largest standard deviation of the blur, pixels, at most 1: a kernel of three by
                three pixels cannot have more.
        """
        if not 0 <= blur <= 1:
            raise ValueError(f"blur: {blur} is outside [0, 1] pixels")
        self.shift_px, self.colour, self.noise, self.blur = shift_px, colour, noise, blur
        self.generator = generator
        self._bank = torch.empty(0)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator) * 2 - 1

    def shifts(self, batch: int) -> Tensor:
        """Draws how far each picture's content moves up and to the left, (2, B), pixels.

        Args:
            batch: Number of pictures.
        """
        largest = self.shift_px
        return torch.randint(-largest, largest + 1, (2, batch), generator=self.generator)

    def __call__(self, images_BHW3: Tensor, shifts_2B: Tensor | None = None) -> Tensor:
        """Returns one random view of each picture.

        Args:
            images_BHW3: Pictures, uint8.
            shifts_2B: Shifts that ``shifts`` drew; by default they are drawn here.

        Returns:
            (B, 3, H, W) float32 in [0, 1], channels last in memory.
        """
        batch, height, width, _ = images_BHW3.shape
        if shifts_2B is None:
            shifts_2B = self.shifts(batch)
        gain_B3 = 1 + self.colour * (self._uniform(batch, 1) + self._uniform(batch, 3) / 4)
        contrast_B1 = 1 + self.colour * self._uniform(batch, 1)
        variance_B = (self.blur * torch.rand(batch, generator=self.generator)).square()
        starts_B = self._stretches(batch, height * width * 3)
        padded, reach = _pad(images_BHW3, shifts_2B)
        out_BHW3 = torch.empty(batch, height, width, 3)

        def make(part: slice) -> None:
            for index in range(batch)[part]:
                view = out_BHW3[index]
                top, left = (int(shift) + reach for shift in shifts_2B[:, index])
                window = padded[index, top : top + height + 2, left : left + width + 2]
                if self.blur:
                    view.copy_(_blurred(window.float(), float(variance_B[index])))
                else:
                    view.copy_(window[1:-1, 1:-1])
                # ((x - mean) * contrast + mean) * gain, written as one affine map.
                contrast, gain_3 = contrast_B1[index], gain_B3[index] / 255
                offset_3 = view.mean() * (1 - contrast) * gain_3
                view.mul_(contrast * gain_3).add_(offset_3)
                if self.noise:
                    noise = self._bank[starts_B[index] :][: view.numel()].view_as(view)
                    view.add_(noise, alpha=self.noise)
                view.clamp_(0, 1)

        each_half(make, batch)
        return out_BHW3.permute(0, 3, 1, 2)

    def _stretches(self, batch: int, length: int) -> list[int]:
        """Draws the position in the noise bank at which each picture's noise begins."""
        if not self.noise:
            return []
        if not len(self._bank):
            self._bank = torch.randn(NOISE_BANK + length, generator=self.generator)
        return torch.randint(NOISE_BANK, (batch,), generator=self.generator).tolist()


def shifted(images_BHW3: Tensor, shifts_2B: Tensor) -> Tensor:
    """Returns pictures shifted as ``Augment`` shifts them, without any other change.

    Args:
        images_BHW3: Pictures, uint8.
        shifts_2B: Shifts that ``Augment.shifts`` drew.
    """
    _, height, width, _ = images_BHW3.shape
    padded, reach = _pad(images_BHW3, shifts_2B)
    moved = torch.empty_like(images_BHW3)
    for picture, source, (top, left) in zip(
        moved, padded, (shifts_2B.T + reach + 1).tolist(), strict=True
    ):
        picture.copy_(source[top : top + height, left : left + width])
    return moved


def _pad(images_BHW3: Tensor, shifts_2B: Tensor) -> tuple[Tensor, int]:
    """Repeats the border pixels as far as the shifts and the blur kernel reach."""
    reach = int(shifts_2B.abs().max())
    border = reach + 1
    batch, height, width, channels = images_BHW3.shape
    padded = images_BHW3.new_empty(batch, height + 2 * border, width + 2 * border, channels)
    # Slices are used because indexing with index arrays copies pixel by pixel.
    inner = padded[:, :, border:-border]
    inner[:, border:-border] = images_BHW3
    inner[:, :border], inner[:, -border:] = images_BHW3[:, :1], images_BHW3[:, -1:]
    padded[:, :, :border], padded[:, :, -border:] = inner[:, :, :1], inner[:, :, -1:]
    return padded, reach


def _blurred(x_HW3: Tensor, variance: float) -> Tensor:
    """Blurs along both axes with a kernel of this variance; removes one pixel at each border."""
    x_HW3 = (x_HW3[:-2] + x_HW3[2:]).mul_(variance / 2).add_(x_HW3[1:-1], alpha=1 - variance)
    sides = x_HW3[:, :-2] + x_HW3[:, 2:]
    return sides.mul_(variance / 2).add_(x_HW3[:, 1:-1], alpha=1 - variance)
