"""Which frames of a video make its clips: integers only.

Segments follow TSN (Wang et al., ECCV 2016, section 3.1): the video is cut into equal parts, from each of which
comes one snippet, at a random place in training and in the middle otherwise. Dense clips are consecutive frames,
``time_stride`` apart, as I3D takes them (Carreira and Zisserman, CVPR 2017, section 2.5).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightning_har.errors import ConfigError
from lightning_har.spec import Sampling


def plan(num_frames: int, sampling: Sampling, rng: np.random.Generator | None = None) -> NDArray[np.int64]:
    """Indices of the frames of each clip.

    - "segments": the places where a snippet can start, 0 to ``num_frames - snippet_length``, are cut into N equal
      parts; a snippet starts at the centre of its part, or with ``random`` at a random place of it. Parts shorter
      than a frame share frames. Clip c of several is shifted by ``(c + 0.5) / num_clips`` of a part.
    - "uniform": T frames evenly spread over ``[0, num_frames - 1]``, ends included; T = 1 takes the middle one.
      Clip c of several is the same, evenly spread over the c-th of ``num_clips`` equal parts of the video.
      With ``random``, each frame is drawn from its own T-th of the part. Of snippets, the starts are spread.
    - "dense": T frames ``time_stride`` apart. One clip lies in the middle (``random``: anywhere); several are
      evenly spread from the beginning to the end.

    Of a video shorter than what is asked of it, "dense" repeats the last frame; the others repeat frames all along it.

    Args:
        num_frames: Of the video, at least 1.
        sampling: With ``num_frames`` set (see ``Sampling.with_defaults``).
        rng: Where random offsets come from; needed if ``sampling.random``.

    Returns:
        (num_clips, T) in ``[0, num_frames)``, not decreasing along T.

    Raises:
        ConfigError: No frames, T unknown or no multiple of the snippet length, or no generator given.

    Examples:
        >>> plan(40, Sampling("segments", num_frames=5)).tolist()
        [[4, 12, 20, 28, 36]]
        >>> plan(40, Sampling("dense", num_frames=4, time_stride=2, num_clips=2)).tolist()
        [[0, 2, 4, 6], [33, 35, 37, 39]]
        >>> plan(3, Sampling("dense", num_frames=6)).tolist()
        [[0, 1, 2, 2, 2, 2]]
    """
    frames, snippet, clips = sampling.num_frames, sampling.snippet_length or 1, sampling.num_clips
    if num_frames < 1:
        raise ConfigError(f"a video of {num_frames} frames cannot be sampled")
    if frames is None:
        raise ConfigError("sampling.num_frames is not set; call sampling.with_defaults(spec) first")
    if sampling.random and rng is None:
        raise ConfigError("random sampling needs a generator: plan(..., rng=numpy.random.default_rng(seed))")
    if sampling.scheme != "dense" and frames % snippet:
        raise ConfigError(f"num_frames = {frames} is no multiple of snippet_length = {snippet}")
    if sampling.scheme == "segments":
        indices = _segments(num_frames, frames, snippet, clips, rng if sampling.random else None)
    elif sampling.scheme == "uniform":
        indices = _uniform(num_frames, frames, snippet, clips, rng if sampling.random else None)
    else:
        indices = _dense(num_frames, frames, sampling.time_stride, clips, rng if sampling.random else None)
    return np.clip(indices, 0, num_frames - 1).astype(np.int64)


def _segments(total: int, frames: int, snippet: int, clips: int, rng: np.random.Generator | None) -> NDArray[np.int64]:
    segments = frames // snippet
    places = max(total - snippet + 1, 1)
    if rng is not None:
        offset = rng.random((clips, segments))
    else:
        offset = np.broadcast_to((np.arange(clips)[:, None] + 0.5) / clips, (clips, segments))
    starts = ((np.arange(segments) + offset) * places / segments).astype(np.int64)
    indices: NDArray[np.int64] = (starts[:, :, None] + np.arange(snippet)).reshape(clips, frames)
    return indices


def _uniform(total: int, frames: int, snippet: int, clips: int, rng: np.random.Generator | None) -> NDArray[np.int64]:
    count = frames // snippet
    places = max(total - snippet + 1, 1)
    if rng is not None:
        parts = np.arange(clips)[:, None] * count + np.arange(count)
        starts = (parts + rng.random((clips, count))) * places / (clips * count)
    else:
        first = np.arange(clips) * places // clips
        last = np.maximum((np.arange(clips) + 1) * places // clips - 1, first)
        spread = np.arange(count) / (count - 1) if count > 1 else np.array([0.5])
        # Half goes up, as people round; numpy's rint goes to even.
        starts = first[:, None] + spread * (last - first)[:, None] + 0.5
    indices: NDArray[np.int64] = (starts.astype(np.int64)[:, :, None] + np.arange(snippet)).reshape(clips, frames)
    return indices


def _dense(total: int, frames: int, stride: int, clips: int, rng: np.random.Generator | None) -> NDArray[np.int64]:
    room = max(total - ((frames - 1) * stride + 1), 0)
    if rng is not None:
        starts = rng.integers(0, room + 1, clips)
    elif clips == 1:
        starts = np.array([room // 2])
    else:
        starts = np.arange(clips) * room // (clips - 1)
    indices: NDArray[np.int64] = starts[:, None] + np.arange(frames) * stride
    return indices
