"""I3D on Inception-v1 from torchvision's ImageNet GoogLeNet, inflated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_har.hub.convert.i3d_port import i3d_inception
from lightning_har.modules.i3d import I3DModule
from lightning_har.nets.i3d import from_googlenet
from lightning_har.weights.torch_io import load_state_dict


def convert(files: Sequence[Path]) -> I3DModule:
    """The module from the one .pth file, with ImageNet's classes.

    Raises:
        WeightsError: It is damaged, holds more than tensors, or another network.
    """
    module = i3d_inception(from_googlenet(load_state_dict(files[0])))
    module.class_names = imagenet_names()
    return module


def imagenet_names() -> tuple[str, ...]:
    """ImageNet's 1000 classes in label order: torchvision's list."""
    from torchvision.models import GoogLeNet_Weights

    return tuple(GoogLeNet_Weights.IMAGENET1K_V1.meta["categories"])
