"""Time, parameters and memory of the temporal parts over sequence length and width (study C's figure 8).

LSTM, GRU and ConvNet1D take pooled features (B, T, 1280), ConvLSTM the 8 × 8 maps they are pooled from. As in the
study, ConvLSTM's kernel is 4 × 4 with stride 4 on its input; its width is its filters, that of the others their units
(of ConvNet1D the channels of its last convolution). Each point runs in a process of its own, so that peaks are its own;
what Python, PyTorch, the weights and the input take is subtracted from them.

    python benchmarks/temporal_cost.py [--widths 50 100 200 300] [--lengths 5 10 20 40] [--device cpu] [--smoke]

Writes benchmarks/results/temporal_cost.csv and .png.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "temporal_cost.csv"
PARTS = ("lstm", "gru", "convlstm", "convnet1d")
FEATURES, MAP = 1280, 8


def measure(
    part: str, width: int, length: int, batch: int, device: str, budget_s: float, threads: int
) -> dict[str, Any]:
    """One part at one width and length: parameters, time and memory of a forward pass and of a training step."""
    import torch

    from lightning_har.bench.memory import PeakMemory, give_back
    from lightning_har.nets.cnn_rnn import temporal_part

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    net = temporal_part(part, FEATURES, width, num_frames=length, reset="after", causal=False).to(device)
    shape = (batch, length, FEATURES, MAP, MAP) if part == "convlstm" else (batch, length, FEATURES)
    x = torch.rand(shape, device=device)

    def forward() -> None:
        with torch.inference_mode():
            net(x)

    def train() -> None:
        net.zero_grad(set_to_none=True)
        net(x).square().mean().backward()

    found: dict[str, Any] = {"parameters": sum(p.numel() for p in net.parameters())}
    for name, step in (("forward", forward), ("training", train)):
        net.train(name == "training")
        give_back()
        with PeakMemory(device) as idle:
            pass
        with PeakMemory(device) as peak:
            step()
        found[f"{name}_mib"] = ((peak.peak_bytes or 0) - (idle.peak_bytes or 0)) / 2**20
        found[f"{name}_ms"] = median_ms(step, device, budget_s)
    return found


def median_ms(step: Any, device: str, budget_s: float) -> float:
    """Median of as many calls as fit the budget, at least 5, after one to warm up."""
    import time

    import torch

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    step()
    wait()
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 5 or (len(times) < 200 and time.perf_counter() - started < budget_s):
        begin = time.perf_counter()
        step()
        wait()
        times.append(1000 * (time.perf_counter() - begin))
    return sorted(times)[len(times) // 2]


def write(rows: list[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Four panels over sequence length, a line per part and width, and parameters over width."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    widths, longest = sorted({r["width"] for r in rows}), max(r["frames"] for r in rows)
    panels = {
        "forward_ms": "forward pass (ms)",
        "training_ms": "training step (ms)",
        "training_mib": "memory of a training step (MiB)",
        "parameters": f"parameters, {longest} frames",  # ConvNet1D has more blocks for more
    }
    for place, (key, label) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(2, 2, place)
        over = "width" if key == "parameters" else "frames"
        for number, part in enumerate(PARTS):
            for rank, width in enumerate([None] if over == "width" else widths):
                mine = [r for r in rows if r["part"] == part and r[key] != ""]
                mine = [r for r in mine if (r["frames"] == longest if over == "width" else r["width"] == width)]
                points = sorted({(r[over], max(float(r[key]), 1e-3)) for r in mine})
                shade = 1.0 if width is None else 0.35 + 0.65 * (rank + 1) / len(widths)
                name = part if width in (None, widths[-1]) else None
                if points:
                    axes.plot(*zip(*points, strict=True), "o-", ms=3, color=f"C{number}", alpha=shade, label=name)
        axes.set_yscale("log")
        axes.set_xlabel("units or filters" if over == "width" else "frames")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    lines, names = axes.get_legend_handles_labels()
    title = f"darker: wider ({', '.join(map(str, widths))})"
    figure.legend(lines, names, loc="outside upper center", ncols=len(names), title=title)  # over no line
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[50, 100, 200, 300])
    parser.add_argument("--lengths", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for each time")
    parser.add_argument("--threads", type=int, help="default: as many as PyTorch takes")
    parser.add_argument("--smoke", action="store_true", help="two small points of each part: does it run?")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(**json.loads(args.one))))
        return

    if args.smoke:
        args.widths, args.lengths, args.batch, args.budget = [8], [5, 20], 2, 0.02

    import torch

    from lightning_har.bench.report import commit, hardware

    torch.set_num_threads(args.threads or torch.get_num_threads())
    machine = hardware(args.device)
    rows = []
    for part in PARTS:
        for width in args.widths:
            for length in args.lengths:
                point = {"part": part, "width": width, "length": length, "batch": args.batch}
                point |= {"device": args.device, "budget_s": args.budget, "threads": torch.get_num_threads()}
                done = subprocess.run(
                    [sys.executable, __file__, "--one", json.dumps(point)], capture_output=True, text=True, check=False
                )
                row: dict[str, Any] = {"part": part, "width": width, "frames": length, "batch": args.batch}
                names = ("parameters", "forward_ms", "forward_mib", "training_ms", "training_mib")
                row |= dict.fromkeys(names, "")
                row["error"] = ""
                if done.returncode == 0:
                    found = json.loads(done.stdout)
                    row |= {k: found[k] if k == "parameters" else round(found[k], 3) for k in names}
                else:
                    row["error"] = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
                row |= {"cpu": machine["cpu"], "threads": machine["threads"], "accelerator": machine["accelerator"]}
                row |= {"torch": torch.__version__, "commit": commit()}
                rows.append(row)
                print("  ".join(f"{row[k]}" for k in ("part", "width", "frames", *names, "error")), flush=True)
                write(rows, args.out)  # anew after every point: who stops it has those that are done
    draw(rows, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
