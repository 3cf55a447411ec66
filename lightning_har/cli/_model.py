"""What ``export`` and ``bundle`` ask alike: the model, the format, int8 and its calibration."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_har.modules.base import ActionRecognizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    parser.add_argument("--model", required=True, metavar="RUN_DIR|CHECKPOINT|ID", help="what is exported")
    parser.add_argument("--out", required=True, metavar="DIR", help="where it is written")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--format", choices=("onnx", "executorch"), default="onnx", help="default: onnx")
    parser.add_argument("--int8", action="store_true", help="quantize; needs --calibration")
    parser.add_argument("--calibration", metavar="DATA", help="for int8: a folder of clips per class, a CSV, NAME:DIR")
    parser.add_argument(
        "--kind",
        choices=("clip", "frames", "stream"),
        help="one graph for a clip; one per frame and one over a clip's features; or a step with a state",
    )


def load(args: argparse.Namespace) -> tuple[ActionRecognizer, Any]:
    """The model, and the calibration data or None."""
    from lightning_har.cli._data import open_data
    from lightning_har.modules.pretrained import load_model

    module = load_model(args.model)
    return module, open_data(args.calibration, batch_size=1, num_workers=0) if args.calibration else None
