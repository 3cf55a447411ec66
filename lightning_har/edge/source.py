"""Frames of a camera, a stream or a file, as they come.

A camera does not wait. A thread reads it and keeps only the newest frame; what the network is too slow for is
dropped and counted, so that a label is of now and not of a minute ago.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lightning_har.data.decode import location, video_stream
from lightning_har.errors import ConfigError, DecodeError, HarError

STALL_SECONDS = 10.0
# FFmpeg gives up before that, and closes what it has opened: a camera that is held open cannot be opened again.
FFMPEG_SECONDS = 8.0
MAX_BACKOFF = 30.0


class NoSourceError(DecodeError):
    """No camera has this number, or who answers says no: trying again does not mend it."""


class LiveSource:
    """The newest frame of a camera or stream, reconnecting where it is lost.

    Args:
        connect: Opens the source and yields its frames until it ends, which is the end, or raises, where it is lost.
        name: For messages.
        say: Takes a message.
        backoff: Seconds before the first new attempt; doubles with each that fails, up to 30.
        stall: Seconds without a frame after which the source counts as lost.
        retry: False: a source that is lost is not opened again.
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
        self._seen = False
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
            NoSourceError: There is no such source, or it lets nobody in, and nothing of it was ever seen.
            DecodeError: No frame ever came; or the source is lost and not to be tried again.
        """
        pause, failure = self._backoff, None
        while (now := time.perf_counter()) < self._deadline:
            reader = self._reader
            taken, ended = reader.take(min(reader.heard + self._stall, self._deadline) - now)
            if taken is not None:
                pause, self._seen = self._backoff, True
                yield taken
                continue
            if ended:
                failure = reader.failure
                # PyAV's errors are OSErrors, or wrapped by open_live; any other is not the source's.
                lasting = isinstance(failure, ConfigError) or not isinstance(failure, (OSError, HarError))
                # What was there may come back; what never was is a wrong number, address or password.
                lasting |= not self._seen and isinstance(failure, NoSourceError)
                if failure is None:
                    return
                if lasting or not self._retry:
                    raise failure
                reason = str(failure).removeprefix(f"{self._name}: ")
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
        if not self._seen:
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


def is_camera(source: str) -> bool:
    """Whether it is a camera's number."""
    return source.isascii() and source.isdigit()


_IN_BURSTS = frozenset(("hls", "dash", "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"))
"""Formats whose frames come from the network faster than they were taken: files, and streams cut into files."""

USUAL_RATE = 25
"""Frames a second of what does not tell: raw H.264."""


class Timeline:
    """When each frame is shown, in seconds after the first, so that frames are as far apart as they were taken.

    Where their times jump, as in recordings that were put together, or where there are none, one frame follows another
    at the given rate.

    Args:
        rate: Frames a second; None takes 25.
        longest: Seconds after a frame from which on the next counts as a jump ahead. A jump back always is one.
    """

    def __init__(self, rate: Any = None, longest: float = np.inf) -> None:
        self._step = float(1 / (rate or USUAL_RATE))
        self._longest = longest
        self._now: float | None = None
        self._before: float | None = None

    def at(self, when: float | None) -> float:
        """Seconds after the first frame at which the next is shown.

        Args:
            when: Its own time, in seconds from any time on; None where it carries none.
        """
        passed = np.nan if when is None or self._before is None else when - self._before
        self._before = when
        if self._now is None:
            self._now = 0.0
        else:
            self._now += passed if 0 <= passed <= self._longest else self._step
        return self._now


def open_live(source: str, *, paced: bool) -> Iterator[Any]:
    """Frames of a camera by number, a stream by address, or a file.

    Args:
        source: "0", "rtsp://...", or a path.
        paced: Give a file's frames at its own rate, as a camera would.

    Raises:
        NoSourceError: No camera has this number; or who answers says that there is nothing here, or not for this user.
        DecodeError: It cannot be opened, or breaks off, as a camera or stream also does that ends.
        ConfigError: This PyAV does not know such a source.
    """
    import av

    limit = str(int(FFMPEG_SECONDS * 1e6))
    shown, silent = without_login(source), f"sent no picture for {FFMPEG_SECONDS:g} s"
    name, form, options = source, None, {"rw_timeout": limit}
    timeout: tuple[float, float] | None = (FFMPEG_SECONDS, FFMPEG_SECONDS)
    if is_camera(source):
        name, form, options = _camera(int(source))
    elif source.startswith("rtsp://"):
        options = {"rtsp_flags": "prefer_tcp", "timeout": limit}
    elif "://" not in source:
        name, options, timeout = location(source), {}, None
    heard = time.perf_counter()
    try:
        with av.open(name, format=form, options=options, timeout=timeout) as container:
            stream = video_stream(container, shown)
            begin = time.perf_counter()
            # FFmpeg opens an RTSP stream by its description, and no picture within the time is no error yet.
            if timeout is not None and begin - heard >= FFMPEG_SECONDS and not stream.width:
                raise DecodeError(f"{shown}: {silent}")
            timeline = Timeline(stream.average_rate, longest=STALL_SECONDS)
            paced = paced or container.format.name in _IN_BURSTS
            seen = 0.0
            for frame in frames_of(stream, live=timeout is not None):
                heard = time.perf_counter()
                seen = timeline.at(frame.time)
                if paced:
                    time.sleep(max(0.0, seen - (time.perf_counter() - begin)))
                yield frame
            # What says how long it is, at an address too, has now been seen whole. Some streams say 0, or are taken by
            # FFmpeg to be as long as what it had of them at first.
            if timeout is not None and seen >= (container.duration or 0) / 1e6:
                raise DecodeError(f"{shown}: ended")
    except av.error.ProtocolNotFoundError as error:
        raise ConfigError(f"{shown}: this PyAV knows no such protocol; give rtsp:// or http://") from error
    except (av.FFmpegError, OSError) as error:
        if is_camera(source) and isinstance(error, FileNotFoundError):
            there = ", ".join(sorted(str(p) for p in Path("/dev").glob("video*"))) or "no other camera either"
            raise NoSourceError(f"camera {source}: there is no {name}; there is {there}") from error
        if remedy := _remedy(error):
            raise NoSourceError(f"{shown}: {error.strerror}; {remedy}") from error
        # FFmpeg's words for running out of time: "Immediate exit requested", after which it may still give a frame
        # that it had held back, or "Input/output error".
        late = timeout is not None and (
            isinstance(error, av.error.ExitError) or time.perf_counter() - heard >= FFMPEG_SECONDS
        )
        raise DecodeError(f"{shown}: {silent if late else getattr(error, 'strerror', None) or error}") from error
    except ValueError as error:  # PyAV's, for a format that it was built without
        raise ConfigError(f"{shown}: {error}") from error


def _remedy(error: Exception) -> str | None:
    """What to do about an error that trying again does not mend; None of one that it may."""
    import av

    remedies = {
        av.error.HTTPUnauthorizedError: "check the user and the password, as in rtsp://user:password@camera",
        av.error.HTTPForbiddenError: "check what this user may see",
        av.error.HTTPNotFoundError: "check the path in the address",
        PermissionError: "let this user open it; cameras on Linux are open to the group video",
    }
    return next((remedy for kind, remedy in remedies.items() if isinstance(error, kind)), None)


def without_login(source: str) -> str:
    """An address as messages name it: without the user and the password in it."""
    return re.sub(r"(?<=://)[^/]*@", "", source)


def frames_of(stream: Any, *, live: bool) -> Iterator[Any]:
    """Decoded frames of a video stream of an open ``av`` container; live each as soon as it has come.

    A packet that cannot be decoded is passed over, as a player does: one that was damaged on its way is no lost camera.

    Raises:
        av.FFmpegError: It cannot be read on; or nothing of it can be decoded, live for 8 s.
    """
    import av

    # Threads that each decode another frame hold back as many frames as there are threads.
    stream.thread_type = "SLICE" if live else "AUTO"
    is_raw_camera = "v4l2" in stream.container.format.name and stream.codec_context.name == "rawvideo"
    copy = _Copier() if is_raw_camera else None

    def decode(packet: Any) -> list[Any] | av.FFmpegError:
        # A function, and an error without its traceback, so that nothing of the camera's memory stays in a variable.
        try:
            return [frame if copy is None else copy(frame) for frame in packet.decode()]
        except av.FFmpegError as error:
            return error.with_traceback(None)

    failure: av.FFmpegError | None = None
    seen = False
    heard = time.perf_counter()
    for decoded in map(decode, stream.container.demux(stream)):
        if isinstance(decoded, av.FFmpegError):
            failure = decoded
            if live and time.perf_counter() - heard >= FFMPEG_SECONDS:
                raise failure
        elif decoded:
            seen = True
            yield from decoded
            heard = time.perf_counter()
    if failure is not None and not seen:
        raise failure


class _Copier:
    """Frames that outlive the camera.

    What FFmpeg decodes of a raw camera still lies in the driver's memory, which goes when the camera is closed or
    unplugged: a frame that is looked at, or only let go, after that ends the program with a segmentation fault.
    """

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._scaler = VideoReformatter()

    def __call__(self, frame: Any) -> Any:
        # In another layout, since the same one would be the same memory. From YUYV, most cameras', nothing is lost.
        layout = "gbrp" if frame.format.is_rgb else "yuv444p" if frame.format.name == "yuv422p" else "yuv422p"
        return self._scaler.reformat(frame, format=layout)


def _camera(index: int) -> tuple[str, str, dict[str, str]]:
    if sys.platform == "darwin":
        return str(index), "avfoundation", {"framerate": "30"}
    if sys.platform == "win32":
        raise ConfigError(f"on Windows give the camera's address instead of {index}: an rtsp:// or http:// stream")
    return f"/dev/video{index}", "v4l2", {}
