"""What follows a frame-level extractor: (B, T, D) to (B, D').

Each part has ``num_features`` (D'); those that can run frame by frame have ``step(x, state)``, whose outputs
equal those of ``forward`` on the same frames, and ``initial_state(batch_size)``. One that looks at few frames has
``pick(video, dim)``, which takes these alone; one that wants feature maps says ``needs_maps``.

The recurrent cells are two linear layers and elementwise gates: they equal ``nn.GRU`` and ``nn.LSTM``, and
their matrix products quantize and export as ordinary linear layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_har.errors import ConfigError

# Keras's defaults, which studies C and E use: epsilon 1e-3; momentum 0.99, in PyTorch's convention 0.01.
KERAS_BN: dict[str, Any] = {"eps": 1e-3, "momentum": 0.01}


class Average(nn.Module):
    """Mean over frames."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.num_features = in_features

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, D) to (B, D)."""
        return features.mean(1)

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Sum so far (B, D) and frames seen (1,)."""
        return torch.zeros(batch_size, self.num_features), torch.zeros(1)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """A frame (B, D): the mean of all frames up to it."""
        total, count = state[0] + x, state[1] + 1
        return total / count, (total, count)


class SingleFrame(nn.Module):
    """The middle frame alone: what a recogniser knows without time."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.num_features = in_features

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, D) to (B, D), frame T // 2."""
        return self.pick(features, 1)[:, 0]

    def pick(self, video: Tensor, dim: int) -> Tensor:
        """Of a video, or features, with its frames along ``dim``, frame T // 2 alone: T = 1."""
        return video.narrow(dim, video.shape[dim] // 2, 1)


class AttentionPool(nn.Module):
    """Weighted mean over frames, the weights a softmax over a learned score of each frame."""

    def __init__(self, in_features: int, hidden: int = 128) -> None:
        super().__init__()
        self.num_features = in_features
        self.score = nn.Sequential(nn.Linear(in_features, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, D) to (B, D)."""
        weights = self.score(features).softmax(1)
        pooled: Tensor = (weights * features).sum(1)
        return pooled

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """The weighted sum so far (B, D), the sum of the weights and the greatest score, (B, 1) each."""
        one = torch.zeros(batch_size, 1)
        return torch.zeros(batch_size, self.num_features), one, torch.full_like(one, -torch.inf)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """A frame (B, D): the weighted mean of all frames up to it."""
        total, weights, greatest = state
        score = self.score(x)
        # Weights are relative to the greatest score, as softmax computes them, so that none overflows.
        new = torch.maximum(score, greatest)
        weight, shrink = torch.exp(score - new), torch.exp(greatest - new)
        total, weights = total * shrink + weight * x, weights * shrink + weight
        return total / weights, (total, weights, new)


class Moments(nn.Module):
    """Mean and standard deviation over frames, side by side."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.num_features = 2 * in_features

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, D) to (B, 2 D)."""
        mean = features.mean(1)
        # The epsilon keeps the gradient of the root finite where all frames agree.
        std = ((features - mean[:, None]).square().mean(1) + 1e-6).sqrt()
        return torch.cat((mean, std), 1)

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and sum of squared distances from it so far, (B, D) each, and frames seen (1,)."""
        zeros = torch.zeros(batch_size, self.num_features // 2)
        return zeros, zeros.clone(), torch.zeros(1)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """A frame (B, D): mean and standard deviation of all frames up to it (Welford 1962)."""
        before, squares, count = state
        count = count + 1
        mean = before + (x - before) / count
        squares = squares + (x - before) * (x - mean)
        return torch.cat((mean, (squares / count + 1e-6).sqrt()), 1), (mean, squares, count)


class Max(nn.Module):
    """Greatest value of each feature over the frames."""

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.num_features = in_features

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, D) to (B, D)."""
        return features.amax(1)

    def initial_state(self, batch_size: int) -> tuple[Tensor]:
        """The greatest so far (B, D)."""
        return (torch.full((batch_size, self.num_features), -torch.inf),)

    def step(self, x: Tensor, state: tuple[Tensor]) -> tuple[Tensor, tuple[Tensor]]:
        """A frame (B, D): the greatest of all frames up to it."""
        best = torch.maximum(x, state[0])
        return best, (best,)


class GRU(nn.Module):
    """Gated recurrent unit; the last state is the output.

    Args:
        in_features: D.
        hidden: H, also ``num_features``.
        reset: "after" applies the reset gate after the recurrent product, as ``nn.GRU`` does (and equals it);
            "before" applies it to the state first, as Cho et al. (2014), equation 8, and Keras's
            ``reset_after=False`` do, with one bias per gate.
    """

    def __init__(self, in_features: int, hidden: int, reset: str = "after") -> None:
        super().__init__()
        if reset not in ("after", "before"):
            raise ConfigError(f"reset is {reset!r}; it must be 'after' (PyTorch) or 'before' (Keras)")
        self.num_features = hidden
        self.reset = reset
        self.input = nn.Linear(in_features, 3 * hidden)  # reset, update, new
        if reset == "after":
            self.recurrent = nn.Linear(hidden, 3 * hidden)
        else:
            self.recurrent = nn.Linear(hidden, 2 * hidden, bias=False)
            self.candidate = nn.Linear(hidden, hidden, bias=False)
        for name, parameter in self.named_parameters():
            if "bias" in name:
                nn.init.zeros_(parameter)
            elif name == "input.weight":
                nn.init.xavier_uniform_(parameter)
            else:  # each gate's square block orthogonal
                for block in parameter.data.split(hidden):
                    nn.init.orthogonal_(block)

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, D) to the state after the last frame, (B, H)."""
        gates = self.input(features)
        state = features.new_zeros(features.shape[0], self.num_features)
        for x in gates.unbind(1):
            state = self._update(x, state)
        return state

    def _update(self, x: Tensor, state: Tensor) -> Tensor:
        if self.reset == "after":
            reset_x, update_x, new_x = x.chunk(3, 1)
            reset_h, update_h, new_h = self.recurrent(state).chunk(3, 1)
            new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
        else:
            reset_x, update_x, new_x = x.chunk(3, 1)
            reset_h, update_h = self.recurrent(state).chunk(2, 1)
            new = torch.tanh(new_x + self.candidate(torch.sigmoid(reset_x + reset_h) * state))
        update = torch.sigmoid(update_x + update_h)
        return new + update * (state - new)

    def initial_state(self, batch_size: int) -> tuple[Tensor]:
        """Zeros (B, H)."""
        return (torch.zeros(batch_size, self.num_features),)

    def step(self, x: Tensor, state: tuple[Tensor]) -> tuple[Tensor, tuple[Tensor]]:
        """A frame (B, D) to the new state (B, H)."""
        new = self._update(self.input(x), state[0])
        return new, (new,)


class LSTM(nn.Module):
    """Long short-term memory with one bias per gate; the last state is the output.

    Equals ``nn.LSTM``, whose two biases only ever add up. The forget gate's bias starts at 1, as in Keras.

    Args:
        in_features: D.
        hidden: H, also ``num_features``.
    """

    def __init__(self, in_features: int, hidden: int) -> None:
        super().__init__()
        self.num_features = hidden
        self.input = nn.Linear(in_features, 4 * hidden)  # input, forget, cell, output
        self.recurrent = nn.Linear(hidden, 4 * hidden, bias=False)
        nn.init.xavier_uniform_(self.input.weight)
        nn.init.zeros_(self.input.bias)
        nn.init.ones_(self.input.bias.data[hidden : 2 * hidden])
        for block in self.recurrent.weight.data.split(hidden):
            nn.init.orthogonal_(block)

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, D) to the output after the last frame, (B, H)."""
        gates = self.input(features)
        state = cell = features.new_zeros(features.shape[0], self.num_features)
        for x in gates.unbind(1):
            state, cell = self._update(x, state, cell)
        return state

    def _update(self, x: Tensor, state: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = (x + self.recurrent(state)).chunk(4, 1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Zeros for state and cell, (B, H) each."""
        zeros = torch.zeros(batch_size, self.num_features)
        return zeros, zeros.clone()

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """A frame (B, D) to the output (B, H) and the new state."""
        state = self._update(self.input(x), *state)
        return state[0], state


class ConvLSTM(nn.Module):
    """LSTM whose products are convolutions over feature maps (Shi et al. 2015, without peepholes).

    Study C's: 8 filters of 4 × 4, stride 4 on the input, the recurrent one padded to the same size; then batch
    norm and a global maximum. Keras's conventions: one bias per gate, the odd row of padding behind.

    Args:
        in_features: D, channels of the maps.
        hidden: Filters, also ``num_features``.
        kernel_size: Of both convolutions.
        stride: Of the input convolution.
    """

    needs_maps = True

    def __init__(self, in_features: int, hidden: int = 8, kernel_size: int = 4, stride: int = 4) -> None:
        super().__init__()
        self.num_features = hidden
        self.kernel_size = kernel_size
        self.input = nn.Conv2d(in_features, 4 * hidden, kernel_size, stride)
        self.recurrent = nn.Conv2d(hidden, 4 * hidden, kernel_size, bias=False)
        self.norm = nn.BatchNorm2d(hidden, **KERAS_BN)
        nn.init.xavier_uniform_(self.input.weight)
        nn.init.orthogonal_(self.recurrent.weight)
        assert self.input.bias is not None
        nn.init.zeros_(self.input.bias)
        nn.init.ones_(self.input.bias.data[hidden : 2 * hidden])

    def forward(self, maps: Tensor) -> Tensor:
        """(B, T, D, h, w) to (B, filters).

        Raises:
            ConfigError: Maps smaller than the kernel.
        """
        if min(maps.shape[-2:]) < self.kernel_size:
            raise ConfigError(
                f"ConvLSTM's {self.kernel_size}×{self.kernel_size} kernel needs maps at least that large, got "
                f"{maps.shape[-2]}×{maps.shape[-1]}; use larger frames (study C's 256 give 8×8)"
            )
        gates = self.input(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])
        state = cell = gates.new_zeros(gates.shape[0], self.num_features, *gates.shape[-2:])
        for x in gates.unbind(1):
            state, cell = self._update(x, state, cell)
        return self._pool(state)

    def _update(self, x: Tensor, state: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        front = (self.kernel_size - 1) // 2
        back = self.kernel_size - 1 - front
        i, f, g, o = (x + self.recurrent(F.pad(state, (front, back, front, back)))).chunk(4, 1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell

    def _pool(self, state: Tensor) -> Tensor:
        pooled: Tensor = self.norm(state).amax((2, 3))
        return pooled

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Zeros for state and cell, (B, filters, 1, 1) each, which stand for maps of any size."""
        zeros = torch.zeros(batch_size, self.num_features, 1, 1)
        return zeros, zeros.clone()

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """A frame's maps (B, D, h, w) to the output (B, filters) and the new state."""
        state = self._update(self.input(x), *state)
        return self._pool(state[0]), state


class ConvNet1D(nn.Module):
    """Study C's temporal convolutions: four blocks of two, then one that takes in the rest.

    A block is [conv k3 → width, BN, conv k3 → width, BN, LeakyReLU 0.01], nothing padded, so that it takes four
    frames off; 20 frames leave 4, which the last convolution (k4 → out) turns into one. Longer clips leave more
    outputs, which are averaged.

    Args:
        in_features: D.
        width: Channels inside.
        hidden: Channels of the last convolution, also ``num_features``.
        num_frames: T it is built for; the number of blocks is ``min(4, (T - 4) // 4)``.
        causal: Pad in front instead of not at all, so that every frame has an output and may be streamed.
    """

    def __init__(
        self, in_features: int, width: int = 10, hidden: int = 100, num_frames: int = 20, causal: bool = False
    ) -> None:
        super().__init__()
        blocks = 4 if causal else min(4, (num_frames - 4) // 4)
        if blocks < 0:
            raise ConfigError(f"ConvNet1D needs at least 4 frames, got num_frames={num_frames}")
        self.num_features = hidden
        self.causal = causal
        self.min_frames = 1 if causal else 4 * blocks + 4
        layers: list[nn.Module] = []
        channels = in_features
        for _ in range(blocks):
            for _ in range(2):
                layers += [nn.Conv1d(channels, width, 3), nn.BatchNorm1d(width, **KERAS_BN)]
                channels = width
            layers.append(nn.LeakyReLU(0.01))
        layers += [nn.Conv1d(channels, hidden, 4), nn.BatchNorm1d(hidden, **KERAS_BN), nn.LeakyReLU(0.01)]
        self.layers = nn.ModuleList(layers)

    def forward(self, features: Tensor) -> Tensor:
        """(B, T, D) to (B, hidden); causal, the last frame's output.

        Raises:
            ConfigError: A clip too short for the unpadded convolutions.
        """
        if features.shape[1] < self.min_frames:
            raise ConfigError(f"ConvNet1D takes at least {self.min_frames} frames, got {features.shape[1]}")
        x = features.transpose(1, 2)
        for layer in self.layers:
            if self.causal and isinstance(layer, nn.Conv1d):
                x = F.pad(x, (layer.kernel_size[0] - 1, 0))
            x = layer(x)
        return x[:, :, -1] if self.causal else x.mean(2)

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """For each convolution the inputs it still needs, (B, channels, kernel - 1), zeros.

        Raises:
            ConfigError: Not causal: an unpadded network has no output for the first frames.
        """
        if not self.causal:
            raise ConfigError("only a causal ConvNet1D runs frame by frame; build it with causal=True")
        convs = [layer for layer in self.layers if isinstance(layer, nn.Conv1d)]
        return tuple(torch.zeros(batch_size, c.in_channels, c.kernel_size[0] - 1) for c in convs)

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """A frame (B, D) to (B, hidden) and the new state."""
        x = x[:, :, None]
        old, new = iter(state), []
        for layer in self.layers:
            if isinstance(layer, nn.Conv1d):
                x = torch.cat((next(old), x), 2)
                new.append(x[:, :, 1:])
            x = layer(x)
        return x[:, :, 0], tuple(new)
