"""Classifier heads: features to logits."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from lightning_har.types import Logits, NumClasses


class ClassifierHead(nn.Module):
    """Dropout and a linear layer, or one linear layer per named head.

    Args:
        in_features: D.
        num_classes: K; or classes by head name, the logits then being a dict; or 0, which passes features on.
        dropout: Probability of dropping a feature.
    """

    def __init__(self, in_features: int, num_classes: NumClasses, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc: nn.Module
        self._named = isinstance(num_classes, Mapping)
        if isinstance(num_classes, Mapping):
            self.fc = nn.ModuleDict({name: nn.Linear(in_features, k) for name, k in num_classes.items()})
        else:
            self.fc = nn.Linear(in_features, num_classes) if num_classes else nn.Identity()

    def forward(self, features: Tensor) -> Logits:
        """(..., D) to logits (..., K), or a dict of such."""
        features = self.dropout(features)
        if isinstance(self.fc, nn.ModuleDict):
            return {name: layer(features) for name, layer in self.fc.items()}
        logits: Tensor = self.fc(features)
        return logits
