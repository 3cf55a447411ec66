"""I3D Inception-v1: padding inside the layers against an explicit F.pad before every layer.

The models run in turns, in one process, on the same weights and clip. What counts is the ratio within a turn (its
median over turns): absolute times vary from machine to machine, and on a busy one from turn to turn. The load of the
machine is written beside them; above the thread count, the other processes on it are being measured too.

Two more rows pad explicitly but rectify in place, as the library does, and the last of them also takes the clip in the
library's layout, channels last: beside it stands what padding alone is worth.

    python benchmarks/i3d_padding.py [--frames 64] [--size 224] [--repeats 7] [--threads 2] [--smoke]
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import time
from pathlib import Path

import torch
from reference.i3d_explicit_pad import ExplicitPadI3D

from lightning_har.bench.report import commit, hardware
from lightning_har.nets.i3d import I3D

RESULTS = Path(__file__).parent / "results" / "i3d_padding.csv"


def seconds(model: torch.nn.Module, clip: torch.Tensor) -> float:
    start = time.perf_counter()
    model(clip)
    return time.perf_counter() - start


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="the least clip, once: tests the script")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.smoke:
        args.frames, args.size, args.repeats = 9, 193, 1
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    ours = I3D().eval()
    models = {
        "lightning_har I3D": ours,
        "explicit F.pad": ExplicitPadI3D().eval(),
        "explicit F.pad, ReLU in place": ExplicitPadI3D(inplace=True).eval(),
        "explicit F.pad, ReLU in place, channels last": ExplicitPadI3D(inplace=True).eval(),
    }
    for model in models.values():
        model.load_state_dict(ours.state_dict())
    clip = torch.rand(1, 3, args.frames, args.size, args.size) * 2 - 1
    clips = dict.fromkeys(models, clip)
    clips["explicit F.pad, ReLU in place, channels last"] = clip.contiguous(memory_format=torch.channels_last_3d)
    outputs = {name: model(clips[name]) for name, model in models.items()}  # warms up, too
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(args.repeats):
        names = list(models)
        for name in names[turn % 4 :] + names[: turn % 4]:
            times[name].append(seconds(models[name], clips[name]))

    ours_s = times["lightning_har I3D"]
    rows = []
    for name, values in times.items():
        rows.append(
            {
                "model": name,
                "clip": f"1x3x{args.frames}x{args.size}x{args.size}",
                "median_s": round(statistics.median(values), 4),
                "min_s": round(min(values), 4),
                "max_s": round(max(values), 4),
                "ours_over_this": round(statistics.median(a / b for a, b in zip(ours_s, values, strict=True)), 4),
                "ours_over_this_by_min": round(min(ours_s) / min(values), 4),
                "max_abs_logit_difference": f"{(outputs[name] - outputs['lightning_har I3D']).abs().max().item():.1e}",
                "repeats": args.repeats,
                "load_1m": round(os.getloadavg()[0], 2),
                "torch": torch.__version__,
                "commit": commit(),
                **hardware(),
            }
        )
        print(f"{name:44s} {rows[-1]['median_s']:8.3f} s   ours / this = {rows[-1]['ours_over_this']:.3f}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
