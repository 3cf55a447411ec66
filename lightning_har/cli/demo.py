"""``lightning-har demo``: a page on this machine to try a model on."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_har.cli._arguments import check_device
from lightning_har.errors import ConfigError

EPILOG = """\
The page is served to this machine alone, and nothing leaves it. Models are run folders, checkpoints, checkpoint
folders, names in the zoo, and with --zoo (or LIGHTNING_HAR_ZOO) every checkpoint of a zoo folder.

examples:
  lightning-har demo --model runs/mine
  lightning-har demo --model runs/a runs/b --port 8000
  lightning-har demo --zoo /srv/zoo
"""


def add_parser(subparsers: Any) -> None:
    """Add ``demo`` to the commands."""
    parser = subparsers.add_parser(
        "demo",
        help="a page to try a model on: upload a clip, or use the camera",
        description="Serve a page on this machine to try a model on.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", nargs="+", default=[], metavar="RUN|CHECKPOINT|ID", help="what to choose from")
    parser.add_argument("--zoo", metavar="DIR", help="a folder of checkpoint folders (default: LIGHTNING_HAR_ZOO)")
    parser.add_argument("--port", type=int, default=7860, help="default: 7860")
    parser.add_argument("--device", default="cpu", help="such as cuda (default: cpu)")
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    models = find_models(args.model, args.zoo)
    _check_port(args.port)
    check_device(args.device)
    from lightning_har.cli._page import Demo, build_page, serve

    demo = Demo(models, device=args.device)
    try:
        page = build_page(demo)
        try:
            print(f"{serve(page, args.port)}  (Ctrl-C ends it)", flush=True)
            page.block_thread()
        finally:
            page.close()
    finally:
        demo.close()
    return 0


def find_models(given: Sequence[str], zoo: str | None = None) -> dict[str, Path]:
    """What can be chosen, by the name that is shown.

    Raises:
        ConfigError: Nothing given, or a run's folder without a best checkpoint.
        WeightsError: No checkpoint of a name.
    """
    from lightning_har.modules.pretrained import weights_of
    from lightning_har.weights.hub import find_zoo, names, resolve

    place = find_zoo(zoo)
    found: dict[str, Path] = {}
    for text in given:
        path = Path(text)
        if path.exists():
            weights_of(path)
        elif path.suffix == ".ckpt":
            raise ConfigError(f"no model at {text}; give a run's folder, a checkpoint, or a checkpoint folder")
        found[text] = path if path.exists() else resolve(text, zoo=place)
    if place.folder is not None:
        found |= {name: place.folder / name for name in names(place)}
    if not found:
        raise ConfigError("no model to try: give --model RUN|CHECKPOINT, or --zoo DIR with checkpoint folders")
    return found


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise ConfigError(f"port {port} cannot be used ({error}); give another with --port") from error
