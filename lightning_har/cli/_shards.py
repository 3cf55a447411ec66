"""``lightning-har data shards``: a data set as WebDataset tar shards."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from lightning_har.cli._arguments import above_zero
from lightning_har.cli._data import open_data, require_videos
from lightning_har.data.named import HELP


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add ``shards`` to the commands of ``data``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "shards", help="write a data set as WebDataset tar shards, and train from shards:DIR"
    )
    parser.add_argument("data", metavar="DATA", help=HELP)
    parser.add_argument("--out", required=True, metavar="DIR", help="where the shards go")
    parser.add_argument("--split", metavar="N", help="official split of NAME:DIR")
    parser.add_argument("--size", type=above_zero, default=1000, metavar="MB", help="of a shard, about (default: 1000)")
    parser.add_argument("--skip-errors", action="store_true", help="leave out and report files that cannot be opened")
    parser.set_defaults(function=_main)
    return parser


def _main(args: argparse.Namespace) -> int:
    """Write the shards; 1 where files could not be opened."""
    from lightning_har.data.shards import write_shards

    data = open_data(args.data, split=args.split, on_error="skip" if args.skip_errors else "raise")
    require_videos(data, args.data)
    data.prepare_data()
    done = write_shards(
        data, args.out, shard_bytes=round(args.size * 1e6), workers=args.workers, engine=args.engine
    )  # fmt: skip
    for split, clips in done.clips.items():
        shards = done.shards[split]
        print(f"{split}: {clips} clips in {shards} shard{'s' if shards > 1 else ''}")
    for failure in done.failures:
        print(f"skipped {failure.path}: {failure.reason}", file=sys.stderr)
    print(f"{args.out}: read it as shards:{args.out}")
    return 1 if done.failures else 0
