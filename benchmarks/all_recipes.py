"""Every recipe on the synthetic actions, small and short: a check of the systems, not a ranking.

What it shows is that each system trains, tests and is measured by one harness on one machine. All start from random
weights, see the same few clips of 12 actions for the same few epochs in batches of 8, and keep their own optimizer,
learning rate, sampling and network; frames have the number and size of the recipe's ``--smoke`` (S3D-v3 cannot do with
fewer than 49, the quantized MobileNetV2 not with less than 224 × 224). Nobody learns much from that: the scores say
nothing of what the systems can do. The costs hold for these sizes, and no closer than this shared machine measures:
rows of one network on the same clips differ by up to 2.5 times in latency.

    python benchmarks/all_recipes.py [RECIPE ...] [--work runs/all_recipes]

Stopped, the same command goes on. Writes results.json, .csv, .html and pictures into benchmarks/results/all_recipes.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from lightning_har.bench.benchmark import benchmark
from lightning_har.bench.harness import Settings
from lightning_har.data.synthetic import generate

ROOT = Path(__file__).resolve().parents[1]
OUT = Path(__file__).resolve().parent / "results" / "all_recipes"
TRAIN, VAL, TEST, SIZE, EPOCHS = 4, 1, 4, 64, 2
"""Clips of each class, their height and width in pixels, and epochs."""


def arguments(clips: Path, epochs: int) -> tuple[str, ...]:
    """What every recipe is called with; ``--smoke`` for random weights and small clips."""
    whole = [f"--trainer.limit_{part}_batches=1.0" for part in ("train", "val", "test")]
    counts = [f"--data.train_clips={TRAIN}", f"--data.val_clips={VAL}", f"--data.test_clips={TEST}"]
    place = [f"--data.root={clips}", f"--data.size={SIZE}", "--data.batch_size=8", "--data.num_workers=1"]
    return ("--smoke", *counts, *place, f"--trainer.max_epochs={epochs}", *whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", help="some of them (default: all)")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "all_recipes", help="where the runs go")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args = parser.parse_args()
    names = args.recipes or [p.stem for p in sorted((ROOT / "recipes").glob("*.py"))]
    clips = args.work / "clips"
    generate(clips, clips_per_class=(TRAIN, VAL, TEST), size=SIZE)
    benchmark(
        names,
        args.work,
        Settings(data="synthetic", accelerator="cpu", arguments=arguments(clips.resolve(), args.epochs)),
        recipes=ROOT / "recipes",
        title="Every recipe on the synthetic actions, small and short: a check of the systems, not a ranking",
        say=lambda line: print(line, flush=True),
    )
    args.out.mkdir(parents=True, exist_ok=True)
    for pattern in ("results.json", "results.csv", "results.html", "accuracy_*.png"):
        for file in args.work.glob(pattern):
            shutil.copyfile(file, args.out / file.name)
    print(f"copied to {args.out}")


if __name__ == "__main__":
    main()
