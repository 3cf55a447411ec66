"""I3D Inception-v1 written the plain way: an explicit F.pad before every convolution and every pool.

What `i3d_padding.py` compares the library's I3D with, and what a test compares its logits with. Same names in the
state dict; nothing here is shared with the library.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def pad_same(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """TensorFlow's 'SAME', zeros, the odd one at the back."""
    pads: list[int] = []
    for size, k, s in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
        outputs = (size + s - 1) // s
        total = max((outputs - 1) * s + k - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


class Unit(nn.Module):
    """Pad, convolve, normalise, rectify."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int, inplace: bool) -> None:
        super().__init__()
        self.kernel, self.stride, self.inplace = (kernel,) * 3, (stride,) * 3, inplace
        self.conv3d = nn.Conv3d(cin, cout, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(cout, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W)."""
        return F.relu(self.bn(self.conv3d(pad_same(x, self.kernel, self.stride))), inplace=self.inplace)


class Pool(nn.Module):
    """Pad with zeros (the inputs are never negative), take the maximum."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W)."""
        return F.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """Four branches."""

    def __init__(self, cin: int, c0: int, c1a: int, c1b: int, c2a: int, c2b: int, c3: int, inplace: bool) -> None:
        super().__init__()
        self.b0 = Unit(cin, c0, 1, 1, inplace)
        self.b1a, self.b1b = Unit(cin, c1a, 1, 1, inplace), Unit(c1a, c1b, 3, 1, inplace)
        self.b2a, self.b2b = Unit(cin, c2a, 1, 1, inplace), Unit(c2a, c2b, 3, 1, inplace)
        self.b3a, self.b3b = Pool((3, 3, 3), (1, 1, 1)), Unit(cin, c3, 1, 1, inplace)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W)."""
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], 1)


class ExplicitPadI3D(nn.Module):
    """The whole network; logits (B, K)."""

    def __init__(self, num_classes: int = 400, in_channels: int = 3, inplace: bool = False) -> None:
        super().__init__()
        f = inplace
        layers = {
            "Conv3d_1a_7x7": Unit(in_channels, 64, 7, 2, f),
            "MaxPool3d_2a_3x3": Pool((1, 3, 3), (1, 2, 2)),
            "Conv3d_2b_1x1": Unit(64, 64, 1, 1, f),
            "Conv3d_2c_3x3": Unit(64, 192, 3, 1, f),
            "MaxPool3d_3a_3x3": Pool((1, 3, 3), (1, 2, 2)),
            "Mixed_3b": Mixed(192, 64, 96, 128, 16, 32, 32, f),
            "Mixed_3c": Mixed(256, 128, 128, 192, 32, 96, 64, f),
            "MaxPool3d_4a_3x3": Pool((3, 3, 3), (2, 2, 2)),
            "Mixed_4b": Mixed(480, 192, 96, 208, 16, 48, 64, f),
            "Mixed_4c": Mixed(512, 160, 112, 224, 24, 64, 64, f),
            "Mixed_4d": Mixed(512, 128, 128, 256, 24, 64, 64, f),
            "Mixed_4e": Mixed(512, 112, 144, 288, 32, 64, 64, f),
            "Mixed_4f": Mixed(528, 256, 160, 320, 32, 128, 128, f),
            "MaxPool3d_5a_2x2": Pool((2, 2, 2), (2, 2, 2)),
            "Mixed_5b": Mixed(832, 256, 160, 320, 32, 128, 128, f),
            "Mixed_5c": Mixed(832, 384, 192, 384, 48, 128, 128, f),
        }
        self.trunk = list(layers)
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.logits = nn.ModuleDict({"conv3d": nn.Conv3d(1024, num_classes, 1)})

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W), at least 9 frames and 193×193 pixels, to (B, K)."""
        for name in self.trunk:
            x = self.get_submodule(name)(x)
        return self.logits["conv3d"](F.avg_pool3d(x, (2, 7, 7), 1)).mean((2, 3, 4))
