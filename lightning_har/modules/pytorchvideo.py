"""X3D and other efficient networks of pytorchvideo as a LightningModule."""

from __future__ import annotations

from typing_extensions import Unpack

from lightning_har.modules.base import ActionRecognizer
from lightning_har.modules.options import TrainingOptions
from lightning_har.nets.pytorchvideo import MEAN, MODELS, STD, build_pytorchvideo
from lightning_har.spec import InputSpec, Sampling
from lightning_har.types import NumClasses


class PyTorchVideoModule(ActionRecognizer):
    """A network of pytorchvideo by its name there.

    Args:
        num_classes: K, or classes by head.
        name: "x3d_xs", "x3d_s", "x3d_m", "x3d_l", "efficient_x3d_xs", "slow_r50", ...; an unknown name is answered
            with the nearest.
        pretrained: A path to the published weights; False leaves them random. True is refused, see
            ``build_pytorchvideo``.
        num_frames: T; None takes the network's own.
        time_stride: Frames from one sampled frame to the next; None takes the network's own.
        dropout: Before the classifier.
        input_size: Frames are input_size × input_size pixels; None takes the network's own.
        training: See ``TrainingOptions``.

    Raises:
        ConfigError: Unknown name.
        WeightsError: The weights do not fit.
    """

    def __init__(
        self,
        num_classes: NumClasses,
        name: str = "x3d_xs",
        pretrained: bool | str = False,
        num_frames: int | None = None,
        time_stride: int | None = None,
        dropout: float = 0.5,
        input_size: int | None = None,
        **training: Unpack[TrainingOptions],
    ) -> None:
        net = build_pytorchvideo(name, num_classes, dropout=dropout, pretrained=pretrained)
        published = MODELS[name]
        size = input_size or published.size
        stride = time_stride or published.time_stride
        super().__init__(
            net,
            InputSpec(num_frames or published.frames, (size, size), mean=MEAN, std=STD),
            num_classes,
            train_sampling=Sampling("dense", time_stride=stride, random=True, crop="random", flip=0.5),
            eval_sampling=Sampling("dense", time_stride=stride),
            **training,
        )
