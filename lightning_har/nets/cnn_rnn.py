"""A 2D network on every frame, and a temporal part over its features."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lightning_har.errors import ConfigError
from lightning_har.nets import temporal as parts
from lightning_har.nets.backbones import Backbone
from lightning_har.nets.heads import ClassifierHead
from lightning_har.nets.preprocess import channels_last
from lightning_har.types import Logits, NumClasses

Temporal = Literal["gru", "lstm", "convlstm", "convnet1d", "avg", "max", "moments", "attention", "single"]


def temporal_part(
    name: Temporal, in_features: int, hidden: int, *, num_frames: int, reset: str, causal: bool
) -> nn.Module:
    """The temporal part of that name; the names are the field's.

    Raises:
        ConfigError: Unknown name.
    """
    if name == "gru":
        return parts.GRU(in_features, hidden, reset)
    if name == "lstm":
        return parts.LSTM(in_features, hidden)
    if name == "convlstm":
        return parts.ConvLSTM(in_features, hidden)
    if name == "convnet1d":
        return parts.ConvNet1D(in_features, hidden=hidden, num_frames=num_frames, causal=causal)
    if name == "attention":
        return parts.AttentionPool(in_features)
    simple = {"avg": parts.Average, "max": parts.Max, "moments": parts.Moments, "single": parts.SingleFrame}
    if name not in simple:
        raise ConfigError(
            f"temporal is {name!r}; it must be one of gru, lstm, convlstm, convnet1d, attention, {', '.join(simple)}"
        )
    return simple[name](in_features)


class CNNRNN(nn.Module):
    """Frames → features → temporal part → head.

    The heads are those of studies C and E (temporal part, batch norm, [dense, batch norm, LeakyReLU],
    dropout, dense); see ``CNNRNNModule`` for which settings give which study's.

    Args:
        backbone: 2D extractor; None for features from elsewhere.
        temporal: From ``temporal_part``.
        num_classes: K, heads by name, or 0 for features.
        batch_norm: Batch norm after the temporal part.
        input_dropout: On the features, one mask for all frames, as in Keras's recurrent layers.
        head_width: Units of a dense layer before the classifier, with batch norm and LeakyReLU 0.3; None has none.
        dropout: Before the classifier.
        freeze: The backbone runs in eval mode and without a graph.
    """

    def __init__(
        self,
        backbone: Backbone | None,
        temporal: nn.Module,
        num_classes: NumClasses,
        *,
        batch_norm: bool,
        input_dropout: float = 0.0,
        head_width: int | None = None,
        dropout: float = 0.5,
        freeze: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.temporal = temporal
        self.freeze = freeze and backbone is not None
        self.input_dropout = nn.Dropout1d(input_dropout)
        width: int = temporal.num_features  # type: ignore[assignment]
        layers: list[nn.Module] = [nn.BatchNorm1d(width, **parts.KERAS_BN)] if batch_norm else []
        if head_width is not None:
            norm = nn.BatchNorm1d(head_width, **parts.KERAS_BN)
            layers += [nn.Linear(width, head_width), norm, nn.LeakyReLU(0.3)]
            width = head_width
        self.neck = nn.Sequential(*layers)
        self.num_features = width
        self.head = ClassifierHead(width, num_classes, dropout)
        if self.freeze and backbone is not None:
            backbone.requires_grad_(False)
            backbone.eval()

    def train(self, mode: bool = True) -> CNNRNN:
        """Training mode for all but a frozen backbone."""
        super().train(mode)
        if self.freeze and self.backbone is not None:
            self.backbone.eval()
        return self

    def forward(self, video: Tensor) -> Logits:
        """(B, C, T, H, W), normalised, or features (B, T, D), to logits (B, K), or a dict of such."""
        logits: Logits = self.head(self.forward_features(video))
        return logits

    def forward_features(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) or (B, T, D) to what the classifier sees, (B, D')."""
        if hasattr(self.temporal, "pick") and video.ndim == 5:
            # The backbone need not look at frames that are thrown away.
            video = self.temporal.pick(video, 2)  # type: ignore[operator]
        features = self.frame_features(video) if video.ndim == 5 else video
        if features.ndim == 3:
            # Dropout1d drops whole channels of (B, D, T): the same features in every frame.
            features = self.input_dropout(features.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.neck(self.temporal(features))
        return out

    def frame_features(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) to features of each frame (B, T, D), or maps (B, T, D, h, w) where the part needs them."""
        if self.backbone is None:
            raise ConfigError("this network was built without a backbone; give it features (B, T, D)")
        batch = video.shape[0]
        frames = channels_last(video.transpose(1, 2).flatten(0, 1))
        extract = self.backbone.forward_map if getattr(self.temporal, "needs_maps", False) else self.backbone
        if self.freeze and torch.is_grad_enabled():
            with torch.no_grad():
                features = extract(frames)
        else:
            features = extract(frames)
        unflat: Tensor = features.unflatten(0, (batch, -1))
        return unflat

    def step(self, frame: Tensor, state: tuple[Tensor, ...]) -> tuple[Logits, tuple[Tensor, ...]]:
        """One frame at a time: the logits after it, and the state to give back with the next.

        Args:
            frame: (B, C, H, W), normalised, or features (B, D).
            state: From ``initial_state`` or the step before.

        Returns:
            Logits (B, K), or a dict of such, equal to ``forward`` on the frames so far; the new state.
        """
        features = frame
        if frame.ndim == 4:
            features = self.frame_features(frame[:, :, None])[:, 0]
        y, state = self.temporal.step(features, state)  # type: ignore[operator]
        return self.head(self.neck(y)), state

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """The state before the first frame.

        Raises:
            ConfigError: A temporal part that needs the whole clip.
        """
        if not hasattr(self.temporal, "initial_state"):
            raise ConfigError(f"{type(self.temporal).__name__} needs the whole clip; it cannot run frame by frame")
        state: tuple[Tensor, ...] = self.temporal.initial_state(batch_size)  # type: ignore[operator]
        return state
