"""Spatial RNN: one convolutional GRU per pyramid level, with action-conditioned prediction.

Paper: Ballas et al. 2016, "Delving Deeper into Convolutional Networks for Learning Video
Representations" (ConvGRU, arXiv 1511.06432); the gates follow Cho et al. 2014 (arXiv 1406.1078).

z_t are the features of a level, a_t is the action taken after observing them, and a_{-1} = 0::

    h_t      = cell([z_t, a_{t-1}], h_{t-1})
    z^_{t+1} = z_t + residual([h_t, a_t])

Tensor suffixes: T time, B batch, C channels, H height, W width, A action dimensions.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn


def append_action(maps: Tensor, action: Tensor) -> Tensor:
    """Concatenates (..., C, H, W) maps with (..., A) actions that are repeated at every pixel."""
    height, width = maps.shape[-2:]
    planes = action.to(maps.dtype)[..., None, None].expand(*action.shape, height, width)
    return torch.cat([maps, planes], dim=-3)


class ConvGRUCell(nn.Module):
    """One convolutional GRU cell, with the reset gate *before* the candidate's convolution.

    In these equations, * is the convolution and . is the element-wise product::

        u  = sigmoid(W_u * x + U_u * h + b_u)
        r  = sigmoid(W_r * x + U_r * h + b_r)
        h~ = tanh(W_c * x + U_c * (r . h) + b_c)
        h' = (1 - u) . h + u . h~

    ``torch.nn.GRUCell`` differs in two ways. It applies the reset gate after the product with U_c,
    and its update gate weights the old state where this cell's update gate weights the candidate.
    """

    def __init__(self, input_channels: int, hidden_channels: int, kernel_size: int = 3):
        """Builds the cell.

        Args:
            input_channels: Channels of x.
            hidden_channels: Channels of h.
            kernel_size: Side of every kernel; odd, so that maps keep their size.
        """
        super().__init__()
        padding = kernel_size // 2
        # One convolution holds W_u, W_r and W_c. It needs no hidden state, so it can process a
        # whole sequence at once. Only the convolutions with U remain in the loop over time.
        self.input = nn.Conv2d(input_channels, 3 * hidden_channels, kernel_size, padding=padding)
        self.gates = nn.Conv2d(
            hidden_channels, 2 * hidden_channels, kernel_size, padding=padding, bias=False
        )
        self.candidate = nn.Conv2d(
            hidden_channels, hidden_channels, kernel_size, padding=padding, bias=False
        )

    def project_inputs(self, x_BCHW: Tensor) -> Tensor:
        """Returns the input's part of both gates and the candidate, (B, 3 * hidden, H, W)."""
        return self.input(x_BCHW)

    def step(self, projected_BCHW: Tensor, h_BCHW: Tensor) -> Tensor:
        """Returns the next hidden state from ``project_inputs(x)`` and the hidden state."""
        u_input, r_input, c_input = projected_BCHW.chunk(3, dim=1)
        u_hidden, r_hidden = self.gates(h_BCHW).chunk(2, dim=1)
        u = (u_input + u_hidden).sigmoid()
        r = (r_input + r_hidden).sigmoid()
        candidate = (c_input + self.candidate(r * h_BCHW)).tanh()
        return (1 - u) * h_BCHW + u * candidate

    def forward(self, x_BCHW: Tensor, h_BCHW: Tensor) -> Tensor:
        """Returns the next hidden state from the input and the hidden state."""
        return self.step(self.project_inputs(x_BCHW), h_BCHW)


class ConvGRU(nn.Module):
    """Recurrent forward model of a feature pyramid, which processes each level separately.

    Attributes:
        levels: Channels of each level's features.
        hidden_channels: Channels of each level's hidden state.
        action_dim: Dimensions of an action.
    """

    def __init__(self, levels: Mapping[str, int], action_dim: int, hidden_channels: int):
        """Builds a cell and a predictor for each level.

        Args:
            levels: Channels by level name, e.g. ``{"p4": 48, "p5": 48}``.
            action_dim: Dimensions of an action.
            hidden_channels: Channels of each hidden state.
        """
        super().__init__()
        self.levels = dict(levels)
        self.action_dim = action_dim
        self.hidden_channels = hidden_channels
        self.cells = nn.ModuleDict()
        self.residuals = nn.ModuleDict()
        for name, channels in self.levels.items():
            self.cells[name] = ConvGRUCell(channels + action_dim, hidden_channels)
            last = nn.Conv2d(hidden_channels, channels, 3, padding=1)
            # A residual of zero predicts that nothing changes. Training therefore starts from
            # persistence, the baseline that it has to beat.
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
            self.residuals[name] = nn.Sequential(
                nn.Conv2d(hidden_channels + action_dim, hidden_channels, 3, padding=1),
                nn.SiLU(),
                last,
            )

    def initial_state(
        self,
        batch: int,
        sizes: Mapping[str, tuple[int, int]],
        device: torch.device | str | None = None,
    ) -> dict[str, Tensor]:
        """Returns the hidden state before the first frame, which is zero.

        Args:
            batch: Number of sequences.
            sizes: Height and width of each level.
            device: Device of the state; by default the device of the parameters.

        Returns:
            Hidden states (B, hidden, H, W) of each level.
        """
        parameter = next(self.parameters())
        return {
            name: parameter.new_zeros(
                (batch, self.hidden_channels, *sizes[name]), device=device or parameter.device
            )
            for name in self.levels
        }

    def observe(
        self, z: Mapping[str, Tensor], previous_action_BA: Tensor, h: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Updates the hidden state with a frame.

        Args:
            z: Features (B, C, H, W) of each level.
            previous_action_BA: Action that led to the frame; zeros for the first frame.
            h: Hidden state of each level.

        Returns:
            The next hidden state of each level.
        """
        return {
            name: cell(append_action(z[name], previous_action_BA), h[name])
            for name, cell in self.cells.items()
        }

    def predict(
        self, z: Mapping[str, Tensor], action_BA: Tensor, h: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Predicts the features of the next frame.

        Args:
            z: Features (B, C, H, W) of each level.
            action_BA: Action taken after observing the features.
            h: Hidden state of each level, after ``observe`` has processed the features.

        Returns:
            Predicted features (B, C, H, W) of each level.
        """
        return {
            name: z[name] + residual(append_action(h[name], action_BA))
            for name, residual in self.residuals.items()
        }

    def rollout(
        self, z: Mapping[str, Tensor], actions_TBA: Tensor, warmup: int
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Runs over sequences: first on real frames, then open loop on its own predictions.

        Args:
            z: Real features (T, B, C, H, W) of each level.
            actions_TBA: Action taken after each frame; the last action is not used.
            warmup: Number of leading frames that are real (teacher forcing), at least 1. If it is
                T - 1 or more, every prediction is based on real frames.

        Returns:
            Predictions (T - 1, B, C, H, W) of each level, where entry t predicts frame t + 1, and
            hidden states (T, B, hidden, H, W), where entry t is the state after frame t.

        Raises:
            ValueError: If ``warmup`` is below 1, there are fewer than two frames, or the numbers of
                frames and actions differ.
        """
        steps = len(actions_TBA)
        if warmup < 1:
            raise ValueError(f"warmup is {warmup}: the first frame must be a real one")
        if steps < 2 or any(len(z[name]) != steps for name in self.levels):
            frames = [len(z[name]) for name in self.levels]
            raise ValueError(f"needs two frames or more, one an action; got {frames} for {steps}")
        previous_TBA = torch.cat([torch.zeros_like(actions_TBA[:1]), actions_TBA[:-1]])
        predictions, hidden = {}, {}
        for name in self.levels:
            predictions[name], hidden[name] = self._rollout_level(
                name, z[name], actions_TBA, previous_TBA, min(warmup, steps)
            )
        return predictions, hidden

    def _rollout_level(
        self, name: str, z: Tensor, action: Tensor, previous: Tensor, warmup: int
    ) -> tuple[Tensor, Tensor]:
        """Runs one level over (T, B, C, H, W) features; see ``rollout``."""
        cell, residual = cast(ConvGRUCell, self.cells[name]), self.residuals[name]
        steps, batch, _, *size = z.shape
        real = z[:warmup]
        inputs = append_action(real, previous[:warmup]).flatten(0, 1)
        projected = cell.project_inputs(inputs).unflatten(0, (warmup, batch))
        h = cell.gates.weight.new_zeros(batch, self.hidden_channels, *size)
        hidden = []
        for x in projected:
            h = cell.step(x, h)
            hidden.append(h)
        # No prediction is fed back during the warm-up, so one call computes all its predictions.
        known = min(warmup, steps - 1)
        inputs = append_action(torch.stack(hidden[:known]), action[:known]).flatten(0, 1)
        predictions = list(z[:known] + residual(inputs).unflatten(0, (known, batch)))
        for t in range(warmup, steps):
            imagined = predictions[-1]
            h = cell(append_action(imagined, previous[t]), h)
            hidden.append(h)
            if t < steps - 1:
                predictions.append(imagined + residual(append_action(h, action[t])))
        return torch.stack(predictions), torch.stack(hidden)
