"""Every recipe on the synthetic actions, small and short: a check of the systems, not a ranking.

What it shows is that each system trains, tests and is measured by one harness on one machine. All start from random
weights, see the same few clips of 12 actions for the same few epochs, and keep their own optimizer, learning rate,
sampling and network. Small, batches are of 8 and frames have the number and size of the recipe's ``--smoke`` (S3D-v3
cannot do with fewer than 49, the quantized MobileNetV2 not with less than 224 × 224); at full size, batches and frames
are the recipe's own. Nobody learns much from that: the scores say nothing of what the systems can do. The costs hold
for these sizes, and no closer than a shared machine measures: on the CPU, rows of one network on the same clips differ
by up to 2.5 times in latency.

    python benchmarks/all_recipes.py [RECIPE ...] [--work runs/all_recipes]
    python benchmarks/all_recipes.py --full --accelerator cuda [--precision bf16-mixed]

Stopped, the same command goes on. Writes results.json, .csv, .html and pictures into benchmarks/results/all_recipes;
those of another accelerator, precision or size into a folder named by it, such as all_recipes_cuda_bf16-mixed_full.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_har.bench.benchmark import write_results
from lightning_har.bench.harness import Settings, Target, find_targets, plan, run_job
from lightning_har.data.flow import cache_flow
from lightning_har.data.manifest import Manifest
from lightning_har.data.synthetic import generate

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
TITLE = "Every recipe on the synthetic actions, {}: a check of the systems, not a ranking"


class Clips(NamedTuple):
    """Clips of each class for training, validation and test, and their height and width in pixels."""

    train: int
    val: int
    test: int
    size: int


SMALL = Clips(4, 1, 4, 64)
FULL = Clips(32, 4, 8, 256)
"""As many for training as make three of the largest batch, 128; as large as pictures of 224 are cut from."""
EPOCHS = 2


def render(clips: Clips, folder: Path, targets: Sequence[Target], *, full: bool) -> None:
    """Make the clips and, at full size, the flow of them that some recipes read; ``--smoke`` makes its own."""
    table = generate(folder, clips_per_class=(clips.train, clips.val, clips.test), size=clips.size)
    if full and any("flow" in target.path.read_text(encoding="utf-8") for target in targets):
        cache_flow(Manifest.from_csv(table), folder / "flow", method="lucas_kanade")


def arguments(recipe: Path, clips: Clips, folder: Path, epochs: int, *, full: bool) -> tuple[str, ...]:
    """What a recipe is called with besides data, accelerator, precision and seed."""
    whole = [f"--trainer.limit_{part}_batches=1.0" for part in ("train", "val", "test")]
    counts = [f"--data.{part}_clips={getattr(clips, part)}" for part in ("train", "val", "test")]
    place = [f"--data.root={folder}", f"--data.size={clips.size}"]
    if full:
        how = random_weights(recipe)
        place += [f"--data.flow_root={folder / 'flow'}"]
    else:
        how = ["--smoke"]  # random weights, too
        place += ["--data.batch_size=8", "--data.num_workers=1"]
    return (*how, *counts, *place, f"--trainer.max_epochs={epochs}", *whole)


def random_weights(recipe: Path) -> list[str]:
    """That nothing is to be fetched, as the recipe's module is told it."""
    if "TwoStreamModule" in recipe.read_text(encoding="utf-8"):
        streams = [f"--module.{modality}_checkpoint=null" for modality in ("rgb", "flow")]
        return ["--module.arguments.pretrained=false", *streams]
    return ["--module.pretrained=false"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", help="some of them (default: all)")
    parser.add_argument("--accelerator", default="cpu", help="as Lightning's Trainer takes it (default: cpu)")
    parser.add_argument("--precision", help="likewise, such as bf16-mixed (default: the Trainer's, 32-true)")
    parser.add_argument("--full", action="store_true", help="the recipe's own frames and batches: wants a GPU")
    parser.add_argument("--work", type=Path, help="where the runs go (default: in runs/, named as the results)")
    parser.add_argument("--out", type=Path, help="(default: in benchmarks/results, named by what differs)")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args = parser.parse_args()
    unlike = [args.accelerator] * (args.accelerator != "cpu") + [args.precision] * (args.precision is not None)
    name = "_".join(["all_recipes", *unlike, *["full"] * args.full])
    work, out = args.work or ROOT / "runs" / name, args.out or RESULTS / name
    title = TITLE.format("each at its own size" if args.full else "small and short")
    title += f" ({', '.join(unlike)})" if unlike else ""

    names = args.recipes or [p.stem for p in sorted((ROOT / "recipes").glob("*.py"))]
    targets = find_targets(names, ROOT / "recipes")
    clips, folder = FULL if args.full else SMALL, (work / "clips").resolve()
    render(clips, folder, targets, full=args.full)
    settings = Settings(data="synthetic", accelerator=args.accelerator, auto_batch=args.full)
    jobs = plan(targets, work, settings)
    precision = [f"--trainer.precision={args.precision}"] * (args.precision is not None)
    for number, job in enumerate(jobs, start=1):
        job.arguments = (*arguments(job.target.path, clips, folder, args.epochs, full=args.full), *precision)
        run_job(job, settings, lambda line, n=number: print(f"[{n}/{len(jobs)}] {line}", flush=True))
        write_results(jobs[:number], targets, work, title)
    out.mkdir(parents=True, exist_ok=True)
    for pattern in ("results.json", "results.csv", "results.html", "accuracy_*.png"):
        for file in work.glob(pattern):
            shutil.copyfile(file, out / file.name)
    print(f"copied to {out}")


if __name__ == "__main__":
    main()
