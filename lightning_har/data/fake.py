"""Tiny videos in place of a data set's own: for trying things out, for ``--smoke`` and for tests."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def fake_frames(seed: int, num_frames: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A bright square that drifts over a dim pattern, at a place and speed that the seed decides.

    Args:
        seed: Of the picture; clips of one class may share it in part, they need not.
        num_frames: T.
        size: (H, W) in pixels.

    Returns:
        uint8 (T, H, W, 3).
    """
    rng = np.random.default_rng(seed)
    h, w = size
    ground = np.kron(rng.integers(20, 110, (4, 4, 3)), np.ones((-(-h // 4), -(-w // 4), 1), np.int64))[:h, :w]
    frames = np.broadcast_to(ground.astype(np.uint8), (num_frames, h, w, 3)).copy()
    side = max(min(h, w) // 4, 2)
    y, x = rng.integers(0, h), rng.integers(0, w)
    dy, dx = rng.integers(-3, 4), rng.integers(1, 4)
    colour = rng.integers(150, 256, 3)
    for t in range(num_frames):
        top, left = (y + t * dy) % (h - side + 1), (x + t * dx) % (w - side + 1)
        frames[t, top : top + side, left : left + side] = colour
    return frames


def write_video(path: Path, frames: NDArray[np.uint8], fps: int = 25) -> None:
    """Encode frames, (T, H, W, 3), as MPEG-4 part 2 with a keyframe every 12; the suffix decides the container."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 12
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def write_fake_video(path: Path, seed: int, num_frames: int = 16, size: tuple[int, int] = (48, 64)) -> None:
    """A ``fake_frames`` clip as a video file; one that is there already stays."""
    if not path.exists():
        write_video(path, fake_frames(seed, num_frames, size))


def write_fake_folder(root: Path, classes: tuple[str, ...] = ("clap", "wave"), clips: int = 6) -> None:
    """A folder of clips per class, as ``VideoFolderDataModule`` takes it."""
    for k, name in enumerate(classes):
        for i in range(clips):
            write_fake_video(root / name / f"{name}_{i:02d}.mp4", seed=100 * k + i)
