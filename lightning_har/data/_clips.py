"""Which synthetic clips there are, and their encoding to H.264 files. Imports neither torch nor Lightning.

Run as ``python -m lightning_har.data._clips`` it is a worker: it reads the parameters from standard input as
JSON, makes its share of the clips that are missing, and prints one line per clip.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from lightning_har._files import whole_file
from lightning_har.data._motion import ACTIONS
from lightning_har.data._render import UInt8
from lightning_har.data._scene import render_clip
from lightning_har.errors import DataError

DATA_VERSION = 1
"""Counts changes to the rendered data. It is frozen: a change of one pixel needs a new number."""

FPS = 25
SPLITS = ("train", "val", "test")
ACTORS = {"train": range(100), "val": range(100, 120), "test": range(120, 160)}
"""Who appears in which split; nobody in two."""

ENCODER = {"preset": "veryfast", "qp": "20", "g": "12", "bf": "0", "sc_threshold": "0", "threads": "1"}
ENCODER["x264-params"] = "ipratio=1.0:rc-lookahead=0"
"""x264 at a constant quantizer, every kind of frame alike, on one thread: bits that do not depend on the machine's
cores, and a quality that does not depend on where in the clip a frame stands."""


@dataclass(frozen=True)
class Parameters:
    """All that decides the bytes of the data.

    Attributes:
        clips_per_class: Clips of each class in train, val and test.
        size: Height and width in pixels.
        seed: Of everything drawn.
        min_frames: Least length of a clip; lengths are odd.
        max_frames: Greatest length of a clip.
        version: DATA_VERSION.
    """

    clips_per_class: tuple[int, int, int]
    size: int
    seed: int
    min_frames: int = 25
    max_frames: int = 41
    version: int = DATA_VERSION

    def to_json(self) -> str:
        """One line, the same for equal parameters."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Parameters:
        """The inverse of ``to_json``."""
        values = json.loads(text)
        return cls(**{**values, "clips_per_class": tuple(values["clips_per_class"])})


@dataclass(frozen=True)
class Clip:
    """One clip to be made; ``index`` numbers the clips of its split."""

    split: str
    index: int
    action: str
    actor: int
    num_frames: int

    @property
    def id(self) -> str:
        """Unique in the data set."""
        return f"{self.split}-{self.index:05d}-{self.action}"

    @property
    def path(self) -> str:
        """Relative to the data set's root."""
        return f"{self.split}/{self.action}/{self.id}.mp4"


def plan(parameters: Parameters) -> list[Clip]:
    """Every clip. In each split all classes have the same actors and the same lengths, as often."""
    clips = []
    for code, (split, count) in enumerate(zip(SPLITS, parameters.clips_per_class, strict=True)):
        rng = np.random.default_rng((parameters.seed, code))
        lengths = 2 * rng.integers(parameters.min_frames // 2, (parameters.max_frames + 1) // 2, count) + 1
        actors = rng.permutation(ACTORS[split])
        for number in range(count):
            for label, action in enumerate(ACTIONS):
                actor = int(actors[number % len(actors)])
                clips.append(Clip(split, number * len(ACTIONS) + label, action, actor, int(lengths[number])))
    return clips


def render(clip: Clip, parameters: Parameters) -> UInt8:
    """(T, H, W, 3) the frames of a clip, before encoding."""
    rng = np.random.default_rng((parameters.seed, SPLITS.index(clip.split), clip.index))
    return render_clip(clip.action, clip.actor, num_frames=clip.num_frames, size=parameters.size, rng=rng)


def file_size(size: int) -> int:
    """Bytes that a clip's file is filled up to, so that its size says nothing about what it shows.

    How well a clip compresses does depend on its motion. Clips are therefore padded with an ISO 14496-12 'free'
    box, which players skip, to one length, twice what the largest clip of the default set needs. (One that
    needed more would be filled up to the next multiple.)
    """
    return 4096 * -(-(size * 1000) // 4096)


def encode(frames: UInt8, path: Path) -> None:
    """Writes an H.264 mp4; it appears whole or not at all.

    Raises:
        DataError: PyAV was built without x264.
    """
    import av

    if "libx264" not in av.codecs_available:
        raise DataError("PyAV has no libx264 encoder; install a wheel from PyPI: pip install --force-reinstall av")
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames.shape[1:3]
    with whole_file(path) as part:
        with av.open(str(part), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            stream = container.add_stream("libx264", rate=FPS, options=ENCODER)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.time_base = Fraction(1, FPS)
            for image in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")))
            container.mux(stream.encode())
        wanted = file_size(max(height, width))
        padding = -part.stat().st_size % wanted
        if 0 < padding < 8:
            padding += wanted
        if padding:
            with part.open("ab") as file:
                file.write(struct.pack(">I4s", padding, b"free") + bytes(padding - 8))


def make(root: Path, parameters: Parameters, share: tuple[int, int] = (0, 1)) -> Iterator[str]:
    """Makes the missing ones of every ``share[1]``-th clip from ``share[0]`` on, yielding each one's id."""
    for clip in plan(parameters)[share[0] :: share[1]]:
        path = root / clip.path
        if not path.exists():
            encode(render(clip, parameters), path)
        yield clip.id


def main() -> None:
    """The worker."""
    task = json.loads(sys.stdin.read())
    for name in make(Path(task["root"]), Parameters.from_json(task["parameters"]), tuple(task["share"])):
        sys.stdout.write(name + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
