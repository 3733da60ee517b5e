"""Segmenter: a U-Net with a boundary head and a primitive head.

Papers: Ronneberger et al. 2015, "U-Net: Convolutional Networks for Biomedical Image Segmentation"
(arXiv 1505.04597), here with "same" padding and batch normalisation; Chaurasia and Culurciello
2017, "LinkNet" (arXiv 1707.03718). As in LinkNet, the decoder adds the encoder's maps to its own
maps; the original U-Net concatenates them.

Tensor suffixes: B batch, C channels or classes, H height, W width.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def convolutions(inputs: int, outputs: int, count: int) -> nn.Sequential:
    """Builds 3x3 convolutions, each followed by batch normalisation and ReLU.

    Batch normalisation is used instead of group normalisation, because in evaluation mode it is a
    fixed affine map.
    """
    layers: list[nn.Module] = []
    for index in range(count):
        layers += [
            nn.Conv2d(inputs if index == 0 else outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Encoder and decoder with skip connections and two 1x1 heads.

    Attributes:
        stride: Factor that height and width must be divisible by.
    """

    def __init__(
        self,
        in_channels: int = 3,
        *,
        num_classes: int,
        widths: Sequence[int] = (16, 32, 64, 96),
    ):
        """Builds the network.

        Args:
            in_channels: Channels of the image.
            num_classes: Number of primitive classes.
            widths: Channels at each resolution, from full resolution down by factors of 2.
        """
        super().__init__()
        self.stride = 2 ** (len(widths) - 1)
        inputs = (in_channels, *widths[:-1])
        # The second convolution at full resolution makes boundaries exact to the pixel. At lower
        # resolutions, a convolution costs little and sees far: level i has i of them.
        depths = (2, *range(1, len(widths)))
        self.encoder = nn.ModuleList(map(convolutions, inputs, widths, depths))
        finer, coarser = widths[-2::-1], widths[:0:-1]
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(c, f, 2, stride=2) for c, f in zip(coarser, finer, strict=True)
        )
        self.decoder = nn.ModuleList(map(convolutions, finer, finer, depths[-2::-1]))
        self.boundary_head = nn.Conv2d(widths[0], 1, 1)
        self.primitive_head = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Segments images.

        Args:
            images_BCHW: Intensities in [0, 1], floating point.

        Returns:
            Boundary logits (B, 1, H, W) and primitive logits (B, num_classes, H, W).

        Raises:
            ValueError: If height or width is not divisible by ``stride``.
        """
        height, width = images_BCHW.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"images are {height}x{width}: both must be divisible by {self.stride}"
            )
        x_BCHW = images_BCHW - 0.5  # centred; the first batch normalisation adjusts the scale
        skips = []
        for level, encode in enumerate(self.encoder):
            x_BCHW = encode(x_BCHW if level == 0 else F.max_pool2d(x_BCHW, 2))
            skips.append(x_BCHW)
        for up, decode, skip_BCHW in zip(self.up, self.decoder, skips[-2::-1], strict=True):
            x_BCHW = decode(up(x_BCHW) + skip_BCHW)
        return self.boundary_head(x_BCHW), self.primitive_head(x_BCHW)
