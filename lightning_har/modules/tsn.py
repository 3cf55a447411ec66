"""TSN and TSM as a LightningModule."""

from __future__ import annotations

from typing import Literal

from torch import nn
from typing_extensions import Unpack

from lightning_har.errors import ConfigError
from lightning_har.modules.base import ActionRecognizer
from lightning_har.modules.options import TrainingOptions
from lightning_har.nets.backbones import build_backbone, freeze_until
from lightning_har.nets.tsn import TSN, Consensus, add_temporal_shift
from lightning_har.spec import InputSpec, Sampling
from lightning_har.types import NumClasses

# Frames of a snippet, and the channels they make (TSN, section 3.1: one RGB frame, five flow fields).
_SNIPPET = {"rgb": (1, 3), "rgb_diff": (6, 15), "flow": (5, 10)}


class TSNModule(ActionRecognizer):
    """Temporal Segment Network: one snippet from each segment of a video, a consensus over their logits.

    Wang et al., "Temporal Segment Networks" (ECCV 2016).

    Args:
        num_classes: K, or classes by head.
        backbone: Any timm model by name, or "bn_inception"; see ``build_backbone``.
        num_segments: S in training; testing takes any number.
        consensus: "avg", "max" or "weighted" (learned weight per segment; with another number of segments than
            in training the weights are interpolated over time and scaled to sum to 1).
        modality: "rgb"; "rgb_diff", five differences of six RGB frames per segment; "flow", five fields of two
            channels per segment.
        pretrained: True, False, or a path; see ``build_backbone``. A first layer for another number of channels
            takes the RGB weights' mean (section 3.2).
        temporal_shift: TSM (Lin et al. 2019): shift an eighth of the channels each way in every residual block;
            testing then needs the number of segments of training. "causal" shifts only from the frame before, so
            that the network can run frame by frame (``edge.streaming``).
        partial_bn: Freeze the statistics and parameters of every batch norm but the first (section 3.2).
        freeze_backbone: True, False, or the name of the last block to freeze.
        dropout: Before the classifier.
        input_size: Frames are input_size × input_size pixels; None takes the backbone's own.
        training: See ``TrainingOptions``.

    Raises:
        ConfigError: Unknown backbone, consensus or modality.
        WeightsError: Pretrained weights cannot be had.
    """

    net: TSN

    def __init__(
        self,
        num_classes: NumClasses,
        backbone: str = "resnet50",
        num_segments: int = 3,
        consensus: Consensus = "avg",
        modality: Literal["rgb", "rgb_diff", "flow"] = "rgb",
        pretrained: bool | str = True,
        temporal_shift: bool | Literal["causal"] = False,
        partial_bn: bool = False,
        freeze_backbone: bool | str = False,
        dropout: float = 0.5,
        input_size: int | None = None,
        **training: Unpack[TrainingOptions],
    ) -> None:
        if modality not in _SNIPPET:
            raise ConfigError(f"modality is {modality!r}; TSN takes {', '.join(_SNIPPET)}")
        snippet, channels = _SNIPPET[modality]
        extractor = build_backbone(backbone, pretrained=pretrained, in_channels=channels)
        freeze_until(extractor, freeze_backbone)
        if temporal_shift:
            add_temporal_shift(extractor, num_segments, causal=temporal_shift == "causal")
        net = TSN(
            extractor,
            num_classes,
            num_segments,
            consensus,
            snippet_length=snippet,
            difference=modality == "rgb_diff",
            dropout=dropout,
        )
        rgb = modality == "rgb"
        size = (input_size, input_size) if input_size else extractor.input_size
        spec = InputSpec(
            num_frames=num_segments * snippet,
            size=size,
            value_range=extractor.value_range if modality != "flow" else (-1.0, 1.0),
            mean=extractor.mean if rgb else (0.0,),
            std=extractor.std if rgb else (0.226,) if modality == "rgb_diff" else (1.0,),
            channel_order=extractor.channel_order if modality != "flow" else "rgb",
            modality="flow" if modality == "flow" else "rgb",
            snippet_length=snippet,
        )
        super().__init__(
            net,
            spec,
            num_classes,
            train_sampling=Sampling("segments", random=True, crop="random", flip=0.5),
            eval_sampling=Sampling("segments"),
            **training,
        )
        self.hparams["backbone"] = extractor.name
        self._frozen = freeze_backbone is True
        if partial_bn:
            norms = [m for m in extractor.modules() if isinstance(m, nn.BatchNorm2d)]
            for norm in norms[1:]:
                norm.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> TSNModule:
        """Training mode for all but what is frozen."""
        super().train(mode)
        if self._frozen:
            self.net.backbone.eval()
        return self
