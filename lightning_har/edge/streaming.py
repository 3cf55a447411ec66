"""One frame in, the current prediction out, the state kept.

What the network would say of the frames so far, it says after each of them: the logits after T frames equal those
of the clip of these T frames.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lightning_har.edge.graphs import Normalize, head_names
from lightning_har.errors import ConfigError
from lightning_har.modules.base import ActionRecognizer
from lightning_har.nets.cnn_rnn import CNNRNN
from lightning_har.nets.tsn import TSN, TemporalShift
from lightning_har.spec import InputSpec
from lightning_har.types import Logits

State = tuple[Tensor, ...]


class StreamingRecognizer(nn.Module):
    """A recogniser that takes frames one by one.

    CNN-RNN with any temporal part but "single", whose middle frame is known at the end alone, and a "convnet1d" that is
    not causal; TSN with the consensus "avg" or "max", with ``temporal_shift="causal"`` or none. (The two-directional
    shift of TSM looks one frame ahead in every block: it has no streamed form of the same logits. Lin et al. 2019,
    section 4.2, train a one-directional one for this.)

    It stays on the module's device and in its type; frames are given there.

    As a module it is a function without memory, ``(frame, *state) -> (*logits, *state)``, which exports;
    ``push`` keeps the state for you.

    Args:
        module: Copied, so that later training of it changes nothing here.

    Raises:
        ConfigError: An architecture that needs the whole clip; the message says which would not.
    """

    def __init__(self, module: ActionRecognizer) -> None:
        super().__init__()
        spec, net = module.spec, module.net
        if not isinstance(spec, InputSpec) or not isinstance(net, (CNNRNN, TSN)):
            raise ConfigError(
                f"{type(module).__name__} needs whole clips; only CNN-RNN and TSN with a backbone run frame by frame"
            )
        self.spec = spec
        self.step: nn.Module
        net = copy.deepcopy(net).eval().requires_grad_(False)
        self.step = _TSNStep(net, spec) if isinstance(net, TSN) else _CNNRNNStep(net, spec)
        self.normalize = Normalize(spec, rank=4).to(next(net.parameters()).device)
        self.eval()
        self.heads = head_names(module)
        self._state: State | None = None

    def initial_state(self, batch_size: int = 1) -> State:
        """The state before the first frame, one tensor or more with the batch first (a frame count has none).

        On the device and in the type of the network's parameters.
        """
        state: State = self.step.initial_state(batch_size)  # type: ignore[operator]
        like = next(self.step.parameters())
        return tuple(s.to(like) for s in state)

    def forward(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """One step, without memory.

        Args:
            frame: (B, C, H, W), uint8, or float already normalised.
            state: From ``initial_state`` or the step before.

        Returns:
            Logits (B, K) of each of ``heads``, then the new state.
        """
        x, dtype = self.normalize(frame), next(self.step.parameters()).dtype
        logits, new = self.step(x if x.dtype == dtype else x.to(dtype), state)
        values = tuple(logits[h] for h in self.heads) if isinstance(logits, dict) else (logits,)
        return (*values, *new)

    @torch.no_grad()
    def push(self, frame: Tensor) -> Logits:
        """Take the next frame (B, C, H, W) or (C, H, W); give the logits of the frames since ``reset``.

        Returns:
            (B, K), or a dict of such by head.
        """
        if frame.ndim == 3:
            frame = frame[None]
        state = self.initial_state(frame.shape[0]) if self._state is None else self._state
        out = self(frame, *state)
        self._state = out[len(self.heads) :]
        if self.heads == ("logits",):
            return out[0]  # type: ignore[no-any-return]
        return dict(zip(self.heads, out, strict=False))

    def reset(self) -> None:
        """Forget all frames."""
        self._state = None


class _CNNRNNStep(nn.Module):
    def __init__(self, net: CNNRNN, spec: InputSpec) -> None:
        super().__init__()
        if net.backbone is None:
            raise ConfigError("this network takes features; only one with a backbone runs on frames")
        self.net = net
        start = net.initial_state(1)  # raises where the temporal part needs the whole clip
        with torch.no_grad():
            like = next(net.parameters())
            frame = like.new_zeros(1, spec.channels, *spec.size)
            after = net.step(frame, tuple(s.to(like) for s in start))[1]
        # A graph's state has one shape before and after a step; how large ConvLSTM's maps are, the frames decide.
        self.shapes = [tuple(s.shape[1:]) for s in after]

    def initial_state(self, batch_size: int) -> State:
        start = self.net.initial_state(batch_size)
        return tuple(s.expand(s.shape[0], *shape).clone() for s, shape in zip(start, self.shapes, strict=True))

    def forward(self, frame: Tensor, state: State) -> tuple[Logits, State]:
        return self.net.step(frame, state)


class _Memory:
    """What the shifts of one step take from the frame before and leave for the next."""

    def __init__(self) -> None:
        self.old: list[Tensor] = []
        self.new: list[Tensor] = []


class _OnlineShift(nn.Module):
    """Part of the channels from the frame before, which a memory brings."""

    def __init__(self, shift: TemporalShift, memory: _Memory) -> None:
        super().__init__()
        self.layer = shift.layer
        self.divisor = shift.divisor
        self.memory = memory

    def forward(self, x: Tensor) -> Tensor:
        fold = x.shape[1] // self.divisor
        past = self.memory.old.pop(0) if self.memory.old else torch.zeros_like(x[:, :fold])
        self.memory.new.append(x[:, :fold])
        out: Tensor = self.layer(torch.cat((past, x[:, fold:]), 1))
        return out


class _TSNStep(nn.Module):
    """State: the sum (or greatest) of each head's logits, the count of frames, then what each shift remembers."""

    def __init__(self, net: TSN, spec: InputSpec) -> None:
        super().__init__()
        if net.consensus == "weighted":
            raise ConfigError("a weighted consensus spreads over the whole clip; train with consensus='avg' or 'max'")
        if net.snippet_length != 1:
            raise ConfigError(f"a snippet of {net.snippet_length} frames is not one frame; stream an RGB network")
        self.memory = _Memory()
        self.net = net
        for parent in list(net.backbone.modules()):
            for name, child in parent.named_children():
                if isinstance(child, TemporalShift):
                    if not child.causal:
                        raise ConfigError(
                            "TSM's shift looks one frame ahead, which a stream does not have; train with "
                            "temporal_shift='causal'"
                        )
                    setattr(parent, name, _OnlineShift(child, self.memory))
        with torch.no_grad():
            logits = self._frame_logits(next(net.parameters()).new_zeros(1, spec.channels, *spec.size))
        self.widths = [x.shape[1] for x in logits.values()]
        self.maps = [tuple(x.shape[1:]) for x in self.memory.new]
        self.memory.new = []

    def _frame_logits(self, frame: Tensor) -> dict[str, Tensor]:
        logits = self.net.head(self.net.backbone(frame))
        return logits if isinstance(logits, dict) else {"": logits}

    def initial_state(self, batch_size: int) -> State:
        start = -torch.inf if self.net.consensus == "max" else 0.0
        return (
            *(torch.full((batch_size, k), start) for k in self.widths),
            torch.zeros(1),
            *(torch.zeros(batch_size, *shape) for shape in self.maps),
        )

    def forward(self, frame: Tensor, state: State) -> tuple[Logits, State]:
        heads = len(self.widths)
        self.memory.old, self.memory.new = list(state[heads + 1 :]), []
        logits = self._frame_logits(frame)
        shifted, self.memory.new = self.memory.new, []
        count = state[heads] + 1
        if self.net.consensus == "max":
            kept = [torch.maximum(x, s) for x, s in zip(logits.values(), state, strict=False)]
            shown = kept
        else:
            kept = [x + s for x, s in zip(logits.values(), state, strict=False)]
            shown = [x / count for x in kept]
        named: Logits = dict(zip(logits, shown, strict=True)) if "" not in logits else shown[0]
        return named, (*kept, count, *shifted)
