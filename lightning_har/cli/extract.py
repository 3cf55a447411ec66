"""``lightning-har extract``: the features of frames, computed once and kept."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_har.cli._arguments import check_device, positive, whole
from lightning_har.cli._data import open_data
from lightning_har.cli._extractor import is_trained, load_extractor, weights_digest
from lightning_har.data.named import HELP
from lightning_har.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from lightning_har.nets.cnn_rnn import CNNRNN
    from lightning_har.spec import InputSpec
    from lightning_har.types import Video

EPILOG = """\
writes DIR/<clip id>.npy of (frames, features), DIR/manifest.csv (path,label,split,group) and DIR/extract.json.
Stopped, and called again with the same arguments, it does what is left.

examples:
  lightning-har extract --model mobilenetv2_100 --data clips/ --out features/
  lightning-har extract --model inception_v3 --data ucf101:data/ucf101 --out features/ --dtype float16
  lightning-har extract --model mobilenetv2_quant --weights model.tflite --data folds.csv --split-column fold --out f/

train on them: lightning-har run RECIPE --on features:DIR; then `lightning-har join` makes a model of clips of it
"""


def add_parser(subparsers: Any) -> None:
    """Add ``extract`` to the commands."""
    parser = subparsers.add_parser(
        "extract",
        help="compute and keep the features of frames",
        description="Compute the features of the frames of every clip by a frozen 2D network, and keep them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", required=True, help="a backbone's name, a run's folder, a checkpoint, or a name in the zoo"
    )
    parser.add_argument("--data", required=True, help=HELP)
    parser.add_argument("--out", required=True, metavar="DIR", help="where the features go")
    parser.add_argument("--weights", metavar="FILE", help="weights of the backbone; 'none' for random ones")
    parser.add_argument("--frames", type=positive, metavar="N", help="frames of a clip, evenly spread (default: 25)")
    parser.add_argument("--size", type=positive, metavar="PIXELS", help="side of a frame (default: the backbone's own)")
    parser.add_argument("--dtype", choices=("float32", "float16", "uint8"), default="float32", help="of the files")
    parser.add_argument("--split", metavar="N", help="official split of NAME:DIR")
    parser.add_argument("--split-column", metavar="NAME", help="column of a CSV with splits or folds, kept as they are")
    parser.add_argument(
        "--val-fraction",
        type=float,
        metavar="F",
        help="of the training clips, where no val split is given (0.1)",
    )
    parser.add_argument("--batch-size", type=positive, default=4, metavar="N", help="clips at a time (default: 4)")
    parser.add_argument("--num-workers", type=whole, metavar="N", help="processes that decode (default: one per core)")
    parser.add_argument("--engine", choices=("processes", "ray"), default="processes", help="(default: processes)")
    parser.add_argument("--device", default="cpu", help="such as cuda (default: cpu)")
    parser.add_argument("--skip-errors", action="store_true", help="leave out and report clips that cannot be read")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Extract; 1 where clips could not be read."""
    from lightning_har.data.extract import extract_features
    from lightning_har.spec import InputSpec

    if args.engine == "processes":
        check_device(args.device)
    if is_trained(args.model) and (args.weights or args.frames or args.size):
        raise ConfigError(f"{args.model} says its own weights, frames and size; leave out --weights, --frames, --size")
    module = load_extractor(args.model, args.weights, frames=args.frames, size=args.size)
    if args.engine == "processes":
        module.to(args.device)  # on Ray the device is another machine's
    spec = module.spec
    if args.val_fraction is not None and args.split_column is not None:
        raise ConfigError("--split-column keeps the CSV's own splits; leave out --val-fraction")
    val_fraction = {} if args.val_fraction is None else {"val_fraction": args.val_fraction}
    data = open_data(
        args.data,
        split=args.split,
        split_column=args.split_column,
        spec=spec,
        eval_sampling=module.eval_sampling,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        on_error="skip" if args.skip_errors else "raise",
        **val_fraction,
    )
    assert isinstance(spec, InputSpec)
    done = extract_features(
        partial(_frame_features, module.net, spec),
        data,
        args.out,
        dtype=args.dtype,
        device=args.device,
        settings=_told(args.model, args.weights),
        engine=args.engine,
    )
    if args.json:
        failed = [{"path": f.path, "reason": f.reason} for f in done.failures]
        told = {"manifest": str(done.manifest), "extracted": done.extracted, "kept": done.kept, "failures": failed}
        print(json.dumps(told, indent=2))
        return 1 if failed else 0
    print(f"{done.extracted} clips extracted, {done.kept} were there already: {done.manifest}")
    for failure in done.failures:
        print(f"skipped {failure.path}: {failure.reason}", file=sys.stderr)
    return 1 if done.failures else 0


def _told(model: str, weights: str | None) -> dict[str, Any]:
    """Of the network, for ``extract.json``: from any folder, and so that another one under its name is noticed."""

    def anywhere(name: str) -> str:
        return str(Path(name).resolve()) if Path(name).exists() else name

    return {
        "model": anywhere(model),
        "weights": weights and anywhere(weights),
        "weights_sha256": weights_digest(model, weights),
    }


def _frame_features(net: CNNRNN, spec: InputSpec, video: Video) -> Tensor:
    """Of a module, not of ``main``: Ray sends it to other machines."""
    from lightning_har.nets.preprocess import normalize

    assert not isinstance(video, Mapping)
    features: Tensor = net.to(video.device).frame_features(normalize(video, spec))
    return features
