"""Every recipe's ``--smoke``, once, one after another: does each run in under a minute?

Each in a process of its own, as it is typed, starting Python included. Seconds are wall-clock; CPU seconds are those of
the process and of the workers it waited for, which other work on the machine does not lengthen. Target: 60 s.

    python benchmarks/smoke_runs.py [RECIPE ...] [--threads N]
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from lightning_har.bench.report import commit, hardware

ROOT = Path(__file__).resolve().parents[1]
OUT = Path(__file__).resolve().parent / "results" / "smoke_runs.csv"
TARGET_S = 60


def smoke(recipe: Path, threads: int) -> dict[str, Any]:
    """Run it; its row, with ``error`` for one that failed."""
    command = [sys.executable, "-m", "lightning_har.cli.main", "run", str(recipe.resolve()), "--smoke", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder, Path(folder, "said").open("w+", errors="replace") as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        lines = [line for line in said.read().splitlines() if line.strip()]
        error = f"exit code {process.returncode}: {lines[-1] if lines else 'without a word'}"
        if process.returncode == 0:
            error = "" if any(Path(folder, "out").rglob("report.json")) else "no report"
    return {
        "recipe": recipe.stem,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "target_s": TARGET_S,
        "error": error,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", type=Path, help="some of them (default: all)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch (default: one a core)")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    machine = {**hardware("cuda" if torch.cuda.is_available() else "cpu"), "threads": args.threads}
    told = {**machine, "torch": torch.__version__, "commit": commit()}
    rows = []
    for recipe in args.recipes or sorted((ROOT / "recipes").glob("*.py")):
        rows.append({**smoke(recipe, args.threads), **told})
        one = rows[-1]
        times = f"{one['seconds']:6.1f} s {one['cpu_seconds']:6.1f} s CPU"
        print(f"{one['recipe']:32} {times}  {one['error']}", flush=True)
    slow = [row["recipe"] for row in rows if row["seconds"] > TARGET_S]
    print(f"over {TARGET_S} s: {', '.join(slow) or 'none'}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return int(any(row["error"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
