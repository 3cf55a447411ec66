"""``lightning-har export``: a trained model to ONNX or ExecuTorch."""

from __future__ import annotations

import argparse
import json
from typing import Any

EPILOG = """\
The written file is run and compared with PyTorch before success is reported.

examples:
  lightning-har export --model runs/mine --out exported
  lightning-har export --model best.ckpt --format executorch --int8 --calibration clips/ --out exported
"""


def add_parser(subparsers: Any) -> None:
    """Add ``export`` to the commands."""
    from lightning_har.cli._model import add_arguments

    parser = subparsers.add_parser(
        "export",
        help="write a model as ONNX or ExecuTorch, float or int8",
        description="Write a model as ONNX or ExecuTorch, float or int8.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.add_argument(
        "--dynamic", nargs="*", default=[], choices=("batch", "time"), help="axes that stay open (default: none)"
    )
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Export and report."""
    from lightning_har.cli._model import load
    from lightning_har.edge.export import export

    module, calibration = load(args)
    report = export(
        module,
        args.out,
        format=args.format,
        int8=args.int8,
        calibration=calibration,
        dynamic=args.dynamic,
        kind=args.kind,
    )
    print(json.dumps(report.to_dict(), indent=2) if args.json else report)
    return 0
