"""``lightning-har predict``: name the action in video files."""

from __future__ import annotations

import argparse
import glob
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_har.cli._arguments import above_zero, check_output, positive
from lightning_har.cli.main import nearest_path
from lightning_har.errors import ConfigError, DataError

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
    parser.add_argument("--top", type=positive, default=5, metavar="K", help="classes to show (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("--annotate", metavar="OUT.mp4", help="write the video with the classes on it (one file)")
    parser.add_argument("--batch-size", type=positive, default=1, metavar="B", help="at a time (default: 1)")
    parser.add_argument(
        "--windows",
        nargs="?",
        type=above_zero,
        const=WINDOW_S,
        metavar="SECONDS",
        help=f"for long video: what happens when, by windows of so many seconds (default: {WINDOW_S:g})",
    )
    parser.add_argument("--stride", type=above_zero, metavar="SECONDS", help="between windows (default: half of one)")
    parser.add_argument(
        "--threshold", type=_share, default=0.0, metavar="SCORE", help="what scores less is no segment (default: 0)"
    )
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Predict; 1 if some file could not be read, else 0."""
    files = find_videos(args.files)
    if args.annotate and len(files) != 1:
        raise ConfigError(f"--annotate writes one video, but {len(files)} were given")
    if args.annotate:
        from lightning_har.viz.annotate import SUFFIXES

        check_output("--annotate", args.annotate, SUFFIXES, "video")
        if Path(args.annotate).resolve() == files[0].resolve():
            raise ConfigError(f"--annotate {args.annotate} would replace the video itself; give another file")
    if args.windows is None and (args.stride is not None or args.threshold):
        raise ConfigError("--stride and --threshold are of --windows, which is not given")
    if args.windows is not None and (args.stride or 0) > args.windows:
        raise ConfigError(f"--stride {args.stride:g} is more than --windows {args.windows:g}: it would leave gaps")
    from lightning_har.modules.pretrained import load_model
    from lightning_har.predict import predict, predict_windows

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
    from lightning_har.data.manifest import VIDEO_SUFFIXES

    found: dict[Path, None] = {}
    for text in given:
        path = Path(text)
        if path.is_dir():
            files = videos_in(path)
            if not files:
                raise DataError(f"{path} has no videos in it, by their suffix: {', '.join(sorted(VIDEO_SUFFIXES))}")
        elif path.exists():
            files = [path]
        else:
            files = [Path(name) for name in sorted(glob.glob(text, recursive=True)) if Path(name).is_file()]
            if not files:
                raise DataError(f"{text} does not exist, and matches nothing{nearest_path(text)}")
        found.update(dict.fromkeys(files))
    return list(found)


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


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value
