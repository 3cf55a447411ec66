"""X3D and other efficient networks of pytorchvideo, returning logits.

Only pytorchvideo's models are imported; its transforms no longer import beside today's torchvision. Sources:
Feichtenhofer, "X3D: Expanding Architectures for Efficient Video Recognition", CVPR 2020; each builder's docstring in
pytorchvideo names the others.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from lightning_har.errors import ConfigError, WeightsError
from lightning_har.nets.checks import check_clip
from lightning_har.nets.conv_head import sliding_average
from lightning_har.nets.heads import ClassifierHead
from lightning_har.types import Logits, NumClasses

MEAN = (0.45,)
STD = (0.225,)


class Published(NamedTuple):
    """A builder of pytorchvideo and the input that its published weights were trained on.

    Attributes:
        home: Module below ``pytorchvideo.models.hub``.
        frames: T.
        size: H = W in pixels.
        time_stride: Frames of the video from one sampled frame to the next.
        min_frames: Least T, its stride in time.
        weights: File of the published weights, a pickle.
    """

    home: str
    frames: int
    size: int
    time_stride: int
    min_frames: int
    weights: str


_ZOO = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics/"

MODELS: dict[str, Published] = {
    "x3d_xs": Published("x3d", 4, 160, 12, 1, "X3D_XS.pyth"),
    "x3d_s": Published("x3d", 13, 160, 6, 1, "X3D_S.pyth"),
    "x3d_m": Published("x3d", 16, 224, 5, 1, "X3D_M.pyth"),
    "x3d_l": Published("x3d", 16, 312, 5, 1, "X3D_L.pyth"),
    "slow_r50": Published("resnet", 8, 224, 8, 1, "SLOW_8x8_R50.pyth"),
    "c2d_r50": Published("resnet", 8, 224, 8, 2, "C2D_8x8_R50.pyth"),
    "i3d_r50": Published("resnet", 8, 224, 8, 2, "I3D_8x8_R50.pyth"),
    "r2plus1d_r50": Published("r2plus1d", 16, 224, 4, 4, "R2PLUS1D_16x4_R50.pyth"),
    "csn_r101": Published("csn", 32, 224, 2, 8, "CSN_32x2_R101.pyth"),
    "efficient_x3d_xs": Published("efficient_x3d_mobile_cpu", 4, 160, 12, 1, "efficient_x3d_xs_original_form.pyth"),
    "efficient_x3d_s": Published("efficient_x3d_mobile_cpu", 13, 160, 6, 1, "efficient_x3d_s_original_form.pyth"),
}
"""What can be built. SlowFast (two clips of one modality) and MViT (fixed size) are left out."""


class SlidingAverage(nn.Module):
    """The average pool of pytorchvideo's heads, which shrinks with a map smaller than its kernel.

    Args:
        kernel: Size in (T, H, W).
    """

    def __init__(self, kernel: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, maps: Tensor) -> Tensor:
        """(B, D, T, H, W) to (B, D, T', H', W')."""
        return sliding_average(maps, self.kernel)


class PyTorchVideoNet(nn.Module):
    """A network of pytorchvideo up to its features, with a head that returns logits in training and evaluation.

    pytorchvideo's own X3D and R(2+1)D apply softmax in evaluation only; here nothing does. Where a clip is larger
    than the network's own size, the head's pool slides as in pytorchvideo; where smaller, it takes the whole map.

    Args:
        name: One of ``MODELS``.
        num_classes: K; or classes by head name; or 0 for features.
        in_channels: 3 for RGB, 2 for flow; the efficient X3D takes 3 only.
        dropout: Before the head.
    """

    def __init__(self, name: str, num_classes: NumClasses = 400, in_channels: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        if name not in MODELS:
            near = difflib.get_close_matches(name, MODELS, 3) or list(MODELS)
            raise ConfigError(f"no pytorchvideo model {name!r} here; nearest: {', '.join(near)}")
        self.name, self.in_channels = name, in_channels
        self.published = MODELS[name]
        net = _build(name, in_channels)
        if name.startswith("efficient"):
            last, pool = net, None
            projection = net.projection.model
            net.projection = nn.Identity()
        else:
            last = net.blocks[-1]
            projection, pool = last.proj, last.pool
            last.proj, last.activation = nn.Identity(), None
        last.dropout = nn.Identity()
        if isinstance(pool, nn.AvgPool3d):
            last.pool = SlidingAverage(_triple(pool.kernel_size))
        elif pool is not None:  # X3D's pool sits between two convolutions
            pool.pool = SlidingAverage(_triple(pool.pool.kernel_size))
        self.net: nn.Module = net
        self.num_features = int(projection.in_features)
        self.head = ClassifierHead(self.num_features, num_classes, dropout)

    def forward_features(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, D).

        Raises:
            ConfigError: Wrong rank, channels or dtype; fewer frames than the stride in time; under 32×32 pixels.
        """
        check_clip(video, channels=self.in_channels, min_frames=self.published.min_frames, min_size=32, name=self.name)
        features: Tensor = self.net(video)
        return features

    def forward(self, video: Tensor) -> Logits:
        """(B, C, T, H, W), pixels in [0, 1] less 0.45 over 0.225, to (B, K), or a dict of such by head."""
        logits: Logits = self.head(self.forward_features(video))
        return logits


def build_pytorchvideo(
    name: str,
    num_classes: NumClasses = 400,
    in_channels: int = 3,
    dropout: float = 0.5,
    pretrained: bool | str = False,
) -> PyTorchVideoNet:
    """A network of pytorchvideo, with random or published weights.

    Args:
        name: One of ``MODELS``, for example "x3d_xs" (3.79 M parameters; 4 frames, 12 apart, at 160×160).
        num_classes: K; or classes by head name; or 0 for features.
        in_channels: 3 for RGB, 2 for flow.
        dropout: Before the head.
        pretrained: A path to the published file, read as tensors only; its Kinetics head is taken if
            ``num_classes`` is its own, else dropped. True is refused: the files are pickles that their publisher
            gives no digest for.

    Raises:
        ConfigError: Unknown name, or channels that it cannot take.
        WeightsError: ``pretrained`` is True, or the file does not fit.
    """
    net = PyTorchVideoNet(name, num_classes, in_channels, dropout)
    if pretrained is True:
        raise WeightsError(
            f"the published weights of {name!r} are a pickle without a digest, so they are not fetched unseen. "
            f"Download {_ZOO}{net.published.weights} yourself and pass pretrained='path/to/file' "
            "(it is then read as tensors only)"
        )
    if pretrained:
        from lightning_har.weights.matching import strict_load
        from lightning_har.weights.torch_io import load_state_dict

        state = from_published(load_state_dict(Path(pretrained)))
        own_head = isinstance(num_classes, int) and num_classes == len(state.get("head.fc.bias", ()))
        strict_load(net, state, head_prefixes=("head.",), drop_head=not own_head, what=str(pretrained))
    return net


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of pytorchvideo (not the whole checkpoint) as one of :class:`PyTorchVideoNet`."""
    out = {}
    last = max((int(k.split(".")[1]) for k in state if k.startswith("blocks.")), default=-1)
    for name, value in state.items():
        for head in (f"blocks.{last}.proj.", "projection.model."):
            if name.startswith(head):
                out[f"head.fc.{name.removeprefix(head)}"] = value
                break
        else:
            out[f"net.{name}"] = value
    return out


def _build(name: str, in_channels: int) -> Any:
    builder = getattr(importlib.import_module(f"pytorchvideo.models.hub.{MODELS[name].home}"), name)
    if name.startswith("efficient"):
        if in_channels != 3:
            raise ConfigError(f"{name} is built for 3 channels only, not {in_channels}; x3d_xs takes any number")
        return builder(pretrained=False)
    return builder(pretrained=False, input_channel=in_channels)


def _triple(kernel: int | tuple[int, ...]) -> tuple[int, int, int]:
    t, h, w = (kernel,) * 3 if isinstance(kernel, int) else kernel
    return int(t), int(h), int(w)
