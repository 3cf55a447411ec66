"""S3D: Inception networks whose filters are split into space and time.

Sources: Xie et al., "Rethinking Spatiotemporal Feature Learning", ECCV 2018 (v1, on GoogLeNet; modules laid out as
torchvision's, whose published weights load as they are); Gupta, Dharmaraj and Hayes, "Reproducing Action
Recognition Experiments with Modern Classification Networks", table 1 (v3, on Inception-v3, and its top-heavy form);
Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016 (Inception-v3's blocks).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_har.errors import ConfigError
from lightning_har.nets.checks import check_clip
from lightning_har.nets.conv_head import averaged_logits, conv_heads, sliding_average
from lightning_har.nets.inflate import PerFrame
from lightning_har.types import Logits, NumClasses

Variant = Literal["v1", "v3", "v3_top_heavy"]
Conv1x7 = Literal["factored", "inflated"]
Triple = tuple[int, int, int]

# Fewest frames, fewest pixels. v3's two unpadded reductions each need 3 positions: 8 -> 3 -> 1 of 64 frames.
_MINIMUM: dict[str, tuple[int, int]] = {"v1": (8, 32), "v3": (49, 49), "v3_top_heavy": (49, 49)}


class ConvNormReLU(nn.Sequential):
    """Convolution, batch norm, ReLU (indices 0, 1, 2, as in torchvision's state dict)."""

    def __init__(
        self, cin: int, cout: int, kernel: Triple = (1, 1, 1), stride: Triple = (1, 1, 1), pad: bool = True
    ) -> None:
        kt, kh, kw = kernel
        super().__init__(
            nn.Conv3d(cin, cout, kernel, stride, (kt // 2, kh // 2, kw // 2) if pad else 0, bias=False),
            nn.BatchNorm3d(cout, eps=1e-3, momentum=1e-3),
            nn.ReLU(inplace=True),
        )


class SeparableConv(nn.Sequential):
    """1×k×k, then k×1×1, each with batch norm and ReLU; without ``time`` only the first, striding in time too."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int = 1, pad: bool = True, time: bool = True) -> None:
        space = (1, kernel, kernel)
        if time:
            super().__init__(
                ConvNormReLU(cin, cout, space, (1, stride, stride), pad),
                ConvNormReLU(cout, cout, (kernel, 1, 1), (stride, 1, 1), pad),
            )
        elif pad or stride == 1:
            super().__init__(ConvNormReLU(cin, cout, space, (stride, stride, stride), pad))
        else:
            raise ConfigError("an unpadded reduction needs its temporal convolution to fit the pool beside it")


class SepInceptionBlock3D(nn.Module):
    """GoogLeNet's block with separable convolutions.

    Args:
        cin: Channels in.
        b0: Of the 1×1×1 branch.
        b1: Reduction and output of the second branch.
        b2: Of the third branch.
        b3: Of the pool branch.
    """

    def __init__(self, cin: int, b0: int, b1: tuple[int, int], b2: tuple[int, int], b3: int) -> None:
        super().__init__()
        self.branch0 = ConvNormReLU(cin, b0)
        self.branch1 = nn.Sequential(ConvNormReLU(cin, b1[0]), SeparableConv(b1[0], b1[1], 3))
        self.branch2 = nn.Sequential(ConvNormReLU(cin, b2[0]), SeparableConv(b2[0], b2[1], 3))
        self.branch3 = nn.Sequential(nn.MaxPool3d(3, 1, 1), ConvNormReLU(cin, b3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, b0 + b1 + b2 + b3, T, H, W)."""
        return torch.cat((self.branch0(x), self.branch1(x), self.branch2(x), self.branch3(x)), 1)


def _v1_trunk(in_channels: int) -> nn.Sequential:
    return nn.Sequential(
        SeparableConv(in_channels, 64, 7, 2),
        nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        ConvNormReLU(64, 64),
        SeparableConv(64, 192, 3),
        nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        SepInceptionBlock3D(192, 64, (96, 128), (16, 32), 32),
        SepInceptionBlock3D(256, 128, (128, 192), (32, 96), 64),
        nn.MaxPool3d(3, 2, 1),
        SepInceptionBlock3D(480, 192, (96, 208), (16, 48), 64),
        SepInceptionBlock3D(512, 160, (112, 224), (24, 64), 64),
        SepInceptionBlock3D(512, 128, (128, 256), (24, 64), 64),
        SepInceptionBlock3D(512, 112, (144, 288), (32, 64), 64),
        SepInceptionBlock3D(528, 256, (160, 320), (32, 128), 128),
        nn.MaxPool3d(2, 2),
        SepInceptionBlock3D(832, 256, (160, 320), (32, 128), 128),
        SepInceptionBlock3D(832, 384, (192, 384), (48, 128), 128),
    )


class Branches(nn.ModuleDict):
    """Branches by name, concatenated over channels in their order."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, sum of the branches' channels, T', H', W')."""
        return torch.cat([branch(x) for branch in self.values()], 1)


def _average_pool(time: bool) -> nn.AvgPool3d:
    return nn.AvgPool3d((3 if time else 1, 3, 3), 1, (1 if time else 0, 1, 1))


def _across(cin: int, cout: int, n: int, *, row: bool, how: Conv1x7, time: bool) -> list[nn.Module]:
    """One of 1×n (``row``) and n×1: grown to n×1×n or n×n×1 if inflated, else left within the frame."""
    kt = n if time and how == "inflated" else 1
    return [ConvNormReLU(cin, cout, (kt, 1, n) if row else (kt, n, 1))]


def _pair(cin: int, mid: int, cout: int, *, row_first: bool, how: Conv1x7, time: bool) -> list[nn.Module]:
    """1×7 and 7×1 in a row; if factored, 7×1×1 after them: one temporal layer a pair, as in the study's section 5."""
    layers = _across(cin, mid, 7, row=row_first, how=how, time=time)
    layers += _across(mid, cout, 7, row=not row_first, how=how, time=time)
    if time and how == "factored":
        layers.append(ConvNormReLU(cout, cout, (7, 1, 1)))
    return layers


def _block_a(cin: int, pool: int, time: bool) -> Branches:
    return Branches(
        {
            "branch1x1": ConvNormReLU(cin, 64),
            "branch5x5": nn.Sequential(ConvNormReLU(cin, 48), SeparableConv(48, 64, 5, time=time)),
            "branch3x3dbl": nn.Sequential(
                ConvNormReLU(cin, 64), SeparableConv(64, 96, 3, time=time), SeparableConv(96, 96, 3, time=time)
            ),
            "branch_pool": nn.Sequential(_average_pool(time), ConvNormReLU(cin, pool)),
        }
    )


def _block_b(cin: int) -> Branches:
    return Branches(
        {
            "branch3x3": SeparableConv(cin, 384, 3, 2, pad=False),
            "branch3x3dbl": nn.Sequential(
                ConvNormReLU(cin, 64), SeparableConv(64, 96, 3), SeparableConv(96, 96, 3, 2, pad=False)
            ),
            "branch_pool": nn.MaxPool3d(3, 2),
        }
    )


def _block_c(cin: int, c7: int, how: Conv1x7) -> Branches:
    return Branches(
        {
            "branch1x1": ConvNormReLU(cin, 192),
            "branch7x7": nn.Sequential(ConvNormReLU(cin, c7), *_pair(c7, c7, 192, row_first=True, how=how, time=True)),
            "branch7x7dbl": nn.Sequential(
                ConvNormReLU(cin, c7),
                *_pair(c7, c7, c7, row_first=False, how=how, time=True),
                *_pair(c7, c7, 192, row_first=False, how=how, time=True),
            ),
            "branch_pool": nn.Sequential(_average_pool(True), ConvNormReLU(cin, 192)),
        }
    )


def _block_d(cin: int, how: Conv1x7) -> Branches:
    return Branches(
        {
            "branch3x3": nn.Sequential(ConvNormReLU(cin, 192), SeparableConv(192, 320, 3, 2, pad=False)),
            "branch7x7x3": nn.Sequential(
                ConvNormReLU(cin, 192),
                *_pair(192, 192, 192, row_first=True, how=how, time=True),
                SeparableConv(192, 192, 3, 2, pad=False),
            ),
            "branch_pool": nn.MaxPool3d(3, 2),
        }
    )


def _fork(how: Conv1x7) -> Branches:
    """1×3 beside 3×1; if factored, each with its own 3×1×1."""
    sides = {}
    for side, row in (("a", True), ("b", False)):
        layers = _across(384, 384, 3, row=row, how=how, time=True)
        if how == "factored":
            layers.append(ConvNormReLU(384, 384, (3, 1, 1)))
        sides[side] = nn.Sequential(*layers)
    return Branches(sides)


def _block_e(cin: int, how: Conv1x7) -> Branches:
    return Branches(
        {
            "branch1x1": ConvNormReLU(cin, 320),
            "branch3x3": nn.Sequential(ConvNormReLU(cin, 384), _fork(how)),
            "branch3x3dbl": nn.Sequential(ConvNormReLU(cin, 448), SeparableConv(448, 384, 3), _fork(how)),
            # of 64 frames one time step is left here, and avg_pool3d refuses a map smaller than its kernel
            "branch_pool": nn.Sequential(PerFrame(nn.AvgPool2d(3, 1, 1)), ConvNormReLU(cin, 192)),
        }
    )


def _v3_trunk(in_channels: int, how: Conv1x7, bottom_time: bool) -> nn.Sequential:
    """Table 1's rows; ``bottom_time`` is False for the top-heavy form."""
    t = bottom_time
    return nn.Sequential(
        OrderedDict(
            Conv3d_1a=SeparableConv(in_channels, 32, 3, 2, time=t),
            Conv3d_2a=SeparableConv(32, 32, 3, time=t),
            Conv3d_2b=SeparableConv(32, 64, 3, time=t),
            MaxPool3d_3a=nn.MaxPool3d(3, 2, 1),
            Conv3d_3b=ConvNormReLU(64, 80),
            Conv3d_4a=SeparableConv(80, 192, 3, time=t),
            MaxPool3d_5a=nn.MaxPool3d(3, 2, 1),
            Mixed_5b=_block_a(192, 32, t),
            Mixed_5c=_block_a(256, 64, t),
            Mixed_5d=_block_a(288, 64, True),
            Mixed_6a=_block_b(288),
            Mixed_6b=_block_c(768, 128, how),
            Mixed_6c=_block_c(768, 160, how),
            Mixed_6d=_block_c(768, 160, how),
            Mixed_6e=_block_c(768, 192, how),
            Mixed_7a=_block_d(768, how),
            Mixed_7b=_block_e(1280, how),
            Mixed_7c=_block_e(2048, how),
        )
    )


class AuxHead(nn.Module):
    """Inception-v3's auxiliary classifier on Mixed_6e, at 5×5 positions and over the mean of time.

    Args:
        cin: Channels in.
        num_classes: K, or classes by head name.
    """

    def __init__(self, cin: int, num_classes: NumClasses) -> None:
        super().__init__()
        self.conv0 = ConvNormReLU(cin, 128)
        self.conv1 = ConvNormReLU(128, 768, (1, 5, 5), pad=False)
        self.fc = conv_heads(768, num_classes)

    def forward(self, maps: Tensor) -> Logits:
        """(B, C, T, H, W) to (B, K), or a dict of such."""
        # The original pools 17×17 to 5×5 by a window of 5 and a stride of 3; 13×13 would leave 3×3, too few for
        # the 5×5 convolution, so the pool adapts.
        return averaged_logits(self.fc, self.conv1(self.conv0(F.adaptive_avg_pool3d(maps, (1, 5, 5)))))


class S3D(nn.Module):
    """S3D on GoogLeNet ("v1") or Inception-v3 ("v3", "v3_top_heavy").

    "v1" has torchvision's ``s3d`` state dict and, with the same weights, its logits.

    "v3" has the trunk shapes of the study's table 1: 64×224×224 becomes 8×28×28×192 before the first Inception
    block, 3×13×13×768 and 1×6×6 after the two unpadded reductions. (The table gives 2048 channels where the
    last reduction in fact leaves 1280; 2048 is what the blocks after it give.) The figures that show the blocks are
    not in the text: k×k is taken as 1×k×k then k×1×1, each with batch norm and ReLU; average pools as 3×3×3, but
    1×3×3 in the last two blocks, where of 64 frames one time step is left.

    "v3_top_heavy" has temporal convolutions only after layer 9, counting table 1's seven rows before the Inception
    blocks and then each block as a layer: of 18 layers the first 9 are 2D, up to Mixed_5c. Their strides and max
    pools keep time, so that the shapes stay those of the table. The study speaks of about half the parameters; so
    read, the count falls by 1 % only (31.4 to 31.1 million), the multiply-adds by 30 %: most parameters lie in the
    upper half, and Inception-v3 without any temporal layer has 21.8 million.

    Args:
        variant: "v1", "v3" or "v3_top_heavy".
        num_classes: K; or classes by head name; or 0 for features.
        in_channels: 3 for RGB, 2 for flow.
        aux_logits: Add the auxiliary classifier (v3 only); None adds it to v3 and v3_top_heavy. Its logits come
            from :meth:`forward_with_aux`.
        conv1x7: v3's 1×7, 7×1 pairs: "factored" to 1×1×7, 1×7×1, 7×1×1; or "inflated" to 7×1×7, 7×7×1.
            (1×3 and 3×1 likewise.)
        dropout: Before the classifier.
    """

    def __init__(
        self,
        variant: Variant = "v1",
        num_classes: NumClasses = 400,
        in_channels: int = 3,
        aux_logits: bool | None = None,
        conv1x7: Conv1x7 = "factored",
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        if variant not in _MINIMUM:
            raise ConfigError(f"variant is {variant!r}; S3D has {', '.join(_MINIMUM)}")
        if conv1x7 not in ("factored", "inflated"):
            raise ConfigError(f"conv1x7 is {conv1x7!r}; it must be 'factored' or 'inflated'")
        if variant == "v1" and (aux_logits or conv1x7 == "inflated"):
            raise ConfigError("aux_logits and conv1x7='inflated' belong to Inception-v3: choose variant 'v3'")
        self.variant, self.in_channels = variant, in_channels
        self.min_frames, self.min_size = _MINIMUM[variant]
        self.num_features = 1024 if variant == "v1" else 2048
        if variant == "v1":
            self.features = _v1_trunk(in_channels)
        else:
            self.features = _v3_trunk(in_channels, conv1x7, bottom_time=variant == "v3")
        wants_aux = variant != "v1" and bool(num_classes) if aux_logits is None else aux_logits
        if wants_aux and not num_classes:
            raise ConfigError("aux_logits needs classes; num_classes is 0")
        self.aux = AuxHead(768, num_classes) if wants_aux else None
        self.classifier = nn.Sequential(nn.Dropout(dropout), conv_heads(self.num_features, num_classes))

    def _check(self, video: Tensor) -> None:
        check_clip(
            video,
            channels=self.in_channels,
            min_frames=self.min_frames,
            min_size=self.min_size,
            name=f"S3D ({self.variant})",
        )

    def _classify(self, maps: Tensor) -> Logits:
        dropout, heads = self.classifier
        return averaged_logits(heads, dropout(sliding_average(maps, self._window)))

    @property
    def _window(self) -> Triple:
        return (2, 7, 7) if self.variant == "v1" else (1, 6, 6)

    def forward_map(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) to the last map: (B, 1024, T/8, H/32, W/32) for v1, (B, 2048, 1, 6, 6) of 64×224×224.

        Raises:
            ConfigError: Wrong rank, channels or dtype; for v1 fewer than 8 frames or 32×32 pixels, for v3 fewer
                than 49 of either.
        """
        self._check(video)
        maps: Tensor = self.features(video)
        return maps

    def forward_features(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, D)."""
        return sliding_average(self.forward_map(video), self._window).mean((2, 3, 4))

    def forward(self, video: Tensor) -> Logits:
        """(B, C, T, H, W), normalised, to (B, K), or a dict of such by head; the auxiliary head stays unused."""
        return self._classify(self.forward_map(video))

    def forward_with_aux(self, video: Tensor) -> tuple[Logits, Logits]:
        """Logits and auxiliary logits, for training.

        Raises:
            ConfigError: The network was built without the auxiliary head, or as for :meth:`forward`.
        """
        if self.aux is None:
            raise ConfigError(f"S3D ({self.variant}) was built without auxiliary logits; pass aux_logits=True")
        self._check(video)
        x, aux = video, None
        for name, layer in self.features.named_children():
            x = layer(x)
            if name == "Mixed_6e":
                aux = self.aux(x)
        assert aux is not None
        return self._classify(x), aux
