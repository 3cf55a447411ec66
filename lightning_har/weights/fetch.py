"""Fetches a weight file once, resumes what was interrupted, and hands out nothing unverified.

A file gets its name in the cache only after its digest was checked. Until then it is a ``.part``, which a later
call continues. A lock lets several processes ask for one file at the same time.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import logging
import os
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lightning_har._files import cache_directory
from lightning_har._version import __version__
from lightning_har.errors import ConfigError, WeightsError

_LOG = logging.getLogger(__name__)
_CHUNK = 1 << 20
_TIMEOUT = 30.0
_TRIES = 5
"""Failures in a row, without a byte in between, before giving up."""
_PAUSE = 0.1
"""Seconds, doubled with each of them."""
_BUSY = (408, 429, 500, 502, 503, 504)
_BROKEN = (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError)


@dataclass(frozen=True)
class Digests:
    """What identifies a file's content."""

    size: int
    sha256: str
    git_blob_sha1: str


def digests(path: str | Path) -> Digests:
    """Read a file once and digest it.

    Raises:
        WeightsError: It cannot be read.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        sha256, sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                sha256.update(chunk)
                sha1.update(chunk)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    return Digests(size, sha256.hexdigest(), sha1.hexdigest())


def fetch(
    source: str,
    *,
    what: str | None = None,
    sha256: str | None = None,
    sha256_prefix: str | None = None,
    git_blob_sha1: str | None = None,
    size: int | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """Get a file that is what it should be.

    Args:
        source: ``http(s)://...``; ``hf://owner/name@revision/file`` on the Hugging Face Hub (``HF_ENDPOINT`` and
            its own cache apply); or a local path, which is only checked.
        what: What it is, to begin an error with; by default the file's name.
        sha256: Of the file, 64 hexadecimal digits.
        sha256_prefix: How that must begin, as some publishers put it into the file's name. A weak pin.
        git_blob_sha1: The file's object id in git: SHA-1 of "blob", the size and the content.
        size: In bytes.
        cache_dir: By default ``cache_directory()``.
        force_download: Fetch even if the cache has it.
        local_files_only: Never use the network.

    Returns:
        The file. With no digest given, it is what the server sent, in full.

    Raises:
        WeightsError: It cannot be fetched, or is not what was expected, twice in a row.
        ConfigError: ``source`` is none of the three.
    """
    what = what or urllib.parse.unquote(source.rsplit("/", 1)[-1])
    pin = _Pin(sha256, sha256_prefix, git_blob_sha1, size)
    if "://" not in source:
        return _checked(Path(source), what, pin)
    if source.startswith("hf://"):
        return _fetch_hub(source, what, pin, cache_dir, force_download, local_files_only)
    if not source.startswith(("http://", "https://")):
        raise ConfigError(f"cannot fetch {what} from {source!r}: give http(s)://, hf:// or a local path")
    return _fetch_url(source, what, pin, cache_dir, force_download, local_files_only)


@dataclass(frozen=True)
class _Pin:
    """What the file must be; None is not checked."""

    sha256: str | None
    sha256_prefix: str | None
    git_blob_sha1: str | None
    size: int | None

    @property
    def has_digest(self) -> bool:
        return bool(self.sha256 or self.sha256_prefix or self.git_blob_sha1)

    def problem(self, found: Digests) -> str | None:
        """What differs, or None."""
        if self.size is not None and found.size != self.size:
            return f"expected {self.size:,} bytes, got {found.size:,}"
        if self.sha256 is not None and found.sha256 != self.sha256.lower():
            return f"expected SHA-256 {self.sha256}, got {found.sha256}"
        if self.sha256_prefix is not None and not found.sha256.startswith(self.sha256_prefix.lower()):
            return f"expected a SHA-256 that begins with {self.sha256_prefix}, got {found.sha256}"
        if self.git_blob_sha1 is not None and found.git_blob_sha1 != self.git_blob_sha1.lower():
            return f"expected git blob SHA-1 {self.git_blob_sha1}, got {found.git_blob_sha1}"
        return None


def _fetch_url(url: str, what: str, pin: _Pin, cache_dir: str | Path | None, force: bool, local_only: bool) -> Path:
    from filelock import FileLock

    # The pin is part of the place: another pin for the same address is another file.
    key = hashlib.sha256(json.dumps([url, asdict(pin)]).encode()).hexdigest()[:16]
    name = Path(urllib.parse.unquote(urllib.parse.urlparse(url).path)).name or "file"
    path = Path(cache_dir or cache_directory() / "weights").expanduser() / key / name
    part, shown = path.with_name(f"{path.name}.part"), _shown(url)
    try:
        if not force and _is_good(path, pin):
            return path
        if local_only:
            raise WeightsError(
                f"{what} is not in the cache ({path}), and local_files_only forbids to fetch it from {shown}. {_REMEDY}"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            # Another process may have fetched it while this one waited.
            if not force and _is_good(path, pin):
                return path
            if force or not pin.has_digest:  # else a part of an older file could be continued unnoticed
                part.unlink(missing_ok=True)
            for attempt in (1, 2):
                download(url, part, what)
                problem = pin.problem(digests(part))
                if problem is None:
                    os.replace(part, path)
                    _remember(path)
                    return path
                part.unlink()
                _LOG.warning("%s from %s is not what was expected (%s), try %d of 2", what, shown, problem, attempt)
    except OSError as error:
        raise WeightsError(f"cannot store {what} in {path.parent}: {error}. Set LIGHTNING_HAR_CACHE.") from error
    raise WeightsError(f"{what} from {shown} is refused, fetched twice: {problem}. {_REMEDY}")


_REMEDY = "Fetch it by hand and give its path instead, or build with pretrained=False."


def _is_good(path: Path, pin: _Pin) -> bool:
    """Whether the cache has the file, unaltered since it was verified. A bad one is removed."""
    if not path.is_file():
        return False
    stamp = _stamp_path(path)
    with contextlib.suppress(OSError):
        if stamp.read_text() == _stamp(path):
            return True
    problem = pin.problem(digests(path))
    if problem is None:
        with contextlib.suppress(OSError):  # a read-only cache is verified each time
            _remember(path)
        return True
    _LOG.warning("%s was altered in the cache (%s) and is removed", path, problem)
    path.unlink(missing_ok=True)
    return False


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _stamp_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.verified")


def _remember(path: Path) -> None:
    _stamp_path(path).write_text(_stamp(path))


def _checked(path: Path, what: str, pin: _Pin) -> Path:
    problem = pin.problem(digests(path))
    if problem is not None:
        raise WeightsError(f"{what} at {path} is refused: {problem}. {_REMEDY}")
    return path


def download(url: str, part: Path, what: str) -> None:
    """Complete ``part``; continue it where there is one, and where the connection breaks. Nothing is verified.

    Args:
        url: ``http(s)://``.
        part: The file.
        what: What it is, to begin an error with.

    Raises:
        WeightsError: The server refuses, or does not answer.
    """
    failures, reason = 0, ""
    while failures < _TRIES:
        have = _size(part)
        try:
            if _transfer(url, part, have, what):
                return
            reason = "the connection ends early"
        except urllib.error.HTTPError as error:
            if error.code == 416 and have:
                if error.headers.get("Content-Range") == f"bytes */{have}":
                    return  # it was complete
                part.unlink()
            elif error.code not in _BUSY:
                raise WeightsError(
                    f"cannot fetch {what} from {_shown(url)}: HTTP {error.code} {error.reason}. {_REMEDY}"
                ) from error
            reason = f"HTTP {error.code} {error.reason}"
        except _BROKEN as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        if _size(part) > have:
            failures = 0
        else:
            failures += 1
            time.sleep(_PAUSE * 2**failures)
    raise WeightsError(f"cannot fetch {what} from {_shown(url)}: {reason}. {_REMEDY}")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _shown(url: str) -> str:
    """Without what may be secret: user, password, query."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _transfer(url: str, part: Path, have: int, what: str) -> bool:
    """One request; whether the file is complete now."""
    headers = {"User-Agent": f"lightning-har/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT) as response:
        resumed = response.status == 206
        if resumed and not (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)  # some other part of the file: start over
            return False
        length = response.headers.get("Content-Length")
        _LOG.info("fetching %s from %s: %s bytes", what, _shown(url), length)
        received = 0
        with part.open("ab" if resumed else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                received += len(chunk)
        return length is None or received == int(length)


@contextlib.contextmanager
def hub_or_cache() -> Iterator[str | None]:
    """Let the hub's client look only into its cache where the hub cannot be reached: it would retry for a minute.

    Yields:
        Why the hub cannot be reached; None where it can, or where only a proxy could tell.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    problem = None if before else hub_problem()
    constants.HF_HUB_OFFLINE = before or problem is not None
    try:
        yield problem
    finally:
        constants.HF_HUB_OFFLINE = before


def hub_problem() -> str | None:
    """Why the hub cannot be reached, found out at once; None where it can, or where only a proxy could tell."""
    if urllib.request.getproxies():
        return None
    address = urllib.parse.urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=3).close()
    except (OSError, ValueError) as error:
        return f"{address.hostname} cannot be reached: {error}"
    return None


def _fetch_hub(source: str, what: str, pin: _Pin, cache_dir: str | Path | None, force: bool, local_only: bool) -> Path:
    from huggingface_hub import hf_hub_download

    parts = source.removeprefix("hf://").split("/", 2)
    if len(parts) != 3 or not all(parts):
        raise ConfigError(f"{source!r} is not hf://owner/name@revision/file")
    name, _, revision = parts[1].partition("@")
    problem = None
    for attempt in (1, 2):
        unreached = None
        try:
            with contextlib.nullcontext() if local_only else hub_or_cache() as unreached:
                path = Path(
                    hf_hub_download(
                        f"{parts[0]}/{name}",
                        parts[2],
                        revision=revision or None,
                        cache_dir=cache_dir,
                        force_download=force or attempt == 2,
                        local_files_only=local_only,
                    )
                )
        except Exception as error:  # the client's own errors differ by version and transport
            reason = unreached or (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise WeightsError(f"cannot fetch {what} from {source}: {reason}. {_REMEDY}") from error
        problem = pin.problem(digests(path))
        if problem is None:
            return path
        # The hub's cache is a link to a blob: both go, so that nobody is given the bad file.
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        if local_only:
            break
    raise WeightsError(f"{what} from {source} is refused: {problem}. {_REMEDY}")
