"""Long and untrimmed video: windows that slide over a file, and their predictions merged into segments."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_har.data.sampling import plan
from lightning_har.errors import ConfigError
from lightning_har.spec import Sampling


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


def frame_probabilities(windows: Sequence[Window], probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean over the windows that a frame lies in.

    Args:
        windows: That cover the video.
        probabilities: (windows, K).

    Returns:
        (frames, K).
    """
    total = np.zeros((max(w.stop for w in windows), probabilities.shape[1]))
    count = np.zeros((len(total), 1))
    for window, p in zip(windows, probabilities, strict=True):
        total[window.start : window.stop] += p
        count[window.start : window.stop] += 1
    mean: NDArray[np.float64] = total / np.maximum(count, 1)
    return mean


def merge_windows(
    windows: Sequence[Window],
    probabilities: NDArray[np.floating],
    fps: float,
    *,
    threshold: float = 0.0,
    min_seconds: float = 0.0,
) -> list[Segment]:
    """Predictions of overlapping windows to segments that do not overlap.

    Every frame takes the class of the highest mean probability over its windows; neighbours of one class are one
    segment.

    Args:
        windows: That cover the video, from ``sliding_windows``.
        probabilities: (windows, K).
        fps: Frames per second.
        threshold: Frames whose highest probability is less belong to no segment.
        min_seconds: Shorter segments go to the better of their neighbours that touch, as far as there are such.

    Returns:
        In order of time.

    Raises:
        ConfigError: Not one row of probabilities per window.
    """
    if probabilities.ndim != 2 or len(probabilities) != len(windows) or not len(windows):
        raise ConfigError(f"{len(windows)} windows need probabilities ({len(windows)}, K), got {probabilities.shape}")
    frames = frame_probabilities(windows, probabilities)
    labels = np.where(frames.max(1) >= threshold, frames.argmax(1), -1)
    runs = _absorb_short(labels, frames, min_seconds * fps)
    return [
        Segment(start / fps, stop / fps, label, float(frames[start:stop, label].mean()))
        for start, stop, label in runs
        if label >= 0
    ]


def _runs(labels: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    cuts = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist(), len(labels)]
    return [(a, b, int(labels[a])) for a, b in itertools.pairwise(cuts)]


def _absorb_short(labels: NDArray[np.int64], frames: NDArray[np.float64], least: float) -> list[tuple[int, int, int]]:
    labels = labels.copy()
    while True:
        runs = _runs(labels)
        short = [(b - a, i) for i, (a, b, label) in enumerate(runs) if label >= 0 and b - a < least and len(runs) > 1]
        for _, i in sorted(short):
            a, b, _ = runs[i]
            beside = [runs[j][2] for j in (i - 1, i + 1) if 0 <= j < len(runs) and runs[j][2] >= 0]
            if beside:
                labels[a:b] = max(beside, key=lambda label: frames[a:b, label].mean())
                break
        else:
            return runs
