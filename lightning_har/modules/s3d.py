"""S3D as a LightningModule."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from torch import Tensor
from typing_extensions import Unpack

from lightning_har.errors import ConfigError
from lightning_har.modules.base import ActionRecognizer
from lightning_har.modules.options import TrainingOptions
from lightning_har.nets.s3d import S3D, Conv1x7, Variant
from lightning_har.spec import InputSpec, Sampling
from lightning_har.types import Logits, NumClasses, Video

URL = "https://download.pytorch.org/models/s3d-d76dad2f.pth"
SHA256_PREFIX = "d76dad2f"
AUX_WEIGHT = 0.4
"""Of the auxiliary classifier's loss, as Inception-v3 was trained (torchvision's reference does the same)."""


class S3DModule(ActionRecognizer):
    """Separable 3D Inception network.

    Xie et al., "Rethinking Spatiotemporal Feature Learning" (ECCV 2018) for v1; study B for v3.

    Args:
        num_classes: K, or classes by head.
        variant: "v1" (GoogLeNet), "v3" (Inception-v3) or "v3_top_heavy" (2D below layer 9).
        aux_logits: Auxiliary classifier of v3, for training; None adds it to v3.
        conv1x7: "factored" or "inflated", how v3's 1×7 convolutions become 3D.
        pretrained: True fetches torchvision's Kinetics-400 weights (v1, RGB); a path reads that layout; False
            leaves them random.
        num_frames: T.
        dropout: Before the classifier.
        input_size: Frames are input_size × input_size pixels.
        training: See ``TrainingOptions``.

    Raises:
        ConfigError: Unknown variant; pretrained weights for one that has none.
        WeightsError: Pretrained weights cannot be had or do not fit.
    """

    net: S3D

    def __init__(
        self,
        num_classes: NumClasses,
        variant: Variant = "v1",
        aux_logits: bool | None = None,
        conv1x7: Conv1x7 = "factored",
        pretrained: bool | str = False,
        num_frames: int = 64,
        dropout: float = 0.2,
        input_size: int = 224,
        **training: Unpack[TrainingOptions],
    ) -> None:
        net = S3D(variant, num_classes, aux_logits=aux_logits, conv1x7=conv1x7, dropout=dropout)
        if pretrained:
            if variant != "v1":
                raise ConfigError(f"there are no published weights for S3D {variant}; use pretrained=False")
            from lightning_har.weights.fetch import fetch
            from lightning_har.weights.matching import strict_load
            from lightning_har.weights.torch_io import load_state_dict

            path = fetch(URL, sha256_prefix=SHA256_PREFIX) if pretrained is True else Path(pretrained)
            state = load_state_dict(path)
            strict_load(net, state, head_prefixes=("classifier.",), drop_head=True, what=str(path))
        # Mean and std of torchvision's Kinetics-400 weights.
        spec = InputSpec(
            num_frames,
            (input_size, input_size),
            mean=(0.43216, 0.394666, 0.37645),
            std=(0.22803, 0.22145, 0.216989),
        )
        super().__init__(
            net,
            spec,
            num_classes,
            train_sampling=Sampling("dense", random=True, crop="random", flip=0.5),
            eval_sampling=Sampling("dense"),
            **training,
        )

    def training_outputs(self, video: Video) -> list[tuple[Logits, float]]:
        """Logits, and the auxiliary classifier's where there is one."""
        if self.net.aux is None:
            return super().training_outputs(video)
        logits, auxiliary = self.net.forward_with_aux(cast(Tensor, video))
        return [(logits, 1.0), (auxiliary, AUX_WEIGHT)]
