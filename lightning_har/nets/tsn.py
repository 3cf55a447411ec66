"""Temporal Segment Networks (Wang et al., ECCV 2016) over any 2D backbone, and TSM's shift (Lin et al. 2019)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_har.errors import ConfigError
from lightning_har.nets.backbones import Backbone
from lightning_har.nets.heads import ClassifierHead
from lightning_har.nets.preprocess import channels_last
from lightning_har.types import Logits, NumClasses

Consensus = Literal["avg", "max", "weighted"]

FRAMES_AT_ONCE = 8
"""Snippets that pass the backbone together on a CPU when no gradient is wanted."""


class TSN(nn.Module):
    """A 2D network on one snippet of each segment, and a consensus of their logits (equation 1).

    Args:
        backbone: 2D extractor; its input channels are the snippet's.
        num_classes: K, heads by name, or 0 for features.
        num_segments: S of training. Testing may take another number.
        consensus: "avg" and "max" over the segments' logits; "weighted" learns one weight per segment, a
            softmax of S parameters. With another number of segments the learnt weights are interpolated
            linearly over the video's time and scaled to sum to 1.
        snippet_length: Frames per segment, stacked as channels.
        difference: Stack the differences of a snippet's neighbouring frames instead of the frames.
        dropout: Before the classifier.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: NumClasses,
        num_segments: int = 3,
        consensus: Consensus = "avg",
        *,
        snippet_length: int = 1,
        difference: bool = False,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if consensus not in ("avg", "max", "weighted"):
            raise ConfigError(f"consensus is {consensus!r}; it must be 'avg', 'max' or 'weighted'")
        self.backbone = backbone
        self.num_segments = num_segments
        self.consensus = consensus
        self.snippet_length = snippet_length
        self.difference = difference
        self.num_features = backbone.num_features
        self.head = ClassifierHead(backbone.num_features, num_classes, dropout)
        if consensus == "weighted":
            self.segment_weight = nn.Parameter(torch.zeros(num_segments))

    def forward(self, video: Tensor) -> Logits:
        """(B, C, S · snippet_length, H, W), normalised, to logits (B, K), or a dict of such."""
        logits = self.head(self.segment_features(video))
        if isinstance(logits, dict):
            return {name: self._consensus(x) for name, x in logits.items()}
        return self._consensus(logits)

    def forward_features(self, video: Tensor) -> Tensor:
        """The consensus of the segments' features, (B, D)."""
        return self._consensus(self.segment_features(video))

    def segment_features(self, video: Tensor) -> Tensor:
        """Features of each segment, (B, S, D)."""
        batch, _, frames = video.shape[:3]
        if frames % self.snippet_length:
            raise ConfigError(f"{frames} frames are not a whole number of snippets of {self.snippet_length} frames")
        snippets = video.transpose(1, 2).unflatten(1, (-1, self.snippet_length))  # (B, S, L, C, H, W)
        if self.difference:
            snippets = snippets[:, :, 1:] - snippets[:, :, :-1]
        images = channels_last(snippets.flatten(2, 3).flatten(0, 1))
        features: Tensor = self._extract(images).unflatten(0, (batch, -1))
        return features

    def _extract(self, snippets: Tensor) -> Tensor:
        """(B · S, L · C, H, W) to (B · S, D)."""
        # A CPU gains nothing from more images at once, and holds the activations of all; a GPU wants them all.
        if (
            snippets.device.type == "cpu"
            and not (self.training or torch.is_grad_enabled() or torch.compiler.is_compiling())
            and not any(isinstance(module, TemporalShift) for module in self.backbone.modules())
        ):
            return torch.cat([self.backbone(part) for part in snippets.split(FRAMES_AT_ONCE)])
        features: Tensor = self.backbone(snippets)
        return features

    def _consensus(self, x: Tensor) -> Tensor:
        if self.consensus == "avg":
            return x.mean(1)
        if self.consensus == "max":
            return x.amax(1)
        weight = self.segment_weight.softmax(0)
        if x.shape[1] != self.num_segments:
            # Segment centres as positions in time: segment k of S stands at (k + 0.5) / S.
            weight = F.interpolate(weight[None, None], size=x.shape[1], mode="linear")[0, 0]
            weight = weight / weight.sum()
        return (x * weight[:, None]).sum(1)


class TemporalShift(nn.Module):
    """Part of the channels from the frame before, part from the frame after, then a layer (TSM, section 3).

    Args:
        layer: What the shifted maps are given to.
        num_segments: T; the batch is (B · T, C, H, W).
        divisor: 1 / divisor of the channels go each way.
        causal: Shift only from the frame before (TSM, section 4.2: the online network), so that frames can be
            taken as they come.
    """

    def __init__(self, layer: nn.Module, num_segments: int, divisor: int = 8, causal: bool = False) -> None:
        super().__init__()
        self.layer = layer
        self.num_segments = num_segments
        self.divisor = divisor
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        """(B · T, C, H, W) through shift and layer."""
        out: Tensor = self.layer(self.shift(x))
        return out

    def shift(self, x: Tensor) -> Tensor:
        """The shift alone; the first and last frame take zeros."""
        if x.shape[0] % self.num_segments:
            raise ConfigError(
                f"a shift over {self.num_segments} segments got {x.shape[0]} frames, which is no multiple; "
                "give clips of the number of segments it was built for"
            )
        x = x.unflatten(0, (-1, self.num_segments))
        fold = x.shape[2] // self.divisor
        if self.causal:
            before = F.pad(x[:, :-1, :fold], (0, 0, 0, 0, 0, 0, 1, 0))
            return torch.cat((before, x[:, :, fold:]), 2).flatten(0, 1)
        back = F.pad(x[:, 1:, :fold], (0, 0, 0, 0, 0, 0, 0, 1))
        forth = F.pad(x[:, :-1, fold : 2 * fold], (0, 0, 0, 0, 0, 0, 1, 0))
        return torch.cat((back, forth, x[:, :, 2 * fold :]), 2).flatten(0, 1)


def add_temporal_shift(backbone: nn.Module, num_segments: int, divisor: int = 8, causal: bool = False) -> int:
    """Put a shift in front of the first convolution of every residual block, inside the residual branch.

    Works on timm's ResNet-like blocks (``conv1``) and MobileNet-like ones (``conv_pw`` where the block has a
    shortcut). Weights stay where they were, under one more name (``conv1.layer``).

    Args:
        backbone: Changed in place.
        num_segments: T.
        divisor: 1 / divisor of the channels go each way.
        causal: Shift only from the frame before.

    Returns:
        How many shifts were put in.

    Raises:
        ConfigError: A backbone without residual blocks of either kind.
    """
    count = 0
    for block in list(backbone.modules()):
        for name in ("conv1", "conv_pw"):
            residual = hasattr(block, "conv2") if name == "conv1" else getattr(block, "has_skip", False)
            layer = getattr(block, name, None)
            if residual and isinstance(layer, nn.Module) and hasattr(block, "bn1"):
                if name == "conv1" and not hasattr(block, "downsample"):
                    continue  # a stem's conv1, not a block's
                setattr(block, name, TemporalShift(layer, num_segments, divisor, causal))
                count += 1
                break
    if not count:
        raise ConfigError("this backbone has no residual blocks to shift in; take a ResNet or a MobileNet for TSM")
    return count
