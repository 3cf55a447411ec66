"""``lightning-har bundle``: a folder that recognises actions on a device without PyTorch."""

from __future__ import annotations

import argparse
import json
import shlex
from typing import Any

EPILOG = """\
Copy the folder to the device; there:
  pip install -r requirements.txt
  python run.py clip.mp4 | 0 | rtsp://...

examples:
  lightning-har bundle --model runs/mine --out bundle
  lightning-har bundle --model best.ckpt --int8 --calibration clips/ --out bundle
"""


def add_parser(subparsers: Any) -> None:
    """Add ``bundle`` to the commands."""
    from lightning_har.cli._model import add_arguments

    parser = subparsers.add_parser(
        "bundle",
        help="make a folder that runs a model on a device without PyTorch",
        description="Make a folder that runs a model on a device without PyTorch.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Make the bundle and report."""
    from pathlib import Path

    from lightning_har.cli._model import load
    from lightning_har.edge.bundle import bundle

    module, calibration = load(args)
    report = bundle(
        module,
        args.out,
        format=args.format,
        int8=args.int8,
        calibration=calibration,
        kind=args.kind,
        name=Path(args.model).stem,
    )
    if args.json:
        print(json.dumps({"folder": str(args.out), **report.to_dict()}, indent=2))
        return 0
    print(report)
    print(f"run it: python {shlex.quote(str(Path(args.out) / 'run.py'))} clip.mp4")
    return 0
