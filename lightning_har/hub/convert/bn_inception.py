"""TSN on BN-Inception from its published ImageNet weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_har.errors import WeightsError
from lightning_har.modules.tsn import TSNModule
from lightning_har.nets.backbones.bn_inception import from_published
from lightning_har.weights.matching import strict_load
from lightning_har.weights.torch_io import load_state_dict


def convert(files: Sequence[Path]) -> TSNModule:
    """The module from the one .pth file: ImageNet's classes, averaged over three segments.

    Raises:
        WeightsError: It is damaged, holds more than tensors, or another network.
    """
    state = from_published(load_state_dict(files[0]))
    if "last_linear.bias" not in state:
        raise WeightsError(f"{files[0]} has no last layer: it is not BN-Inception with its ImageNet classes")
    heads = {"last_linear.weight": "head.fc.weight", "last_linear.bias": "head.fc.bias"}
    renamed = {heads.get(name, f"backbone.net.{name}"): tensor for name, tensor in state.items()}
    module = TSNModule(len(state["last_linear.bias"]), "bn_inception", num_segments=3, pretrained=False)
    strict_load(module.net, renamed, what=str(files[0]))
    return module
