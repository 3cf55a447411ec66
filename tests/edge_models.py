"""Small recognisers and clips that the tests of the edge share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from lightning_har.modules.base import ActionRecognizer
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.modules.tsn import TSNModule

SIZE = 64
FRAMES = 6


def cnn_rnn(temporal="gru", **kwargs) -> CNNRNNModule:
    torch.manual_seed(0)
    options = {"backbone": "resnet10t", "hidden": 16, "num_frames": FRAMES, "input_size": SIZE} | kwargs
    return settle(CNNRNNModule(4, temporal=temporal, pretrained=False, **options))


def tsn(**kwargs) -> TSNModule:
    torch.manual_seed(0)
    options = {"backbone": "resnet10t", "num_segments": FRAMES, "input_size": SIZE} | kwargs
    return settle(TSNModule(4, pretrained=False, **options))


def settle(module: ActionRecognizer) -> ActionRecognizer:
    """Batch norms that know their inputs' statistics, without which random weights die out with depth."""
    module.train()
    for m in module.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.train()
            m.momentum = None
    with torch.no_grad():
        for seed in range(2):
            module(clips(4, seed=seed)["video"])
    module.class_names = ("clap", "jump", "kick", "wave")
    return module.eval()


def clips(count: int = 4, seed: int = 0, classes: int = 4, frames: int = FRAMES, size: int = SIZE) -> dict:
    """A batch of smooth moving patterns, one kind for each class."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    video = np.empty((count, 3, frames, size, size), np.uint8)
    for i in range(count):
        label = i % classes
        phase, tint = rng.uniform(0, 6), rng.uniform(0.3, 1, 3)
        for t in range(frames):
            wave = np.sin(2 * np.pi * (label + 1) * (x if label % 2 else y) + phase + 0.5 * t * (label - 1.5))
            video[i, :, t] = (127 + 120 * wave[None] * tint[:, None, None]).clip(0, 255)
    return {
        "video": torch.from_numpy(video),
        "label": torch.arange(count) % classes,
        "id": [str(i) for i in range(count)],
        "path": [f"{i}.mp4" for i in range(count)],
        "failures": [],
    }


def batches() -> list[dict]:
    """To calibrate on, and to check."""
    return [clips(4, seed=s) for s in range(3)]


class Tail(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def of_features(tail=None, temporal="avg", hidden=8, **kwargs):
    """A network that is traced in no time, with something behind its head."""
    torch.manual_seed(0)
    module = CNNRNNModule(4, backbone=None, feature_dim=8, temporal=temporal, hidden=hidden, **kwargs).eval()
    if tail is not None:
        module.net.head = nn.Sequential(module.net.head, Tail(tail))
    return module


def features(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(count, 25, 8, generator=generator)
    return {"video": video, "label": torch.arange(count) % 4, "id": list(map(str, range(count)))}


def write_video(path: Path, frames: np.ndarray, fps: int = 25) -> Path:
    """(T, H, W, 3) uint8 to a file, all but lossless."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv444p"
        stream.options = {"qp": "1", "preset": "ultrafast"}
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode())
    return path
