"""What a network costs before it runs, and the clips that this is counted on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_har.spec import InputSpec
from lightning_har.types import Video


class Cost(TypedDict):
    """Sizes of a model.

    ``macs``: multiply-adds of one clip (B = 1); None where no clip was read. ``checkpoint_bytes`` and
    ``checkpoint_sha256``, which says whose numbers these are: None where no file was written.
    """

    parameters: int
    trainable_parameters: int
    macs: int | None
    checkpoint_bytes: int | None
    checkpoint_sha256: str | None


def example_video(spec: InputSpec | Mapping[str, InputSpec], batch_size: int = 1) -> Video:
    """A black uint8 clip of the shape a network declares.

    Args:
        spec: One InputSpec, or one by modality.
        batch_size: B.

    Returns:
        (B, C, T, H, W), or a dict of such by modality.
    """
    if isinstance(spec, Mapping):
        return {name: _clip(one, batch_size) for name, one in spec.items()}
    return _clip(spec, batch_size)


def _clip(spec: InputSpec, batch_size: int) -> Tensor:
    return torch.zeros((batch_size, spec.channels, spec.num_frames, *spec.size), dtype=torch.uint8)


def select(video: Video, videos: slice) -> Video:
    """Some videos of a batch: (B, ...) to (b, ...), in every modality."""
    if isinstance(video, Mapping):
        return {name: clip[videos] for name, clip in video.items()}
    return video[videos]


def move(video: Video, device: torch.device) -> Video:
    """The batch on a device, in every modality."""
    if isinstance(video, Mapping):
        return {name: clip.to(device) for name, clip in video.items()}
    return video.to(device)


def device_of(module: nn.Module) -> torch.device:
    """Where its parameters are; the CPU for a module without any."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def count_macs(module: nn.Module, video: Video) -> int:
    """Multiply-adds of one forward pass, by PyTorch's own counter: half of its floating-point operations.

    Convolutions, matrix products and attention count; biases, norms, activations and pooling do not.

    Args:
        module: A network that takes ``video``; it is run once, in eval mode, without a graph.
        video: A clip as ``example_video`` makes it; its B multiplies the count.
    """
    training = module.training
    module.eval()
    counter = FlopCounterMode(display=False)
    try:
        # The fused LSTM kernels (mkldnn, cuDNN) hide their matrix products from the counter.
        with (
            warnings.catch_warnings(),
            torch.no_grad(),
            torch.backends.cudnn.flags(enabled=False),
            counter,
        ):
            warnings.simplefilter("ignore", UserWarning)  # flags() warns of TF32 on GPUs that are not there
            with torch.backends.mkldnn.flags(enabled=False):
                module(move(video, device_of(module)))
    finally:
        module.train(training)
    return int(counter.get_total_flops()) // 2
