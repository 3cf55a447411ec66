"""I3D on ResNet-50 from mmaction2's checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_har.hub.convert.i3d_port import kinetics400_names
from lightning_har.modules.i3d import I3DModule
from lightning_har.nets.inflate import from_mmaction2
from lightning_har.spec import Sampling
from lightning_har.weights.matching import strict_load
from lightning_har.weights.torch_io import load_state_dict


def convert(files: Sequence[Path]) -> I3DModule:
    """The module from the one .pth file; tested on 10 clips × 3 crops of 256×256, as upstream does.

    Raises:
        WeightsError: It is damaged, holds more than tensors, or another network.
    """
    state = from_mmaction2(load_state_dict(files[0]))
    num_classes = len(state["head.fc.bias"])
    module = I3DModule(num_classes, "resnet50", pretrained=False, input_size=256)
    strict_load(module.net, state, what=str(files[0]))
    module.eval_sampling = Sampling("dense", time_stride=2, num_clips=10, crop="three", short_side=256)
    if num_classes == 400:
        module.class_names = kinetics400_names()
    return module
