"""A recogniser as the graphs that are exported: uint8 in, logits out, nothing else to know outside.

Three ways to cut it (``Kind``): "clip", one graph from a clip to logits; "frames", a graph from a frame to features
and one from the features of a clip to logits, so that a camera's frames are each seen once; "stream", one step
from a frame and a state to logits and the next state.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_har.errors import ConfigError
from lightning_har.modules.base import ActionRecognizer
from lightning_har.nets.cnn_rnn import CNNRNN
from lightning_har.nets.tsn import TSN, TemporalShift
from lightning_har.spec import InputSpec
from lightning_har.types import Logits, Video

Kind = Literal["clip", "frames", "stream"]


@dataclass
class Graph:
    """What becomes one exported file.

    Attributes:
        name: Stem of the file.
        net: In eval mode; tensors in and a tuple of tensors out, in the order of the names below.
        inputs: Example tensors by name, with B = 1.
        outputs: Names.
        feed: From a clip, or a dict of such, to the inputs this graph sees while it is recognised.
        axes: Which axes may be dynamic: input name → axis → "batch" or "time".
        by_frame: Whether it sees the frames of a clip one by one.
    """

    name: str
    net: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    feed: Callable[[Video], Iterator[tuple[Tensor, ...]]]
    axes: dict[str, dict[int, str]] = field(default_factory=dict)
    by_frame: bool = False


class Normalize(nn.Module):
    """uint8 to what the network eats: one multiply-add, as ``nets.preprocess.normalize``; float passes.

    Args:
        spec: Value range, mean, std and channel order.
        rank: Of the input: 5 for clips, 4 for frames.
    """

    def __init__(self, spec: InputSpec, rank: int) -> None:
        super().__init__()
        low, high = spec.value_range
        std, mean = torch.tensor(spec.std), torch.tensor(spec.mean)
        shape = (1, -1) + (1,) * (rank - 2)
        self.scale: Tensor
        self.offset: Tensor
        self.register_buffer("scale", ((high - low) / 255 / std).view(shape), persistent=False)
        self.register_buffer("offset", ((low - mean) / std).view(shape), persistent=False)
        self.flip = spec.channel_order == "bgr" and spec.modality == "rgb"

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) uint8 to float32 of the same shape."""
        if x.is_floating_point():
            return x
        if self.flip:
            x = x.flip(1)
        return x.float() * self.scale + self.offset


def default_kind(module: ActionRecognizer) -> Kind:
    """The cut "frames" where frames are seen one by one before time comes in, else "clip"."""
    net = module.net
    if isinstance(net, CNNRNN):
        return "frames" if net.backbone is not None else "clip"
    if isinstance(net, TSN) and net.snippet_length == 1:
        return "clip" if any(isinstance(m, TemporalShift) for m in net.modules()) else "frames"
    return "clip"


def build_graphs(module: ActionRecognizer, kind: Kind) -> list[Graph]:
    """The graphs of a recogniser, on copies of its network, on the CPU in float32.

    Args:
        module: In whatever mode; it is left as it is.
        kind: How it is cut.

    Raises:
        ConfigError: It cannot be cut that way.
    """
    if kind == "stream":
        return [_stream_graph(module)]
    if kind == "frames":
        if default_kind(module) != "frames":
            raise ConfigError(
                f"{type(module).__name__} mixes frames before it has features of each; export it as kind='clip'"
            )
        return _frame_graphs(module)
    if kind != "clip":
        raise ConfigError(f"kind is {kind!r}; it must be 'clip', 'frames' or 'stream'")
    return [_clip_graph(module)]


def head_names(module: ActionRecognizer) -> tuple[str, ...]:
    """Names of the logits: the heads', or "logits" for the only one."""
    return ("logits",) if isinstance(module.num_classes, int) else tuple(module.num_classes)


def example_video(module: ActionRecognizer, batch_size: int = 1, num_frames: int | None = None, seed: int = 0) -> Video:
    """A random clip as the module takes it: uint8, of its InputSpec's size; or features.

    Raises:
        ConfigError: A module on features that does not tell how many a frame has.
    """
    generator = torch.Generator().manual_seed(seed)
    if module.spec is None:
        if "feature_dim" not in module.hparams:
            name = type(module).__name__
            raise ConfigError(f"{name} takes features; give it an argument feature_dim that says how many of a frame")
        dim = int(module.hparams["feature_dim"])
        return torch.randn(batch_size, num_frames or feature_frames(module), dim, generator=generator)
    specs = {"": module.spec} if isinstance(module.spec, InputSpec) else dict(module.spec)
    clips = {
        name: torch.randint(
            0,
            256,
            (batch_size, s.channels, num_frames or s.num_frames, *s.size),
            dtype=torch.uint8,
            generator=generator,
        )
        for name, s in specs.items()
    }
    return clips if len(clips) > 1 or "" not in clips else clips[""]


def feature_frames(module: ActionRecognizer) -> int:
    """Frames of a clip of stored features: as many as a run on features has noted; 25, as study E's, where none has."""
    return (module.eval_sampling and module.eval_sampling.num_frames) or 25


def _plain(net: nn.Module) -> nn.Module:
    # ExecuTorch refuses weights that lie in memory channels last.
    copied = copy.deepcopy(net).cpu().float().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    plain: nn.Module = copied.eval().requires_grad_(False)
    return plain


def _flat(logits: Logits) -> tuple[Tensor, ...]:
    return tuple(logits.values()) if isinstance(logits, dict) else (logits,)


class _Clip(nn.Module):
    def __init__(self, net: nn.Module, spec: InputSpec | Mapping[str, InputSpec] | None) -> None:
        super().__init__()
        self.net = net
        specs = {} if spec is None else {"video": spec} if isinstance(spec, InputSpec) else dict(spec)
        self.normalize = nn.ModuleDict({f"from_{name}": Normalize(s, rank=5) for name, s in specs.items()})
        self.modalities = None if spec is None or isinstance(spec, InputSpec) else list(specs)

    def forward(self, *videos: Tensor) -> tuple[Tensor, ...]:
        eaten = [f(v) for f, v in zip(self.normalize.values(), videos, strict=True)] if self.normalize else videos
        if self.modalities is not None:
            return _flat(self.net(dict(zip(self.modalities, eaten, strict=True))))
        return _flat(self.net(eaten[0]))


def _clip_graph(module: ActionRecognizer) -> Graph:
    example = example_video(module)
    if isinstance(example, Mapping):
        inputs = dict(example)
    else:
        inputs = {"features" if module.spec is None else "video": example}
    time_axis = 1 if module.spec is None else 2

    def feed(video: Video) -> Iterator[tuple[Tensor, ...]]:
        yield tuple(video[name] for name in inputs) if isinstance(video, Mapping) else (video,)

    return Graph(
        "model",
        _Clip(_plain(module.net), module.spec),
        inputs,
        head_names(module),
        feed,
        {name: {0: "batch", time_axis: "time"} for name in inputs},
    )


class _Frame(nn.Module):
    def __init__(self, backbone: nn.Module, spec: InputSpec, maps: bool) -> None:
        super().__init__()
        self.normalize = Normalize(spec, rank=4)
        self.backbone = backbone
        self.maps = maps

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        x = self.normalize(frame)
        return (self.backbone.forward_map(x) if self.maps else self.backbone(x),)  # type: ignore[operator]


class _Head(nn.Module):
    def __init__(self, net: CNNRNN | TSN) -> None:
        super().__init__()
        self.net = net
        if isinstance(net, CNNRNN):
            net.backbone = None
        else:
            del net.backbone

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        net = self.net
        if isinstance(net, CNNRNN):
            return _flat(net.head(net.neck(net.temporal(features))))
        return tuple(net._consensus(x) for x in _flat(net.head(features)))


def _frame_graphs(module: ActionRecognizer) -> list[Graph]:
    spec, net = module.spec, _plain(module.net)
    assert isinstance(spec, InputSpec)
    assert isinstance(net, (CNNRNN, TSN))
    assert net.backbone is not None
    maps = isinstance(net, CNNRNN) and bool(getattr(net.temporal, "needs_maps", False))
    frame = _Frame(net.backbone, spec, maps).eval()
    head = _Head(net).eval()
    one = torch.zeros(1, spec.channels, *spec.size, dtype=torch.uint8)
    with torch.no_grad():
        width = frame(one)[0].shape[1:]

    def frames_of(video: Video) -> Iterator[tuple[Tensor, ...]]:
        assert isinstance(video, Tensor)
        for t in range(video.shape[2]):
            yield (video[:, :, t],)

    def features_of(video: Video) -> Iterator[tuple[Tensor, ...]]:
        with torch.no_grad():
            yield (torch.stack([frame(x)[0] for (x,) in frames_of(video)], 1),)

    features = torch.zeros(1, spec.num_frames, *width)
    return [
        Graph("frame", frame, {"frame": one}, ("features",), frames_of, {"frame": {0: "batch"}}, True),
        Graph(
            "head",
            head,
            {"features": features},
            head_names(module),
            features_of,
            {"features": {0: "batch", 1: "time"}},
        ),
    ]


def _stream_graph(module: ActionRecognizer) -> Graph:
    from lightning_har.edge.streaming import StreamingRecognizer

    copied = copy.deepcopy(module)
    copied.net = _plain(copied.net)
    step = StreamingRecognizer(copied)
    state = step.initial_state(1)
    frame = torch.zeros(1, step.spec.channels, *step.spec.size, dtype=torch.uint8)
    names = [f"state_{i}" for i in range(len(state))]

    def feed(video: Video) -> Iterator[tuple[Tensor, ...]]:
        assert isinstance(video, Tensor)
        state = step.initial_state(video.shape[0])
        for t in range(video.shape[2]):
            yield (video[:, :, t], *state)
            with torch.no_grad():
                state = step(video[:, :, t], *state)[len(step.heads) :]

    return Graph(
        "step",
        step,
        {"frame": frame, **dict(zip(names, state, strict=True))},
        (*step.heads, *(f"next_{n}" for n in names)),
        feed,
        by_frame=True,
    )
