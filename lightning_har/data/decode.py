"""Frames by index from a video file: uint8 (T, H, W, C)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lightning_har.errors import ConfigError, DecodeError

Frames = NDArray[np.uint8]
Decoder = Literal["pyav", "torchcodec"]


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says of itself, after rotation.

    Attributes:
        num_frames: Frames that can be asked for.
        fps: Mean frames per second; 0.0 where the file does not tell.
        height: In pixels, as displayed.
        width: In pixels, as displayed.
        duration: In seconds.
    """

    num_frames: int
    fps: float
    height: int
    width: int
    duration: float


class FrameSource(Protocol):
    """An open video, of whatever kind: a file, a folder of pictures, stored optical flow."""

    @property
    def info(self) -> VideoInfo:
        """Its size and length."""

    @property
    def frame_size(self) -> tuple[int, int]:
        """(H, W) as displayed; cheaper than ``info``."""

    def read(self, indices: Sequence[int] | NDArray[np.integer], size: tuple[int, int] | None = None) -> Frames:
        """Frames by index, (T, H, W, C), resized to ``size`` = (H, W)."""

    def close(self) -> None:
        """Give back what it holds."""


class PyAVVideo:
    """A video file opened with PyAV. Close it, or use it in a ``with`` statement.

    Args:
        path: The file.
        threads: Of the decoder; 0 takes one per core.

    Raises:
        DecodeError: No such file, or no video in it.
    """

    def __init__(self, path: str | Path, threads: int = 0) -> None:
        import av

        self.path = Path(path)
        try:
            self._container = av.open(str(path))
            self._stream = self._container.streams.video[0]
        except (av.FFmpegError, IndexError, OSError) as error:
            raise DecodeError(f"{path}: {error}") from error
        self._stream.thread_type = "AUTO"
        self._stream.thread_count = threads

    @property
    def frame_size(self) -> tuple[int, int]:
        return self._stream.height, self._stream.width

    @property
    def info(self) -> VideoInfo:
        s = self._stream
        fps = float(s.average_rate or 0)
        n = s.frames or sum(1 for p in self._container.demux(s) if p.size)
        return VideoInfo(n, fps, s.height, s.width, n / fps if fps else 0.0)

    def read(self, indices: Sequence[int] | NDArray[np.integer], size: tuple[int, int] | None = None) -> Frames:
        import av

        wanted = np.asarray(indices)
        h, w = size or (self._stream.height, self._stream.width)
        out = np.empty((len(wanted), h, w, 3), np.uint8)
        missing = set(wanted.tolist())
        try:
            self._container.seek(0)
            for i, frame in enumerate(self._container.decode(self._stream)):
                if i in missing:
                    missing.discard(i)
                    out[wanted == i] = frame.to_ndarray(format="rgb24", width=w, height=h)
                    if not missing:
                        break
        except av.FFmpegError as error:
            raise DecodeError(f"{self.path}: {error}") from error
        if missing:
            raise DecodeError(f"{self.path}: frames {sorted(missing)[:3]} cannot be decoded")
        return out

    def close(self) -> None:
        self._container.close()

    def __enter__(self) -> PyAVVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_video(path: str | Path, decoder: Decoder = "pyav", threads: int = 0) -> FrameSource:
    """Open a video file with the named decoder."""
    if decoder == "pyav":
        return PyAVVideo(path, threads)
    raise ConfigError(f"decoder is {decoder!r}; it must be 'pyav' or 'torchcodec'")


def read_frames(
    path: str | Path,
    indices: Sequence[int] | NDArray[np.integer],
    *,
    size: tuple[int, int] | None = None,
    decoder: Decoder = "pyav",
) -> Frames:
    """Frames of a video file by index, uint8 (T, H, W, C)."""
    source = open_video(path, decoder)
    try:
        return source.read(indices, size)
    finally:
        source.close()


def probe(path: str | Path) -> VideoInfo:
    """Size and length of a video file."""
    with PyAVVideo(path) as video:
        return video.info
