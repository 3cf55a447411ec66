"""Does a recurrent head narrow the gap between a mobile and a large extractor, on real clips?

Study E's claim, asked with the heads of scfd_heads.py on the Surveillance Camera Fight Dataset: how much better the
same head does over Inception-v3 than over MobileNetV2, both measured by ``scfd.py`` on the same folds with the same
seeds, and how much less that is than on a single frame. Intervals are Student's at 95 % over the folds, each the mean
of its seeds. A row is "held" where the whole interval lies above 0, "not held" where it lies below, and undecided
otherwise; unless the first row held, no gap is shown that a head could narrow.

    python benchmarks/scfd_gap.py [--mobile results/scfd] [--large results/scfd_inception]

Measures nothing: reads the two folders' results.csv, writes results/scfd_gap.csv.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path
from statistics import fmean

from lightning_har.bench.stats import half_interval

RESULTS = Path(__file__).resolve().parent / "results"
HEADS = ("single", "avg", "tsn", "lstm", "gru")
SAME = ("clips", "file_list_sha256", "epochs", "batch_size", "precision", "views", "crop", "sampling", "versions")
"""What the runs of a fold and seed must share to be compared."""

Runs = dict[tuple[str, str, str], dict[str, str]]


def read(folder: Path) -> Runs:
    """The runs of a folder by head, fold and seed."""
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        return {(row["name"].rpartition("/")[2], row["fold"], row["seed"]): row for row in csv.DictReader(file)}


def commits_of(runs: Runs) -> str:
    """Of what code the runs are."""
    return "; ".join(dict.fromkeys(run["commit"] for run in runs.values()))


def gaps(mobile: Runs, large: Runs) -> dict[str, list[float]]:
    """Large less mobile by head: a number a fold, the mean over its seeds.

    Raises:
        SystemExit: The two have not the same runs, or not under the same conditions.
    """
    if mobile.keys() != large.keys():
        raise SystemExit(f"not the same runs: {sorted(mobile.keys() ^ large.keys())}; run scfd.py on both to the end")
    for key, row in mobile.items():
        other = [name for name in SAME if row[name] != large[key][name]]
        if other:
            raise SystemExit(f"{key} differs in {', '.join(other)}; run scfd.py on both with the same code")
    folds = sorted({fold for _, fold, _ in mobile})
    return {
        head: [
            fmean(float(large[key]["top1"]) - float(mobile[key]["top1"]) for key in mobile if key[:2] == (head, fold))
            for fold in folds
        ]
        for head in HEADS
    }


def table(found: dict[str, list[float]]) -> list[dict[str, object]]:
    """A row for each head's gap, and for what each takes of the single frame's."""
    rows = [("gap on a single frame", found["single"])]
    for head in HEADS[1:]:
        rows.append((f"gap with {head}", found[head]))
    for head in HEADS[1:]:
        less = [single - gap for single, gap in zip(found["single"], found[head], strict=True)]
        rows.append((f"gap on a single frame - gap with {head}", less))
    return [row(name, values) for name, values in rows]


def row(name: str, values: list[float]) -> dict[str, object]:
    """Mean, interval and verdict."""
    mean, half = fmean(values), half_interval(values)
    if half is None:
        raise SystemExit(f"{len(values)} fold has no interval; two are the least")
    verdict = "held" if mean - half > 0 else "not held" if mean + half < 0 else "undecided"
    of = {"mean": mean, "low": mean - half, "high": mean + half}
    return {"comparison": name, **{k: round(v, 4) for k, v in of.items()}, "above_0": verdict, "folds": len(values)}


def main() -> int:
    """Compare, print, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mobile", type=Path, default=RESULTS / "scfd")
    parser.add_argument("--large", type=Path, default=RESULTS / "scfd_inception")
    parser.add_argument("--csv", type=Path, default=RESULTS / "scfd_gap.csv")
    args = parser.parse_args()
    mobile, large = read(args.mobile), read(args.large)
    commits = {"commit_mobile": commits_of(mobile), "commit_large": commits_of(large)}
    rows = [row | commits for row in table(gaps(mobile, large))]
    with args.csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for r in rows:
        print(f"{r['comparison']:40} {r['mean']:+.4f} ({r['low']:+.4f} to {r['high']:+.4f})  above 0: {r['above_0']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
