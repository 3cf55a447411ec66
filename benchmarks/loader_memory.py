"""Memory of a loader process over many decodes.

``python benchmarks/loader_memory.py [--decodes 10000]``: reads 25 frames of small clips again and again, through our
dataset, in this process, and notes its resident memory after a warm-up of a twentieth and at the end.
Target over 10,000 decodes: at most +50 MB.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
from pathlib import Path

from lightning_har import VideoFolderDataModule
from lightning_har.bench.report import hardware
from lightning_har.data.fake import write_fake_folder
from lightning_har.spec import InputSpec, Sampling

HERE = Path(__file__).resolve().parent


def resident_bytes() -> int:
    """Resident memory of this process; Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decodes", type=int, default=10_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_fake_folder(Path(folder), clips=10)
        spec = InputSpec(25, (112, 112))
        data = VideoFolderDataModule(folder, spec=spec, train_sampling=Sampling("segments", random=True, crop="random"))
        dataset = data.dataset("train")
        warm_up = max(args.decodes // 20, 1)
        before = peak = 0
        for i in range(args.decodes + warm_up):
            if i == warm_up:
                before = peak = resident_bytes()
            dataset[i % len(dataset)]
            if i % 100 == 0:
                peak = max(peak, resident_bytes())
        after = resident_bytes()
    row = {
        "decodes": args.decodes,
        "before_mb": round(before / 1e6, 1),
        "after_mb": round(after / 1e6, 1),
        "grown_mb": round((after - before) / 1e6, 1),
        "peak_grown_mb": round((max(peak, after) - before) / 1e6, 1),
        "target_mb": 50,
        "cores": os.cpu_count(),
        "cpu": hardware()["cpu"],
    }
    for key, value in row.items():
        print(f"{key:14} {value}")
    if args.decodes >= 10_000:
        (HERE / "results").mkdir(exist_ok=True)
        with open(HERE / "results" / "loader_memory.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, row)
            writer.writeheader()
            writer.writerow(row)


if __name__ == "__main__":
    main()
