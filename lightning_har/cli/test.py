"""``lightning-har test``: score a checkpoint on data, and measure what it costs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from lightning_har.cli._arguments import positive, whole
from lightning_har.data.named import HELP


def add_parser(subparsers: Any) -> None:
    """Add ``test`` to the commands."""
    parser = subparsers.add_parser(
        "test",
        help="score a checkpoint on data",
        description="Score a checkpoint on the test clips of data with the same classes, and measure its cost.",
        epilog="example:\n  lightning-har test runs/mine --data clips/ --out scored",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", help="a .ckpt, a run's folder, a published folder, or a name in the zoo")
    parser.add_argument("--data", required=True, metavar="DATA", help=HELP)
    parser.add_argument("--out", required=True, metavar="DIR", help="where report, predictions and pictures go")
    parser.add_argument("--data.fold", dest="fold", metavar="F", help="the fold to test on, of a CSV with folds")
    parser.add_argument("--flow-root", metavar="DIR", help="where `data flow` put the flow, if the model takes it")
    parser.add_argument("--batch-size", type=positive, default=8, metavar="N", help="clips at a time (default: 8)")
    parser.add_argument("--num-workers", type=whole, metavar="N", help="processes that decode")
    parser.add_argument("--trainer.accelerator", dest="accelerator", default="auto", metavar="NAME", help="cpu, gpu")
    parser.add_argument("--trainer.precision", dest="precision", metavar="NAME", help="such as bf16-mixed")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Score, and print the table; 1 if some of the clips could not be read."""
    from rich.console import Console

    from lightning_har._lightning import quiet_lightning
    from lightning_har.bench.report import results_table
    from lightning_har.evaluate import score_checkpoint

    with quiet_lightning():
        report = score_checkpoint(
            args.checkpoint,
            args.data,
            Path(args.out),
            fold=args.fold,
            flow_root=args.flow_root,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            trainer={"accelerator": args.accelerator, "precision": args.precision},
        )
    if args.json:
        print(Path(args.out, "report.json").read_text(encoding="utf-8"), end="")
    else:
        Console(width=120).print(results_table({report["recipe"]: report}))
    return int(report["files"]["skipped"] > 0)
