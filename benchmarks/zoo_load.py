"""What loading a checkpoint costs over reading its file and building its network.

Time: ``lightning_har.load`` of a folder whose digests are remembered, against ``safetensors.torch.load_file`` plus
the module's construction, in turn and in changing order, the best of each. Memory: the greatest resident size while
loading, less that before, over the size of the weights; a fresh process per model, which has built one before, so that
libraries are not counted. Command: ``lightning-har zoo list`` without a network, a whole process.

    python benchmarks/zoo_load.py [--repeats 7] [--models i3d tsn_resnet50 s3d] [--smoke]

Linux only: the peak is read from /proc/self/status and reset through /proc/self/clear_refs.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import lightning_har as har
from lightning_har.bench.report import commit, hardware

RESULTS = Path(__file__).parent / "results" / "zoo_load.csv"
MODELS: dict[str, Callable[[], Any]] = {
    "i3d": lambda: har.I3DModule(400, pretrained=False),
    "tsn_resnet50": lambda: har.TSNModule(400, "resnet50", pretrained=False),
    "s3d": lambda: har.S3DModule(400),
    "small": lambda: har.TSNModule(4, "test_resnet", pretrained=False, input_size=32),
}


def resident(field: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def best_times(first: Callable[[], Any], second: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Seconds of each, the least of several, measured in turn: AB, BA, AB, ..."""
    times: tuple[list[float], list[float]] = ([], [])
    pairs = list(zip((first, second), times, strict=True))
    for turn in range(repeats):
        for function, found in pairs if turn % 2 == 0 else pairs[::-1]:
            gc.collect()
            began = time.perf_counter()
            made = function()
            found.append(time.perf_counter() - began)
            del made  # giving the memory back is not loading
    return min(times[0]), min(times[1])


def measure(name: str, folder: Path, repeats: int) -> dict[str, float]:
    """One model, in this process."""
    build, weights = MODELS[name], folder / "model.safetensors"
    har.load(folder.parent / "small")  # so that what is imported on first use is not counted

    def baseline() -> tuple[Any, Any]:
        return load_file(weights), build()

    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # before any network of this size: freed memory could be reused
    before = resident("VmRSS")
    module = har.load(folder)
    peak = resident("VmHWM") - before
    del module
    plain, ours = best_times(baseline, lambda: har.load(folder), repeats)
    return {
        "weights_bytes": weights.stat().st_size,
        "baseline_s": plain,
        "load_s": ours,
        "time_ratio": ours / plain,
        "peak_bytes": peak,
        "memory_ratio": peak / weights.stat().st_size,
    }


def list_seconds(repeats: int) -> float:
    """The whole command, the least of several."""
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_ENDPOINT", "LIGHTNING_HAR_ZOO")}
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        command = [sys.executable, "-m", "lightning_har.cli.main", "zoo", "list"]
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - began)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["i3d", "tsn_resnet50", "s3d"])
    parser.add_argument("--out", type=Path, help=f"default: {RESULTS.name} in benchmarks/results")
    parser.add_argument("--smoke", action="store_true", help="a small network, once; written only where --out says")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], Path(args.one[1]), args.repeats)))
        return
    if args.smoke:
        args.models, args.repeats = ["small"], 1
    out = args.out or (None if args.smoke else RESULTS)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["LIGHTNING_HAR_CACHE"] = temporary
        MODELS["small"]().save_pretrained(Path(temporary) / "small")
        for name in args.models:
            folder = MODELS[name]().save_pretrained(Path(temporary) / name)
            har.load(folder)  # remembers the digests
            command = [sys.executable, __file__, "--repeats", str(args.repeats), "--one", name, str(folder)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append({"what": name, **json.loads(done.stdout)})
    rows.append({"what": "zoo list", "load_s": list_seconds(args.repeats)})
    machine = hardware()
    told = {"cpu": machine["cpu"], "threads": torch.get_num_threads(), "torch": torch.__version__, "commit": commit()}
    fields = ["what", "weights_bytes", "baseline_s", "load_s", "time_ratio", "peak_bytes", "memory_ratio", *told]
    told_rows = [{k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    for row in told_rows:
        print("  ".join(f"{k} {v}" for k, v in row.items()))
    if out is None:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows({**row, **told} for row in told_rows)


if __name__ == "__main__":
    main()
