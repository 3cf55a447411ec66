"""What separating space and time saves: parameters and multiply-adds of the S3D variants against I3D.

Counted, not timed: parameters by ``numel``, multiply-adds of convolutions and matrix products by PyTorch's
FlopCounterMode on the meta device (two floating-point operations each).

    python benchmarks/s3d_cost.py [--frames 64] [--size 224] [--classes 400]
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from lightning_har.bench.report import hardware
from lightning_har.nets.i3d import I3D
from lightning_har.nets.s3d import S3D

RESULTS = Path(__file__).parent / "results" / "s3d_cost.csv"


def cost(model: torch.nn.Module, clip: torch.Tensor) -> tuple[int, int]:
    """Parameters, multiply-adds."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(clip)
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=400)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    k = args.classes
    with torch.device("meta"):
        clip = torch.empty(1, 3, args.frames, args.size, args.size)
        models = {
            "I3D (Inception-v1)": I3D(k),
            "S3D-v1": S3D("v1", k),
            "S3D-v3": S3D("v3", k, aux_logits=False),
            "S3D-v3, inflated 1x7": S3D("v3", k, aux_logits=False, conv1x7="inflated"),
            "S3D-v3 top-heavy": S3D("v3_top_heavy", k, aux_logits=False),
        }
        counts = {name: cost(model, clip) for name, model in models.items()}
    base = counts["I3D (Inception-v1)"]
    rows = []
    for name, (parameters, multiply_adds) in counts.items():
        rows.append(
            {
                "model": name,
                "clip": f"1x3x{args.frames}x{args.size}x{args.size}",
                "classes": k,
                "parameters": parameters,
                "parameters_over_i3d": round(parameters / base[0], 4),
                "multiply_adds": multiply_adds,
                "multiply_adds_over_i3d": round(multiply_adds / base[1], 4),
                "torch": torch.__version__,
                "cpu": hardware()["cpu"],
            }
        )
        print(
            f"{name:22s} {parameters / 1e6:7.3f} M ({rows[-1]['parameters_over_i3d']:.3f} of I3D)"
            f"  {multiply_adds / 1e9:8.3f} G multiply-adds ({rows[-1]['multiply_adds_over_i3d']:.3f})"
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
