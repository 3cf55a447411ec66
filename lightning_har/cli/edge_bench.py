"""``lightning-har edge-bench``: what bundles cost on this machine."""

from __future__ import annotations

import argparse
import json
from typing import Any

from lightning_har.cli._arguments import PICTURES, check_output, positive

EPILOG = """\
Each bundle runs in processes of its own, with 1 and with 2 threads.

examples:
  lightning-har edge-bench bundles/* --video clip.mp4 --plot pareto.png --csv edge.csv
"""


def add_parser(subparsers: Any) -> None:
    """Add ``edge-bench`` to the commands."""
    parser = subparsers.add_parser(
        "edge-bench",
        help="measure bundles: size, memory, cold start, latency",
        description="Measure bundles: size, memory, cold start, latency.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="folders that lightning-har bundle made")
    parser.add_argument("--video", metavar="FILE", help="clip to recognise (default: a rendered one)")
    parser.add_argument("--repeat", type=positive, default=20, help="clips per measurement (default 20)")
    parser.add_argument("--csv", metavar="FILE", help="write the table")
    parser.add_argument("--plot", metavar="FILE.png", help="write the Pareto plot")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Measure and print."""
    import tempfile
    from pathlib import Path

    from rich.console import Console

    from lightning_har.edge.bench import measure, plot, table, write_clip, write_csv
    from lightning_har.edge.runtime import load_bundle

    if args.csv:
        check_output("--csv", args.csv)
    if args.plot:
        check_output("--plot", args.plot, PICTURES, "picture")
    for one in args.bundles:
        load_bundle(one)  # refused before the others have been measured for nothing
    with tempfile.TemporaryDirectory() as folder:
        video = Path(args.video) if args.video else write_clip(Path(folder) / "clip.mp4")
        rows = [row for b in args.bundles for row in measure(b, video, repeat=args.repeat)]
    if args.csv:
        write_csv(rows, args.csv)
    if args.plot:
        plot(rows, args.plot)
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    Console().print(table(rows))
    for written in filter(None, (args.csv, args.plot)):
        print(f"wrote {written}")
    return 0
