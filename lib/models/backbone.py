"""Vision backbone: a RegNet trunk, a BiFPN on top of it, and the two heads that train it.

Papers: Radosavovic et al. 2020, "Designing Network Design Spaces" (RegNet, arXiv 2003.13678);
Tan et al. 2020, "EfficientDet" (BiFPN, arXiv 1911.09070); Zhang 2019, "Making Convolutional
Networks Shift-Invariant Again" (averages before strides, arXiv 1904.11486); Chen et al. 2020,
"SimCLR" (projection head, arXiv 2002.05709); Shi et al. 2016 (pixel shuffle, arXiv 1609.05158).

Tensor suffixes: B batch, C channels, H height, W width, D features.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.learning.portable import Linear

LEVELS = ("p3", "p4", "p5")  # strides 8, 16 and 32

# The same mean is subtracted in every channel of an image in [0, 1], because rendered scenes do not
# share the colour statistics of photographs. The stem's batch normalisation adjusts the scale.
IMAGE_MEAN = 0.5


class TrunkShape(NamedTuple):
    """Shape of a RegNet trunk.

    Attributes:
        stem_stride: Stride of the stem.
        stem: Channels of the stem.
        widths: Channels of each stage.
        depths: Number of blocks of each stage.
        group_width: Channels of one convolution group.
    """

    stem_stride: int
    stem: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    group_width: int


def regnet_widths(
    depth: int, w0: float, wa: float, wm: float, group_width: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Computes the quantised linear widths of a RegNet (Radosavovic et al. 2020, equations 2 to 4).

    The ideal width of block j is ``w0 + wa * j`` channels. It is rounded to the nearest
    ``w0 * wm**k`` with an integer k, then to a multiple of 8. Blocks of equal width form a stage.
    Finally, each width is rounded to a multiple of ``group_width``, so that the groups divide it.

    Args:
        depth: Number of blocks over all stages.
        w0: Width of the first block, in channels.
        wa: Slope of the width, in channels per block.
        wm: Ratio of the widths of neighbouring stages.
        group_width: Channels of one convolution group.

    Returns:
        The width and the number of blocks of each stage.

    Raises:
        ValueError: If a parameter is outside its range (``wa >= 0``, ``w0 > 0``, ``wm > 1``).
    """
    if depth < 1 or group_width < 1 or wa < 0 or w0 <= 0 or wm <= 1:
        raise ValueError(f"no RegNet has {depth=}, {w0=}, {wa=}, {wm=}, {group_width=}")
    stages: dict[int, int] = {}
    for block in range(depth):
        exponent = round(math.log((w0 + wa * block) / w0) / math.log(wm))
        width = round(w0 * wm**exponent / 8) * 8
        stages[width] = stages.get(width, 0) + 1
    widths = [max(1, round(width / group_width)) * group_width for width in stages]
    return tuple(widths), tuple(stages.values())


def trunk_shape(size: str, block: str) -> TrunkShape:
    """Returns the shape of a named trunk.

    Args:
        size: "tiny" and "small" are sized for CPUs; "400MF" is the published RegNet.
        block: "X", or "Y" for blocks with squeeze-excitation.

    Returns:
        The shape. Its group width divides every width.

    Raises:
        ValueError: If the size or the block is unknown.
    """
    if block not in ("X", "Y"):
        raise ValueError(f"unknown block {block!r}: choose 'X' or 'Y'")
    if size == "tiny":
        # The stem has stride 4, because a first stage at half of the image resolution would take
        # half of the time of a training step.
        return TrunkShape(4, 24, (24, 48, 96, 144), (1, 1, 3, 1), 24)
    if size == "small":
        return TrunkShape(2, 32, (32, 64, 128, 256), (1, 2, 4, 2), 16)
    if size == "400MF":
        if block == "X":
            return TrunkShape(2, 32, *regnet_widths(22, 24, 24.48, 2.54, 16), 16)
        return TrunkShape(2, 32, *regnet_widths(16, 48, 27.89, 2.09, 8), 8)
    raise ValueError(f"unknown backbone size {size!r}: choose 'tiny', 'small' or '400MF'")


def conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Builds a convolution without bias and with "same" padding, then batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


def average(stride: int = 1) -> nn.AvgPool2d:
    """Builds the mean of each 3x3 neighbourhood, as a filter against aliasing.

    Args:
        stride: Distance between two neighbourhoods.
    """
    return nn.AvgPool2d(3, stride, 1, count_include_pad=False)


class SqueezeExcite(nn.Module):
    """Channel gates computed from the global average (Hu et al. 2018, arXiv 1709.01507)."""

    def __init__(self, channels: int, squeezed: int):
        """Builds gates for ``channels`` channels with a bottleneck of ``squeezed`` channels."""
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Scales each channel by its gate in (0, 1)."""
        gates_BC11 = self.squeeze(x_BCHW.mean((2, 3), keepdim=True)).relu()
        return x_BCHW * self.excite(gates_BC11).sigmoid()


class RegNetBlock(nn.Module):
    """Residual block of bottleneck ratio 1: 1x1, grouped 3x3, [squeeze-excite], 1x1.

    Unlike the paper's, a block with a stride averages neighbours before it drops every second one.
    Otherwise features jump while things move by a pixel (aliasing), and nobody can foretell them.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, group_width: int, excite: bool):
        """Builds the block.

        Args:
            inputs: Number of input channels.
            outputs: Number of output channels; a multiple of ``group_width``.
            stride: Stride of the grouped convolution.
            group_width: Channels of one group.
            excite: Whether this is a Y block. The squeezed width is a quarter of ``inputs``, as in
                the paper's code, and not a quarter of the block's own width ``outputs``.
        """
        super().__init__()
        self.expand = conv_norm(inputs, outputs, 1)
        self.smooth = average() if stride > 1 else nn.Identity()
        self.spatial = conv_norm(outputs, outputs, 3, stride, outputs // group_width)
        self.excite = SqueezeExcite(outputs, round(inputs * 0.25)) if excite else nn.Identity()
        self.project = conv_norm(outputs, outputs, 1)
        same = inputs == outputs and stride == 1
        self.reduce = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.shortcut = nn.Identity() if same else conv_norm(inputs, outputs, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Maps (B, inputs, H, W) to (B, outputs, H/stride, W/stride)."""
        y_BCHW = self.smooth(F.relu(self.expand(x_BCHW), inplace=True))
        y_BCHW = self.excite(F.relu(self.spatial(y_BCHW), inplace=True))
        return F.relu(self.shortcut(self.reduce(x_BCHW)) + self.project(y_BCHW), inplace=True)


class Fusion(nn.Module):
    """One BiFPN node: fast normalised fusion, then a depthwise-separable convolution."""

    def __init__(self, num_inputs: int, channels: int):
        """Builds a node that fuses ``num_inputs`` maps of ``channels`` channels."""
        super().__init__()
        self.weights = nn.Parameter(torch.ones(num_inputs))
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = conv_norm(channels, channels, 1)

    def forward(self, *maps_BCHW: Tensor) -> Tensor:
        """Returns ``conv(silu(sum relu(w_i) x_i / (sum relu(w_j) + 1e-4)))``."""
        weights = self.weights.relu()
        weights = weights / (weights.sum() + 1e-4)
        fused_BCHW = sum(w * x for w, x in zip(weights, maps_BCHW, strict=True))
        return self.pointwise(self.depthwise(F.silu(fused_BCHW)))


class BiFPNLayer(nn.Module):
    """One top-down and bottom-up pass over P3, P4 and P5.

    With three levels, only P4 is an inner node. It is fused twice, the second time from three
    inputs. The outputs at P3 and P5 are each fused once, from two inputs. Maps are enlarged by
    bilinear interpolation and reduced by averages. The paper's nearest neighbours and largest
    values alias, see ``RegNetBlock``.
    """

    def __init__(self, channels: int):
        """Builds the four nodes."""
        super().__init__()
        self.p4_down = Fusion(2, channels)
        self.p3_out = Fusion(2, channels)
        self.p4_out = Fusion(3, channels)
        self.p5_out = Fusion(2, channels)
        self.reduce = average(stride=2)

    def forward(self, p3: Tensor, p4: Tensor, p5: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps three levels (B, C, H, W) to three levels of the same shapes."""
        p4_down = self.p4_down(p4, F.interpolate(p5, p4.shape[-2:], mode="bilinear"))
        p3_out = self.p3_out(p3, F.interpolate(p4_down, p3.shape[-2:], mode="bilinear"))
        p4_out = self.p4_out(p4, p4_down, self.reduce(p3_out))
        p5_out = self.p5_out(p5, self.reduce(p4_out))
        return p3_out, p4_out, p5_out


class Backbone(nn.Module):
    """RegNet trunk and BiFPN: maps an image to three feature maps with equal channel counts.

    Attributes:
        channels: Channels of each level, e.g. ``{"p3": 48, "p4": 48, "p5": 48}``.
    """

    def __init__(
        self,
        size: Literal["tiny", "small", "400MF"] = "tiny",
        block: Literal["X", "Y"] = "X",
        pyramid_channels: int = 48,
        bifpn_layers: int = 1,
    ):
        """Builds the network.

        Args:
            size: Name of the trunk's size, see ``trunk_shape``.
            block: "X", or "Y" for squeeze-excitation.
            pyramid_channels: Channels of every level.
            bifpn_layers: Number of BiFPN layers that follow each other.

        Raises:
            ValueError: If the size or the block is unknown.
        """
        super().__init__()
        shape = trunk_shape(size, block)
        self.channels = dict.fromkeys(LEVELS, pyramid_channels)
        self.stem = conv_norm(3, shape.stem, 2 * shape.stem_stride - 1, shape.stem_stride)
        inputs, strides = shape.stem, (4 // shape.stem_stride, 2, 2, 2)
        self.stages = nn.ModuleList()
        for width, depth, first in zip(shape.widths, shape.depths, strides, strict=True):
            blocks = []
            for index in range(depth):
                stride = first if index == 0 else 1
                blocks.append(RegNetBlock(inputs, width, stride, shape.group_width, block == "Y"))
                inputs = width
            self.stages.append(nn.Sequential(*blocks))
        self.laterals = nn.ModuleList(
            conv_norm(width, pyramid_channels, 1) for width in shape.widths[1:]
        )
        self.bifpn = nn.ModuleList(BiFPNLayer(pyramid_channels) for _ in range(bifpn_layers))

    def forward(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Computes the feature pyramid of images.

        Args:
            images_B3HW: RGB intensities in [0, 1], floating point.

        Returns:
            Levels "p3", "p4" and "p5" of strides 8, 16 and 32, each (B, C, ceil(H/stride),
            ceil(W/stride)).
        """
        x_BCHW = F.relu(self.stem(images_B3HW - IMAGE_MEAN), inplace=True)
        x_BCHW = self.stages[0](x_BCHW)
        levels = []
        for stage, lateral in zip(self.stages[1:], self.laterals, strict=True):
            x_BCHW = stage(x_BCHW)
            levels.append(lateral(x_BCHW))
        for layer in self.bifpn:
            levels = layer(*levels)
        return dict(zip(LEVELS, levels, strict=True))


class ProjectionHead(nn.Module):
    """SimCLR's projection g(h): linear, ReLU, linear, then L2 normalisation."""

    def __init__(self, in_features: int, hidden: int, out: int):
        """Builds the head.

        Args:
            in_features: Number of features of one image.
            hidden: Width of the hidden layer.
            out: Dimensions of the projection.
        """
        super().__init__()
        self.layers = nn.Sequential(
            Linear(in_features, hidden), nn.ReLU(inplace=True), Linear(hidden, out)
        )

    def forward(self, features_BD: Tensor) -> Tensor:
        """Maps (B, in_features) to (B, out) of unit L2 norm."""
        return F.normalize(self.layers(features_BD), dim=1)


class ReconstructionHead(nn.Module):
    """Decodes a map to an image of eight times its height and width by pixel shuffling.

    From P4 (stride 16), the result is the input image at half of its resolution: 6x6 to 48x48.
    """

    def __init__(self, in_channels: int, width: int = 32):
        """Builds the head.

        Args:
            in_channels: Channels of the map.
            width: Channels after the first doubling of the resolution; the second doubling leaves
                half as many.
        """
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 4 * width, 3, padding=1),
            nn.PixelShuffle(2),
            nn.SiLU(inplace=True),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.PixelShuffle(2),
            nn.SiLU(inplace=True),
            nn.Conv2d(width // 2, 4 * 3, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W) to RGB in (0, 1), (B, 3, 8H, 8W)."""
        return self.layers(x_BCHW).sigmoid()
