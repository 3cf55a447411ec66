"""A 2D network with a temporal part, as a LightningModule."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from typing_extensions import Unpack

from lightning_har.errors import ConfigError
from lightning_har.modules.base import ActionRecognizer
from lightning_har.modules.options import TrainingOptions
from lightning_har.nets.backbones import build_backbone, freeze_until
from lightning_har.nets.cnn_rnn import CNNRNN, Temporal, temporal_part
from lightning_har.spec import InputSpec, Sampling
from lightning_har.types import NumClasses


class CNNRNNModule(ActionRecognizer):
    """Features of every frame by a 2D network, then GRU, LSTM, ConvLSTM, ConvNet1D, average or a single frame.

    Study C's parts are ``temporal="lstm", hidden=50``; ``"convlstm", hidden=8`` at 256 pixels; ``"convnet1d"``; with
    20 frames and dropout 0.5. Study E's are ``temporal="gru"`` or ``"lstm"`` with ``hidden`` the feature width,
    ``reset="before"``, ``input_dropout=0.5``, ``head_width=512``, and ``"single"`` with ``head_width=512``; 25 frames.

    Args:
        num_classes: K, or classes by head.
        backbone: Any timm model by name and more, see ``build_backbone``; None takes features (B, T, D).
        temporal: The temporal part.
        hidden: Units of "gru" and "lstm", filters of "convlstm", last channels of "convnet1d"; the others have none.
        feature_dim: D, with ``backbone=None``.
        freeze_backbone: True runs the backbone in eval mode and without a graph; a block's name freezes up to it.
        pretrained: True, False, or a path; see ``build_backbone``.
        num_frames: T.
        reset: Of "gru": "after" the product (PyTorch) or "before" (Keras).
        causal: Of "convnet1d": padded in front, so that it runs frame by frame.
        input_dropout: On the features.
        head_width: A dense layer with batch norm and LeakyReLU before the classifier.
        batch_norm: Batch norm after the temporal part; None puts it after "gru" and "lstm".
        dropout: Before the classifier.
        cut_after: The backbone ends after this block.
        input_size: Frames are input_size × input_size pixels; None takes the backbone's own.
        training: See ``TrainingOptions``.

    Raises:
        ConfigError: Unknown backbone or part; neither backbone nor feature_dim, or both.
        WeightsError: Pretrained weights cannot be had.
    """

    net: CNNRNN

    def __init__(
        self,
        num_classes: NumClasses,
        backbone: str | None = "mobilenetv2_100",
        temporal: Temporal = "gru",
        hidden: int = 256,
        feature_dim: int | None = None,
        freeze_backbone: bool | str = True,
        pretrained: bool | str = True,
        num_frames: int = 25,
        reset: Literal["after", "before"] = "after",
        causal: bool = False,
        input_dropout: float = 0.0,
        head_width: int | None = None,
        batch_norm: bool | None = None,
        dropout: float = 0.5,
        cut_after: str | None = None,
        input_size: int | None = None,
        **training: Unpack[TrainingOptions],
    ) -> None:
        if (backbone is None) == (feature_dim is None):
            raise ConfigError("give a backbone, or backbone=None and feature_dim=D for features; not both, not neither")
        extractor, spec = None, None
        if backbone is not None:
            extractor = build_backbone(backbone, pretrained=pretrained, cut_after=cut_after)
            if freeze_backbone is not True:
                freeze_until(extractor, freeze_backbone)
            spec = InputSpec(
                num_frames=num_frames,
                size=(input_size, input_size) if input_size else extractor.input_size,
                value_range=extractor.value_range,
                mean=extractor.mean,
                std=extractor.std,
                channel_order=extractor.channel_order,
            )
        dim = feature_dim if extractor is None else extractor.num_features
        assert dim is not None
        part = temporal_part(temporal, dim, hidden, num_frames=num_frames, reset=reset, causal=causal)
        net = CNNRNN(
            extractor,
            part,
            num_classes,
            batch_norm=temporal in ("gru", "lstm") if batch_norm is None else batch_norm,
            input_dropout=input_dropout,
            head_width=head_width,
            dropout=dropout,
            freeze=freeze_backbone is True,
        )
        super().__init__(
            net,
            spec,
            num_classes,
            train_sampling=Sampling("uniform", random=True, crop="full"),
            eval_sampling=Sampling("uniform", crop="full"),
            **training,
        )
        if extractor is not None:
            self.hparams["backbone"] = extractor.name

    def with_backbone_of(self, extractor: CNNRNNModule) -> CNNRNNModule:
        """This recogniser of features behind the network that computed them: a recogniser of clips.

        Args:
            extractor: A module with a backbone, whose preprocessing and evaluation sampling hold; its own head is left
                off. So do its frames, but where this one says in its own evaluation sampling how many it takes of them.

        Returns:
            A new module in eval mode with copies of both's weights, the backbone frozen.

        Raises:
            ConfigError: This one has a backbone, the other has none, or gives features of another width; a part that
                depends on the number of frames was built for another.
        """
        if self.net.backbone is not None:
            raise ConfigError("this module has a backbone and takes clips as it is; only one of features is joined")
        backbone, width = extractor.net.backbone, self.hparams["feature_dim"]
        if backbone is None:
            raise ConfigError("the extractor has no backbone: it takes features, and computes none of frames")
        if backbone.num_features != width:
            raise ConfigError(
                f"{backbone.name} gives {backbone.num_features} features of a frame, this module was trained on "
                f"{width}; give the network that computed those"
            )
        assert isinstance(extractor.spec, InputSpec)
        assert extractor.eval_sampling is not None
        own = self.eval_sampling.num_frames if self.eval_sampling is not None else None
        spec = replace(extractor.spec, num_frames=own or extractor.spec.num_frames)
        frames = {name: extractor.hparams[name] for name in ("backbone", "cut_after", "input_size")}
        frames["num_frames"] = spec.num_frames
        offline = {"feature_dim": None, "pretrained": False, "freeze_backbone": True}
        joined = type(self)(**{**self.hparams, "num_classes": self.num_classes, **frames, **offline})
        weights = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
        try:
            joined.net.load_state_dict({**self.net.state_dict(), **weights})
        except RuntimeError as error:  # a part with layers by the number of frames
            raise ConfigError(
                f"this module was built for {self.hparams['num_frames']} frames, and its features are of "
                f"{spec.num_frames}: build it with num_frames={spec.num_frames}, or extract other features"
            ) from error
        joined.spec = spec
        joined.eval_sampling = replace(extractor.eval_sampling, num_frames=own or extractor.eval_sampling.num_frames)
        joined.class_names = self.class_names
        joined.eval()
        return joined
