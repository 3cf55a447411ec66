"""The video with its labels written into it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lightning_har.data.decode import location
from lightning_har.edge.runtime import CAPTION, Bundle, upright
from lightning_har.errors import DataError

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

        self._path = path
        try:
            self._container = av.open(location(path), "w")
            self._stream = self._container.add_stream("libx264", rate=25)
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
        self._failed = False
        self._first = 0.0
        self._last = -1
        with np.load(bundle.folder / "captions.npz") as stored:
            self._captions = {name.removeprefix(CAPTION): stored[name] for name in stored.files}

    def write(self, frame: Any, shown: Sequence[tuple[str, float]], when: float) -> None:
        """Add a frame.

        Args:
            frame: An ``av.VideoFrame``.
            shown: Captions of the bundle, each with the share of the width that its bar takes.
            when: In seconds, from any time on, and later than the frame before.
        """
        import av

        image = upright(frame.to_ndarray(format="rgb24"), frame)
        image = np.ascontiguousarray(image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2])
        if self._last < 0:
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
        self._mux(lambda: self._stream.encode(written))

    def close(self) -> None:
        """Finish the file."""
        try:
            if self._last >= 0 and not self._failed:
                self._mux(self._stream.encode)
        finally:
            self._container.close()

    def _mux(self, packets: Callable[[], Any]) -> None:
        """Raises a DataError; after one nothing more is written: FFmpeg crashes where its header has failed before."""
        import av

        try:
            self._container.mux(packets())
        except (av.FFmpegError, OSError, ValueError) as error:
            self._failed = True
            raise DataError(f"cannot write {self._path}: {getattr(error, 'strerror', None) or error}") from error
