"""Spatial RNN: a convolutional GRU a pyramid level, with action-conditioned prediction.

Paper: Ballas et al. 2016, "Delving Deeper into Convolutional Networks for Learning Video
Representations" (ConvGRU, arXiv 1511.06432); the gates follow Cho et al. 2014 (arXiv 1406.1078).

With z_t the features of a level, a_t the action taken on seeing them, and a_{-1} = 0::

    h_t      = cell([z_t, a_{t-1}], h_{t-1})
    z^_{t+1} = z_t + residual([h_t, a_t])

Tensor suffixes: T time, B batch, C channels, H height, W width, A action dimensions.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def append_action(maps: Tensor, action: Tensor) -> Tensor:
    """Concatenate (..., C, H, W) maps with (..., A) actions spread over space."""
    height, width = maps.shape[-2:]
    planes = action.to(maps.dtype)[..., None, None].expand(*action.shape, height, width)
    return torch.cat([maps, planes], dim=-3)


class ConvGRUCell(nn.Module):
    """One convolutional GRU cell, the reset gate *before* the candidate's convolution.

    With * the convolution and . the product of elements::

        u  = sigmoid(W_u * x + U_u * h + b_u)
        r  = sigmoid(W_r * x + U_r * h + b_r)
        h~ = tanh(W_c * x + U_c * (r . h) + b_c)
        h' = (1 - u) . h + u . h~

    ``torch.nn.GRUCell`` differs twice: it resets after the product with U_c, and its update gate
    keeps the old state where this one takes the new.
    """

    def __init__(self, input_channels: int, hidden_channels: int, kernel_size: int = 3):
        """Build the cell.

        Args:
            input_channels: Channels of x.
            hidden_channels: Channels of h.
            kernel_size: Side of every kernel; odd, so that maps keep their size.
        """
        super().__init__()
        padding = kernel_size // 2
        # W_u, W_r and W_c in one convolution: it needs no state, so a whole sequence can go
        # through it at once, and the loop over time is left with U alone.
        self.input = nn.Conv2d(input_channels, 3 * hidden_channels, kernel_size, padding=padding)
        self.gates = nn.Conv2d(
            hidden_channels, 2 * hidden_channels, kernel_size, padding=padding, bias=False
        )
        self.candidate = nn.Conv2d(
            hidden_channels, hidden_channels, kernel_size, padding=padding, bias=False
        )

    def project_inputs(self, x_BCHW: Tensor) -> Tensor:
        """Input's share of update gate, reset gate and candidate, (B, 3 * hidden, H, W)."""
        return self.input(x_BCHW)

    def step(self, projected_BCHW: Tensor, h_BCHW: Tensor) -> Tensor:
        """Next hidden state from ``project_inputs(x)`` and the hidden state."""
        u_input, r_input, c_input = projected_BCHW.chunk(3, dim=1)
        u_hidden, r_hidden = self.gates(h_BCHW).chunk(2, dim=1)
        u = (u_input + u_hidden).sigmoid()
        r = (r_input + r_hidden).sigmoid()
        candidate = (c_input + self.candidate(r * h_BCHW)).tanh()
        return (1 - u) * h_BCHW + u * candidate

    def forward(self, x_BCHW: Tensor, h_BCHW: Tensor) -> Tensor:
        """Next hidden state from the input and the hidden state."""
        return self.step(self.project_inputs(x_BCHW), h_BCHW)


class ConvGRU(nn.Module):
    """Recurrent forward model of a feature pyramid; its levels do not mix.

    Attributes:
        levels: Channels of each level's features.
        hidden_channels: Channels of each level's hidden state.
        action_dim: Dimensions of an action.
    """

    def __init__(self, levels: Mapping[str, int], action_dim: int, hidden_channels: int):
        """Build a cell and a predictor for each level.

        Args:
            levels: Channels by name, e.g. ``{"p4": 48, "p5": 48}``.
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
            # A residual of zero predicts that nothing changes: training starts from persistence,
            # the baseline it has to beat.
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
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
        """Hidden state before the first frame: zeros.

        Args:
            batch: Number of sequences.
            sizes: Height and width of each level.
            device: Where the state lives; by default where the parameters do.

        Returns:
            (B, hidden, H, W) for each level.
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
        """Take in a frame.

        Args:
            z: Features (B, C, H, W) of each level.
            previous_action_BA: Action that led to the frame; zeros for a first frame.
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
        """Predict the next frame.

        Args:
            z: Features (B, C, H, W) of each level.
            action_BA: Action taken on seeing them.
            h: Hidden state of each level, after ``observe`` took in the features.

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
        """Run over sequences: on real frames first, then on the model's own predictions.

        Args:
            z: Real features (T, B, C, H, W) of each level.
            actions_TBA: Action taken on each frame; the last one is not used.
            warmup: Number of leading frames that are real (teacher forcing), at least 1. From
                T - 1 on, every prediction rests on real frames.

        Returns:
            Predictions (T - 1, B, C, H, W) of each level, where entry t is about frame t + 1,
            and hidden states (T, B, hidden, H, W), where entry t has taken in frame t.

        Raises:
            ValueError: If ``warmup`` is below 1, there are fewer than two frames, or there are
                not as many frames as actions.
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
        """Run one level over (T, B, C, H, W) features; see ``rollout``."""
        cell, residual = self.cells[name], self.residuals[name]
        steps, batch, _, *size = z.shape
        real = z[:warmup]
        inputs = append_action(real, previous[:warmup]).flatten(0, 1)
        projected = cell.project_inputs(inputs).unflatten(0, (warmup, batch))
        h = cell.gates.weight.new_zeros(batch, self.hidden_channels, *size)
        hidden = []
        for x in projected:
            h = cell.step(x, h)
            hidden.append(h)
        # Nothing feeds back during the warm-up, so its predictions need one call as well.
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
