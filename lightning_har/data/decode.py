"""Frames by index from a video file: uint8 (T, H, W, C).

A frame's index is its place in presentation order, whatever the order of storage, the frame rate's regularity or
the first timestamp. The decoders are in ``decode_pyav`` and ``decode_torchcodec``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightning_har.errors import ConfigError, DecodeError

Frames: TypeAlias = NDArray[np.uint8]
Indices: TypeAlias = Sequence[int] | NDArray[np.integer[Any]]
Size: TypeAlias = tuple[int, int] | Callable[[int, int], tuple[int, int]] | None
"""(H, W) to resize to; or a function from the video's own H and W, as displayed, to it; None keeps them."""
Decoder: TypeAlias = Literal["pyav", "torchcodec"]


@dataclass(frozen=True)
class Slice:
    """A video within a larger file, uncompressed, as a tar holds it; it is read where it lies.

    Attributes:
        file: The larger file.
        start: First byte of the video.
        size: Its bytes.
        name: Its own, for messages.
    """

    file: Path
    start: int
    size: int
    name: str

    def __str__(self) -> str:
        return f"{self.file}/{self.name}"


VideoPath: TypeAlias = str | Path | Slice
"""A file, or where a video lies in a larger one."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds.

    Attributes:
        num_frames: Frames that can be asked for.
        fps: Mean frames per second; 0.0 where the file does not tell.
        height: In pixels, as displayed: after rotation.
        width: In pixels, as displayed.
        duration: In seconds; 0.0 where the rate is not known.
    """

    num_frames: int
    fps: float
    height: int
    width: int
    duration: float


class FrameSource(Protocol):
    """An open video of whatever kind: a file, a folder of pictures, stored optical flow."""

    @property
    def num_frames(self) -> int:
        """Frames that can be asked for."""

    @property
    def fps(self) -> float:
        """Mean frames per second; 0.0 where not known."""

    def read(self, indices: Indices, size: Size = None) -> Frames:
        """Frames by index, uint8 (T, H, W, C), resized to ``size``."""

    def close(self) -> None:
        """Give back what it holds."""


def read_frames(path: VideoPath, indices: Indices, *, size: Size = None, decoder: Decoder = "pyav") -> Frames:
    """Read frames of a video file.

    Args:
        path: The file, or where it lies in a larger one.
        indices: Places in presentation order, from 0; in any order, with repetitions.
        size: (H, W) to resize to, or a function from the video's own (H, W) to it; None keeps them.
        decoder: "pyav", or "torchcodec" where installed (``pip install 'lightning-har[torchcodec]'``).

    Returns:
        uint8 (T, H, W, 3), RGB, upright where the file has a rotation flag.

    Raises:
        DecodeError: The file is missing, empty, truncated, no video, without frames, or one of these cannot be
            decoded. The message begins with the path.
        ConfigError: torchcodec is not installed, or no such decoder.
    """
    source = open_video(path, decoder)
    try:
        return source.read(indices, size)
    finally:
        source.close()


def probe(path: VideoPath) -> VideoInfo:
    """Length, size and rate of a video file; one frame is decoded.

    Raises:
        DecodeError: As ``read_frames``.
    """
    from lightning_har.data.decode_pyav import PyAVVideo

    with PyAVVideo(path, threads=1) as video:
        return video.info()


def short_side(height: int, width: int, side: int) -> tuple[int, int]:
    """(H, W) with the shorter of the two at ``side`` and the aspect kept."""
    factor = side / min(height, width)
    return max(round(height * factor), side), max(round(width * factor), side)


def open_video(path: VideoPath, decoder: Decoder = "pyav", threads: int = 0) -> FrameSource:
    """Open a video file with a decoder by name. Close what it returns.

    Args:
        path: The file, or where it lies in a larger one.
        decoder: "pyav" or "torchcodec".
        threads: Of the decoder; 0 is one per core.

    Raises:
        DecodeError: The file cannot be opened, or holds no video.
        ConfigError: torchcodec is not installed, or no such decoder.
    """
    if decoder == "pyav":
        from lightning_har.data.decode_pyav import PyAVVideo

        return PyAVVideo(path, threads)
    if decoder == "torchcodec":
        from lightning_har.data.decode_torchcodec import TorchCodecVideo

        return TorchCodecVideo(path, threads)
    raise ConfigError(f"decoder is {decoder!r}; it must be 'pyav' or 'torchcodec'")


def check_file(path: VideoPath) -> int:
    """The size in bytes; a DecodeError for what is missing, a folder, cut off, or empty."""
    file = path.file if isinstance(path, Slice) else path
    try:
        if os.path.isdir(file):
            raise DecodeError(f"{path}: is a folder, not a video file")
        size = os.path.getsize(file)
    except FileNotFoundError as error:
        raise DecodeError(f"{path}: does not exist") from error
    except (OSError, ValueError) as error:
        raise DecodeError(f"{path}: {reason(error)}") from error
    if isinstance(path, Slice):
        if size < path.start + path.size:
            raise DecodeError(f"{path}: lies beyond the end of {file}, which is truncated")
        size = path.size
    if not size:
        raise DecodeError(f"{path}: is empty (zero bytes)")
    return size


def location(path: VideoPath) -> str:
    """What FFmpeg opens."""
    if isinstance(path, Slice):
        return f"subfile,,start,{path.start},end,{path.start + path.size},,:file:{os.path.abspath(path.file)}"
    # Absolute, since FFmpeg takes "cam1-12:30.mp4" for an address.
    return os.path.abspath(path)


def video_stream(container: Any, name: object) -> Any:
    """The first video stream of an open ``av`` container; pictures attached to it, such as a cover, are none.

    Args:
        container: Open for reading.
        name: Of the file, for the message.

    Raises:
        DecodeError: It has no video stream.
    """
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    kinds = ["attached picture" if s.type == "video" else s.type for s in container.streams]
    raise DecodeError(f"{name}: has no video stream, only {', '.join(sorted(set(kinds))) or 'nothing'}")


def reason(error: BaseException) -> str:
    """What went wrong, in one line."""
    return str(getattr(error, "strerror", None) or error).splitlines()[0] if str(error) else type(error).__name__
