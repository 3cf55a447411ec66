"""How many frames each file of a manifest has: counted once, in parallel, and kept."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from lightning_har._files import cache_directory, whole_file
from lightning_har.data.decode import FrameSource
from lightning_har.data.manifest import Manifest, Record
from lightning_har.errors import DecodeError


def count_frames(manifest: Manifest, opener: Callable[[Record, int], FrameSource]) -> Manifest:
    """Fill in ``num_frames`` and ``fps`` where they are missing, so that plans need no look into the files.

    Counts are kept in ``LIGHTNING_HAR_CACHE`` (by default ``~/.cache/lightning_har``), a CSV for each root, by
    path, size and time of change. A file that cannot be read keeps None; reading it will say why.

    Args:
        manifest: Whose files exist.
        opener: Opens a record's frames: (record, threads) -> an open video.
    """
    missing = list({r.path: r for r in manifest if r.num_frames is None}.values())
    if not missing:
        return manifest
    cache = _cache_file(manifest.root)
    known = _read_counts(cache)
    stats = {r.path: (manifest.root / r.path).stat() for r in missing}
    keys = {path: (path, str(stat.st_size), str(stat.st_mtime_ns)) for path, stat in stats.items()}
    todo = [r for r in missing if keys[r.path] not in known]

    def count(record: Record) -> tuple[Record, int | None, float | None]:
        try:
            source = opener(record, 1)
            try:
                return record, source.num_frames, source.fps or None
            finally:
                source.close()
        except DecodeError:
            return record, None, None

    if todo:
        from rich.console import Console
        from rich.progress import track

        # FFmpeg gives the interpreter free while it reads, so threads will do.
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
            done = track(
                pool.map(count, todo),
                description="Counting frames",
                total=len(todo),
                console=Console(stderr=True),
                disable=len(todo) < 100,
            )
            known |= {keys[r.path]: (n, fps) for r, n, fps in done if n}
        _write_counts(cache, known)
    return manifest.with_records(
        r
        if r.num_frames is not None or keys[r.path] not in known
        else replace(r, num_frames=known[keys[r.path]][0], fps=r.fps or known[keys[r.path]][1])
        for r in manifest
    )


_Counts: TypeAlias = dict[tuple[str, str, str], tuple[int, float | None]]


def _cache_file(root: Path) -> Path:
    name = hashlib.sha256(str(root.absolute()).encode()).hexdigest()[:16]
    return cache_directory() / "frames" / f"{name}.csv"


def _read_counts(cache: Path) -> _Counts:
    known: _Counts = {}
    try:
        with open(cache, newline="", encoding="utf-8") as file:
            for path, size, time, frames, fps in csv.reader(file):
                known[path, size, time] = (int(frames), float(fps) if fps else None)
    except (OSError, ValueError, csv.Error):
        return {}  # no cache, or half of one: it is counted again
    return known


def _write_counts(cache: Path, known: _Counts) -> None:
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(cache) as part, open(part, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([*key, n, "" if fps is None else fps] for key, (n, fps) in sorted(known.items()))
    except OSError:
        return  # a cache that cannot be kept is no harm
