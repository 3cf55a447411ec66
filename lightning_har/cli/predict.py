"""``lightning-har predict``: name the action in video files."""

from __future__ import annotations

import argparse
import glob
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_har.errors import ConfigError, DataError, DecodeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from lightning_har.data.windows import Window
    from lightning_har.modules.base import ActionRecognizer
    from lightning_har.types import Batch, Logits

WINDOW_S = 2.0
"""Length of a window where none is given."""

EPILOG = """\
The model is a run's folder (its best checkpoint), a checkpoint, or the id of a published one (`zoo list`).
A file that cannot be read is named on stderr (with --json: in its entry, as "error"); the others are predicted, and
the exit code is 1.
With --windows, a window is sampled as a clip of its length is (once, where the model takes several clips of a
video). A moment takes the class with the highest mean score over the windows it is in; what is of one class and
touches is one segment. A file shorter than a window is one window.

examples:
  lightning-har predict clip.mp4 --model runs/folder/2026-01-31_12-00-00
  lightning-har predict 'clips/*.mp4' --model best.ckpt --top 3 --json
  lightning-har predict clip.mp4 --model best.ckpt --annotate out.mp4
  lightning-har predict match.mp4 --model best.ckpt --windows 3 --stride 1 --threshold 0.5
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
    parser.add_argument("--batch-size", type=_positive, default=1, metavar="B", help="at a time (default: 1)")
    parser.add_argument(
        "--windows",
        nargs="?",
        type=_seconds,
        const=WINDOW_S,
        metavar="SECONDS",
        help=f"for long video: what happens when, by windows of so many seconds (default: {WINDOW_S:g})",
    )
    parser.add_argument("--stride", type=_seconds, metavar="SECONDS", help="between windows (default: half of one)")
    parser.add_argument(
        "--threshold", type=_share, default=0.0, metavar="SCORE", help="what scores less is no segment (default: 0)"
    )
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Predict; 1 if some file could not be read, else 0."""
    files = find_videos(args.files)
    if args.annotate and len(files) != 1:
        raise ConfigError(f"--annotate writes one video, but {len(files)} were given")
    if args.windows is None and (args.stride is not None or args.threshold):
        raise ConfigError("--stride and --threshold are of --windows, which is not given")
    if args.windows is not None and (args.stride or 0) > args.windows:
        raise ConfigError(f"--stride {args.stride:g} is more than --windows {args.windows:g}: it would leave gaps")
    module = load_model(args.model)
    if args.windows is None:
        entries = predict(module, files, top=args.top, batch_size=args.batch_size)
    else:
        entries = predict_windows(
            module, files, args.windows, args.stride, threshold=args.threshold, top=args.top, batch_size=args.batch_size
        )
    failed = [entry for entry in entries if "error" in entry]
    if args.json:
        print(json.dumps(entries, indent=2))
    else:
        for entry in entries:
            if "error" not in entry:
                print(entry["file"])
                for line in _lines(entry["predictions"]) if args.windows is None else _segment_lines(entry["segments"]):
                    print(f"  {line}")
    for entry in failed:
        print(f"error: {entry['error']}", file=sys.stderr)
    if args.annotate and not failed:
        from lightning_har.viz.annotate import annotate_video

        annotate_video(files[0], args.annotate, _annotation(files[0], entries[0]))
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
    from lightning_har._lightning import interruptible
    from lightning_har.callbacks import RunProgress
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
    with quiet_lightning():
        trainer = _trainer(RunProgress()) if len(files) > 1 and sys.stderr.isatty() else _trainer()
        with interruptible(trainer):
            batches = trainer.predict(module, datamodule=data)
    said: dict[str, dict[str, Any]] = {}
    for batch in batches or []:
        for failure in batch["failures"]:
            said[failure.path] = {"error": failure.reason}
        if not batch["id"]:
            continue
        scores = _scores(batch["logits"])
        for i, path in enumerate(batch["path"]):
            ranked = {head: _ranked(x[i], _names(module, head, x.shape[1]), top) for head, x in scores.items()}
            said[path] = {"predictions": ranked if isinstance(batch["logits"], dict) else ranked["action"]}
    return [{"file": str(file), **said[str(file)]} for file in files]


def predict_windows(
    module: ActionRecognizer,
    files: Sequence[str | Path],
    seconds: float = WINDOW_S,
    stride: float | None = None,
    *,
    threshold: float = 0.0,
    top: int = 5,
    batch_size: int = 1,
) -> list[dict[str, Any]]:
    """What happens when in every file, by windows that slide over it.

    A file is read a few windows at a time: in memory are the frames of one batch, and the scores of all windows.

    Args:
        module: Recogniser of RGB video, with its class names and evaluation sampling.
        files: Videos of any length.
        seconds: Length of a window.
        stride: Seconds from one window to the next; None is half a window.
        threshold: Stretches whose best class has a lower mean score belong to no segment.
        top: Classes of each window.
        batch_size: Windows at a time.

    Returns:
        In order, ``{"file", "seconds", "windows": [{"start", "stop", "predictions"}, ...], "segments": [{"start",
        "stop", "label", "score"}, ...]}``, times in seconds from the first frame on, ``predictions`` as ``predict``
        gives them; with several heads, ``segments`` is such a list by head. ``{"file", "error"}`` for a file that
        cannot be read to its end.

    Raises:
        ConfigError: The model does not take RGB frames; windows that would leave gaps.
    """
    from dataclasses import replace

    from lightning_har._lightning import interruptible
    from lightning_har.data.datamodule import EVAL_SAMPLING
    from lightning_har.data.decode_pyav import PyAVVideo
    from lightning_har.data.parallel import progress
    from lightning_har.data.windows import sliding_windows, window_batches
    from lightning_har.run import quiet_lightning
    from lightning_har.spec import InputSpec, Sampling

    spec, sampling = module.spec, module.eval_sampling or EVAL_SAMPLING
    if not isinstance(spec, InputSpec) or spec.modality != "rgb" or not isinstance(sampling, Sampling):
        takes = "features" if spec is None else "optical flow"
        raise ConfigError(f"--windows reads RGB frames from the file; this model takes {takes}")
    sampling = replace(sampling, num_clips=1, random=False)
    entries: list[dict[str, Any]] = []
    with quiet_lightning():
        trainer = _trainer()
        for file in files:
            try:
                with PyAVVideo(file) as video:
                    times = video.times()
                    windows = sliding_windows(len(times) - 1, video.fps, seconds, stride)
                    with progress(Path(file).name, len(windows)) as advance, interruptible(trainer):
                        batches = window_batches(video, windows, spec, sampling, batch_size)
                        outputs = trainer.predict(module, dataloaders=_told(batches, advance))
            except DecodeError as error:
                entries.append({"file": str(file), "error": str(error)})
                continue
            entries.append({"file": str(file), **_along(module, windows, times, outputs, threshold, top)})
    return entries


def _told(batches: Iterator[Batch], advance: Callable[[int], None]) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        advance(len(batch["id"]))


def _along(
    module: ActionRecognizer,
    windows: Sequence[Window],
    times: NDArray[np.float64],
    outputs: Sequence[Mapping[str, Any]],
    threshold: float,
    top: int,
) -> dict[str, Any]:
    """What ``predict_windows`` says of a file."""
    import torch

    from lightning_har.data.windows import merge_windows

    by_batch = [_scores(batch["logits"]) for batch in outputs]
    scores = {head: torch.cat([batch[head] for batch in by_batch]) for head in by_batch[0]}
    names = {head: _names(module, head, x.shape[1]) for head, x in scores.items()}
    several = isinstance(outputs[0]["logits"], dict)

    def span(start: float, stop: float) -> dict[str, float]:
        return {"start": round(float(start), 3), "stop": round(float(stop), 3)}

    rows: list[dict[str, Any]] = []
    for i, window in enumerate(windows):
        ranked = {head: _ranked(x[i], names[head], top) for head, x in scores.items()}
        when = span(times[window.start], times[window.stop])
        rows.append({**when, "predictions": ranked if several else ranked["action"]})
    segments = {
        head: [
            {**span(s.start, s.stop), "label": names[head][s.label], "score": round(s.score, 6)}
            for s in merge_windows(windows, x.numpy(), times, threshold=threshold)
        ]
        for head, x in scores.items()
    }
    seconds = round(float(times[-1]), 3)
    return {"seconds": seconds, "windows": rows, "segments": segments if several else segments["action"]}


def _trainer(*callbacks: Any) -> Any:
    from lightning_har._lightning import Trainer

    quiet: dict[str, Any] = {
        "callbacks": list(callbacks),
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**quiet)


def _scores(logits: Logits) -> dict[str, Tensor]:
    """Softmax by head, on the CPU; a single head is "action"."""
    by_head = logits if isinstance(logits, dict) else {"action": logits}
    return {head: x.float().softmax(dim=1).cpu() for head, x in by_head.items()}


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


def _segments(segments: Any) -> list[dict[str, Any]]:
    """In order of time, those of several heads with the head before the class."""
    if isinstance(segments, dict):
        named = [{**s, "label": f"{head}: {s['label']}"} for head, of_head in segments.items() for s in of_head]
        return sorted(named, key=lambda segment: (segment["start"], segment["stop"]))
    return list(segments)


def _segment_lines(segments: Any) -> list[str]:
    found = _segments(segments)
    told = [f"{_clock(s['start']):>9} - {_clock(s['stop']):>9} {s['score']:7.1%}  {s['label']}" for s in found]
    return told or ["nothing reaches the threshold"]


def _clock(seconds: float) -> str:
    minutes, tenths = divmod(round(seconds * 10), 600)
    hours, minutes = divmod(minutes, 60)
    return (f"{hours}:{minutes:02d}" if hours else str(minutes)) + f":{tenths / 10:04.1f}"


def _annotation(file: Path, entry: Mapping[str, Any]) -> Any:
    """What stands on a frame: the same on each, or with windows the segments that it is in."""
    if "segments" not in entry:
        return _flat(entry["predictions"])
    from lightning_har.data.decode_pyav import PyAVVideo

    with PyAVVideo(file) as video:
        times = video.times()
    found = _segments(entry["segments"])

    def at(frame: int) -> list[tuple[str, float]]:
        time = round(float(times[min(frame, len(times) - 2)]), 3)
        return [(s["label"], s["score"]) for s in found if s["start"] <= time < s["stop"]]

    return at


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds (files stand before it)") from None
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no positive number of seconds")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value
