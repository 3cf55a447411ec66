"""Frame folders: a picture file per frame, as EPIC-KITCHENS and the two-stream papers hand them out."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_har.data.decode import Frames, Indices, Size
from lightning_har.errors import DecodeError
from lightning_har.spec import Modality

_NUMBERED = re.compile(r"(.*?)(\d+)\.(?:jpe?g|png|bmp|webp)", re.IGNORECASE | re.ASCII)
_PAIRS = (("flow_x_", "flow_y_"), ("x_", "y_"))
_PAIR_FOLDERS = (("u", "v"), ("x", "y"), ("flow_x", "flow_y"))


class FrameFolder:
    """A folder of numbered pictures, read like a video.

    RGB: ``img_00001.jpg``, ``frame_0000000001.jpg``, ``00001.png`` or any other name before the number. Flow, in
    grey pictures whose 127.5 is zero: ``x_00001.jpg`` and ``y_00001.jpg``, ``flow_x_…`` and ``flow_y_…``, or such
    pictures in two folders ``u`` and ``v``. Frame 0 is the lowest number. Flow from n frames has n - 1 pictures;
    its last is given for the n-th frame too, so that both modalities have the same length.

    Args:
        path: The folder.
        modality: "rgb" (C = 3) or "flow" (C = 2).

    Raises:
        DecodeError: No folder, no such pictures, a gap in their numbers, or x and y that do not pair.
    """

    fps = 0.0

    def __init__(self, path: str | Path, modality: Modality = "rgb") -> None:
        self.path = Path(path)
        self.modality = modality
        try:
            channels = [_rgb(self.path)] if modality == "rgb" else _flow(self.path)
        except OSError as error:
            raise DecodeError(f"{path}: {error.strerror or error}") from error
        for files in channels:
            _check_numbers(self.path, sorted(files))
        if len(channels) == 2 and channels[0].keys() != channels[1].keys():
            odd = min(channels[0].keys() ^ channels[1].keys())
            raise DecodeError(f"{path}: flow picture {odd} has only one of x and y")
        self._channels = [[files[n] for n in sorted(files)] for files in channels]

    @property
    def num_frames(self) -> int:
        """Frames that can be asked for."""
        return len(self._channels[0]) + (self.modality == "flow")

    def read(self, indices: Indices, size: Size = None) -> Frames:
        """Frames by index, uint8 (T, H, W, 3), or (T, H, W, 2) of flow.

        Raises:
            DecodeError: A frame is not there, or its picture cannot be read.
        """
        wanted = np.asarray(indices, np.int64)
        if not wanted.size or wanted.min() < 0 or wanted.max() >= self.num_frames:
            asked = f"{wanted.min()} to {wanted.max()}" if wanted.size else "none"
            raise DecodeError(f"{self.path}: frames {asked} were asked for; it has {self.num_frames}, from 0")
        ranks, places = np.unique(np.minimum(wanted, len(self._channels[0]) - 1), return_inverse=True)
        mode = "RGB" if self.modality == "rgb" else "L"
        out: Frames | None = None
        target: tuple[int, int] | None = size if isinstance(size, tuple) else None
        for i, rank in enumerate(ranks):
            for c, files in enumerate(self._channels):
                pixels, shown = _picture(files[rank], mode, target, size)
                target = pixels.shape[:2] if size is not None else target
                if out is None:
                    out = np.empty((len(ranks), *pixels.shape[:2], 3 if mode == "RGB" else 2), np.uint8)
                if pixels.shape[:2] != out.shape[1:3]:
                    raise DecodeError(f"{files[rank]}: is {shown[1]}×{shown[0]} pixels, unlike the first of its folder")
                if mode == "RGB":
                    out[i] = pixels
                else:
                    out[i, ..., c] = pixels
        assert out is not None
        return out[places]

    def close(self) -> None:
        """Nothing is held."""


def _picture(path: Path, mode: str, target: tuple[int, int] | None, size: Size) -> tuple[NDArray[Any], tuple[int, int]]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            shown = image.size
            if target is None and size is not None:
                target = size(shown[1], shown[0]) if callable(size) else size
            if target is not None and image.format == "JPEG":
                image.draft(mode, (target[1], target[0]))  # decodes at a half or a quarter where that suffices
            converted = image.convert(mode)
            if target is not None and converted.size != (target[1], target[0]):
                converted = converted.resize((target[1], target[0]), Image.Resampling.BILINEAR)
            return np.asarray(converted), shown
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DecodeError(f"{path}: is no picture that can be read: {error}") from error


def _numbered(folder: Path) -> dict[str, dict[int, Path]]:
    """Picture files by what stands before their number."""
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for file in sorted(folder.iterdir()):
        match = _NUMBERED.fullmatch(file.name)
        if match and len(match[2]) < 18:
            found[match[1]][int(match[2])] = file
    return found


def _rgb(folder: Path) -> dict[int, Path]:
    flow = {name for pair in _PAIRS for name in pair}
    found = {prefix: files for prefix, files in _numbered(folder).items() if prefix not in flow}
    if not found:
        raise DecodeError(f"{folder}: has no numbered pictures such as img_00001.jpg")
    if len(found) > 1:
        raise DecodeError(f"{folder}: has several series of pictures: {', '.join(sorted(found))}; leave one")
    return next(iter(found.values()))


def _flow(folder: Path) -> list[dict[int, Path]]:
    found = _numbered(folder)
    for x, y in _PAIRS:
        if x in found and y in found:
            return [found[x], found[y]]
    for x, y in _PAIR_FOLDERS:
        if (folder / x).is_dir() and (folder / y).is_dir():
            pair = [[*_numbered(folder / name).values()] for name in (x, y)]
            if all(len(series) == 1 for series in pair):
                return [series[0] for series in pair]
    raise DecodeError(f"{folder}: has no flow pictures, neither x_00001.jpg and y_00001.jpg nor folders u and v")


def _check_numbers(folder: Path, numbers: list[int]) -> None:
    for before, after in pairwise(numbers):
        if after != before + 1:
            raise DecodeError(f"{folder}: its pictures go from number {before} to {after}; frames are missing")
