"""Features of the Surveillance Camera Fight Dataset's clips, for scfd_nested.py and scfd_finetune.py.

Of 25 frames spread evenly over a clip (as many as it has, if fewer), three kinds of pictures pass the frozen ImageNet
network: the frames (rgb), their differences (diff), and their optical flow (flow: DIS at 224 × 224; x, y and length as
three channels). Two layers are kept, the last (1280 channels) and the end of block 4 (mid, 96), each averaged (and at
mid also maximised) over the picture. Besides, 30 numbers of each frame's flow and difference (motion).

Wants the extra flow (OpenCV).
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_har.data.decode import probe, read_frames
from lightning_har.data.flow import compute_flow
from lightning_har.nets.backbones import Backbone, build_backbone

Array = NDArray[Any]
Clip = Mapping[str, Array]
"""Of a clip: features by name, (T, D) each."""

FRAMES, SIZE, STEP_S, BOUND = 25, 224, 0.08, 20.0
"""Frames of a clip, their size in pixels, the time between two that displacements are scaled to, their largest."""


def pictures(path: Path) -> tuple[dict[str, Array], Array]:
    """Three kinds of uint8 pictures (T, 224, 224, 3), and ``motion`` of each pair of frames, (T - 1, 30)."""
    info = probe(path)
    places = np.unique(np.linspace(0, info.num_frames - 1, FRAMES).round().astype(int))
    frames = read_frames(path, places, size=(SIZE, SIZE))
    gap = info.duration / info.num_frames * np.diff(places)[:, None, None, None] if info.duration else STEP_S
    flow = compute_flow(frames, "dis") * (STEP_S / np.maximum(gap, 1e-3))
    change = np.diff(frames.astype(np.int16), axis=0)
    length = np.linalg.norm(flow, axis=-1, keepdims=True)
    shown = np.concatenate([flow, length], -1).clip(-BOUND, BOUND) * (127 / BOUND) + 128
    pictured = {
        "rgb": frames,
        "diff": (change + 128).clip(0, 255).astype(np.uint8),
        "flow": shown.astype(np.uint8),
    }
    return pictured, motion(flow, length[..., 0], np.abs(change).mean(-1))


def motion(flow: Array, length: Array, change: Array) -> Array:
    """Numbers of each pair of frames: how much moves, how fast, how unevenly in place, direction and time."""
    steps = len(flow)
    # The camera's own motion is what the median pixel does.
    own = flow - np.median(flow, axis=(1, 2), keepdims=True)
    speed = np.linalg.norm(own, axis=-1)
    rows = [np.percentile(a.reshape(steps, -1), (50, 90, 99), axis=1).T for a in (length, speed, change)]
    rows += [np.stack([a.mean((1, 2)), a.std((1, 2))], 1) for a in (length, speed, change)]
    rows.append(np.stack([(speed > 1).mean((1, 2)), (speed > 4).mean((1, 2)), (change > 20).mean((1, 2))], 1))
    angle = np.arctan2(own[..., 1], own[..., 0])
    turns = (
        np.stack([np.histogram(angle[t], 8, (-np.pi, np.pi), weights=speed[t])[0] for t in range(steps)])
        / np.maximum(speed.sum((1, 2)), 1e-6)[:, None]
    )
    rows.append(-(turns * np.log(turns + 1e-9)).sum(1, keepdims=True))
    bent = [np.gradient(own[..., a], axis=b) for a, b in ((0, 2), (1, 1), (1, 2), (0, 1))]
    rows.append(np.stack([np.abs(bent[0] + bent[1]).mean((1, 2)), np.abs(bent[2] - bent[3]).mean((1, 2))], 1))
    cells = speed.reshape(steps, 4, SIZE // 4, 4, SIZE // 4).mean((2, 4)).reshape(steps, -1)
    rows.append(np.sort(cells, 1)[:, [-1, -2, -4, 7]])
    jolts = np.abs(np.diff(speed, axis=0, append=speed[-1:]))
    rows.append(np.stack([jolts.mean((1, 2)), np.percentile(jolts.reshape(steps, -1), 99, axis=1)], 1))
    moved = (jolts > jolts.mean((1, 2), keepdims=True)).mean((1, 2))[:, None]
    turned = np.abs(np.diff(turns, axis=0, append=turns[-1:])).sum(1, keepdims=True)
    shares = np.percentile(speed.reshape(steps, -1), 99.9, axis=1)[:, None]
    found = np.concatenate([*rows, moved, turned, shares], 1).astype(np.float32)
    return np.sign(found) * np.log1p(np.abs(found))


@torch.inference_mode()
def layers(backbone: Backbone, shown: Array) -> dict[str, Array]:
    """What the network makes of pictures (T, H, W, 3): last (T, 1280), mid (T, 192)."""
    kept: list[torch.Tensor] = []
    hook = backbone.net.blocks[4].register_forward_hook(lambda module, given, out: kept.append(out))
    low, high = backbone.value_range
    x = torch.from_numpy(np.ascontiguousarray(shown)).permute(0, 3, 1, 2).float() / 255 * (high - low) + low
    last = backbone.forward_map(x).mean((2, 3))
    hook.remove()
    mid = torch.cat([kept[0].mean((2, 3)), kept[0].amax((2, 3))], 1)
    return {"last": last.numpy(), "mid": mid.numpy()}


def extract(folds: Path, weights: Path, out: Path) -> list[tuple[dict[str, str], Clip]]:
    """Every clip's row of the CSV and its features, computed where they are not kept yet."""
    with folds.open(newline="") as file:
        rows = list(csv.DictReader(file))
    out.mkdir(parents=True, exist_ok=True)
    backbone = build_backbone("mobilenetv2_100", pretrained=str(weights)).eval()
    found = []
    started = time.monotonic()
    for number, row in enumerate(rows, start=1):
        place = out / f"{Path(row['path']).with_suffix('').as_posix().replace('/', '-')}.npz"
        if not place.is_file():
            pictured, moved = pictures(folds.parent / row["path"])
            values = {"motion": moved}
            for stream, shown in pictured.items():
                values |= {f"{stream}_{k}": v.astype(np.float16) for k, v in layers(backbone, shown).items()}
            half = place.with_name(f".{place.stem}.npz")
            np.savez(half, **values)
            half.replace(place)
            print(f"{number} of {len(rows)}, {time.monotonic() - started:.0f} s", end="\r", file=sys.stderr)
        with np.load(place) as stored:
            clip = {k: stored[k].astype(np.float32) for k in stored.files}
        path = folds.parent / row["path"]
        info = probe(path)
        about = [info.fps, info.num_frames, info.height, info.width, path.stat().st_size]
        found.append((row, {**clip, "file": np.array([about], np.float32)}))
    return found
