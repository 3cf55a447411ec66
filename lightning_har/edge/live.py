"""``python run.py``: a file, a camera or a stream to labels, as they come.

A camera does not wait. A thread reads it and keeps only the newest frame; what the network is too slow for is
dropped and counted, so that a label is of now and not of a minute ago.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lightning_har.edge.runtime import (
    CAPTION,
    Bundle,
    Converter,
    Recognizer,
    Stopwatch,
    energy,
    frames_of,
    load_bundle,
    peak_memory,
    read_clip,
    top,
    upright,
)
from lightning_har.errors import ConfigError, DataError, DecodeError, HarError

STALL_SECONDS = 10.0
# FFmpeg gives up before that, and closes what it has opened: a camera that is held open cannot be opened again.
FFMPEG_SECONDS = 8.0
MAX_BACKOFF = 30.0


class LiveSource:
    """The newest frame of a camera or stream, reconnecting where it is lost.

    Args:
        connect: Opens the source and yields its frames until it ends or fails.
        name: For messages.
        say: Takes a message.
        backoff: Seconds before the first new attempt; doubles with each that fails, up to 30.
        stall: Seconds without a frame after which the source counts as lost.
        retry: False: the end of the source is the end.
        seconds: End after this long, frames or not; None goes on.

    Attributes:
        reconnects: Attempts to open the source again.
    """

    def __init__(
        self,
        connect: Callable[[], Iterator[Any]],
        name: str,
        say: Callable[[str], None],
        *,
        backoff: float = 0.5,
        stall: float = STALL_SECONDS,
        retry: bool = True,
        seconds: float | None = None,
    ) -> None:
        self._connect, self._name, self._say = connect, name, say
        self._backoff, self._stall, self._retry = backoff, stall, retry
        self._seconds = np.inf if seconds is None else seconds
        self._deadline = time.perf_counter() + self._seconds
        self._dropped = 0
        self.reconnects = 0
        self._reader = _Reader(connect)

    @property
    def dropped(self) -> int:
        """Frames that were replaced by a newer one before anyone took them."""
        return self._dropped + self._reader.dropped

    def __iter__(self) -> Iterator[tuple[Any, float]]:
        """The newest frame and when it arrived (``time.perf_counter``), each at most once.

        Raises:
            ConfigError: Trying again would not help.
            DecodeError: No frame ever came; or the source is lost and not to be tried again.
        """
        pause, seen, failure = self._backoff, False, None
        while (now := time.perf_counter()) < self._deadline:
            reader = self._reader
            taken, ended = reader.take(min(reader.heard + self._stall, self._deadline) - now)
            if taken is not None:
                pause, seen = self._backoff, True
                yield taken
                continue
            if ended:
                failure = reader.failure
                # PyAV's errors are OSErrors, or wrapped by open_live; any other is not the source's.
                lasting = isinstance(failure, ConfigError) or not isinstance(failure, (OSError, HarError))
                if failure is not None and (lasting or not self._retry):
                    raise failure
                if not self._retry:
                    return
                reason = str(failure or "ended")
            elif time.perf_counter() - reader.heard >= self._stall:
                reason = f"no frame for {self._stall:g} s"
                if not self._retry:
                    self._say(f"{self._name}: {reason}; waiting for it to come back")
                    reader.heard = time.perf_counter()
                    continue
            else:
                continue
            self._say(f"{self._name}: lost ({reason}); trying again in {pause:.1f} s")
            time.sleep(max(0.0, min(pause, self._deadline - time.perf_counter())))
            pause = min(2 * pause, MAX_BACKOFF)
            self.reconnects += 1
            self._dropped += reader.dropped
            reader.leave()
            self._reader = _Reader(self._connect)
        if not seen:
            raise failure or DecodeError(f"{self._name}: gave no frame in {self._seconds:g} s")

    def close(self) -> None:
        """Stop reading."""
        self._reader.leave()
        self._reader.thread.join(timeout=2)


class _Reader:
    """One connection and the thread that reads it, which is left behind where it hangs.

    Attributes:
        dropped: Frames that were replaced by a newer one before anyone took them.
        heard: When the last frame came, or the connection was begun.
        failure: What ended it; None where the source ended by itself.
    """

    def __init__(self, connect: Callable[[], Iterator[Any]]) -> None:
        self.dropped = 0
        self.heard = time.perf_counter()
        self.failure: Exception | None = None
        self._newest: tuple[Any, float] | None = None
        self._ended = False
        self._changed = threading.Condition()
        self._left = threading.Event()
        # A daemon: a read that hangs inside FFmpeg must not keep the program from ending.
        self.thread = threading.Thread(target=self._read, args=(connect,), daemon=True)
        self.thread.start()

    def take(self, wait: float) -> tuple[tuple[Any, float] | None, bool]:
        """The newest frame with its time, or None after ``wait`` seconds without one; and whether no more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._ended, wait)
            taken, self._newest = self._newest, None
            return taken, self._ended

    def leave(self) -> None:
        """Have the thread end as soon as it gets to; what it still reads, nobody sees."""
        self._left.set()

    def _read(self, connect: Callable[[], Iterator[Any]]) -> None:
        try:
            for frame in connect():
                if self._left.is_set():
                    return
                with self._changed:
                    self.dropped += self._newest is not None
                    self.heard = time.perf_counter()
                    self._newest = (frame, self.heard)
                    self._changed.notify()
        except Exception as error:  # for the thread that takes the frames
            self.failure = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()


def open_live(source: str, *, paced: bool) -> Iterator[Any]:
    """Frames of a camera by number, a stream by address, or a file.

    Args:
        source: "0", "rtsp://...", or a path.
        paced: Give a file's frames at its own rate, as a camera would.

    Raises:
        DecodeError: It cannot be opened, or breaks off.
        ConfigError: This PyAV does not know such a source.
    """
    import av

    limit = str(int(FFMPEG_SECONDS * 1e6))
    name, form, options = source, None, {"rw_timeout": limit}
    timeout: tuple[float, float] | None = (FFMPEG_SECONDS, FFMPEG_SECONDS)
    if source.isdigit():
        name, form, options = _camera(int(source))
    elif source.startswith("rtsp://"):
        options = {"rtsp_transport": "tcp", "timeout": limit}
    elif "://" not in source:
        options, timeout = {}, None
    try:
        with av.open(name, format=form, options=options, timeout=timeout) as container:
            if not container.streams.video:
                raise DecodeError(f"{source}: has no video stream")
            begin, first = time.perf_counter(), None
            for frame in frames_of(container, live=timeout is not None):
                if paced and frame.time is not None:
                    first = frame.time if first is None else first
                    time.sleep(max(0.0, frame.time - first - (time.perf_counter() - begin)))
                yield frame
    except av.error.ExitError as error:  # FFmpeg's word for it is "Immediate exit requested"
        raise DecodeError(f"{source}: sent nothing for {FFMPEG_SECONDS:g} s") from error
    except av.error.ProtocolNotFoundError as error:
        raise ConfigError(f"{source}: this PyAV knows no such protocol; give rtsp:// or http://") from error
    except (av.FFmpegError, OSError) as error:
        raise DecodeError(f"{source}: {getattr(error, 'strerror', None) or error}") from error
    except ValueError as error:  # PyAV's, for a format that it was built without
        raise ConfigError(f"{source}: {error}") from error


def _camera(index: int) -> tuple[str, str, dict[str, str]]:
    if sys.platform == "darwin":
        return str(index), "avfoundation", {"framerate": "30"}
    if sys.platform == "win32":
        raise ConfigError(f"on Windows give the camera's address instead of {index}: an rtsp:// or http:// stream")
    return f"/dev/video{index}", "v4l2", {}


_TICK = Fraction(1, 90_000)
"""Seconds: MPEG's clock, of which the usual frame rates are whole parts."""


class Annotator:
    """The video with its label written into it; the captions were drawn when the bundle was made.

    Args:
        path: Of the video to write.
        bundle: Whose captions are used.

    Raises:
        DataError: The file cannot be written.
    """

    def __init__(self, path: str | Path, bundle: Bundle) -> None:
        import av

        try:
            self._container = av.open(str(path), "w")
            timed = self._container.format.flags & av.format.Flags.variable_fps.value
            if timed:
                Path(path).open("wb").close()  # PyAV opens it with the first frame only
        except (OSError, ValueError) as error:  # PyAV's, and its ValueError for a name without a format
            raise DataError(
                f"cannot write {path}: {getattr(error, 'strerror', None) or error}; give a file such as seen.mp4 in a "
                "folder that is there"
            ) from error
        if not timed:
            raise DataError(f"cannot write {path}: such a file does not tell when a frame is shown; give .mp4 or .mkv")
        self._stream: Any = None
        self._first = 0.0
        self._last = -1
        with np.load(bundle.folder / "captions.npz") as stored:
            self._captions = {name.removeprefix(CAPTION): stored[name] for name in stored.files}

    def write(self, frame: Any, shown: Sequence[tuple[str, float]], when: float) -> None:
        """Add a frame.

        Args:
            frame: An ``av.VideoFrame``.
            shown: Captions of the bundle, each with the share of the width that its bar takes.
            when: In seconds, from any time on.
        """
        import av

        image = upright(frame.to_ndarray(format="rgb24"), frame)
        image = np.ascontiguousarray(image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2])
        if self._stream is None:
            self._stream = self._container.add_stream("libx264", rate=25)
            self._stream.height, self._stream.width, self._stream.pix_fmt = *image.shape[:2], "yuv420p"
            self._stream.codec_context.time_base = _TICK
            self._first = when
        height, width = self._stream.height, self._stream.width
        if image.shape[:2] != (height, width):
            resized = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(width=width, height=height)
            image = resized.to_ndarray()
        y = 0
        for caption, share in shown:
            mask = self._captions[caption][: max(0, height - y), :width]
            corner = image[y : y + mask.shape[0], : mask.shape[1]]
            corner[:] = np.maximum(corner // 3, mask[..., None])
            y += mask.shape[0]
            image[y : y + 4, : max(1, round(share * width))] = (80, 200, 120)
            y += 4
        written = av.VideoFrame.from_ndarray(image, format="rgb24")
        self._last = max(self._last + 1, round((when - self._first) / _TICK))
        written.pts, written.time_base = self._last, _TICK
        self._container.mux(self._stream.encode(written))

    def close(self) -> None:
        """Finish the file."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()


def main(argv: Sequence[str] | None = None, folder: str | Path = ".") -> int:
    """Run a bundle from the command line.

    Args:
        argv: Arguments; None takes ``sys.argv``.
        folder: The bundle.

    Returns:
        0, also where Ctrl-C ends a camera; 2 for bad input, with a message on stderr; 130 for Ctrl-C elsewhere.
    """
    parser = argparse.ArgumentParser(description="Recognise actions in a file, a camera (0) or a stream (rtsp://...).")
    parser.add_argument("source", help="a video file, a camera's number, or an address")
    parser.add_argument("--threads", type=count, default=2, help="of the network (default 2)")
    parser.add_argument("--top", type=count, default=3, help="labels to print (default 3)")
    parser.add_argument("--live", action="store_true", help="treat a file as a camera: at its own pace")
    parser.add_argument(
        "--span", type=seconds, default=2.0, help="seconds of a camera that the network sees at once (default 2)"
    )
    parser.add_argument("--seconds", type=seconds, help="stop a camera or stream after this long")
    parser.add_argument("--output", metavar="FILE", help="write the video with its labels (.mp4)")
    parser.add_argument("--json", action="store_true", help="print the final statistics as one line of JSON")
    parser.add_argument("--repeat", type=count, default=1, help="recognise a file this many times, for timing")
    args = parser.parse_args(argv)
    began = time.perf_counter()
    try:
        if args.output and Path(args.output).resolve() == Path(args.source).resolve():
            raise ConfigError(f"--output {args.output} is the video itself; give another file")
        bundle = load_bundle(folder)
        recognizer = Recognizer.from_bundle(bundle, args.threads)
        loaded = time.perf_counter() - began
        is_file = not args.live and not args.source.isdigit() and "://" not in args.source
        run = _run_file if is_file else _run_live
        statistics = {"load_s": round(loaded, 3), **run(args, bundle, recognizer)}
    except (HarError, OSError) as error:  # OSError: a full disk
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        _say("stopped")
        return 130
    statistics["peak_memory_mb"] = round((peak_memory() or 0) / 1e6, 1) or None
    _print_statistics(statistics, args.json)
    return 0


def count(text: str) -> int:
    """An argument of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is too few; give 1 or more")
    return value


def seconds(text: str) -> float:
    """An argument that is a time."""
    value = float(text)
    if not 0 < value < np.inf:
        raise argparse.ArgumentTypeError(f"{text} is no time; give seconds, above 0")
    return value


def _run_file(args: argparse.Namespace, bundle: Bundle, recognizer: Recognizer) -> dict[str, Any]:
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
    if args.output:
        shown = top(logits, bundle, 1)
        with closing(Annotator(args.output, bundle)) as annotator:
            for i, frame in enumerate(open_live(args.source, paced=False)):
                # Some formats carry no times: raw H.264.
                annotator.write(frame, shown, i / 25 if frame.time is None else frame.time)
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


def _run_live(args: argparse.Namespace, bundle: Bundle, recognizer: Recognizer) -> dict[str, Any]:
    is_path = not args.source.isdigit() and "://" not in args.source
    # First, so that av is imported by one thread alone: two at once deadlock in its circular imports.
    convert = Converter(bundle.spec, bundle.sampling)
    source = LiveSource(
        lambda: open_live(args.source, paced=is_path), args.source, _say, retry=not is_path, seconds=args.seconds
    )
    annotator = Annotator(args.output, bundle) if args.output else None
    network, to_label = Stopwatch(), Stopwatch()
    # Frames of a window lie this far apart, whatever the camera's rate.
    step = args.span / recognizer.num_frames
    begin = time.perf_counter()
    last = last_seen = -np.inf
    shown: list[tuple[str, float]] = []
    best: list[tuple[str, float]] = []
    skipped = 0
    try:
        for frame, arrived in source:
            # Half a frame of tolerance: a camera's frames do not come at whole steps.
            if arrived - last < step - 0.5 * min(arrived - last_seen, step):
                skipped += 1
            else:
                last = arrived
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
    except KeyboardInterrupt:
        _say("stopped")
    finally:
        source.close()
        if annotator is not None:
            annotator.close()
    elapsed = time.perf_counter() - begin
    return {
        "frames": network.count,
        "labels": best,
        "network": network.percentiles(),
        "frame_to_label": to_label.percentiles(),
        "fps": round(network.count / elapsed, 1),
        "dropped": source.dropped,
        "left_out_by_span": skipped,
        "reconnects": source.reconnects,
    }


def _print_labels(best: list[tuple[str, float]], prefix: str = "") -> None:
    for name, share in best:
        print(f"{prefix}{share:6.1%}  {name}", flush=True)  # noqa: T201


def _print_statistics(statistics: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(statistics))  # noqa: T201
        return
    for key, value in statistics.items():
        if key == "labels" or value in (None, {}):
            continue
        shown = "  ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        print(f"{re.sub('_', ' ', key):18} {shown}")  # noqa: T201


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201
