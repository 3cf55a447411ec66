"""``lightning-har predict``: name the action in video files."""

from __future__ import annotations

import argparse
import glob
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_har.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lightning_har.modules.base import ActionRecognizer

EPILOG = """\
The model is a run's folder (its best checkpoint), a checkpoint, or the id of a published one (`zoo list`).
A file that cannot be read is named on stderr (with --json: in its entry, as "error"); the others are predicted, and
the exit code is 1.

examples:
  lightning-har predict clip.mp4 --model runs/folder/2026-01-31_12-00-00
  lightning-har predict 'clips/*.mp4' --model best.ckpt --top 3 --json
  lightning-har predict clip.mp4 --model best.ckpt --annotate out.mp4
"""


def add_parser(subparsers: Any) -> None:
    """Add ``predict`` to the commands."""
    parser = subparsers.add_parser(
        "predict",
        help="name the action in video files",
        description="Name the action in video files.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", metavar="FILE|DIR|GLOB", help="videos, folders of videos, patterns")
    parser.add_argument("--model", required=True, metavar="RUN_DIR|CHECKPOINT|ID", help="what predicts")
    parser.add_argument("--top", type=_positive, default=5, metavar="K", help="classes to show (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("--annotate", metavar="OUT.mp4", help="write the video with the classes on it (one file)")
    parser.add_argument("--batch-size", type=_positive, default=1, metavar="B", help="videos at a time (default: 1)")
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Predict; 1 if some file could not be read, else 0."""
    files = find_videos(args.files)
    if args.annotate and len(files) != 1:
        raise ConfigError(f"--annotate writes one video, but {len(files)} were given")
    entries = predict(load_model(args.model), files, top=args.top, batch_size=args.batch_size)
    failed = [entry for entry in entries if "error" in entry]
    if args.json:
        print(json.dumps(entries, indent=2))
    else:
        for entry in entries:
            if "error" not in entry:
                print(entry["file"])
                for line in _lines(entry["predictions"]):
                    print(f"  {line}")
    for entry in failed:
        print(f"error: {entry['error']}", file=sys.stderr)
    if args.annotate and not failed:
        from lightning_har.viz.annotate import annotate_video

        annotate_video(files[0], args.annotate, _flat(entries[0]["predictions"]))
        if not args.json:
            print(f"wrote {args.annotate}")
    return 1 if failed else 0


def find_videos(given: Sequence[str]) -> list[Path]:
    """Files as given, folders' videos by their suffix, and patterns, in order and each once.

    Raises:
        DataError: Something that does not exist, or a folder or pattern without videos.
    """
    from lightning_har.data.folder import videos_in

    found: dict[Path, None] = {}
    for text in given:
        path = Path(text)
        if path.is_dir():
            files = videos_in(path)
            if not files:
                raise DataError(f"{path} has no videos in it, by their suffix")
        elif path.exists():
            files = [path]
        else:
            files = [Path(name) for name in sorted(glob.glob(text, recursive=True)) if Path(name).is_file()]
            if not files:
                raise DataError(f"{text} does not exist, and matches nothing")
        found.update(dict.fromkeys(files))
    return list(found)


def load_model(model: str) -> ActionRecognizer:
    """A module from a run's folder, a checkpoint, or what ``lightning_har.load`` takes: a folder, an id in the zoo.

    Raises:
        ConfigError: A run's folder without a best checkpoint.
        WeightsError: Nothing of that name, or not a checkpoint of ours.
    """
    path = Path(model)
    if path.is_file() or path.suffix == ".ckpt":
        from lightning_har.modules import load_checkpoint

        return load_checkpoint(path)
    if path.is_dir() and not (path / "model.safetensors").is_file():
        from lightning_har.modules import load_checkpoint

        best = path / "best.ckpt"
        if not best.is_file():
            inner = sorted(str(p.parent) for p in path.glob("*/best.ckpt"))
            hint = f"; there is {' and '.join(inner)}" if inner else "; was the run stopped in its first epoch?"
            raise ConfigError(f"{path} has no best.ckpt{hint}")
        return load_checkpoint(best)
    from lightning_har.modules.pretrained import load

    return load(model)


def predict(
    module: ActionRecognizer, files: Sequence[str | Path], *, top: int = 5, batch_size: int = 1
) -> list[dict[str, Any]]:
    """The best classes of every file.

    Args:
        module: Recogniser with its class names and evaluation sampling.
        files: Videos.
        top: Classes of each.
        batch_size: Videos at a time.

    Returns:
        In order, ``{"file", "predictions": [{"label", "score"}, ...]}`` with softmax scores, best first; with several
        heads, ``predictions`` is such a list by head; ``{"file", "error"}`` for a file that cannot be read.
    """
    from lightning_har._lightning import Trainer
    from lightning_har.data.folder import VideoFilesDataModule
    from lightning_har.run import quiet_lightning

    data = VideoFilesDataModule(
        files,
        class_names=module.class_names,
        spec=module.spec,
        eval_sampling=module.eval_sampling,
        batch_size=batch_size,
        on_error="skip",
    )
    trainer_arguments: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    with quiet_lightning():
        batches = Trainer(**trainer_arguments).predict(module, datamodule=data)
    said: dict[str, dict[str, Any]] = {}
    for batch in batches or []:
        for failure in batch["failures"]:
            said[failure.path] = {"error": failure.reason}
        if not batch["id"]:
            continue
        logits = batch["logits"] if isinstance(batch["logits"], dict) else {"action": batch["logits"]}
        scores = {head: x.float().softmax(dim=1).cpu() for head, x in logits.items()}
        for i, path in enumerate(batch["path"]):
            ranked = {head: _ranked(x[i], _names(module, head, x.shape[1]), top) for head, x in scores.items()}
            said[path] = {"predictions": ranked if isinstance(batch["logits"], dict) else ranked["action"]}
    return [{"file": str(file), **said[str(file)]} for file in files]


def _names(module: ActionRecognizer, head: str, count: int) -> Sequence[str]:
    names = module.class_names
    of_head = names.get(head) if isinstance(names, dict) else names
    return of_head or [str(k) for k in range(count)]


def _ranked(scores: Any, names: Sequence[str], top: int) -> list[dict[str, Any]]:
    values, classes = scores.topk(min(top, len(names)))
    pairs = zip(classes.tolist(), values.tolist(), strict=True)
    return [{"label": names[k], "score": round(score, 6)} for k, score in pairs]


def _flat(predictions: Any) -> list[tuple[str, float]]:
    if isinstance(predictions, dict):
        return [(f"{head}: {p['label']}", p["score"]) for head, ps in predictions.items() for p in ps]
    return [(p["label"], p["score"]) for p in predictions]


def _lines(predictions: Any) -> list[str]:
    return [f"{score:6.1%}  {label}" for label, score in _flat(predictions)]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value
