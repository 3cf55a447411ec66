"""PyAV behind the decoders' interface: seeks by timestamp, decodes what is needed, converts what was asked for.

Timestamps of all frames are read without decoding (from an MP4's own index, else from the packets); then only what is
needed is decoded, from the keyframe before it on, and only what was asked for is converted, in one pass that resizes
too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_har.data.decode import (
    Frames,
    Indices,
    Size,
    VideoInfo,
    VideoPath,
    check_file,
    location,
    reason,
    video_stream,
)
from lightning_har.errors import DecodeError

# Seeking flushes the decoder's pipeline, which costs about as much as decoding this many frames.
_SEEK_COST = 8
# Where a frame that no other refers to may be left out by the decoder without changing any other.
_SKIPS_FRAMES = frozenset({"h264", "mpeg4", "mpeg2video", "mpeg1video"})
# Formats whose timestamps are the same after seeking; an MPEG program stream's are extrapolated.
_SEEKABLE = frozenset({"mp4", "matroska", "avi", "mpegts"})
# Formats in which seeking finds the very first frame; in others the file is opened again.
_REWINDABLE = frozenset({"mp4", "avi"})
# Their packets may hold frames that are never shown.
_HIDES_FRAMES = frozenset({"vp8", "libvpx"})


@dataclass(frozen=True)
class _Table:
    """Timestamps in presentation order, and where decoding can begin."""

    pts: NDArray[np.int64]
    key_ranks: NDArray[np.int64]
    """Frames of ``pts`` before each keyframe, increasing."""
    key_seeks: NDArray[np.int64]
    """Timestamp to seek to for each keyframe."""
    is_guess: bool
    """Taken from the file's index on the assumption of a constant rate; reading verifies it."""


class PyAVVideo:
    """A video file opened with PyAV. Close it, or use it in a ``with`` statement.

    Args:
        path: The file, or where it lies in a larger one.
        threads: Of the decoder; 0 is one per core.

    Raises:
        DecodeError: The file cannot be opened, or holds no video.
    """

    def __init__(self, path: VideoPath, threads: int = 0) -> None:
        import av

        self.path = path
        self._size = check_file(path)
        try:
            self._container = av.open(location(path), metadata_errors="ignore")
        except (av.FFmpegError, OSError, ValueError) as error:
            raise DecodeError(f"{path}: is no video that can be read: {reason(error)}") from error
        try:
            self._stream = video_stream(self._container, path)
            if self._stream.codec_context is None:
                raise DecodeError(f"{path}: is of a codec that this PyAV does not decode")
            self._codec = self._stream.codec_context.name
            self._stream.thread_type = "AUTO"
            self._stream.thread_count = threads or min(os.cpu_count() or 1, 16)
        except BaseException:
            self._container.close()
            raise
        self._table: _Table | None = None
        self._unstamped: int | None = None
        self._is_fresh = True
        self._last_error = ""

    def __enter__(self) -> PyAVVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    @property
    def num_frames(self) -> int:
        """Frames that can be asked for."""
        table = self._timestamps()
        return len(table.pts) if table is not None else self._unstamped or 0

    @property
    def fps(self) -> float:
        """Mean frames per second; 0.0 where the file does not tell."""
        return float(self._stream.average_rate or self._stream.guessed_rate or 0)

    def times(self) -> NDArray[np.float64]:
        """(frames + 1,) seconds from the first frame on: when each is shown, and when the last one ends.

        Raises:
            DecodeError: The file has no frames, tells neither timestamps nor a frame rate, or is truncated.
        """
        if not self.num_frames:
            raise DecodeError(f"{self.path}: has no frames")
        table = self._timestamps()
        if not self.fps:
            raise DecodeError(f"{self.path}: does not tell its frame rate")
        if table is None:
            return np.arange(self.num_frames + 1) / self.fps
        seconds = (table.pts - table.pts[0]) * float(self._stream.time_base)
        return np.append(seconds, seconds[-1] + 1 / self.fps)

    def info(self) -> VideoInfo:
        """Length, size and rate; the first frame is decoded.

        Raises:
            DecodeError: The file is truncated, or its first frame cannot be decoded.
        """
        count = self.num_frames
        height, width = self.read([0]).shape[1:3]
        return VideoInfo(count, self.fps, height, width, count / self.fps if self.fps else 0.0)

    def read(self, indices: Indices, size: Size = None) -> Frames:
        """Frames by index, uint8 (T, H, W, 3); see ``read_frames``.

        Raises:
            DecodeError: A frame is not there or cannot be decoded, or the file is truncated.
        """
        wanted = np.asarray(indices, np.int64)
        count = self.num_frames
        if not count:
            raise DecodeError(f"{self.path}: has no frames")
        if not wanted.size or wanted.min() < 0 or wanted.max() >= count:
            asked = f"{wanted.min()} to {wanted.max()}" if wanted.size else "none"
            raise DecodeError(f"{self.path}: frames {asked} were asked for; it has {count}, from 0")
        ranks, places = np.unique(wanted, return_inverse=True)
        try:
            frames = self._read_sorted(ranks, size)
        except _GuessError:
            self._table = self._from_packets()
            return self.read(indices, size)
        return frames if len(ranks) == len(wanted) and np.all(ranks == wanted) else frames[places]

    def _read_sorted(self, ranks: NDArray[np.int64], size: Size) -> Frames:
        from av.video.reformatter import Interpolation, VideoReformatter

        scaler = VideoReformatter()  # one, so that FFmpeg keeps its tables from frame to frame
        out: Frames | None = None
        for done, frame in enumerate(self._decoded(ranks)):
            turns = round(frame.rotation / 90) % 4
            if out is None:
                shown = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)
                target = size(*shown) if callable(size) else size or shown
                out = np.empty((len(ranks), *target, 3), np.uint8)
            h, w = (target[1], target[0]) if turns % 2 else target
            rgb = scaler.reformat(
                frame, width=w, height=h, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1
            )
            plane = rgb.planes[0]
            pixels = np.frombuffer(memoryview(plane), np.uint8).reshape(h, plane.line_size)[:, : w * 3].reshape(h, w, 3)
            out[done] = np.rot90(pixels, turns) if turns else pixels
        assert out is not None
        return out

    def _decoded(self, ranks: NDArray[np.int64]) -> Iterator[Any]:
        """The frames of sorted ranks, each once."""
        table = self._timestamps()
        if table is None:
            wanted = set(ranks.tolist())
            self._seek(None)
            for i, frame in enumerate(self._frames(None)):
                if i in wanted:
                    yield frame
                    wanted.discard(i)
                    if not wanted:
                        return
            raise self._missing(min(wanted))
        todo = table.pts[ranks]
        needed = set(todo.tolist())
        i = back = 0
        while i < len(todo):
            key = self._keyframe(table, ranks[i]) - back
            self._seek(table.key_seeks[key] if key > 0 else None)
            # Seeking may land too late, and what comes out before a keyframe lacks the frames it refers to.
            is_sound = key <= 0
            passed: int | None = None
            for frame in self._frames(needed):
                is_sound = is_sound or frame.key_frame
                if frame.pts is None or not is_sound:
                    continue
                if frame.pts > todo[i] and passed is None and key > 0:
                    break
                if frame.pts > todo[i]:
                    raise _GuessError if table.is_guess else self._missing(ranks[i])
                passed = frame.pts
                if frame.pts < todo[i]:
                    continue
                yield frame
                i, back = i + 1, 0
                if i == len(todo):
                    return
                if table.key_ranks[self._keyframe(table, ranks[i])] > ranks[i - 1] + _SEEK_COST:
                    break
            else:
                if passed is not None or key <= 0:
                    raise _GuessError if table.is_guess else self._missing(ranks[i])
            if passed is None:
                back = 2 * back + 1

    @staticmethod
    def _keyframe(table: _Table, rank: int) -> int:
        return max(int(np.searchsorted(table.key_ranks, rank, side="right")) - 1, 0)

    def _missing(self, rank: int) -> DecodeError:
        why = f": {self._last_error}" if self._last_error else ""
        return DecodeError(f"{self.path}: frame {rank} cannot be decoded, the file is damaged or truncated{why}")

    def _frames(self, needed: set[int] | None) -> Iterator[Any]:
        """Frames from here on; what FFmpeg cannot decode is passed over and remembered.

        Args:
            needed: Timestamps; frames that no other needs may be left out if they are not among them.
        """
        import av

        context = self._stream.codec_context
        may_skip = needed is not None and self._codec in _SKIPS_FRAMES
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError) as error:
                self._last_error = reason(error)
                return
            if may_skip:
                assert needed is not None
                is_needed = packet.pts is None or packet.pts in needed
                context.skip_frame = "DEFAULT" if is_needed else "NONREF"
            try:
                yield from packet.decode()
            except (av.FFmpegError, OSError) as error:
                self._last_error = reason(error)
                if not packet.size:
                    return

    def _seek(self, timestamp: int | None) -> None:
        """To a keyframe's timestamp; None is the beginning."""
        import av

        was_fresh, self._is_fresh = self._is_fresh, False
        if was_fresh and timestamp is None:
            return
        if timestamp is None and not self._is_of(_REWINDABLE):
            self._reopen()
            return
        start = -(2**62) if timestamp is None else int(timestamp)
        try:
            self._container.seek(start, stream=self._stream, backward=True)
        except (av.FFmpegError, OSError):
            self._reopen()

    def _is_of(self, formats: frozenset[str]) -> bool:
        return bool(formats & set(self._container.format.name.split(",")))

    def _reopen(self) -> None:
        import av

        index, threads = self._stream.index, self._stream.thread_count
        self._container.close()
        self._container = av.open(location(self.path), metadata_errors="ignore")
        self._stream = self._container.streams[index]
        self._stream.thread_type, self._stream.thread_count = "AUTO", threads

    def _timestamps(self) -> _Table | None:
        if self._table is None and self._unstamped is None:
            table = self._from_index() or self._from_packets()
            self._table = table
        return self._table

    def _from_index(self) -> _Table | None:
        """From an MP4's index, without reading the file: of a constant rate, sorted, where pts follow dts."""
        stream = self._stream
        if "mp4" not in self._container.format.name or not stream.frames or stream.start_time is None:
            return None
        entries = [(e.timestamp, e.is_keyframe, e.is_discard, e.pos + e.size) for e in stream.index_entries]
        if not entries:
            return None
        lost = sum(end > self._size for *_, end in entries)
        if lost:
            raise DecodeError(f"{self.path}: is truncated: {lost} of its {len(entries)} frames lie beyond its end")
        shown = np.array([e[0] for e in entries if not e[2]], np.int64)
        steps = np.diff(shown)
        if len(entries) != stream.frames or not len(shown) or (len(steps) and (steps != steps[0]).any()):
            return None
        keys = [(e[0], i) for i, e in enumerate(entries) if e[1]]
        before = np.cumsum([0] + [not e[2] for e in entries])
        return _Table(
            pts=shown - shown[0] + stream.start_time,
            key_ranks=np.array([before[i] for _, i in keys], np.int64),
            key_seeks=np.array([dts for dts, _ in keys], np.int64),
            is_guess=True,
        )

    def _from_packets(self) -> _Table | None:
        """From all packets, which are read but not decoded; None where they carry no timestamps."""
        import av

        self._seek(None)
        packets: list[tuple[int | None, int | None, bool, bool]] = []
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    packets.append((packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
        except (av.FFmpegError, OSError) as error:
            self._last_error = reason(error)
        # A file that was cut may begin with frames that refer to lost ones; decoders leave these out.
        first = next((i for i, p in enumerate(packets) if p[2]), 0)
        pts = [p[0] for p in packets[first:]]
        if not packets or self._codec in _HIDES_FRAMES or None in pts or len(set(pts)) < len(pts):
            self._unstamped = self._count()
            return None
        start = pts[0] or 0
        shown = sorted(p[0] for p in packets[first:] if not p[3] and p[0] is not None and p[0] >= start)
        keys = [(p, p if d is None else min(p, d)) for p, d, is_key, _ in packets if is_key and p is not None]
        if not self._is_of(_SEEKABLE):
            keys = [(start, start)]
        return _Table(
            pts=np.array(shown, np.int64),
            key_ranks=np.searchsorted(shown, np.sort([p for p, _ in keys])),
            key_seeks=np.array([seek for _, seek in sorted(keys)], np.int64),
            is_guess=False,
        )

    def _count(self) -> int:
        self._seek(None)
        return sum(1 for _ in self._frames(None))


class _GuessError(Exception):
    """The file's index did not give the frames' timestamps."""
