"""From what was downloaded to what a data module reads: archives unpacked, videos re-encoded for quick seeking."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from fractions import Fraction
from functools import partial
from pathlib import Path

from lightning_har._files import whole_file
from lightning_har.data.archives import unpack, unpack_nested, verify
from lightning_har.data.decode import location, short_side
from lightning_har.data.decode_pyav import PyAVVideo
from lightning_har.data.folder import videos_in
from lightning_har.data.manifest import VIDEO_SUFFIXES
from lightning_har.data.official import Source
from lightning_har.data.parallel import Engine, map_unordered, progress
from lightning_har.errors import DataError, DecodeError

_OWN_FOLDER = {"hmdb51_org.rar": "hmdb51_org"}
"""Archives that hold no folder of their own."""
_NOT_H264 = (".divx", ".mxf", ".ogv", ".webm")
"""Suffixes whose containers take no H.264, or not of every frame rate, or that FFmpeg writes none for."""
_CHUNK = 32


def unpack_source(source: Source, folder: str | Path) -> list[str]:
    """Check and unpack the archives of an official data set that lie in a folder, into that folder.

    Returns:
        Names of the archives that were unpacked.

    Raises:
        DataError: None of them is there, one is damaged, or is not what was published.
    """
    folder = Path(folder)
    present = [a for a in source.archives if (folder / a.name).is_file()]
    if not present:
        names = ", ".join(a.name for a in source.archives) or "none that could be fetched"
        raise source.absent(f"{folder.absolute()} holds no archive of {source.title}: {names}.")
    for archive in present:
        if archive.sha256 is not None:
            verify(folder / archive.name, archive.sha256)
        place = folder / _OWN_FOLDER.get(archive.name, ".")
        unpack(folder / archive.name, place)
        if archive.name in _OWN_FOLDER:
            unpack_nested(place)
    return [a.name for a in present]


def reencode_folder(
    source: str | Path,
    out: str | Path,
    *,
    side: int = 256,
    keyframes: int = 12,
    quality: int = 20,
    workers: int | None = None,
    engine: Engine = "processes",
) -> dict[str, str]:
    """Re-encode every video below a folder to a short side, with keyframes close together; copy the other files.

    Names stay, so that lists of them still fit: a .webm then holds Matroska, which readers tell by the content. What is
    there already is not done again.

    Args:
        source: Folder to read.
        out: Folder to write, of the same structure.
        side: Short side in pixels; smaller videos are not enlarged.
        keyframes: Frames from one to the next: what a seek may have to decode.
        quality: x264's constant rate factor; 18 is nearly lossless, 28 small.
        workers: Processes; None takes one per core.
        engine: "processes" or "ray".

    Returns:
        Videos that could not be read, with the reason.

    Raises:
        DataError: ``out`` is ``source`` or lies within.
    """
    source, out = Path(source).absolute(), Path(out).absolute()
    if out == source or source in out.parents:
        raise DataError(f"{out} lies within {source}; the re-encoded data set needs a folder of its own")
    videos = [v.relative_to(source).as_posix() for v in videos_in(source)]
    _copy_others(source, out)
    todo = [v for v in videos if not (out / v).exists()]
    job = partial(_reencode_one, source, out, side=side, keyframes=keyframes, quality=quality)
    failures = {}
    with progress("re-encoding", len(videos)) as advance:
        advance(len(videos) - len(todo))
        for video, problem in map_unordered(job, todo, workers=workers, engine=engine):
            if problem is not None:
                failures[video] = str(problem)
            advance(1)
    return failures


def reencode(
    source: str | Path, target: str | Path, *, side: int = 256, keyframes: int = 12, quality: int = 20
) -> None:
    """Write a video as H.264 of a constant frame rate, with no sound; it appears whole or not at all.

    Args:
        source: Video to read.
        target: Its suffix decides the container; Matroska, where that suffix's takes no H.264, as .webm.
        side: Short side in pixels, rounded to even; a smaller video is not enlarged.
        keyframes: Frames from one keyframe to the next.
        quality: x264's constant rate factor.

    Raises:
        DecodeError: The source cannot be decoded whole.
    """
    import av

    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)

    def even(h: int, w: int) -> tuple[int, int]:
        h, w = short_side(h, w, side) if min(h, w) > side else (h, w)
        return max(h // 2 * 2, 2), max(w // 2 * 2, 2)

    format = "matroska" if target.suffix.lower() in _NOT_H264 else None
    with (
        whole_file(target) as part,
        PyAVVideo(source, threads=1) as video,
        av.open(location(part), "w", format=format) as container,
    ):
        info = video.info()
        rate = round(info.fps * 1000) if 1 <= info.fps <= 240 else 25_000
        stream = None
        for start in range(0, info.num_frames, _CHUNK):
            for image in video.read(range(start, min(start + _CHUNK, info.num_frames)), even):
                if stream is None:
                    options = {"crf": str(quality), "preset": "medium", "g": str(keyframes), "bf": "0"}
                    stream = container.add_stream("libx264", rate=Fraction(rate, 1000), options=options)
                    stream.height, stream.width = image.shape[:2]
                    stream.pix_fmt = "yuv420p"
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        assert stream is not None
        container.mux(stream.encode(None))


def _reencode_one(source: Path, out: Path, video: str, *, side: int, keyframes: int, quality: int) -> str | None:
    try:
        reencode(source / video, out / video, side=side, keyframes=keyframes, quality=quality)
    except DecodeError as error:
        return str(error)
    return None


def _copy_others(source: Path, out: Path) -> None:
    """Annotations and such; not archives, which would only take room."""
    for file in _others(source):
        target = out / file.relative_to(source)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def _others(source: Path) -> Iterable[Path]:
    for place, folders, files in os.walk(source):
        folders[:] = [f for f in folders if not f.startswith(".")]
        for name in files:
            suffix = Path(name).suffix.lower()
            if suffix not in VIDEO_SUFFIXES and suffix not in {".rar", ".zip", ".tar", ".gz", ".part"}:
                yield Path(place, name)
