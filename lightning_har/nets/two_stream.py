"""Two networks, one on RGB and one on flow, fused late.

Source: Simonyan and Zisserman, "Two-Stream Convolutional Networks for Action Recognition in Videos", NIPS 2014,
section 2 (fusion by averaging); Carreira and Zisserman, CVPR 2017, section 2.3 (I3D, trained apart).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_har.errors import ConfigError
from lightning_har.types import Logits


class TwoStream(nn.Module):
    """Late fusion of an RGB and a flow network.

    ``average="logits"`` gives ``(1 - weight) * rgb + weight * flow``. ``average="probabilities"`` gives the
    logarithm of the same average of the two softmaxes: its softmax is that average, so it may be used wherever
    logits are (cross-entropy, top-k, softmax).

    Args:
        rgb_net: Takes the clip "rgb"; has ``forward_features`` and ``num_features``.
        flow_net: Takes the clip "flow"; has the same classes.
        weight: Of flow, in [0, 1]. Kept as a buffer, so that a weight chosen in validation is saved.
        average: What is averaged.
        features: ``forward`` gives the features of both side by side, where the networks have no classes to fuse.
    """

    weight: Tensor

    def __init__(
        self,
        rgb_net: nn.Module,
        flow_net: nn.Module,
        weight: float = 0.5,
        average: Literal["logits", "probabilities"] = "logits",
        features: bool = False,
    ) -> None:
        super().__init__()
        if average not in ("logits", "probabilities"):
            raise ConfigError(f"average is {average!r}; it must be 'logits' or 'probabilities'")
        self.rgb, self.flow = rgb_net, flow_net
        self.average = average
        self.features = features
        self.num_features = int(cast(int, rgb_net.num_features)) + int(cast(int, flow_net.num_features))
        self.register_buffer("weight", torch.tensor(0.5))
        self.set_weight(weight)

    def set_weight(self, weight: float) -> None:
        """Set the weight of flow.

        Raises:
            ConfigError: It is not in [0, 1].
        """
        if not 0 <= weight <= 1:
            raise ConfigError(f"the weight of flow is {weight}; it must be between 0 (RGB alone) and 1 (flow alone)")
        self.weight.fill_(weight)

    def forward_streams(self, video: Mapping[str, Tensor]) -> tuple[Logits, Logits]:
        """The logits of each network by itself, RGB first: what choosing a weight in validation needs.

        Raises:
            ConfigError: ``video`` is not a dict with "rgb" and "flow".
        """
        rgb, flow = self._both(video)
        return self.rgb(rgb), self.flow(flow)

    def fuse(self, rgb: Logits, flow: Logits) -> Logits:
        """Logits of the two, (B, K) each or dicts of such, to fused logits.

        Raises:
            ConfigError: The two have different heads or class counts.
        """
        if isinstance(rgb, dict) or isinstance(flow, dict):
            if not (isinstance(rgb, dict) and isinstance(flow, dict) and rgb.keys() == flow.keys()):
                raise ConfigError("the RGB and the flow network have different heads; build both with the same")
            return {name: self._fuse(rgb[name], flow[name]) for name in rgb}
        return self._fuse(rgb, flow)

    def _fuse(self, rgb: Tensor, flow: Tensor) -> Tensor:
        if rgb.shape != flow.shape:
            raise ConfigError(
                f"the RGB network gives {tuple(rgb.shape)}, the flow network {tuple(flow.shape)}; "
                "build both with the same classes"
            )
        if self.average == "logits":
            return torch.lerp(rgb, flow, self.weight.to(rgb.dtype))
        # log(w) is -inf at the ends, which logaddexp takes as "absent"
        return torch.logaddexp(
            F.log_softmax(rgb, -1) + torch.log1p(-self.weight), F.log_softmax(flow, -1) + self.weight.log()
        )

    def forward(self, video: Mapping[str, Tensor]) -> Logits:
        """{"rgb": (B, 3, T, H, W), "flow": (B, 2, T', H', W')} to fused (B, K), or a dict of such by head."""
        if self.features:
            return self.forward_features(video)
        return self.fuse(*self.forward_streams(video))

    def forward_features(self, video: Mapping[str, Tensor]) -> Tensor:
        """Both networks' features side by side, (B, D_rgb + D_flow)."""
        rgb, flow = self._both(video)
        both = [self.rgb.forward_features(rgb), self.flow.forward_features(flow)]  # type: ignore[operator]
        return torch.cat(both, 1)

    def _both(self, video: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        if not isinstance(video, Mapping) or not {"rgb", "flow"} <= set(video):
            given = sorted(video) if isinstance(video, Mapping) else type(video).__name__
            raise ConfigError(f"TwoStream takes a dict of clips by modality, 'rgb' and 'flow'; got {given}")
        return video["rgb"], video["flow"]
