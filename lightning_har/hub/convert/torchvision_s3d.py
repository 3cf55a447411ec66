"""S3D from torchvision's Kinetics-400 weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_har.hub.convert.i3d_port import kinetics400_names
from lightning_har.modules.s3d import S3DModule
from lightning_har.spec import Sampling
from lightning_har.weights.matching import strict_load
from lightning_har.weights.torch_io import load_state_dict


def convert(files: Sequence[Path]) -> S3DModule:
    """The module from the one .pth file; tested on a clip of 128 frames, every second one, as upstream does.

    Raises:
        WeightsError: It is damaged, holds more than tensors, or another network.
    """
    module = S3DModule(400, "v1", num_frames=128)
    strict_load(module.net, load_state_dict(files[0]), what=str(files[0]))
    module.eval_sampling = Sampling("dense", time_stride=2, short_side=256)
    module.class_names = kinetics400_names()
    return module
