"""``lightning-har show``: the library's pictures, from a run's folder or from a model and a clip."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_har._files import whole_file
from lightning_har.cli._arguments import PICTURES, check_output, positive
from lightning_har.cli.main import FULL, nearest, nearest_path
from lightning_har.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

EPILOG = """\
pictures of a run, from its folder:
  lightning-har show confusion runs/mine --classes walk run --out confusion.png
  lightning-har show bars runs/mine --worst 20 --out bars.png
  lightning-har show confused runs/mine --out confused.png
  lightning-har show curves runs/mine --out curves.png

pictures of a model:
  lightning-har show samples clips/ --model runs/mine --out samples.png
  lightning-har show gradcam clip.mp4 --model runs/mine --out gradcam.png
  lightning-har show features mobilenetv2_100 --weights model.tflite --out features.png
"""

KINDS = ("confusion", "bars", "confused", "curves", "samples", "gradcam", "features")


def add_parser(subparsers: Any) -> None:
    """Add ``show`` to the commands."""
    parser = subparsers.add_parser(
        "show",
        help="draw Grad-CAM, features, confusion, class bars, curves",
        description="Draw a picture.",
        epilog="examples:\n" + EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=KINDS, help="which picture")
    parser.add_argument(
        "what", metavar="RUN|FILE|DATA|BACKBONE", help="a run's folder; a clip; data; a backbone's name"
    )
    parser.add_argument("--out", metavar="PICTURE.png", help="default: KIND.png")
    parser.add_argument("--model", metavar="RUN|CHECKPOINT", help="gradcam, samples: the model (samples: default none)")
    parser.add_argument("--class", dest="target", metavar="NAME", help="gradcam: explain this class, not the verdict")
    parser.add_argument("--layer", action="append", metavar="NAME", help="gradcam, features: layers to look at")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="confusion: only these")
    parser.add_argument("--worst", type=positive, metavar="N", help="bars: only the N worst classes")
    parser.add_argument("--head", metavar="NAME", help="of a model with several, such as verb")
    parser.add_argument("--weights", metavar="FILE", help="features: weights of the backbone; 'none' for random ones")
    parser.add_argument("--split", default="train", metavar="NAME", help="samples: train (default), val or test")
    parser.add_argument("--flow-root", metavar="DIR", help="samples: draw the flow that `data flow` put there")
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Draw, and say where."""
    path = Path(args.out or f"{args.kind}.png")
    check_output("--out", path, PICTURES, "picture")
    own = {"samples": _samples, "gradcam": _gradcam, "features": _features, "curves": _curves}
    try:
        with whole_file(path) as part:
            own.get(args.kind, _classes)(args, part)
    except OSError as error:
        if error.filename is None and error.errno in FULL:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    print(f"wrote {path}")
    return 0


def read_counts(run: str | Path, head: str | None = None) -> tuple[Tensor, list[str]]:
    """The confusion matrix of a run's test, from its predictions.csv.

    Args:
        run: The run's folder.
        head: Of several; None takes the first.

    Returns:
        (K, K) int64 counts, rows true, over the classes that occur; their names, in the order of the alphabet.

    Raises:
        DataError: No such file, no such head, or no labels in it.
    """
    import torch

    path = Path(run) / "predictions.csv"
    if not path.is_file():
        hint = _hint(Path(run), path.name)
        if (Path(run) / "last.ckpt").is_file():
            hint = f"; it was stopped before its test: go on with --resume {run}"
        raise DataError(f"{run} is no run's folder with a predictions.csv{hint}")
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("label") and row.get("predicted")]
    heads = list(dict.fromkeys(row["head"] for row in rows))
    if not rows or (head is not None and head not in heads):
        raise DataError(f"{path} has no labelled videos" + (f" of head {head!r}, only of {heads}" if rows else ""))
    rows = [row for row in rows if row["head"] == (head or heads[0])]
    names = sorted({row["label"] for row in rows} | {row["predicted"] for row in rows})
    counts = torch.zeros(len(names), len(names), dtype=torch.int64)
    for row in rows:
        counts[names.index(row["label"]), names.index(row["predicted"])] += 1
    return counts, names


def _hint(run: Path, name: str) -> str:
    """What to give instead of a folder without that file."""
    if not run.exists():
        return nearest_path(str(run))
    inner = sorted(str(path.parent) for path in run.glob(f"*/{name}"))
    return f"; there is {' and '.join(inner)}" if inner else "; give the folder that `lightning-har run` wrote to"


def _classes(args: argparse.Namespace, path: Path) -> None:
    from lightning_har.viz.bars import save_class_bars, save_most_confused
    from lightning_har.viz.confusion import save_confusion_matrix

    counts, names = read_counts(args.what, args.head)
    if args.kind == "confusion":
        save_confusion_matrix(counts, names, path, classes=args.classes)
    elif args.kind == "bars":
        save_class_bars(counts, names, path, worst=args.worst)
    else:
        save_most_confused(counts, names, path)


def _curves(args: argparse.Namespace, path: Path) -> None:
    from lightning_har.viz.curves import save_curves

    table = Path(args.what) / "metrics.csv"
    if not table.is_file():
        raise DataError(f"{args.what} is no run's folder with a metrics.csv{_hint(Path(args.what), table.name)}")
    save_curves(table, path)


def _samples(args: argparse.Namespace, path: Path) -> None:
    from lightning_har.cli._data import draw_samples

    draw_samples(args.what, args.model, path, args.split, args.flow_root)


def _gradcam(args: argparse.Namespace, path: Path) -> None:
    from lightning_har.data.folder import VideoFilesDataModule
    from lightning_har.modules.pretrained import load_model
    from lightning_har.predict import require_clips
    from lightning_har.viz.gradcam import grad_cam, save_grad_cam

    if args.model is None:
        raise ConfigError("gradcam explains a model's verdict: give it with --model RUN|CHECKPOINT")
    if not Path(args.what).is_file():
        folder = "; that is a folder: give one of its files" if Path(args.what).is_dir() else ""
        raise DataError(f"no clip at {args.what}{folder or nearest_path(args.what)}")
    module = load_model(args.model)
    require_clips(module)
    data = VideoFilesDataModule(
        [args.what], class_names=module.class_names, spec=module.spec, eval_sampling=module.eval_sampling
    )
    sample: Any = data.dataset("predict")[0]
    video = sample["video"]
    video = video[:1] if video.ndim == 5 else video[None]
    names = module.class_names
    if isinstance(names, dict):
        head = args.head or next(iter(names))
        if head not in names:
            raise ConfigError(f"no head {head!r}; the model has {', '.join(names)}")
        names = names[head]
    target = None
    if args.target is not None:
        if names is None or args.target not in names:
            raise ConfigError(f"the model has no class {args.target!r}{nearest(args.target, names or ())}")
        target = [names.index(args.target)]
    layer = args.layer[0] if args.layer else None
    cam = grad_cam(module, video, target=target, head=args.head, layer=layer)
    save_grad_cam(video, cam, path, class_names=names)


def _features(args: argparse.Namespace, path: Path) -> None:
    from lightning_har.nets.backbones import build_backbone
    from lightning_har.viz.activation import STUDY_C_LAYERS, save_features

    weights: bool | str = {None: True, "none": False}.get(args.weights, args.weights)
    save_features(build_backbone(args.what, pretrained=weights), path, args.layer or STUDY_C_LAYERS)
