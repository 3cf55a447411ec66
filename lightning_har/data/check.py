"""Every file of a data set decoded from beginning to end, before training does: corrupt, short or odd."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from lightning_har._files import whole_file
from lightning_har.data.decode import location, video_stream
from lightning_har.data.decode_pyav import PyAVVideo
from lightning_har.data.frames import FrameFolder
from lightning_har.data.parallel import TOO_LONG, Died, Engine, map_unordered, progress
from lightning_har.errors import DataError, DecodeError

Status: TypeAlias = Literal["ok", "odd", "short", "corrupt"]
_CHUNK = 64
TIME_LIMIT = 3600.0
"""Seconds: more than an hour of high-definition video takes one core, and an end for a decoder that hangs."""


class FileReport(NamedTuple):
    """What was found in a file; a row of the report.

    Attributes:
        path: Relative to the root.
        status: "corrupt": it cannot be decoded whole; training would stop or skip it. "short": fewer frames than
            asked for. "odd": it decodes, but something about it is unusual; see the reason.
        reason: In words; "" for "ok".
        num_frames: That decode; 0 where it cannot be opened.
        fps: Mean frames per second; 0 where not known.
        height: In pixels, as displayed.
        width: Likewise.
        duration: Seconds.
        size: Bytes.
        mtime_ns: Time of change, by which a report knows that the file is still the one it looked at.
    """

    path: str
    status: Status
    reason: str
    num_frames: int
    fps: float
    height: int
    width: int
    duration: float
    size: int
    mtime_ns: int


def check_files(
    root: str | Path,
    paths: Iterable[str],
    report: str | Path,
    *,
    min_frames: int = 8,
    workers: int | None = None,
    engine: Engine = "processes",
    time_limit: float | None = TIME_LIMIT,
) -> list[FileReport]:
    """Decode files from beginning to end and write a report.

    The report grows row by row: called again after a kill, files that it has and that have not changed are passed
    over. Those that took too long are tried again.

    Args:
        root: Folder that the paths start from.
        paths: Video files, or folders of frame pictures.
        report: CSV to write, sorted by path in the end.
        min_frames: Fewer are "short".
        workers: Processes; None takes one per core, 0 works in this one.
        engine: "processes" or "ray".
        time_limit: Seconds for a file, after which it is given up and reported as corrupt; None waits. Without
            effect where ``workers`` is 0.

    Returns:
        A row per file, sorted by path.
    """
    root, report = Path(root), Path(report)
    wanted = list(dict.fromkeys(paths))
    known = {r.path: r for r in read_report(report)} if report.is_file() else {}
    kept = {p: known[p] for p in wanted if p in known and _stamp(root / p) == known[p][-2:]}
    # What was short or not depends on what is asked for now.
    kept = {p: r for p, r in kept.items() if (r.status == "short") == (0 < r.num_frames < min_frames)}
    kept = {p: r for p, r in kept.items() if not r.reason.startswith(TOO_LONG)}
    todo = [p for p in wanted if p not in kept]
    report.parent.mkdir(parents=True, exist_ok=True)
    job = partial(check_file, root.absolute(), min_frames=min_frames)  # Ray works in other folders
    with open(report, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FileReport._fields)
        writer.writerows(kept.values())
        with progress("checking", len(wanted)) as advance:
            advance(len(kept))
            for path, found in map_unordered(job, todo, workers=workers, engine=engine, time_limit=time_limit):
                if isinstance(found, Died):
                    found = FileReport(path, "corrupt", str(found), 0, 0.0, 0, 0, 0.0, *_stamp(root / path))
                kept[path] = found
                writer.writerow(found)
                file.flush()
                advance(1)
    rows = [kept[p] for p in sorted(wanted)]
    write_report(report, rows)
    return rows


def read_report(path: str | Path) -> list[FileReport]:
    """The rows of a report, also of one that a kill cut short.

    Raises:
        DataError: It is no report.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(line.replace("\0", "") for line in file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no report of a check: {error}. Name another file") from error
    if rows and tuple(rows[0]) != FileReport._fields:
        raise DataError(f"{path} is no report of a check; its columns are {', '.join(rows[0])}. Name another file")
    found = []
    for number, row in enumerate(rows[1:], start=2):
        try:
            path_, status, reason, frames, fps, h, w, seconds, size, mtime = row
            values = (int(frames), float(fps), int(h), int(w), float(seconds), int(size), int(mtime))
        except ValueError:
            if number == len(rows):
                break  # killed while it was written
            raise DataError(f"{path}, line {number}: is no row of a report") from None
        found.append(FileReport(path_, status, reason, *values))  # type: ignore[arg-type]
    return found


def write_report(path: str | Path, rows: Sequence[FileReport]) -> None:
    """Replace a report in one go."""
    with whole_file(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FileReport._fields)
        writer.writerows(rows)


def check_file(root: Path, path: str, *, min_frames: int = 8) -> FileReport:
    """Decode one file, or folder of frame pictures, from beginning to end."""
    stamp = _stamp(root / path)
    file = root / path
    try:
        found = _check_folder(file) if file.is_dir() else _check_video(file)
    except DecodeError as error:
        return FileReport(path, "corrupt", _short(error, file), 0, 0.0, 0, 0, 0.0, *stamp)
    frames, fps, height, width, corrupt, odd = found
    status: Status = "corrupt" if corrupt else "short" if frames < min_frames else "odd" if odd else "ok"
    short = [f"{frames} frames, fewer than {min_frames}"] if frames < min_frames else []
    reason = "; ".join([*corrupt, *short, *odd])
    return FileReport(path, status, reason, frames, fps, height, width, frames / fps if fps else 0.0, *stamp)


_Found: TypeAlias = tuple[int, float, int, int, list[str], list[str]]
"""Frames, fps, height, width, what is corrupt, what is odd."""


def _check_video(file: Path) -> _Found:
    import av

    with PyAVVideo(file, threads=1) as video:
        info = video.info()
    corrupt, odd = [], []
    times: list[float] = []
    sizes: set[tuple[int, int]] = set()
    decoded = damaged = 0
    rotation = 0
    with av.open(location(file), metadata_errors="ignore") as container:
        stream = video_stream(container, file)
        stream.thread_type, stream.thread_count = "AUTO", 1
        frames = container.decode(stream)
        while True:
            try:
                frame = next(frames)
            except StopIteration:
                break
            except (av.FFmpegError, OSError) as error:
                corrupt.append(f"stops after {decoded} frames: {str(error).splitlines()[0]}")
                break
            decoded += 1
            damaged += bool(frame.is_corrupt)
            sizes.add((frame.height, frame.width))
            rotation = round(frame.rotation) % 360
            if frame.time is not None:
                times.append(frame.time)
    if damaged:
        corrupt.append(f"{damaged} damaged frames of {decoded}")
    if not corrupt and decoded < info.num_frames:
        corrupt.append(f"{decoded} frames decode of {info.num_frames}")
    if len(sizes) > 1:
        odd.append(f"changes its size: {', '.join(f'{w}×{h}' for h, w in sorted(sizes)[:3])}")
    if rotation:
        odd.append(f"carries a rotation of {rotation}°")
    odd += _odd_rate(times, info.fps)
    if min(info.height, info.width) < 32:
        odd.append(f"is only {info.width}×{info.height} pixels")
    return decoded, info.fps, info.height, info.width, corrupt, odd


def _odd_rate(times: list[float], fps: float) -> list[str]:
    odd = []
    if fps and not 5 <= fps <= 125:
        odd.append(f"has {fps:g} frames per second")
    if not fps or len(times) < 2:
        return odd if fps else [*odd, "does not tell its frame rate"]
    steps = np.diff(times)
    if steps.min() <= 0:
        odd.append("has timestamps that do not increase")
    elif steps.max() > 1.5 * np.median(steps) + 1e-3:
        odd.append(f"has a variable frame rate: steps of {1000 * steps.min():.0f} to {1000 * steps.max():.0f} ms")
    return odd


def _check_folder(folder: Path) -> _Found:
    source = FrameFolder(folder)
    shape: Any = (0, 0, 0, 0)
    for start in range(0, source.num_frames, _CHUNK):
        shape = source.read(range(start, min(start + _CHUNK, source.num_frames))).shape
    return source.num_frames, 0.0, shape[1], shape[2], [], []


def _short(error: DecodeError, file: Path) -> str:
    return str(error).removeprefix(f"{file}").lstrip(": ") or str(error)


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except (OSError, ValueError):
        return 0, 0
    return status.st_size, status.st_mtime_ns
