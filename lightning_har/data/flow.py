"""Optical flow: computed once per clip, bounded, quantized to 8 bits, and stored in a small lossless video.

A stored clip is a Matroska file of FFV1 pictures, x above y, each losslessly one byte per pixel; its comment holds
the bound, the method and the number of frames. Code c of a pixel is the displacement c / 255 × 2·bound - bound, in
pixels of the stored size, from this frame to the next; displacements beyond the bound are clipped to it, as in
Simonyan and Zisserman (NIPS 2014, section 5). Resizing pictures of flow does not rescale the displacements.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_har._files import whole_file
from lightning_har.data._flow_methods import Flow, Method, compute_flow, stepper
from lightning_har.data.decode import Frames, FrameSource, Indices, Size, location, open_video, short_side
from lightning_har.data.frames import FrameFolder
from lightning_har.data.manifest import Manifest, Record
from lightning_har.data.parallel import Engine, map_unordered, progress
from lightning_har.errors import ConfigError, DecodeError

__all__ = [
    "FlowInfo",
    "FlowVideo",
    "Method",
    "cache_flow",
    "compute_flow",
    "dequantize",
    "flow_file",
    "flow_picture",
    "open_flow",
    "quantize",
    "read_flow",
    "write_flow",
]

SUFFIX = ".flow.mkv"

_CHUNK = 32


class FlowInfo(NamedTuple):
    """What a stored clip says of itself.

    Attributes:
        num_frames: Of the video that it was computed from.
        bound: Largest displacement, in pixels.
        method: How it was computed.
    """

    num_frames: int
    bound: float
    method: str


# -- storing -----------------------------------------------------------------------------------------------


def quantize(flow: Flow, bound: float) -> Frames:
    """Displacements to codes: -bound is 0, bound is 255, what lies beyond is clipped."""
    codes: Frames = np.rint((flow + bound) * (255 / (2 * bound))).clip(0, 255).astype(np.uint8)
    return codes


def dequantize(codes: Frames, bound: float) -> Flow:
    """The inverse of ``quantize``, up to bound / 255."""
    flow: Flow = codes.astype(np.float32) * np.float32(2 * bound / 255) - np.float32(bound)
    return flow


def write_flow(path: str | Path, codes: Iterator[Frames], num_frames: int, bound: float, method: str) -> None:
    """Store quantized flow; the file appears whole or not at all.

    Args:
        path: Should end in ``.flow.mkv``.
        codes: Pieces of uint8 (t, H, W, 2), num_frames - 1 in all (1, of zero flow, for a single frame).
        num_frames: Of the video.
        bound: In pixels.
        method: Noted in the file.
    """
    import av

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part, av.open(location(part), "w", format="matroska") as container:
        container.metadata["comment"] = json.dumps({"frames": num_frames, "bound": bound, "method": method})
        stream: Any = None
        for piece in codes:
            for code in piece:
                picture = np.concatenate([code[..., 0], code[..., 1]])
                if stream is None:
                    stream = container.add_stream("ffv1", rate=25, options={"level": "3", "slices": "4", "g": "1"})
                    stream.height, stream.width = picture.shape
                    stream.pix_fmt = "gray"
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        container.mux(stream.encode(None))


class FlowVideo:
    """Stored flow, read like a video of 2 channels and as many frames as the video it came from.

    The last frame has no next: it gets the displacement of the one before.

    Args:
        path: What ``write_flow`` wrote.

    Raises:
        DecodeError: It cannot be opened, or is no such file.
    """

    fps = 0.0

    def __init__(self, path: str | Path) -> None:
        import av

        self.path = path
        if not Path(path).is_file():
            raise DecodeError(f"{path}: does not exist; compute it with: lightning-har data flow")
        try:
            self._container = av.open(location(path))
        except (av.FFmpegError, OSError, ValueError) as error:
            raise DecodeError(f"{path}: is no stored flow: {error}") from error
        try:
            comment = {k.lower(): v for k, v in self._container.metadata.items()}["comment"]
            noted = json.loads(comment)
            self.info = FlowInfo(int(noted["frames"]), float(noted["bound"]), str(noted["method"]))
            self._stream = self._container.streams.video[0]
            rate, base = self._stream.average_rate, self._stream.time_base
            self._step = 1 / (float(rate) * float(base))  # of time stamps, from one picture to the next
        except (KeyError, ValueError, TypeError, IndexError, ZeroDivisionError, OverflowError) as error:
            self._container.close()
            raise DecodeError(f"{path}: is no stored flow: it does not tell its bound, or not its rate") from error

    @property
    def num_frames(self) -> int:
        """Frames that can be asked for."""
        return self.info.num_frames

    def read(self, indices: Indices, size: Size = None) -> Frames:
        """Codes by index, uint8 (T, H, W, 2).

        Raises:
            DecodeError: A frame is not there, or the file is damaged.
        """
        import av

        wanted = np.asarray(indices, np.int64)
        if not wanted.size or wanted.min() < 0 or wanted.max() >= self.num_frames:
            asked = f"{wanted.min()} to {wanted.max()}" if wanted.size else "none"
            raise DecodeError(f"{self.path}: frames {asked} were asked for; it has {self.num_frames}, from 0")
        ranks, places = np.unique(np.minimum(wanted, max(self.num_frames - 2, 0)), return_inverse=True)
        try:
            found = [_two_channels(picture, size) for picture in self._pictures(ranks.tolist())]
        except (av.FFmpegError, OSError) as error:
            raise DecodeError(f"{self.path}: is damaged: {error}") from error
        if len(found) < len(ranks):
            raise DecodeError(f"{self.path}: is damaged or truncated: picture {ranks[len(found)]} is missing")
        return np.stack(found)[places]

    def _pictures(self, ranks: list[int]) -> Iterator[NDArray[np.uint8]]:
        """Pictures of sorted ranks; every one is a keyframe, so a seek needs no decoding."""
        position = -9
        frames: Any = iter(())
        for rank in ranks:
            if not position <= rank <= position + 4:
                self._container.seek(round(rank * self._step), stream=self._stream)
                frames = self._container.decode(self._stream)
            for frame in frames:
                if frame.pts is None:
                    return
                position = round(frame.pts / self._step)
                if position >= rank:
                    if position > rank:
                        return
                    yield frame.to_ndarray(format="gray")
                    break
            else:
                return
            position += 1

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def _two_channels(picture: NDArray[np.uint8], size: Size) -> Frames:
    h, w = picture.shape[0] // 2, picture.shape[1]
    codes = np.stack([picture[:h], picture[h:]], axis=-1)
    target = size(h, w) if callable(size) else size
    if target is None or target == (h, w):
        return codes
    from PIL import Image

    channels = [
        Image.fromarray(codes[..., c]).resize((target[1], target[0]), Image.Resampling.BILINEAR) for c in (0, 1)
    ]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1)


def read_flow(path: str | Path, indices: Indices, size: Size = None) -> Frames:
    """Stored flow of some frames.

    Args:
        path: What ``write_flow`` wrote, or a folder of flow pictures (``FrameFolder``).
        indices: Frames of the video, from 0.
        size: (H, W) to resize to, or a function from the stored (H, W) to it; None keeps them.

    Returns:
        uint8 codes (T, H, W, 2), x and y.

    Raises:
        DecodeError: The file is missing, damaged, or has no such frame.
    """
    source = open_flow(path)
    try:
        return source.read(indices, size)
    finally:
        source.close()


def open_flow(path: str | Path) -> FrameSource:
    """Stored flow of either kind, opened."""
    return FrameFolder(path, "flow") if Path(path).is_dir() else FlowVideo(path)


def flow_file(flow_root: str | Path, record: Record) -> Path:
    """Where the flow of a record's file lies below the root of stored flow."""
    return Path(flow_root) / f"{record.path}{SUFFIX}"


# -- a whole data set --------------------------------------------------------------------------------------


def cache_flow(
    manifest: Manifest,
    flow_root: str | Path,
    *,
    method: Method = "dis",
    bound: float = 20.0,
    side: int = 256,
    workers: int | None = None,
    engine: Engine = "processes",
    device: str = "cpu",
) -> dict[str, str]:
    """Compute and store the flow of every file of a manifest; what is stored already stays.

    Args:
        manifest: Its files, each once, whatever its records cut from them.
        flow_root: Folder of the stored flow: ``flow_root/<path>.flow.mkv``.
        method: See ``compute_flow``.
        bound: Largest displacement kept, in pixels.
        side: Short side that frames are resized to before; smaller videos are not enlarged.
        workers: Processes; None takes one per core ("raft": works in this process).
        engine: "processes" or "ray".
        device: For "raft".

    Returns:
        Paths that could not be done, with the reason.

    Raises:
        ConfigError: Unknown method, what it needs is not installed, or a bound or side that is not positive.
    """
    if bound <= 0 or side <= 0:
        raise ConfigError(f"bound is {bound} and side {side}; both are pixels, and more than 0")
    if method != "raft":
        stepper(method)
    elif workers is None:
        workers = 0
    records = list({r.path: r for r in manifest}.values())
    todo = [r for r in records if not flow_file(flow_root, r).exists()]
    work = [(str(manifest.file(r).absolute()), str(flow_file(flow_root, r).absolute())) for r in todo]
    gpus = int(method == "raft" and device.startswith("cuda"))
    paths = {video: r.path for (video, _), r in zip(work, todo, strict=True)}
    failures = {}
    job = partial(_cache_one, method=method, bound=bound, side=side, device=device)
    with progress(f"flow ({method})", len(records)) as advance:
        advance(len(records) - len(todo))
        for (video, _), problem in map_unordered(job, work, workers=workers, engine=engine, gpus=gpus):
            if problem is not None:
                failures[paths[video]] = str(problem)
            advance(1)
    return failures


def _cache_one(files: tuple[str, str], *, method: Method, bound: float, side: int, device: str) -> str | None:
    """Why it failed; None where it did not."""
    video, target = files
    source: FrameSource | None = None
    try:
        source = FrameFolder(video) if os.path.isdir(video) else open_video(video, threads=1)
        count = source.num_frames
        if not count:
            raise DecodeError(f"{video}: has no frames")
        write_flow(target, _pieces(source, count, method, bound, side, device), count, bound, method)
    except DecodeError as error:
        return str(error)
    finally:
        if source is not None:
            source.close()
    return None


def _pieces(source: FrameSource, count: int, method: Method, bound: float, side: int, device: str) -> Iterator[Frames]:
    def shrink(h: int, w: int) -> tuple[int, int]:
        return short_side(h, w, side) if min(h, w) > side else (h, w)

    if count == 1:
        shape = source.read([0], shrink).shape
        yield quantize(np.zeros((1, *shape[1:3], 2), np.float32), bound)
    for start in range(0, count - 1, _CHUNK):
        frames = source.read(np.arange(start, min(start + _CHUNK + 1, count)), shrink)
        yield quantize(compute_flow(frames, method, device), bound)


# -- a picture of it ---------------------------------------------------------------------------------------


def flow_picture(flow: NDArray[Any]) -> Frames:
    """The colour wheel of Baker et al. (IJCV 2011): direction is hue, white is rest, full colour is the largest.

    Args:
        flow: (..., H, W, 2) in pixels; see ``dequantize`` for codes.

    Returns:
        RGB, uint8 (..., H, W, 3).
    """
    wheel = _colour_wheel()
    x, y = flow[..., 0].astype(np.float64), flow[..., 1].astype(np.float64)
    length = np.hypot(x, y)
    share = np.minimum(length / (length.max() or 1.0), 1.0)[..., None]
    place = (np.arctan2(-y, -x) / np.pi + 1) / 2 * (len(wheel) - 1)
    low = place.astype(np.int64)
    part = (place - low)[..., None]
    colour = wheel[low] * (1 - part) + wheel[(low + 1) % len(wheel)] * part
    picture: Frames = np.rint(255 * (1 - share * (1 - colour))).astype(np.uint8)
    return picture


def _colour_wheel() -> NDArray[np.float64]:
    """(55, 3): the hues red, yellow, green, cyan, blue, magenta, spaced as the eye tells them apart."""
    corners = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], np.float64)
    steps = (15, 6, 4, 11, 13, 6)
    parts = [corners[i] + (corners[i + 1] - corners[i]) * np.arange(n)[:, None] / n for i, n in enumerate(steps)]
    return np.concatenate(parts)
