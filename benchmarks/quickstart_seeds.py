"""The quickstart over several seeds: does the recurrent network see the order of frames?

    python benchmarks/quickstart_seeds.py --seeds 3

Runs ``recipes/quickstart.py`` once per seed and model, as a user would, and writes the test scores and their means. The
recipe's settings were chosen on the validation actors; the test actors are scored here and nowhere else.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev

ROOT = Path(__file__).resolve().parents[1]


def score(variant: str, seed: int, folder: Path) -> dict[str, object]:
    """One run's scores on the test clips."""
    recipe = ROOT / "recipes" / "quickstart.py"
    command = [sys.executable, "-m", "lightning_har.cli.main", "run", str(recipe)]
    subprocess.run(
        [*command, "--variant", variant, "--seed", str(seed), "--out", str(folder)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    report = json.loads(next(folder.rglob("report.json")).read_text())
    video = report["metrics"]["test"]["action"]["video"]
    return {
        "model": variant,
        "seed": seed,
        "top1": round(video["top1"], 4),
        "order_pairs_top1": round(video["order_pairs_top1"], 4),
        "clips": report["files"]["scored"],
        "commit": report["commit"],
        "cpu": report["hardware"]["cpu"],
    }


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", default=["gru", "avg", "single"])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "quickstart_seeds.csv")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):
            for variant in arguments.variants:
                rows.append(score(variant, seed, Path(folder) / f"{variant}-{seed}"))
                print(rows[-1], flush=True)
    with arguments.out.open("w", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for variant in arguments.variants:
        for name in ("top1", "order_pairs_top1"):
            values = [float(str(r[name])) for r in rows if r["model"] == variant]
            spread = stdev(values) if len(values) > 1 else float("nan")
            print(f"{variant:7} {name:17} {mean(values):.3f} ± {spread:.3f} (standard deviation over seeds)")


if __name__ == "__main__":
    main()
