"""Where the handle is, by a small network on the geometry of a segmented picture.

Tensor suffixes: B batch, I inputs, O outputs, N samples.
"""

import numpy as np
import torch
from torch import Tensor, nn

from lib.learning.portable import Linear

CLIP = 5.0  # standard deviations
HIDDEN = 256


class Locator(nn.Module):
    """Regression of a few numbers by two hidden layers, on inputs that it scales itself."""

    mean: Tensor
    scale: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        """Builds the network.

        Args:
            inputs: Number of inputs.
            outputs: Number of numbers to predict.
        """
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        layers: list[nn.Module] = []
        for width in (inputs, HIDDEN):
            layers += [Linear(width, HIDDEN), nn.LayerNorm(HIDDEN), nn.ReLU()]
        self.layers = nn.Sequential(*layers, Linear(HIDDEN, outputs))

    def scale_by(self, x_NI: np.ndarray) -> None:
        """Sets mean and scale, so that these inputs have zero mean and unit variance.

        Args:
            x_NI: Inputs of the training, (N, I).
        """
        self.mean.copy_(torch.from_numpy(x_NI.mean(0)))
        self.scale.copy_(torch.from_numpy(np.maximum(x_NI.std(0), 1e-6)))

    def forward(self, x_BI: Tensor) -> Tensor:
        """Returns the predictions, (B, O)."""
        return self.layers(((x_BI - self.mean) / self.scale).clamp(-CLIP, CLIP))
