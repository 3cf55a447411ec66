"""``lightning-har init``: a starting file for a recipe, a model or a data set, and a test that it passes."""

from __future__ import annotations

import argparse
import keyword
import re
from pathlib import Path
from string import Template
from typing import Any

from lightning_har._files import whole_file
from lightning_har.errors import ConfigError

EPILOG = """\
writes NAME.py, which works as it is, and test_NAME.py, which shows that it does:

  recipe    trains a CNN with a GRU on your folder of clips
  model     a small 3D network and its LightningModule
  dataset   a data module that reads an annotation file of its own

examples:
  lightning-har init recipe kitchen
  lightning-har init model tiny3d --out models/
  lightning-har init dataset factory && python -m pytest test_factory.py
"""

KINDS = ("recipe", "model", "dataset")


def add_parser(subparsers: Any) -> None:
    """Add ``init`` to the commands."""
    parser = subparsers.add_parser(
        "init",
        help="start a recipe, a model or a data set of your own",
        description="Write a starting file, and a test that it passes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=KINDS, help="what to start")
    parser.add_argument("name", metavar="NAME", help="of the file, such as kitchen: letters, digits and _")
    parser.add_argument("--out", default=".", metavar="DIR", help="where to (default: here)")
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Write the files."""
    file, test = write(args.kind, args.name, args.out)
    print(f"wrote {file} and {test}")
    print(f"try it: python -m pytest {test}")
    if args.kind == "recipe":
        print(f"        lightning run {file} --smoke")
    return 0


def write(kind: str, name: str, folder: str | Path = ".") -> tuple[Path, Path]:
    """Write the starting file and its test.

    Args:
        kind: "recipe", "model" or "dataset".
        name: Of the file, a Python identifier in lower case; classes are named after it in CamelCase.
        folder: Made where missing.

    Returns:
        The two files.

    Raises:
        ConfigError: No possible name, or a file of that name is there.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        near = re.sub(r"\W+", "_", name).strip("_").lower()
        hint = f", such as {near}" if re.fullmatch(r"[a-z][a-z0-9_]*", near) and not keyword.iskeyword(near) else ""
        raise ConfigError(f"{name!r} cannot be imported; give lower-case letters, digits and _{hint}")
    if kind not in KINDS:
        raise ConfigError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    folder = Path(folder)
    file, test = folder / f"{name}.py", folder / f"test_{name}.py"
    for path in (file, test):
        if path.exists():
            raise ConfigError(f"{path} is there already; give another name or --out DIR")
    camel = "".join(part.capitalize() for part in name.split("_"))
    folder.mkdir(parents=True, exist_ok=True)
    templates = Path(__file__).parent / "templates"
    with whole_file(file) as part, whole_file(test) as test_part:  # both or neither
        for path, template in ((part, f"{kind}.txt"), (test_part, f"test_{kind}.txt")):
            text = Template((templates / template).read_text(encoding="utf-8")).substitute(name=name, Name=camel)
            path.write_text(text, encoding="utf-8")
    return file, test
