"""The head of I3D and S3D: an average pool that slides, a 1×1×1 convolution, logits averaged over positions."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_har.types import Logits, NumClasses


def sliding_average(maps: Tensor, kernel: tuple[int, int, int]) -> Tensor:
    """Average pool of stride 1 without padding; where the map is smaller than the kernel, over the whole map.

    Args:
        maps: (B, D, T, H, W).
        kernel: Size in (T, H, W); (2, 7, 7) for the published networks.
    """
    t, h, w = (min(k, size) for k, size in zip(kernel, maps.shape[2:], strict=True))
    return F.avg_pool3d(maps, (t, h, w), stride=1)


def conv_heads(in_features: int, num_classes: NumClasses) -> nn.Module:
    """A 1×1×1 convolution to the classes; one per head for a mapping; identity for 0 classes."""
    if isinstance(num_classes, Mapping):
        return nn.ModuleDict({name: nn.Conv3d(in_features, k, 1) for name, k in num_classes.items()})
    return nn.Conv3d(in_features, num_classes, 1) if num_classes else nn.Identity()


def averaged_logits(heads: nn.Module, maps: Tensor) -> Logits:
    """Logits at each position of (B, D, T, H, W), averaged to (B, K); a dict of such for several heads."""
    if isinstance(heads, nn.ModuleDict):
        return {name: layer(maps).mean((2, 3, 4)) for name, layer in heads.items()}
    logits: Tensor = heads(maps).mean((2, 3, 4))
    return logits
