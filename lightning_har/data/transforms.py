"""From decoded frames to the uint8 clips that a network takes: crop, resize, mirror.

Geometry is drawn once per video, in shares of the frame, so that all frames of a clip and all its modalities get
the same crop. The decoder resizes: to the short side, from which the views of evaluation are only cut, or to the
network's size for crop="full". A random crop of training is cut from the short side's and resized a second time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from lightning_har.data.decode import Frames
from lightning_har.spec import InputSpec, Sampling


@dataclass(frozen=True)
class Geometry:
    """What a training clip is cut to: a box in shares of the frame (top, left, height, width), and mirroring."""

    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    flip: bool = False


def draw_geometry(frame: tuple[int, int], spec: InputSpec, sampling: Sampling, rng: np.random.Generator) -> Geometry:
    """Draw a random resized crop (Szegedy et al., CVPR 2015, section 6) and a mirroring.

    Args:
        frame: (H, W) of the video.
        spec: Whose aspect ratio the crop varies about, by 3/4 to 4/3.
        sampling: Its ``scale`` and ``flip``.
        rng: Where it is drawn from.
    """
    flip = bool(rng.random() < sampling.flip)
    if sampling.crop != "random":
        return Geometry(flip=flip)
    height, width = frame
    target = spec.size[1] / spec.size[0]
    for _ in range(10):
        area = height * width * rng.uniform(*sampling.scale)
        aspect = target * math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            break
    else:
        # The frame is far from the target's shape: the largest crop of that shape.
        w, h = min(width, height * target), min(height, width / target)
    top, left = rng.uniform(0, height - h), rng.uniform(0, width - w)
    return Geometry((top / height, left / width, h / height, w / width), flip)


def decode_size(height: int, width: int, spec: InputSpec, sampling: Sampling) -> tuple[int, int]:
    """(H, W) that the decoder shall resize to: the short side, or more where the crop would not fit into it."""
    if sampling.crop == "full":
        return spec.size
    side = sampling.short_side or min(spec.size)
    factor = max(side / min(height, width), spec.size[0] / height, spec.size[1] / width)
    return max(round(height * factor), spec.size[0]), max(round(width * factor), spec.size[1])


def to_clips(frames: Frames, num_clips: int, spec: InputSpec, sampling: Sampling, geometry: Geometry) -> Tensor:
    """Cut the views from the decoded frames.

    Args:
        frames: (num_clips * T, H, W, C), of ``decode_size``.
        num_clips: Clips that they belong to.
        spec: What the network takes.
        sampling: Its crop.
        geometry: As drawn; for training.

    Returns:
        uint8, (C, T, H, W) for one view, (V, C, T, H, W) for several: clip by clip, each with its crops. The ten
        crops are top left, top right, bottom left, bottom right, centre, then their mirror images.
    """
    # numpy moves the channels ten times faster than torch does.
    video = torch.from_numpy(np.ascontiguousarray(frames.transpose(3, 0, 1, 2)))
    c, n, full_h, full_w = video.shape
    h, w = spec.size
    is_flow = spec.modality == "flow"
    if sampling.crop == "random":
        crops = [_random_crop(video, spec.size, geometry.box)]
    else:
        crops = [video[:, :, y : y + h, x : x + w] for y, x in _corners(sampling.crop, full_h - h, full_w - w)]
        if sampling.crop == "ten":
            crops += [mirror(crop, is_flow) for crop in crops]
    if geometry.flip:
        crops = [mirror(crop, is_flow) for crop in crops]
    if num_clips == 1 and len(crops) == 1:
        return crops[0].contiguous()
    out = torch.empty((num_clips, len(crops), c, n // num_clips, h, w), dtype=torch.uint8)
    for i, crop in enumerate(crops):
        out[:, i] = crop.unflatten(1, (num_clips, -1)).transpose(0, 1)
    return out.flatten(0, 1)


def mirror(video: Tensor, is_flow: bool) -> Tensor:
    """Left to right; of flow, whose zero lies at 127.5 in uint8, the x channel changes its sign too.

    Args:
        video: (C, T, H, W).
        is_flow: Whether the channels are x and y of optical flow.
    """
    flipped = video.flip(-1)
    if is_flow:
        flipped[0] = 255 - flipped[0]
    return flipped


def _corners(crop: str, dy: int, dx: int) -> list[tuple[int, int]]:
    centre = (dy // 2, dx // 2)
    if crop == "three":
        return [(0, centre[1]), centre, (dy, centre[1])] if dy > dx else [(centre[0], 0), centre, (centre[0], dx)]
    if crop == "ten":
        return [(0, 0), (0, dx), (dy, 0), (dy, dx), centre]
    return [centre]


def _random_crop(video: Tensor, size: tuple[int, int], box: tuple[float, float, float, float]) -> Tensor:
    full_h, full_w = video.shape[-2:]
    top, left = round(box[0] * full_h), round(box[1] * full_w)
    h, w = max(round(box[2] * full_h), 1), max(round(box[3] * full_w), 1)
    crop = video[:, :, top : min(top + h, full_h), left : min(left + w, full_w)]
    resized: Tensor = tv.resize(crop.transpose(0, 1), list(size), antialias=True)
    return resized.transpose(0, 1)
