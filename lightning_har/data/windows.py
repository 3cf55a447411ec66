"""Long and untrimmed video: windows that slide over a file, and their predictions merged into segments.

A file is read a few windows at a time, and merging keeps a row of scores for each window, none for each frame:
between two edges of windows the mean over windows does not change.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_har.data.sampling import plan
from lightning_har.errors import ConfigError
from lightning_har.spec import InputSpec, Sampling

if TYPE_CHECKING:
    from lightning_har.data.decode import FrameSource
    from lightning_har.types import Batch


class Window(NamedTuple):
    """A stretch of a video, in frames, half open."""

    start: int
    stop: int


class Segment(NamedTuple):
    """A stretch of a video of one class.

    Attributes:
        start: Seconds from the video's beginning.
        stop: Likewise.
        label: Index of the class.
        score: Mean probability of the class over the segment.
    """

    start: float
    stop: float
    label: int
    score: float


def sliding_windows(num_frames: int, fps: float, seconds: float, stride: float | None = None) -> list[Window]:
    """Windows of equal length that cover a video from its first frame to its last.

    Args:
        num_frames: Of the video.
        fps: Its frames per second.
        seconds: Length of a window; a shorter video is one window.
        stride: Seconds from one window to the next; None is half a window. The last window is moved back to end
            with the video.

    Raises:
        ConfigError: No frames, no frame rate, or a length or stride that is not positive; a stride that leaves
            frames between windows.

    Examples:
        >>> sliding_windows(num_frames=70, fps=10, seconds=3, stride=2)
        [Window(start=0, stop=30), Window(start=20, stop=50), Window(start=40, stop=70)]
    """
    stride = seconds / 2 if stride is None else stride
    if num_frames < 1 or not fps > 0:
        raise ConfigError(f"a video of {num_frames} frames at {fps:g} per second has no windows")
    if not seconds > 0 or not 0 < stride <= seconds:
        raise ConfigError(f"a window of {seconds:g} s every {stride:g} s does not cover a video")
    length = min(max(round(seconds * fps), 1), num_frames)
    step = min(max(round(stride * fps), 1), length)
    starts = list(range(0, num_frames - length + 1, step))
    if starts[-1] + length < num_frames:
        starts.append(num_frames - length)
    return [Window(start, start + length) for start in starts]


def window_indices(windows: Sequence[Window], sampling: Sampling) -> NDArray[np.int64]:
    """Frames of each window, as evaluation samples a video of that length.

    Args:
        windows: From ``sliding_windows``.
        sampling: With ``num_frames`` set, and one clip.

    Returns:
        (windows, T) frame indices in the video.

    Raises:
        ConfigError: A sampling that is random or of several clips.
    """
    if sampling.random or sampling.num_clips > 1:
        raise ConfigError(f"a window is sampled once, not at random; got {sampling}")
    return np.stack([window.start + plan(window.stop - window.start, sampling)[0] for window in windows])


def window_batches(
    video: FrameSource, windows: Sequence[Window], spec: InputSpec, sampling: Sampling, batch_size: int = 1
) -> Iterator[Batch]:
    """Clips of the windows of a video, for ``Trainer.predict``.

    Args:
        video: Open until the last batch. The frames of a batch are read in one go, those that its windows share once.
        windows: From ``sliding_windows``.
        spec: What the network takes.
        sampling: How a window is sampled; it may have several crops, but one clip.
        batch_size: Windows of a batch; the frames of so many are in memory.

    Yields:
        Batches as the data modules give them, without labels; ``id`` counts the windows from "0".

    Raises:
        ConfigError: A sampling that is random or of several clips.
        DecodeError: A frame cannot be read.
    """
    import torch

    from lightning_har.data.transforms import Geometry, decode_size, to_clips

    sampling = sampling.with_defaults(spec)
    size = partial(decode_size, spec=spec, sampling=sampling)
    for start in range(0, len(windows), batch_size):
        indices = window_indices(windows[start : start + batch_size], sampling)
        frames = video.read(indices.reshape(-1), size)
        clips = [to_clips(part, 1, spec, sampling, Geometry()) for part in np.split(frames, len(indices))]
        ids = [str(start + i) for i in range(len(indices))]
        yield {"video": torch.stack(clips), "id": ids, "path": [""] * len(ids), "failures": []}


def merge_windows(
    windows: Sequence[Window],
    probabilities: NDArray[np.floating],
    times: NDArray[np.floating],
    *,
    threshold: float = 0.0,
) -> list[Segment]:
    """Predictions of overlapping windows to segments that do not overlap.

    Every frame takes the class of the highest mean probability over its windows; neighbours of one class are one
    segment.

    Args:
        windows: That cover the video, from ``sliding_windows``.
        probabilities: (windows, K).
        times: (frames + 1,) seconds: when each frame is first shown, and when the last one ends.
        threshold: Frames whose highest probability is less belong to no segment.

    Returns:
        In order of time.

    Raises:
        ConfigError: Not one row of probabilities per window, or not a time per frame.
    """
    if probabilities.ndim != 2 or len(probabilities) != len(windows) or not len(windows):
        raise ConfigError(f"{len(windows)} windows need probabilities ({len(windows)}, K), got {probabilities.shape}")
    frames = max(window.stop for window in windows)
    if times.shape != (frames + 1,):
        raise ConfigError(f"windows over {frames} frames need {frames + 1} times, got {times.shape}")
    edges, means = _stretches(windows, probabilities)
    labels = np.where(means.max(1) >= threshold, means.argmax(1), -1)
    seconds, lengths = times[edges], np.diff(edges)
    return [
        Segment(float(seconds[a]), float(seconds[b]), label, float(np.average(means[a:b, label], weights=lengths[a:b])))
        for a, b, label in _runs(labels)
        if label >= 0
    ]


def _stretches(
    windows: Sequence[Window], probabilities: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Frames at which windows start and stop, (S + 1,), and between them the mean over the windows there, (S, K)."""
    edges = np.unique(np.array(windows, np.int64))
    first, last = (np.searchsorted(edges, [window[i] for window in windows]) for i in (0, 1))
    total = np.zeros((len(edges) - 1, probabilities.shape[1]), probabilities.dtype)
    count = np.zeros((len(total), 1), probabilities.dtype)
    for a, b, p in zip(first, last, probabilities, strict=True):
        total[a:b] += p
        count[a:b] += 1
    total /= np.maximum(count, 1)
    return edges, total


def _runs(labels: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    cuts = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    return [(a, b, int(labels[a])) for a, b in itertools.pairwise(cuts)]
