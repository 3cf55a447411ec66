"""TSN on ResNet-50 from mmaction2's checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from lightning_har.errors import WeightsError
from lightning_har.hub.convert.i3d_port import kinetics400_names
from lightning_har.modules.tsn import TSNModule
from lightning_har.spec import Sampling
from lightning_har.weights.matching import strict_load
from lightning_har.weights.torch_io import load_state_dict


def convert(files: Sequence[Path]) -> TSNModule:
    """The module from the one .pth file; tested on 25 segments × 10 crops, as upstream does.

    Raises:
        WeightsError: It is damaged, holds more than tensors, or another network.
    """
    state = rename(load_state_dict(files[0]))
    if "head.fc.bias" not in state:
        raise WeightsError(f"{files[0]} has no cls_head.fc_cls: it is not mmaction2's TSN")
    num_classes = len(state["head.fc.bias"])
    module = TSNModule(num_classes, "resnet50", num_segments=8, pretrained=False)
    strict_load(module.net, state, what=str(files[0]))
    module.eval_sampling = Sampling("segments", num_frames=25, crop="ten", short_side=256)
    if num_classes == 400:
        module.class_names = kinetics400_names()
    return module


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """mmaction2's names as those of ``nets.tsn.TSN`` over timm's ResNet; mean and std belong to the InputSpec.

    Raises:
        WeightsError: A name that has no place.
    """
    out = {}
    for name, value in state.items():
        root, _, rest = name.partition(".")
        if root == "data_preprocessor":
            continue
        if name.startswith("cls_head.fc_cls."):
            out[name.replace("cls_head.fc_cls", "head.fc")] = value
        elif root == "backbone":
            if "downsample." in rest:
                rest = rest.replace("downsample.conv.", "downsample.0.").replace("downsample.bn.", "downsample.1.")
            elif ".bn." in rest:  # layer1.0.conv1.bn.weight: timm's bn1 beside conv1
                unit, _, leaf = rest.rpartition(".bn.")
                rest = f"{unit[:-5]}bn{unit[-1]}.{leaf}"
            else:
                rest = rest.replace(".conv.", ".")
            out[f"backbone.net.{rest}"] = value
        else:
            raise WeightsError(f"TSN has no place for tensor {name!r} of mmaction2's checkpoint")
    return out
