"""Networks prepared for inference: batch normalisation is folded into the convolutions."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Model = TypeVar("Model", bound=nn.Module)


def to_unit(images_BHW3: np.ndarray | Tensor) -> Tensor:
    """Converts pictures into network input.

    Args:
        images_BHW3: Pictures, uint8.

    Returns:
        (B, 3, H, W) float32 in [0, 1], channels last in memory.
    """
    images = torch.as_tensor(images_BHW3)
    return images.permute(0, 3, 1, 2).float().div_(255)


def channels_last(model: Model) -> Model:
    """Stores the weights of a network with channels last in memory, where convolutions are faster.

    Args:
        model: Network, changed in place.
    """
    return model.to(memory_format=torch.channels_last)  # ty: ignore[no-matching-overload]


def freeze(model: Model) -> Model:
    """Sets a network to evaluation mode, without gradients and with channels last in memory.

    Args:
        model: Network, changed in place.
    """
    model.eval()
    model.requires_grad_(False)
    return channels_last(model)


def folded(model: Model) -> Model:
    """Copies a network and folds each batch normalisation into the convolution before it.

    The copy gives the same output as the network in evaluation mode, up to rounding, in less time.

    Args:
        model: Network, not changed. A batch normalisation is folded if it directly follows a
            convolution in an ``nn.Sequential``.
    """
    model = copy.deepcopy(model).eval()
    for block in [m for m in model.modules() if isinstance(m, nn.Sequential)]:
        for index, (first, second) in enumerate(pairwise(block)):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                block[index] = fuse_conv_bn_eval(first, second)
                block[index + 1] = nn.Identity()
    return model
