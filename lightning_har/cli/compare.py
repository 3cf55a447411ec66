"""``lightning-har compare``: two models, paired by seeds, clips and classes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from lightning_har.cli.benchmark import add_settings, settings_of, stop_on_sigterm

EPILOG = """\
A and B are recipes or checkpoints, which are then run as `lightning-har benchmark` does; or what was run before: the
folder of a run, a folder of runs, or BENCHMARK:NAME, a benchmark's folder and the name of a row in it.

examples:
  lightning-har compare mobilenetv2q_gru_ucf101 mobilenetv2q_lstm_ucf101 --data clips/ --seeds 0 1 2 --out versus
  lightning-har compare bench:quickstart/gru bench:quickstart/avg

Stopped, the same command goes on where it was.
exit codes: 0 compared; 2 wrong usage, or one of the two failed; 130 interrupted
"""


def add_parser(subparsers: Any) -> None:
    """Add ``compare`` to the commands."""
    parser = subparsers.add_parser(
        "compare",
        help="compare two models, paired by seeds and clips",
        description="Compare two models: means over seeds, paired tests, per-class wins and ties.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", metavar="A")
    parser.add_argument("b", metavar="B")
    parser.add_argument("--out", metavar="DIR", help="where runs, compare.json and compare.md go (default: compare)")
    parser.add_argument("--json", action="store_true", help="print JSON, progress on stderr")
    add_settings(parser)
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Compare, and print the table."""
    from rich.console import Console
    from rich.markdown import Markdown

    from lightning_har.bench.compare import compare, to_markdown

    stop_on_sigterm()
    name_a, name_b = (_name(text) for text in (args.a, args.b))
    out = Path(args.out or "compare")
    folders = [out / Path(text).stem for text in (args.a, args.b)]
    if name_a == name_b:
        name_a, name_b = args.a, args.b
        folders = [folder.with_name(f"{folder.name}-{side}") for folder, side in zip(folders, "ab", strict=True)]
    # What is wrong with either is said before the first is trained.
    before = [_rows_before(text, args) for text in (args.a, args.b)]
    rows_a, rows_b = (
        _run(text, args, folder) if rows is None else rows
        for rows, text, folder in zip(before, (args.a, args.b), folders, strict=True)
    )
    found = compare(rows_a, rows_b, name_a, name_b)
    text = to_markdown(found)
    ran = args.out is not None or out.is_dir()
    if ran:
        out.mkdir(parents=True, exist_ok=True)
        (out / "compare.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (out / "compare.md").write_text(text, encoding="utf-8")
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    console = Console()
    console = console if console.is_terminal else Console(width=160)
    console.print(Markdown(text))
    return 0


def _name(text: str) -> str:
    place, _, row = text.rpartition(":")
    return row if place and Path(place).exists() else Path(text).stem


def _rows_before(text: str, args: argparse.Namespace) -> Any:
    """The rows of what was run before; None of a recipe or checkpoint that is to be run."""
    from lightning_har.bench.compare import read_rows
    from lightning_har.bench.harness import find_targets
    from lightning_har.errors import ConfigError

    place, _, name = text.rpartition(":")
    if place and Path(place).exists():
        rows = read_rows(place)
        mine = [row for row in rows if row["name"] == name]
        if not mine:
            raise ConfigError(
                f"{place} has no row {name!r}; it has {', '.join(dict.fromkeys(r['name'] for r in rows))}"
            )
        return mine
    path = Path(text)
    if path.is_dir() and args.data is None and ((path / "results.json").is_file() or any(path.rglob("report.json"))):
        return read_rows(path)
    find_targets([text], args.recipes)
    return None


def _run(text: str, args: argparse.Namespace, folder: Path) -> Any:
    from lightning_har.bench.benchmark import benchmark
    from lightning_har.bench.compare import read_rows
    from lightning_har.errors import ConfigError

    told = sys.stderr if args.json else sys.stdout
    models = benchmark(
        [text], folder, settings_of(args), recipes=args.recipes, say=lambda line: print(line, flush=True, file=told)
    )
    rows = read_rows(folder)
    good = [row for row in rows if row["error"] is None]
    if not good:
        raise ConfigError(f"{text} failed: {models[0]['errors'][0]}")
    if len(models) > 1:
        raise ConfigError(
            f"{text} has several models; choose one, as in {folder}:{models[0]['name']}, or with --args --variant NAME"
        )
    return good
