"""2D networks to 3D: filters repeated in time and divided by their number.

Source: Carreira and Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017, section 2.4: a clip of one repeated
frame then gives the 2D network's features, away from where the zero padding in time reaches in.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_har.errors import ConfigError, WeightsError
from lightning_har.nets.backbones import build_backbone
from lightning_har.nets.checks import check_clip
from lightning_har.nets.heads import ClassifierHead
from lightning_har.types import Logits, NumClasses

Grow = Callable[[str], bool] | Sequence[str] | None


def inflate_weight(weight: Tensor, time_kernel: int) -> Tensor:
    """(O, I, kh, kw) to (O, I, time_kernel, kh, kw): repeated in time, divided by ``time_kernel``."""
    if weight.ndim != 4:
        raise ConfigError(f"a 2D filter has rank 4, (O, I, kh, kw); got {tuple(weight.shape)}")
    return (weight / time_kernel).unsqueeze(2).repeat(1, 1, time_kernel, 1, 1)


def inflate(
    module2d: nn.Module,
    *,
    time_kernel: int | Mapping[str, int] | None = None,
    grow: Grow = None,
    time_stride: Mapping[str, int] | None = None,
) -> nn.Module:
    """A 3D copy of a 2D convolutional network, with its weights.

    Convolutions, batch norms and pools become 3D; attention over channels (squeeze and excitation) and what has
    no 3D form (blur pools, for one) runs on each frame by itself, which keeps the response to a still clip; the
    last, global pool takes time in. Everything else is kept: the network's own ``forward`` runs on
    (B, C, T, H, W), and names in the state dict stay, but those inside a module that runs per frame.

    Layers are named as in ``module2d.named_modules()``; patterns are those of :mod:`fnmatch`.

    Args:
        module2d: A timm (or torchvision) ResNet-, DenseNet-, SE-ResNet- or MobileNetV2-like network. Not changed.
        time_kernel: Size in time of the convolutions that grow, odd. None: a layer's own spatial size, so that
            N×N becomes N×N×N and 1×1 stays 1×1×1. An int: for every growing layer; 1×1 only if ``grow`` names
            it. A mapping from pattern to size: the first that matches; layers that none matches do not grow.
        grow: Which convolutions grow in time; a function of the name, or patterns. None: all.
        time_stride: Pattern to stride in time, of convolutions and pools. Elsewhere 1. (A stride inside a
            residual block needs the same on its shortcut.)

    Raises:
        ConfigError: An even ``time_kernel``, or a pattern that matches no layer.
    """
    strides = dict(time_stride or {})
    kernels = dict(time_kernel) if isinstance(time_kernel, Mapping) else {}
    patterns = [*strides, *kernels, *(grow if isinstance(grow, Sequence) else ())]
    names = [name for name, m in module2d.named_modules() if isinstance(m, _STRIDED)]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"pattern {pattern!r} matches no convolution or pool; there are: {_some(names)}")

    def selected(name: str) -> bool:
        if grow is None:
            return True
        return grow(name) if callable(grow) else any(fnmatchcase(name, p) for p in grow)

    def kernel_of(name: str, conv: nn.Conv2d) -> int:
        if not selected(name):
            return 1
        spatial = max(conv.kernel_size)
        if isinstance(time_kernel, Mapping):
            size = next((k for p, k in kernels.items() if fnmatchcase(name, p)), 1)
        elif time_kernel is None:
            size = spatial
        else:
            size = time_kernel if spatial > 1 or grow is not None else 1
        if size % 2 == 0:
            raise ConfigError(f"{name} would grow to {size} in time; an odd size keeps the clip's length")
        return size

    def convert(module: nn.Module, name: str) -> nn.Module:
        stride = next((s for p, s in strides.items() if fnmatchcase(name, p)), 1)
        if isinstance(module, nn.Conv2d):
            return _conv3d(module, kernel_of(name, module), stride)
        if isinstance(module, nn.BatchNorm2d):
            return _batch_norm3d(module)
        if type(module) is nn.MaxPool2d:
            k, s, p = _pair(module.kernel_size), _pair(module.stride), _pair(module.padding)
            return nn.MaxPool3d(
                (1, *k), (stride, *s), (0, *p), (1, *_pair(module.dilation)), ceil_mode=module.ceil_mode
            )
        if type(module) is nn.AvgPool2d:
            k, s, p = _pair(module.kernel_size), _pair(module.stride), _pair(module.padding)
            return nn.AvgPool3d((1, *k), (stride, *s), (0, *p), module.ceil_mode, module.count_include_pad)
        kind = type(module).__name__
        if kind == "SelectAdaptivePool2d":
            return _global_pool(module)
        if isinstance(module, nn.Dropout2d):
            return nn.Dropout3d(module.p, module.inplace)
        if kind in _PER_FRAME or isinstance(module, _PER_FRAME_TYPES):
            return PerFrame(module)
        for child_name, child in module.named_children():
            setattr(module, child_name, convert(child, f"{name}.{child_name}" if name else child_name))
        return module

    return convert(copy.deepcopy(module2d), "")


_STRIDED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
_PER_FRAME_TYPES = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.AvgPool2d, nn.MaxPool2d)
# timm's modules that reduce over axes 2 and 3 or call F.*2d: left to a clip they would average time for height
_PER_FRAME = {
    *("SEModule", "EffectiveSEModule", "SqueezeExcite", "EcaModule", "CbamModule", "LightCbamModule"),
    *("GlobalContext", "GatherExcite", "BlurPool2d", "MaxPool2dSame", "AvgPool2dSame"),
}


class PerFrame(nn.Module):
    """A module of images, run on each frame of a clip.

    Args:
        inner: Takes (N, C, H, W), returns (N, C', H', W').
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C', T, H', W')."""
        batch, frames = x.shape[0], x.shape[2]
        y: Tensor = self.inner(x.transpose(1, 2).flatten(0, 1))
        return y.view(batch, frames, *y.shape[1:]).transpose(1, 2)


class BatchNormAct3d(nn.BatchNorm3d):
    """Batch norm, then what timm puts after it in one module (drop, activation).

    Args:
        num_features: C.
        eps: Added to the variance.
        momentum: Of the running statistics.
        affine: Whether there is scale and bias.
        drop: Applied after the norm.
        act: Applied last.
    """

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        drop: nn.Module,
        act: nn.Module,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine)
        self.drop, self.act = drop, act

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to the same."""
        y: Tensor = self.act(self.drop(super().forward(x)))
        return y


class Conv3dSame(nn.Conv3d):
    """3D form of timm's Conv2dSame: TensorFlow's padding in space, zeros on both ends in time."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, O, T', H', W')."""
        pads: list[int] = []
        for axis in (4, 3):
            size, k, s, d = (
                x.shape[axis],
                self.kernel_size[axis - 2],
                self.stride[axis - 2],
                self.dilation[axis - 2],
            )
            total = max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads) if any(pads) else x)


class GlobalPool3d(nn.Module):
    """Average or maximum over time and space.

    Args:
        maximum: Take the maximum.
        flatten: Return (B, C) instead of (B, C, 1, 1, 1).
    """

    def __init__(self, maximum: bool, flatten: bool) -> None:
        super().__init__()
        self.maximum, self.flatten = maximum, flatten

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, C)."""
        axes = (2, 3, 4)
        return x.amax(axes, not self.flatten) if self.maximum else x.mean(axes, not self.flatten)


def _global_pool(module: nn.Module) -> nn.Module:
    kind = str(module.pool_type)
    if not kind:
        return module
    flatten = isinstance(module.flatten, nn.Flatten) or bool(getattr(module.pool, "flatten", False))
    if kind.removeprefix("fast") not in ("", "avg", "max"):
        raise ConfigError(f"global pool {kind!r} has no 3D form here; build the 2D network with 'avg' or 'max'")
    return GlobalPool3d(kind.endswith("max"), flatten)


def _conv3d(conv: nn.Conv2d, time_kernel: int, time_stride: int) -> nn.Conv3d:
    same = type(conv).__name__ == "Conv2dSame"
    if isinstance(conv.padding, str):
        raise ConfigError(f"a convolution with padding={conv.padding!r} has no 3D form here; give it numbers")
    (kh, kw), (sh, sw), (dh, dw), (ph, pw) = (
        _pair(v) for v in (conv.kernel_size, conv.stride, conv.dilation, conv.padding)
    )
    if type(conv) is not nn.Conv2d and not same:
        raise ConfigError(f"{type(conv).__name__} has no 3D form here; nn.Conv2d and Conv2dSame have")
    with torch.device(conv.weight.device):
        new = (Conv3dSame if same else nn.Conv3d)(
            conv.in_channels,
            conv.out_channels,
            (time_kernel, kh, kw),
            (time_stride, sh, sw),
            (time_kernel // 2, ph, pw),
            (1, dh, dw),
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            dtype=conv.weight.dtype,
        )
    new.weight = nn.Parameter(inflate_weight(conv.weight.detach(), time_kernel), conv.weight.requires_grad)
    new.bias = conv.bias
    return new.train(conv.training)


def _batch_norm3d(norm: nn.BatchNorm2d) -> nn.BatchNorm3d:
    args = (norm.num_features, norm.eps, norm.momentum, norm.affine)
    new: nn.BatchNorm3d
    if type(norm).__name__ == "BatchNormAct2d":
        new = BatchNormAct3d(*args, norm.get_submodule("drop"), norm.get_submodule("act"))
    elif type(norm) is nn.BatchNorm2d:
        new = nn.BatchNorm3d(*args, norm.track_running_stats)
    else:
        raise ConfigError(f"{type(norm).__name__} has no 3D form here; BatchNorm2d and BatchNormAct2d have")
    # a norm has the same tensors in 2D and in 3D: hand them over
    new.weight, new.bias = norm.weight, norm.bias
    new.running_mean, new.running_var = norm.running_mean, norm.running_var
    new.num_batches_tracked = norm.num_batches_tracked
    return new.train(norm.training)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f", ... ({len(names)} in all)" if len(names) > 8 else "")


class InflatedNet(nn.Module):
    """A timm network, inflated, with a new head on features averaged over time and space.

    Args:
        backbone: timm's name of a ResNet-, DenseNet-, SE-ResNet- or MobileNetV2-like network.
        num_classes: K; or classes by head name; or 0 for features.
        in_channels: 3 for RGB, 2 for flow.
        dropout: Before the head.
        pretrained: 2D weights to inflate: True, False, or a path; see ``build_backbone``.
        time_kernel: See :func:`inflate`.
        grow: See :func:`inflate`.
        time_stride: See :func:`inflate`.

    Attributes:
        value_range, mean, std: The preprocessing of the 2D network's RGB weights, as in InputSpec.

    Raises:
        ConfigError: Unknown backbone, or one that cannot be inflated.
        WeightsError: Pretrained weights cannot be had or do not fit.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        num_classes: NumClasses = 400,
        in_channels: int = 3,
        dropout: float = 0.5,
        pretrained: bool | str = False,
        *,
        time_kernel: int | Mapping[str, int] | None = None,
        grow: Grow = None,
        time_stride: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        if backbone in ("bn_inception", "mobilenetv2_quant"):
            raise ConfigError(f"{backbone!r} cannot be inflated: its pools are no layers; take a timm network")
        extractor = build_backbone(backbone, pretrained=pretrained, in_channels=in_channels)
        net2d: Any = extractor.net
        self.backbone, self.in_channels = extractor.name, in_channels
        self.value_range, self.mean, self.std = extractor.value_range, extractor.mean, extractor.std
        self.min_frames, self.min_size = math.prod((time_stride or {}).values()), 32
        self.num_features = int(net2d.num_features)
        self.net = inflate(net2d, time_kernel=time_kernel, grow=grow, time_stride=time_stride)
        self.head = ClassifierHead(self.num_features, num_classes, dropout)

    def forward_map(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, D, T', h, w).

        Raises:
            ConfigError: Wrong rank, channels or dtype; fewer frames than the stride in time; under 32×32 pixels.
        """
        check_clip(
            video,
            channels=self.in_channels,
            min_frames=self.min_frames,
            min_size=self.min_size,
            name=f"{type(self).__name__} ({self.backbone})",
        )
        maps: Tensor = self.net.forward_features(video)  # type: ignore[operator]
        return maps

    def forward_features(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, D)."""
        return self.forward_map(video).mean((2, 3, 4))

    def forward(self, video: Tensor) -> Logits:
        """(B, C, T, H, W), normalised as for the 2D network, to (B, K), or a dict of such by head."""
        logits: Logits = self.head(self.forward_features(video))
        return logits


class I3DResNet(InflatedNet):
    """ResNet inflated as in mmaction2's I3D: 32 frames in, stride 8 in time.

    The stem is 5×7×7; in every block of stage 1, every other of stages 2 and 3 and the middle one of stage 4 the
    first 1×1 becomes 3×1×1. The stem, its pool and a pool after stage 1 each halve the time.
    Source: Wang et al., "Non-local Neural Networks", CVPR 2018, table 1 and section 4.1 (I3D 3×1×1), in the variant
    of mmaction2's ``i3d_imagenet-pretrained-r50_8xb8-32x2x1-100e_kinetics400-rgb``.

    Args:
        depth: 50, 101 or 152.
        num_classes: K; or classes by head name; or 0 for features.
        in_channels: 3 for RGB, 2 for flow.
        dropout: Before the head.
        pretrained: 2D weights to inflate: True, False, or a path; see ``build_backbone``.
    """

    def __init__(
        self,
        depth: int = 50,
        num_classes: NumClasses = 400,
        in_channels: int = 3,
        dropout: float = 0.5,
        pretrained: bool | str = False,
    ) -> None:
        if depth not in (50, 101, 152):
            raise ConfigError(f"depth is {depth}; I3DResNet is made of bottlenecks: 50, 101 or 152")
        kernels = {"conv1": 5, "layer1.*.conv1": 3, "layer4.1.conv1": 3}
        blocks = {50: (4, 6), 101: (4, 23), 152: (8, 36)}[depth]
        kernels |= {f"layer{2 + i}.{b}.conv1": 3 for i in (0, 1) for b in range(0, blocks[i], 2)}
        super().__init__(
            f"resnet{depth}",
            num_classes,
            in_channels,
            dropout,
            pretrained,
            time_kernel=kernels,
            time_stride={"conv1": 2, "maxpool": 2},
        )
        self.net.get_submodule("layer1").append(nn.MaxPool3d((2, 1, 1), (2, 1, 1)))  # type: ignore[operator]
        self.min_frames = 8


def from_mmaction2(state: Mapping[str, Tensor], depth: int = 50) -> dict[str, Tensor]:
    """mmaction2's I3D-ResNet state dict as one of :class:`I3DResNet`.

    Args:
        state: Names such as ``backbone.layer1.0.conv1.conv.weight`` and ``cls_head.fc_cls.weight``; the
            preprocessor's mean and std, where the file has them, belong to the InputSpec and are not taken.
        depth: Of the ResNet.

    Raises:
        WeightsError: A tensor missing, left over, or of another shape.
    """
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        root, _, rest = name.partition(".")
        if root == "data_preprocessor":
            continue
        if name.startswith("cls_head.fc_cls."):
            new = name.replace("cls_head.fc_cls", "head.fc")
        elif root == "backbone":
            if "downsample." in rest:
                rest = rest.replace("downsample.conv.", "downsample.0.").replace("downsample.bn.", "downsample.1.")
            elif ".bn." in rest:  # layer1.0.conv1.bn.weight: timm's bn1 beside conv1
                unit, _, leaf = rest.rpartition(".bn.")
                rest = f"{unit[:-5]}bn{unit[-1]}.{leaf}"
            else:
                rest = rest.replace(".conv.", ".")
            new = f"net.{rest}"
        else:
            raise WeightsError(f"I3DResNet has no place for tensor {name!r} of mmaction2's checkpoint")
        out[new] = value
    if "head.fc.bias" not in out or "net.conv1.weight" not in out:
        raise WeightsError("mmaction2's checkpoint lacks its head or its stem: not an I3D ResNet recogniser")
    with torch.device("meta"):
        model = I3DResNet(depth, len(out["head.fc.bias"]), out["net.conv1.weight"].shape[1])
    expected = model.state_dict()
    for key in expected:
        if key.endswith("num_batches_tracked"):
            out.setdefault(key, torch.tensor(0))
    wrong = sorted(expected.keys() ^ out.keys())
    wrong += [k for k in expected.keys() & out.keys() if expected[k].shape != out[k].shape]
    if wrong:
        raise WeightsError(f"mmaction2's checkpoint does not fit I3DResNet({depth}): {_some(wrong)}")
    return {key: out[key] for key in expected}
