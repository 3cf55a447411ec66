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
  --on DATA            other data than the recipe's: a folder of clips per class, a CSV with path,label (and fold),
                       synthetic, features:DIR, shards:DIR, or NAME:DIR of a data set (ucf101, hmdb51, ...)
  --epochs N           short for --trainer.max_epochs N
  --refit-all          train on all data for deployment, with --epochs N; no held-out score is left
  --seed N             seed of weights, shuffling and augmentation
  --resume DIR|CKPT    continue a run that was stopped
  --config FILE        repeat a run from its config.yaml
  --variant NAME       of a recipe with several models: only this one
  --module.X, --data.X, --trainer.X
                       override any argument of the module (--module.lr), the data (--data.root, --data.batch_size) or
                       Lightning's Trainer (--trainer.accelerator); `lightning-har run RECIPE --help` lists them

examples:
  lightning-har run recipes/quickstart.py
  lightning-har run recipes/i3d_ucf101.py --smoke
  lightning-har run recipes/i3d_ucf101.py --data.root /data/UCF-101 --data.batch_size 8 --trainer.precision bf16-mixed
  lightning-har run recipes/folder.py --data.root clips/ --module.temporal lstm --epochs 30 --out runs/mine
  lightning-har run recipes/mobilenetv2q_gru_ucf101.py --on clips/ --epochs 30
  lightning-har run recipes/folder.py --data.root clips/ --refit-all --epochs 20 --out runs/deployed
  lightning-har run recipes/folder.py --resume runs/mine
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
