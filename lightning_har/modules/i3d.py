"""I3D as a LightningModule: Inception-v1 as published, and inflated 2D networks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import Tensor
from typing_extensions import Unpack

from lightning_har.errors import ConfigError, WeightsError
from lightning_har.modules.base import ActionRecognizer
from lightning_har.modules.options import TrainingOptions
from lightning_har.nets.i3d import I3D, from_googlenet, from_port_names, from_tf_names
from lightning_har.nets.inflate import I3DResNet, InflatedNet
from lightning_har.spec import InputSpec, Sampling
from lightning_har.types import NumClasses

GOOGLENET_URL = "https://download.pytorch.org/models/googlenet-1378be20.pth"
GOOGLENET_SHA256_PREFIX = "1378be20"


class I3DModule(ActionRecognizer):
    """Inflated 3D network on RGB or flow.

    Carreira and Zisserman, "Quo Vadis, Action Recognition?" (CVPR 2017).

    Args:
        num_classes: K, or classes by head.
        backbone: "inception_v1", the published network; "resnet50", "resnet101" or "resnet152", inflated as in
            mmaction2's I3D; or any other ResNet-, DenseNet-, SE-ResNet- or MobileNetV2-like timm network, every
            N×N kernel inflated to N×N×N.
        modality: "rgb" or "flow".
        pretrained: True inflates ImageNet weights (fetched: torchvision's GoogLeNet, or timm's); a path reads
            weights from disk: for "inception_v1" DeepMind's TensorFlow checkpoint (its .index file), the PyTorch
            port's, or torchvision's GoogLeNet; for others the 2D network's, as ``build_backbone`` does, to be
            inflated. The head is new in each case. False leaves all random.
        num_frames: T; None takes 64 for "inception_v1" (training clips of the paper), else 32.
        time_stride: Frames from one sampled frame to the next; None takes 1 for "inception_v1", else 2.
        value_range: What pixels 0 and 255 become for "inception_v1"; the published weights take [-1, 1].
        dropout: Before the classifier.
        input_size: Frames are input_size × input_size pixels.
        training: See ``TrainingOptions``.

    Raises:
        ConfigError: Unknown backbone or modality.
        WeightsError: Pretrained weights cannot be had or do not fit.
    """

    def __init__(
        self,
        num_classes: NumClasses,
        backbone: str = "inception_v1",
        modality: Literal["rgb", "flow"] = "rgb",
        pretrained: bool | str = True,
        num_frames: int | None = None,
        time_stride: int | None = None,
        value_range: tuple[float, float] = (-1.0, 1.0),
        dropout: float = 0.5,
        input_size: int = 224,
        **training: Unpack[TrainingOptions],
    ) -> None:
        if modality not in ("rgb", "flow"):
            raise ConfigError(f"modality is {modality!r}; I3D takes 'rgb' or 'flow'")
        channels = 3 if modality == "rgb" else 2
        size = (input_size, input_size)
        net: I3D | InflatedNet
        if backbone == "inception_v1":
            net = I3D(num_classes, channels, dropout)
            if pretrained:
                _load_inception(net, pretrained)
            spec = InputSpec(
                num_frames or 64, size, (value_range[0], value_range[1]), (0.0,), (1.0,), modality=modality
            )
            stride = time_stride or 1
        else:
            if backbone in ("resnet50", "resnet101", "resnet152"):
                net = I3DResNet(int(backbone[6:]), num_classes, channels, dropout, pretrained)
            else:
                net = InflatedNet(backbone, num_classes, channels, dropout, pretrained)
            if modality == "rgb":
                spec = InputSpec(num_frames or 32, size, net.value_range, net.mean, net.std)
            else:
                spec = InputSpec(num_frames or 32, size, (-1.0, 1.0), (0.0,), (1.0,), modality="flow")
            stride = time_stride or 2
        super().__init__(
            net,
            spec,
            num_classes,
            train_sampling=Sampling("dense", time_stride=stride, random=True, crop="random", flip=0.5),
            eval_sampling=Sampling("dense", time_stride=stride),
            **training,
        )
        if isinstance(net, InflatedNet):
            self.hparams["backbone"] = net.backbone


def _load_inception(net: I3D, pretrained: bool | str) -> None:
    from lightning_har.nets.backbones import spread_first_layer
    from lightning_har.weights.matching import strict_load

    if pretrained is True:
        from lightning_har.weights.fetch import fetch
        from lightning_har.weights.torch_io import load_state_dict

        path = fetch(GOOGLENET_URL, sha256_prefix=GOOGLENET_SHA256_PREFIX)
        state = from_googlenet(load_state_dict(path))
    else:
        path = Path(str(pretrained))
        state = _read_inception(path)
    first = "Conv3d_1a_7x7.conv3d.weight"
    channels = net.in_channels
    if state[first].shape[1] == 3 and channels == 2:
        state[first] = spread_first_layer(state[first], channels)
    strict_load(net, state, head_prefixes=("logits.",), drop_head=True, what=str(path))


def _read_inception(path: Path) -> dict[str, Tensor]:
    index = path if path.suffix == ".index" else path.with_name(f"{path.name}.index")
    if index.is_file():
        from lightning_har.weights.tf_bundle import read_bundle

        return from_tf_names(read_bundle(index.with_suffix("")))
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; give a file, or pretrained=True to fetch, or False for none")
    if path.suffix == ".safetensors":
        from lightning_har.weights.safetensors_io import load_safetensors

        state = load_safetensors(path)
    else:
        from lightning_har.weights.torch_io import load_state_dict

        state = load_state_dict(path)
    return from_googlenet(state) if "conv1.conv.weight" in state else from_port_names(state)
