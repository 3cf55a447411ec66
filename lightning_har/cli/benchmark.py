"""``lightning-har benchmark``: measure recipes and checkpoints under one protocol."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

EPILOG = """\
examples:
  lightning-har benchmark quickstart folder --data clips/ --seeds 0 1 2 --args --trainer.max_epochs 10
  lightning-har benchmark recipes/i3d_ucf101.py recipes/s3d_v1_minikinetics.py --data synthetic --out bench
  lightning-har benchmark runs/mine runs/other/best.ckpt --data clips/ --out bench

Stopped, the same command goes on where it was. Written into --out: results.json, .csv, .md, .html and pictures.
exit codes: 0 all measured; 1 some failed, and their rows say why; 2 wrong usage; 130 interrupted
"""


def add_parser(subparsers: Any) -> None:
    """Add ``benchmark`` to the commands."""
    parser = subparsers.add_parser(
        "benchmark",
        help="measure recipes and checkpoints under one protocol",
        description="Train and test recipes, test checkpoints: accuracy, memory, latency, size, one table.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("targets", nargs="+", metavar="RECIPE_OR_CHECKPOINT", help="files, folders of runs, or names")
    parser.add_argument("--out", default="benchmark", metavar="DIR", help="where results go (default: benchmark)")
    parser.add_argument("--json", action="store_true", help="print results.json, progress on stderr")
    add_settings(parser)
    parser.add_argument("--title", default="Benchmark", help="of the pages")
    parser.set_defaults(function=main)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The options that say how recipes are run; ``compare`` has them too."""
    parser.add_argument("--data", metavar="DATA", help="other data than the recipes': a folder, a CSV, NAME:DIR, ...")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="train with each (default: 0)")
    parser.add_argument("--folds", nargs="+", default=[], metavar="F", help="test on each of these folds of the data")
    parser.add_argument("--accelerator", metavar="NAME", help="cpu, gpu, ... (default: what the recipes say)")
    parser.add_argument("--auto-batch", action="store_true", help="out of memory: take the largest batch that fits")
    parser.add_argument("--recipes", default="recipes", metavar="DIR", help="where names are looked for")
    parser.add_argument(
        "--args", nargs=argparse.REMAINDER, default=[], help="comes last; all that follows goes to every recipe"
    )


def settings_of(args: argparse.Namespace) -> Any:
    """``Settings`` from the parsed options."""
    from lightning_har.bench.harness import Settings

    return Settings(
        seeds=tuple(args.seeds),
        folds=tuple(args.folds),
        data=args.data,
        accelerator=args.accelerator,
        auto_batch=args.auto_batch,
        arguments=tuple(args.args),
    )


def stop_on_sigterm() -> None:
    """SIGTERM, as a scheduler or ``docker stop`` sends it, is as Ctrl-C: what runs writes its checkpoint."""
    import signal

    signal.signal(signal.SIGTERM, signal.default_int_handler)


def main(args: argparse.Namespace) -> int:
    """Measure, and say where the results are."""
    from lightning_har.bench.benchmark import benchmark

    stop_on_sigterm()
    rows = benchmark(
        args.targets,
        args.out,
        settings_of(args),
        recipes=args.recipes,
        title=args.title,
        say=lambda s: print(s, flush=True, file=sys.stderr if args.json else sys.stdout),
    )
    if args.json:
        print(Path(args.out, "results.json").read_text(encoding="utf-8"), end="")
        return int(any(row["failed"] for row in rows))
    for row in rows:
        top1 = row["values"].get("top1")
        told = f"top-1 {100 * top1:.1f} %" if top1 is not None else "measured" if row["runs"] else "failed"
        print(f"{row['name']}: {told}" + (f"; {row['interval_note']}" if row["interval_note"] else ""))
    print(f"results: {Path(args.out) / 'results.html'}")
    return int(any(row["failed"] for row in rows))
