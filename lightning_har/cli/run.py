"""``lightning-har run``: run a recipe, a Python script that calls ``lightning_har.run``."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path
from typing import Any

from lightning_har.cli.main import nearest
from lightning_har.errors import ConfigError

EPILOG = """\
every recipe takes:
  --out DIR            where the run is written (default: runs/<recipe>/<time>)
  --smoke              a couple of steps on tiny fake data, in seconds
  --seed N             seed of weights, shuffling and augmentation
  --resume DIR|CKPT    continue a run that was stopped
  --config FILE        repeat a run from its config.yaml
  --module.X --data.X --trainer.X
                       override any argument of the module, the data or Lightning's Trainer;
                       `lightning-har run RECIPE --help` lists them

examples:
  lightning-har run recipes/quickstart.py
  lightning-har run recipes/folder.py --data.root clips/ --module.temporal lstm --trainer.max_epochs 30
"""


def add_parser(subparsers: Any) -> None:
    """Add ``run`` to the commands."""
    parser = subparsers.add_parser(
        "run",
        help="train, test and report: run a recipe",
        description="Run a recipe: train, test and report.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe's file, such as recipes/quickstart.py")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of the recipe")
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Run the recipe that the parsed arguments name."""
    run_recipe(args.recipe, [a for a in args.arguments if a != "--debug"])
    return 0


def run_recipe(recipe: str, arguments: list[str]) -> None:
    """Run a script as Python itself would: as ``__main__``, with its folder first on the path.

    Args:
        recipe: Path of the script.
        arguments: What the script finds in ``sys.argv[1:]``.

    Raises:
        ConfigError: No such script.
    """
    path = Path(recipe)
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() and path.parent != Path() else Path("recipes")
        known = sorted(str(p) for p in folder.glob("*.py"))
        hint = nearest(str(folder / path.with_suffix(".py").name), known) or (
            f"; there are: {', '.join(known)}" if known else "; give the path of a recipe's Python file"
        )
        raise ConfigError(f"no recipe {recipe!r}{hint}")
    if path.suffix != ".py":
        raise ConfigError(f"{recipe!r} is not a recipe: a recipe is a Python file (.py)")
    before = sys.argv, list(sys.path)
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.resolve().parent))
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = before
