"""BN-Inception, the backbone of the first TSN, in the layout of its published PyTorch weights.

Sources: Ioffe and Szegedy, "Batch Normalization", ICML 2015, figure 5 (the network); the Caffe model of Wang et al.,
"Temporal Segment Networks", ECCV 2016, and its PyTorch conversion (names, biases before batch norm, ceil mode of
the pools without padding).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_har.errors import ConfigError, WeightsError
from lightning_har.nets.backbones import Backbone, spread_first_layer
from lightning_har.nets.checks import check_images

PUBLISHED_URL = "https://yjxiong.blob.core.windows.net/models/bn_inception-9f5701afb96c8044.pth"
PUBLISHED_SHA256_PREFIX = "9f5701afb96c8044"

# Block: in, 1×1, (3×3 reduction, 3×3), (double 3×3 reduction, double 3×3), pool, projection after the pool.
# 3c and 4e halve the size; they have neither 1×1 nor projection.
_BLOCKS: dict[str, tuple[int, int, tuple[int, int], tuple[int, int], str, int]] = {
    "3a": (192, 64, (64, 64), (64, 96), "average", 32),
    "3b": (256, 64, (64, 96), (64, 96), "average", 64),
    "3c": (320, 0, (128, 160), (64, 96), "reduce", 0),
    "4a": (576, 224, (64, 96), (96, 128), "average", 128),
    "4b": (576, 192, (96, 128), (96, 128), "average", 128),
    "4c": (576, 160, (128, 160), (128, 160), "average", 128),
    "4d": (608, 96, (128, 192), (160, 192), "average", 128),
    "4e": (608, 0, (128, 192), (192, 256), "reduce", 0),
    "5a": (1056, 352, (192, 320), (160, 224), "average", 128),
    "5b": (1024, 352, (192, 320), (192, 224), "max", 128),
}


class BNInception(nn.Module):
    """BN-Inception: 11,295,240 parameters with 1000 classes.

    Its published weights eat BGR in 0..255 less the mean (104, 117, 128).

    Args:
        num_classes: K of ``last_linear``; 0 for features.
        in_channels: C.
    """

    num_features = 1024

    def __init__(self, num_classes: int = 0, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self._conv("conv1_7x7_s2", in_channels, 64, 7, 2)
        self._conv("conv2_3x3_reduce", 64, 64)
        self._conv("conv2_3x3", 64, 192, 3)
        for block, (cin, one, three, double, pool, proj) in _BLOCKS.items():
            name, stride = f"inception_{block}", 2 if pool == "reduce" else 1
            if one:
                self._conv(f"{name}_1x1", cin, one)
            self._conv(f"{name}_3x3_reduce", cin, three[0])
            self._conv(f"{name}_3x3", three[0], three[1], 3, stride)
            self._conv(f"{name}_double_3x3_reduce", cin, double[0])
            self._conv(f"{name}_double_3x3_1", double[0], double[1], 3)
            self._conv(f"{name}_double_3x3_2", double[1], double[1], 3, stride)
            if proj:
                self._conv(f"{name}_pool_proj", cin, proj)
        self.last_linear = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def _conv(self, name: str, cin: int, cout: int, kernel: int = 1, stride: int = 1) -> None:
        # flat names, as the published weights have them
        self.add_module(name, nn.Conv2d(cin, cout, kernel, stride, kernel // 2))
        self.add_module(f"{name}_bn", nn.BatchNorm2d(cout))

    def _run(self, name: str, x: Tensor) -> Tensor:
        return F.relu(self._modules[f"{name}_bn"](self._modules[name](x)), inplace=True)  # type: ignore[misc]

    def _block(self, block: str, x: Tensor) -> Tensor:
        _, one, _, _, pool, proj = _BLOCKS[block]
        name = f"inception_{block}"
        out = [self._run(f"{name}_1x1", x)] if one else []
        out.append(self._run(f"{name}_3x3", self._run(f"{name}_3x3_reduce", x)))
        y = self._run(f"{name}_double_3x3_1", self._run(f"{name}_double_3x3_reduce", x))
        out.append(self._run(f"{name}_double_3x3_2", y))
        if pool == "reduce":
            out.append(F.max_pool2d(x, 3, 2, ceil_mode=True))
        else:
            y = F.avg_pool2d(x, 3, 1, 1) if pool == "average" else F.max_pool2d(x, 3, 1, 1)
            out.append(self._run(f"{name}_pool_proj", y) if proj else y)
        return torch.cat(out, 1)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the last maps, (N, 1024, H/32, W/32); H and W multiples of 32.

        Raises:
            ConfigError: Wrong rank, channels, dtype or size.
        """
        check_images(x, channels=self.in_channels, name="BN-Inception")
        size = tuple(x.shape[2:])
        # Without padding and with ceil mode, as in Caffe: 112 becomes 56 with a last window that runs over the edge.
        x = F.max_pool2d(self._run("conv1_7x7_s2", x), 3, 2, ceil_mode=True)
        x = self._run("conv2_3x3", self._run("conv2_3x3_reduce", x))
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        if not torch.compiler.is_compiling() and (x.shape[2] % 4 or x.shape[3] % 4):
            # On an odd map the padded convolutions of 3c and 4e give one position more than the pool beside them.
            raise ConfigError(
                f"BN-Inception takes heights and widths that are multiples of 32; got {size[0]}×{size[1]}"
            )
        for block in _BLOCKS:
            x = self._block(block, x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, K), or features (N, 1024) for 0 classes."""
        logits: Tensor = self.last_linear(self.forward_features(x).mean((2, 3)))
        return logits


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict as one of :class:`BNInception`.

    Batch-norm tensors stored (1, C) are squeezed; ``fc`` becomes ``last_linear``. What else the file holds is
    passed on, so that strict loading can complain of it.
    """
    out: dict[str, Tensor] = {}
    for name, value in state.items():
        new = "last_linear." + name.removeprefix("fc.") if name.startswith("fc.") else name
        module = new.rpartition(".")[0]
        out[new] = value.flatten() if module.endswith("_bn") and value.ndim == 2 and value.shape[0] == 1 else value
        if new.endswith("_bn.running_var"):  # files older than PyTorch 0.4.1 have no counter
            out.setdefault(f"{module}.num_batches_tracked", torch.tensor(0))
    return out


def bn_inception(pretrained: bool | str = False, in_channels: int = 3) -> Backbone:
    """BN-Inception as a feature extractor with its own preprocessing.

    Args:
        pretrained: A path to the published ImageNet weights; False leaves them random. True is refused: the
            licence of the weights is not stated, so they are the user's to fetch.
        in_channels: C. Other than 3, the first filters are averaged over RGB and spread (TSN, section 3.2).

    Raises:
        ConfigError: A file of an unknown kind.
        WeightsError: ``pretrained`` is True, or the file does not fit.
    """
    net = BNInception(0, in_channels)
    if pretrained is True:
        raise WeightsError(
            "BN-Inception's ImageNet weights carry no licence, so they are not fetched unasked. Download "
            f"{PUBLISHED_URL} (its SHA-256 begins with {PUBLISHED_SHA256_PREFIX}) and pass "
            "pretrained='path/to/file', or pretrained=False for random weights"
        )
    if pretrained:
        from lightning_har.weights.matching import strict_load

        path = Path(pretrained)
        if path.suffix == ".safetensors":
            from lightning_har.weights.safetensors_io import load_safetensors

            state = load_safetensors(path)
        elif path.suffix in (".pth", ".pt"):
            from lightning_har.weights.torch_io import load_state_dict

            state = from_published(load_state_dict(path))
        else:
            raise ConfigError(f"{path} is neither .pth, .pt nor .safetensors")
        if in_channels != 3 and "conv1_7x7_s2.weight" in state:
            state["conv1_7x7_s2.weight"] = spread_first_layer(state["conv1_7x7_s2.weight"], in_channels)
        strict_load(net, state, head_prefixes=("last_linear.",), drop_head=True, what=str(path))
    backbone = Backbone(net, "bn_inception", net.num_features, (224, 224))
    backbone.value_range, backbone.channel_order = (0.0, 255.0), "bgr"
    backbone.mean, backbone.std = (104.0, 117.0, 128.0), (1.0,)
    return backbone
