"""I3D on Inception-v1: GoogLeNet with every filter and pool grown into time.

Source: Carreira and Zisserman, "Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset", CVPR 2017,
figure 3; padding, normalisation and names as in the authors' released code and checkpoints. Modules are named as
in the well-known PyTorch port, so that its state dict loads as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_har.errors import WeightsError
from lightning_har.nets.checks import check_clip
from lightning_har.nets.conv_head import averaged_logits, conv_heads, sliding_average
from lightning_har.nets.inflate import inflate_weight
from lightning_har.nets.preprocess import channels_last
from lightning_har.types import Logits, NumClasses

Triple = tuple[int, int, int]


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(front, back) of TensorFlow's 'SAME' padding along one axis: ``ceil(size / stride)`` outputs.

    An odd total puts the extra zero at the back.
    """
    # the second form equals (ceil(size / stride) - 1) * stride + kernel - size
    total = max(kernel - (size % stride or stride), 0)
    return total // 2, total - total // 2


class Unit3D(nn.Module):
    """Convolution with 'SAME' padding, batch norm, ReLU.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel: Edge of the cubic kernel.
        stride: Stride along all three axes.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(out_channels, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, out, T', H', W'), each size divided by the stride and rounded up."""
        conv = self.conv3d
        kernel, stride = conv.kernel_size[0], conv.stride[0]
        pads = [same_padding(size, kernel, stride) for size in x.shape[2:]]
        # A symmetric pad costs nothing inside the convolution; an F.pad copies the whole tensor.
        inner = [front if front == back else 0 for front, back in pads]
        outer = [(0, 0) if front == back else (front, back) for front, back in pads]
        if any(back for _, back in outer):
            x = F.pad(x, [p for pair in reversed(outer) for p in pair])
        x = F.conv3d(x, conv.weight, None, conv.stride, inner)
        return F.relu(self.bn(x), inplace=True)


class SameMaxPool3d(nn.Module):
    """Max pool with 'SAME' padding, where padding never wins.

    Args:
        kernel: Size in (T, H, W).
        stride: Stride in (T, H, W); 1, or at least 2 where the kernel is even.
    """

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C, T', H', W'), each size divided by the stride and rounded up."""
        # ceil_mode lets the last window run over the end, which is just the extra element at the back: no copy.
        sizes = zip(x.shape[2:], self.kernel, self.stride, strict=True)
        front = [same_padding(size, k, s)[0] for size, k, s in sizes]
        return F.max_pool3d(x, self.kernel, self.stride, front, ceil_mode=True)


class InceptionModule(nn.Module):
    """Four branches side by side: 1×1×1; 1×1×1 to 3×3×3, twice; max pool to 1×1×1.

    Args:
        in_channels: Channels in.
        out: Channels of b0, b1a, b1b, b2a, b2b, b3b.
    """

    def __init__(self, in_channels: int, out: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        self.b0 = Unit3D(in_channels, out[0])
        self.b1a = Unit3D(in_channels, out[1])
        self.b1b = Unit3D(out[1], out[2], 3)
        self.b2a = Unit3D(in_channels, out[3])
        self.b2b = Unit3D(out[3], out[4], 3)
        self.b3a = SameMaxPool3d((3, 3, 3), (1, 1, 1))
        self.b3b = Unit3D(in_channels, out[5])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, out[0] + out[2] + out[4] + out[5], T, H, W)."""
        return torch.cat((self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))), 1)


class I3D(nn.Module):
    """Inception-v1 I3D: 12,697,264 parameters with 400 classes and RGB, batch-norm scales counted.

    The head averages over 2×7×7 windows (all of a map of 64×224×224 but its time), drops out, maps to classes
    with a 1×1×1 convolution, and averages the logits over what positions are left. A map smaller than 2×7×7 is
    averaged whole, so that shorter and smaller clips are taken too.

    Args:
        num_classes: K; or classes by head name; or 0 for features.
        in_channels: 3 for RGB, 2 for flow.
        dropout: Probability of dropping a feature at a position.
    """

    num_features = 1024
    min_frames = 8
    min_size = 32

    def __init__(self, num_classes: NumClasses = 400, in_channels: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.Conv3d_1a_7x7 = Unit3D(in_channels, 64, 7, 2)
        self.MaxPool3d_2a_3x3 = SameMaxPool3d((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3D(64, 64)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, 3)
        self.MaxPool3d_3a_3x3 = SameMaxPool3d((1, 3, 3), (1, 2, 2))
        self.Mixed_3b = InceptionModule(192, (64, 96, 128, 16, 32, 32))
        self.Mixed_3c = InceptionModule(256, (128, 128, 192, 32, 96, 64))
        self.MaxPool3d_4a_3x3 = SameMaxPool3d((3, 3, 3), (2, 2, 2))
        self.Mixed_4b = InceptionModule(480, (192, 96, 208, 16, 48, 64))
        self.Mixed_4c = InceptionModule(512, (160, 112, 224, 24, 64, 64))
        self.Mixed_4d = InceptionModule(512, (128, 128, 256, 24, 64, 64))
        self.Mixed_4e = InceptionModule(512, (112, 144, 288, 32, 64, 64))
        self.Mixed_4f = InceptionModule(528, (256, 160, 320, 32, 128, 128))
        self.MaxPool3d_5a_2x2 = SameMaxPool3d((2, 2, 2), (2, 2, 2))
        self.Mixed_5b = InceptionModule(832, (256, 160, 320, 32, 128, 128))
        self.Mixed_5c = InceptionModule(832, (384, 192, 384, 48, 128, 128))
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.ModuleDict({"conv3d": conv_heads(self.num_features, num_classes)})

    def forward_map(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, 1024, T/8, H/32, W/32), sizes rounded up.

        Raises:
            ConfigError: Wrong rank, channels or dtype; fewer than 8 frames; less than 32×32 pixels.
        """
        check_clip(
            video,
            channels=self.in_channels,
            min_frames=self.min_frames,
            min_size=self.min_size,
            name="I3D (Inception-v1)",
        )
        x = video
        if x.device.type == "cpu":
            # What oneDNN convolves in without reordering before and after each layer; the pools run along channels.
            x = channels_last(x)
        for name, layer in self.named_children():
            if name == "dropout":
                break
            x = layer(x)
        return x

    def forward_features(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, 1024)."""
        return sliding_average(self.forward_map(video), (2, 7, 7)).mean((2, 3, 4))

    def forward(self, video: Tensor) -> Logits:
        """(B, C, T, H, W) float in [-1, 1] for the published weights, to (B, K), or a dict of such by head."""
        pooled = sliding_average(self.forward_map(video), (2, 7, 7))
        return averaged_logits(self.logits["conv3d"], self.dropout(pooled))


# Units of an InceptionModule by their name in the authors' checkpoints. Mixed_5b's second 3×3×3 is misnamed
# there ("0a" where every other block has "0b"), so both spellings lead to b2b.
_TF_UNITS = {
    "Branch_0/Conv3d_0a_1x1": "b0",
    "Branch_1/Conv3d_0a_1x1": "b1a",
    "Branch_1/Conv3d_0b_3x3": "b1b",
    "Branch_2/Conv3d_0a_1x1": "b2a",
    "Branch_2/Conv3d_0b_3x3": "b2b",
    "Branch_2/Conv3d_0a_3x3": "b2b",
    "Branch_3/Conv3d_0b_1x1": "b3b",
}
_TF_TENSORS = {
    "conv_3d/w": "conv3d.weight",
    "conv_3d/b": "conv3d.bias",
    "batch_norm/beta": "bn.bias",
    "batch_norm/moving_mean": "bn.running_mean",
    "batch_norm/moving_variance": "bn.running_var",
}
_TF_NAME = re.compile(
    r"(?:(?:RGB|Flow)/inception_i3d/)?(?P<block>[^/]+)/(?:(?P<unit>.+)/)?(?P<tensor>(?:conv_3d|batch_norm)/\w+)"
)


def from_tf_names(tensors: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Tensor]:
    """The authors' tensors, by their names in ``model.ckpt``, as a state dict of :class:`I3D`.

    Kernels are transposed from (T, H, W, in, out); batch norm had no scale there, so scales are ones. The
    optimizer's ``.../Momentum`` tensors, which the Kinetics-600 checkpoint holds, are training state and not taken.

    Args:
        tensors: For example ``RGB/inception_i3d/Mixed_3b/Branch_0/Conv3d_0a_1x1/conv_3d/w`` to its array; the
            Kinetics-600 checkpoint has the same names without the first two parts.

    Raises:
        WeightsError: A name that no module answers to, a tensor missing, or one of another shape.
    """
    state: dict[str, Tensor] = {}
    for name, array in tensors.items():
        if name.endswith("/Momentum"):
            continue
        match = _TF_NAME.fullmatch(name)
        tensor = _TF_TENSORS.get(match["tensor"]) if match else None
        if match is None or tensor is None:
            raise WeightsError(f"I3D has no place for tensor {name!r} of the TensorFlow checkpoint")
        if match["block"] == "Logits":
            place = "logits"
        elif match["unit"] is None:
            place = match["block"]
        elif match["unit"] in _TF_UNITS:
            place = f"{match['block']}.{_TF_UNITS[match['unit']]}"
        else:
            raise WeightsError(f"I3D has no place for tensor {name!r}: unknown unit {match['unit']!r}")
        value = torch.from_numpy(np.array(array))
        key = f"{place}.{tensor}"
        if key in state:
            raise WeightsError(f"two tensors of the TensorFlow checkpoint lead to {key}; the second is {name!r}")
        if tensor != "conv3d.weight":
            state[key] = value.flatten()  # (C,) in some checkpoints, (1, 1, 1, 1, C) in others
        elif value.ndim == 5:
            state[key] = value.permute(4, 3, 0, 1, 2).contiguous()
        else:
            raise WeightsError(f"{name!r} has shape {tuple(value.shape)}; a kernel has rank 5, (T, H, W, in, out)")
    for key in [k for k in state if k.endswith("bn.bias")]:
        state[key.replace("bias", "weight")] = torch.ones_like(state[key])
    return _complete(state, "the TensorFlow checkpoint")


def from_port_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The PyTorch port's state dict, checked; counters that old files lack are added.

    Raises:
        WeightsError: A tensor missing, left over, or of another shape.
    """
    return _complete(dict(state), "the PyTorch port's state dict")


_GOOGLENET_BLOCKS = {
    "conv1": "Conv3d_1a_7x7",
    "conv2": "Conv3d_2b_1x1",
    "conv3": "Conv3d_2c_3x3",
    **{
        f"inception{n}": f"Mixed_{n[0]}{chr(ord(n[1]) + 1)}"
        for n in ["3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"]
    },
}
_GOOGLENET_UNITS = {
    "branch1": "b0",
    "branch2.0": "b1a",
    "branch2.1": "b1b",
    "branch3.0": "b2a",
    "branch3.1": "b2b",
    "branch4.1": "b3b",
}


def from_googlenet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Torchvision's ImageNet GoogLeNet, inflated (section 2.4 of the paper), as a state dict of :class:`I3D`.

    Its "5×5" branch is 3×3, as in I3D. The auxiliary heads are dropped; ``fc`` becomes the 1×1×1 convolution to
    the 1000 ImageNet classes. torchvision's published weights eat [-1, 1] after their own input transform, so the
    result takes pixels in [-1, 1] as I3D does, with no mean and std. Its first convolution pads evenly where
    'SAME' pads one pixel less in front, so at even sizes I3D sees the image shifted by one pixel.

    Raises:
        WeightsError: A tensor missing, left over, or of another shape.
    """
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.startswith(("aux1.", "aux2.")):
            continue
        block, _, rest = name.partition(".")
        if block == "fc":
            new = f"logits.conv3d.{rest}"
            out[new] = value[..., None, None, None] if value.ndim == 2 else value
            continue
        unit, layer = "", ""
        if (match := re.fullmatch(r"(?:(branch\d(?:\.\d)?)\.)?(conv|bn)\.(\w+)", rest)) is not None:
            unit = _GOOGLENET_UNITS.get(match[1], "?") if match[1] else ""
            layer = {"conv": "conv3d", "bn": "bn"}[match[2]] + "." + match[3]
        if block not in _GOOGLENET_BLOCKS or not layer or unit == "?":
            raise WeightsError(f"I3D has no place for tensor {name!r} of torchvision's GoogLeNet")
        new = ".".join(part for part in (_GOOGLENET_BLOCKS[block], unit, layer) if part)
        out[new] = inflate_weight(value, value.shape[-1]) if value.ndim == 4 else value
    return _complete(out, "torchvision's GoogLeNet")


def _complete(state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Every tensor in its place, of its shape, and none left over; batch counters added where missing."""
    for need in ("Conv3d_1a_7x7.conv3d.weight", "logits.conv3d.bias"):
        if need not in state:
            raise WeightsError(f"{source} has no tensor for {need}: it is not an Inception-v1 I3D with its head")
    with torch.device("meta"):
        classes, channels = len(state["logits.conv3d.bias"]), state["Conv3d_1a_7x7.conv3d.weight"].shape[1]
        expected = I3D(classes, channels).state_dict()
    for key in expected:
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, torch.tensor(0))
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or extra:
        raise WeightsError(f"{source} does not fit I3D: missing {missing[:5]}, left over {extra[:5]}")
    for key, want in expected.items():
        if state[key].shape != want.shape:
            got = tuple(state[key].shape)
            raise WeightsError(f"{source}: {key} has shape {got}, I3D expects {tuple(want.shape)}")
    return {key: state[key] for key in expected}
