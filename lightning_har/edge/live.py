"""The command line of a bundle, ``python run.py``: a file, a camera or a stream to labels, as they come."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_har.data.decode import open_video
from lightning_har.edge.annotate import Annotator
from lightning_har.edge.runtime import (
    Bundle,
    Converter,
    Recognizer,
    Stopwatch,
    energy,
    load_bundle,
    peak_memory,
    read_clip,
    top,
)
from lightning_har.edge.source import USUAL_RATE, LiveSource, Timeline, is_camera, open_live, without_login
from lightning_har.errors import ConfigError, DecodeError, HarError

MOST_THREADS = 256
"""Starting very many more takes longer than anyone waits."""

LONGEST_PAUSE = 1.0
"""Seconds without a frame, beyond the span, after which what was seen before is forgotten."""

USUAL_SPAN = 2.0
"""Seconds of a camera for a network that takes its frames from all along a file, however long."""


def main(argv: Sequence[str] | None = None, folder: str | Path = ".") -> int:
    """Run a bundle from the command line.

    Args:
        argv: Arguments; None takes ``sys.argv``.
        folder: The bundle.

    Returns:
        0, also where Ctrl-C, SIGTERM or SIGHUP ends a camera; 2 for bad input, with a message on stderr; 130 for Ctrl-C
        elsewhere.
    """
    parser = argparse.ArgumentParser(description="Recognise actions in a file, a camera (0) or a stream (rtsp://...).")
    parser.add_argument("source", help="a video file, a camera's number, or an address")
    parser.add_argument("--threads", type=threads, default=2, help="of the network (default 2)")
    parser.add_argument("--top", type=count, default=3, help="labels of a file to print (default 3)")
    parser.add_argument("--live", action="store_true", help="treat a file as a camera: at its own pace")
    parser.add_argument(
        "--span",
        type=seconds,
        help=f"seconds of a camera that the network sees at once (default {USUAL_SPAN:g}; where it takes frames a "
        f"fixed number apart, what these last at {USUAL_RATE} a second)",
    )
    parser.add_argument("--seconds", type=seconds, help="stop a camera or stream after this long")
    parser.add_argument("--output", metavar="FILE", help="write the video with its labels (.mp4)")
    parser.add_argument("--json", action="store_true", help="print the final statistics as one line of JSON")
    parser.add_argument("--repeat", type=count, default=1, help="recognise a file this many times, for timing")
    args = parser.parse_args(argv)
    args.source = args.source.removeprefix("file://")
    if device := re.fullmatch(r"/dev/video([0-9]+)", os.path.realpath(args.source)):
        args.source = device[1]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a label that the terminal has no letters for
    began = time.perf_counter()
    try:
        with _stopped_by_signals():
            if args.output and _is_same(args.output, args.source):
                raise ConfigError(f"--output {args.output} is the video itself; give another file")
            bundle = load_bundle(folder)
            recognizer = Recognizer.from_bundle(bundle, args.threads)
            loaded = time.perf_counter() - began
            is_file = not args.live and not is_camera(args.source) and "://" not in args.source
            run = _run_file if is_file else _run_live
            statistics = {"load_s": round(loaded, 3), **run(args, bundle, recognizer)}
            statistics["peak_memory_mb"] = round((peak_memory() or 0) / 1e6, 1) or None
            _print_statistics(statistics, args.json)
            return 0
    except BrokenPipeError:  # the reader of our output, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (HarError, OSError) as error:  # OSError: a full disk
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        _say("stopped")
        return 130


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """What ends a service, a container or a lost terminal does as Ctrl-C, so that what was written can be played.

    What is ignored stays so: nohup's hangup.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {n: signal.signal(n, stop) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_same(one: str, other: str) -> bool:
    """Whether two names are of one file, also by a link, or on a disk that takes capitals and small letters alike."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def count(text: str) -> int:
    """An argument of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is too few; give 1 or more")
    return value


def threads(text: str) -> int:
    """A number of threads: not so many that starting them never ends."""
    value = count(text)
    if value > MOST_THREADS:
        raise argparse.ArgumentTypeError(f"{value} is too many; give {MOST_THREADS} or fewer")
    return value


def seconds(text: str) -> float:
    """An argument that is a time."""
    value = float(text)
    if not 0 < value < np.inf:
        raise argparse.ArgumentTypeError(f"{text} is no time; give seconds, above 0")
    return value


def _run_file(args: argparse.Namespace, bundle: Bundle, recognizer: Recognizer) -> dict[str, Any]:
    annotator = Annotator(args.output, bundle) if args.output else None
    decode, network, whole, each = Stopwatch(), Stopwatch(), Stopwatch(), Stopwatch()
    recognizer.time_frames(each)
    first = None
    used = energy()
    begin = time.perf_counter()
    for _ in range(args.repeat):
        with whole:
            with decode:
                frames = read_clip(args.source, bundle.spec, bundle.sampling)
            with network:
                logits = recognizer.clip(frames)
        first = first or time.perf_counter() - begin
    after = energy()
    best = top(logits, bundle, args.top)
    _print_labels(best)
    if annotator is not None:
        shown = top(logits, bundle, 1)
        with contextlib.closing(annotator):
            timeline = Timeline()
            for frame in open_live(args.source, paced=False):
                annotator.write(frame, shown, timeline.at(frame.time))
    return {
        "clips": whole.count,
        "frames_per_clip": len(frames),
        "labels": best,
        "first_s": round(first or 0.0, 3),
        "decode": decode.percentiles(),
        "network": network.percentiles(),
        "frame": each.percentiles(),
        "clip": whole.percentiles(),
        "fps": round(len(frames) * len(whole.times) / (sum(whole.times) / 1000), 1),
        # The counter starts again from 0 now and then.
        "joule_per_clip": None
        if used is None or after is None or after < used
        else round((after - used) / args.repeat, 3),
        "dropped": 0,
    }


def _span(bundle: Bundle, num_frames: int) -> float:
    """Seconds of a camera that the network sees at once, so that it sees motion as fast as in its files.

    Raises:
        ConfigError: No window of evenly spaced frames is what the network takes.
    """
    sampling = bundle.sampling.with_defaults(bundle.spec)
    if sampling.scheme == "dense":
        return num_frames * sampling.time_stride / USUAL_RATE
    if sampling.snippet_length != 1:
        raise ConfigError(
            f"{bundle.name} takes snippets of {sampling.snippet_length} consecutive frames from all along a clip, and "
            "of a camera evenly spaced frames are seen; give it a file, without --live"
        )
    return USUAL_SPAN


def _run_live(args: argparse.Namespace, bundle: Bundle, recognizer: Recognizer) -> dict[str, Any]:
    own_span = _span(bundle, recognizer.num_frames)
    span = args.span or own_span
    is_path = not is_camera(args.source) and "://" not in args.source
    # First, so that av is imported by one thread alone: two at once deadlock in its circular imports.
    convert = Converter(bundle.spec, bundle.sampling)
    name = without_login(args.source)
    source = LiveSource(
        lambda: open_live(args.source, paced=is_path), name, _say, retry=not is_path, seconds=args.seconds
    )
    annotator = Annotator(args.output, bundle) if args.output else None
    network, to_label = Stopwatch(), Stopwatch()
    # Frames of a window lie this far apart, whatever the camera's rate.
    step = span / recognizer.num_frames
    begin = time.perf_counter()
    last = last_seen = -np.inf
    shown: list[tuple[str, float]] = []
    best: list[tuple[str, float]] = []
    skipped = connections = together = 0
    try:
        for frame, arrived in source:
            if source.reconnects != connections or arrived - last_seen > span + LONGEST_PAUSE:
                # What was seen before a gap is no part of what happens after it.
                recognizer.reset()
                connections, last, shown, together = source.reconnects, -np.inf, [], 0
            # Half a frame of tolerance: a camera's frames do not come at whole steps.
            if arrived - last < step - 0.5 * min(arrived - last_seen, step):
                skipped += 1
            else:
                last = arrived
                together += 1
                with network:
                    logits = recognizer.push(convert(frame))
                if logits is not None:
                    to_label.times.append(1000 * (time.perf_counter() - arrived))
                    best = top(logits, bundle, args.top)
                    before, shown = shown, top(logits, bundle, 1)
                    if [name for name, _ in shown] != [name for name, _ in before]:
                        _print_labels(shown, f"{arrived - begin:7.2f} s  ")
            last_seen = arrived
            if annotator is not None:
                annotator.write(frame, shown, arrived)
        if is_path:
            _tell_what_is_cut_off(args.source)
        if not best:
            _say(
                f"{name}: ended without a label, after {together} of the {recognizer.num_frames} frames that one takes"
                f", spread over {span:g} s; give a smaller --span{', or leave out --live' if is_path else ''}"
            )
    except KeyboardInterrupt:
        _say("stopped")
    finally:
        # First what would be lost if Ctrl-C is pressed again while the source takes its time.
        if annotator is not None:
            annotator.close()
        source.close()
    elapsed = time.perf_counter() - begin
    return {
        "frames": network.count,
        "labels": best,
        "network": network.percentiles(),
        "frame_to_label": to_label.percentiles(),
        "fps": round(network.count / elapsed, 1),
        "dropped": source.dropped,
        "span_s": span,
        "left_out_by_span": skipped,
        "reconnects": source.reconnects,
    }


def _tell_what_is_cut_off(path: str) -> None:
    """FFmpeg shows a file whose end is missing up to there, without a word."""
    if not os.path.isfile(path):  # a pipe
        return
    try:
        with contextlib.closing(open_video(path)) as video:
            _ = video.num_frames
    except DecodeError as error:
        _say(str(error))


def _print_labels(best: list[tuple[str, float]], prefix: str = "") -> None:
    for name, share in best:
        print(f"{prefix}{share:6.1%}  {name}", flush=True)  # noqa: T201


def _print_statistics(statistics: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(statistics), flush=True)  # noqa: T201
        return
    for key, value in statistics.items():
        if key == "labels" or value in (None, {}):
            continue
        shown = "  ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        print(f"{re.sub('_', ' ', key):18} {shown}", flush=True)  # noqa: T201


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
