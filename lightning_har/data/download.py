"""Files of some gigabytes from a web server, continued where the connection or the process broke."""

from __future__ import annotations

import http.client
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from lightning_har._version import __version__
from lightning_har.data.archives import verify
from lightning_har.data.official import Archive
from lightning_har.errors import DataError

_CHUNK = 1 << 20
_TIMEOUT = 60.0
_TRIES = 5
"""Failures in a row without a byte in between."""
_PAUSE = 1.0
_BUSY = (408, 429, 500, 502, 503, 504)
_BROKEN = (http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError, urllib.error.URLError)


def download(archive: Archive, folder: str | Path) -> Path:
    """Fetch a file into a folder; one that is there already, and is as published, stays.

    Until it is complete (and its digest checked, where one is published) it is a ``.part``. A ``.part`` is continued
    only while the server says, by its ETag or date, that the file is still the same.

    Args:
        archive: What to fetch.
        folder: Where to.

    Raises:
        DataError: It cannot be fetched, or has another digest.
    """
    target = Path(folder) / archive.name
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_file():
        if archive.sha256 is not None:
            verify(target, archive.sha256)
        return target
    part = target.with_name(f"{target.name}.part")
    try:
        _complete(archive, part)
    except OSError as error:
        raise DataError(f"{part}: cannot be written: {error}") from error
    if archive.sha256 is not None:
        try:
            verify(part, archive.sha256)
        except DataError:
            part.unlink()
            raise
    os.replace(part, target)
    _tag_file(part).unlink(missing_ok=True)
    return target


def _complete(archive: Archive, part: Path) -> None:
    failures, reason = 0, ""
    while failures < _TRIES:
        have = part.stat().st_size if part.exists() else 0
        try:
            if _transfer(archive, part, have):
                return
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code == 416 and have:
                part.unlink()  # the server's file is shorter than what we have: another one
            elif error.code not in _BUSY:
                raise DataError(_message(archive, f"HTTP {error.code} {error.reason}")) from error
            reason = f"HTTP {error.code} {error.reason}"
        except _BROKEN as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        if part.exists() and part.stat().st_size > have:
            failures = 0
        else:
            failures += 1
            time.sleep(_PAUSE * 2**failures)
    raise DataError(_message(archive, reason))


def _message(archive: Archive, reason: str) -> str:
    return (
        f"cannot fetch {archive.name} from {archive.url}: {reason}. Call again to continue; or fetch it by hand, put "
        "it into the same folder, and go on with: lightning-har data prepare"
    )


def _transfer(archive: Archive, part: Path, have: int) -> bool:
    """One request; whether the file is complete now."""
    headers = {"User-Agent": f"lightning-har/{__version__}", "Accept-Encoding": "identity"}
    tag = _tag_file(part).read_text() if have and _tag_file(part).is_file() else ""
    if tag:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    with urllib.request.urlopen(urllib.request.Request(archive.url, headers=headers), timeout=_TIMEOUT) as response:
        resumed = response.status == 206 and bool(tag)
        if resumed and not (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)
            return False
        # A weak ETag promises a like content, not the same bytes.
        etag = response.headers.get("ETag") or ""
        strong = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified") or ""
        _tag_file(part).write_text(strong)
        length = response.headers.get("Content-Length")
        start = have if resumed else 0
        with _bar(archive.name, start, None if length is None else start + int(length)) as bar:
            received = 0
            with part.open("ab" if resumed else "wb") as file:
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
                    received += len(chunk)
                    bar.advance(bar.task_ids[0], len(chunk))
        return length is None or received == int(length)


def _tag_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


def _bar(name: str, have: int, total: int | None) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True))
    bar.add_task(name, total=total, completed=have)
    return bar
