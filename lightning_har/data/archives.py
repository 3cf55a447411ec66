"""Archives of data sets: verified, looked through before a byte is written, and unpacked within one folder.

Every entry is read off the archive's list first. An absolute path, a ``..``, a link or device, or more bytes than
the limit refuses the whole archive. What passes is unpacked into a new folder beside its destination, looked
through again, and only then moved into place.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import posixpath
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from lightning_har.data.parallel import progress
from lightning_har.errors import ConfigError, DataError

MAX_BYTES = 2**40
MAX_FILES = 5_000_000
MAX_RATIO = 1000
"""An archive that unpacks to more than this many times its size, and to more than a gigabyte, is a bomb."""
RAR_TOOLS = ("unrar", "7z", "7zz", "bsdtar")

_CHUNK = 1 << 20
_DAMAGED = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError
)  # fmt: skip
_RAR = b"Rar!\x1a\x07"


class Entry(NamedTuple):
    """What an archive's list says of one of its members."""

    name: str
    size: int
    kind: str
    """ "file", "folder", or what else it is."""


def sha256(path: Path) -> str:
    """Digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def verify(path: Path, expected: str) -> None:
    """Refuse an archive that is not what was published.

    Raises:
        DataError: Its SHA-256 is another.
    """
    found = sha256(path)
    if found != expected.lower():
        raise DataError(f"{path}: has SHA-256 {found}, not {expected}; it is damaged or another file. Fetch it again")


def unpack(path: str | Path, out: str | Path, *, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> list[str]:
    """Unpack a .zip, a .tar (plain, gzip, bzip2, xz) or a .rar; what it is, its content decides.

    Args:
        path: The archive.
        out: Destination; files of the same name are replaced.
        max_bytes: Most that it may unpack to.
        max_files: Most entries.

    Returns:
        Paths of the files, relative to ``out``.

    Raises:
        DataError: It is damaged, encrypted, or has an entry that would leave ``out``, a link, or more than the
            limits. Nothing was written then.
        ConfigError: A .rar, and neither unrar, 7z nor bsdtar is installed.
    """
    path, out = Path(path), Path(out)
    if not path.is_file():
        raise DataError(f"{path.absolute()} does not exist")
    limit = min(max_bytes, max(MAX_RATIO * path.stat().st_size, 2**30))
    try:
        entries, extract = _opened(path)
        names = _checked(path, entries, limit, max_files)
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=out) as staging:
            with progress(f"unpacking {path.name}", len(names)) as advance:
                extract(Path(staging), limit, advance)
            done = _look_through(path, Path(staging), names)
            for name in done:
                target = out / name
                _no_link_above(out, target)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(Path(staging, name), target)
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a full disk and the like: the archive may be well
        raise DataError(f"{path}: is damaged, encrypted, or of a kind that cannot be unpacked: {error}") from error
    return done


def unpack_nested(folder: str | Path) -> int:
    """Unpack the .rar files of a folder into it and remove them, as HMDB51's archive needs.

    Returns:
        How many there were.

    Raises:
        DataError: As ``unpack``.
    """
    inner = sorted(Path(folder).rglob("*.rar"))
    for archive in inner:
        unpack(archive, archive.parent)
        archive.unlink()
    return len(inner)


_Extract = Callable[[Path, int, Callable[[int], None]], None]


def _opened(path: Path) -> tuple[Iterable[Entry], _Extract]:
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(_RAR):
        tool, entries = _rar_list(path)
        return entries, lambda out, limit, advance: _extract_rar(path, tool, out, limit, advance)
    if zipfile.is_zipfile(path):
        return _zip_entries(path), lambda out, limit, advance: _extract_zip(path, out, limit, advance)
    if tarfile.is_tarfile(path):
        return _tar_entries(path), lambda out, limit, advance: _extract_tar(path, out, limit, advance)
    raise DataError(f"{path}: is no .zip, .tar or .rar by its content, or is cut off at its beginning")


def _checked(path: Path, entries: Iterable[Entry], limit: int, max_files: int) -> dict[str, int]:
    """Sizes of the files by name; stops at the first entry that must not be."""
    total = 0
    names: dict[str, int] = {}
    for count, entry in enumerate(entries, start=1):
        if entry.kind not in ("file", "folder"):
            raise DataError(f"{path}: {entry.name!r} is a {entry.kind}; only files and folders are unpacked. Refused")
        name = _safe_name(entry.name)
        if name is None:
            raise DataError(f"{path}: {entry.name!r} would be unpacked outside of its folder. Refused")
        total += entry.size
        if total > limit or count > max_files or entry.size < 0:
            raise DataError(
                f"{path}: would unpack to more than {limit:,} bytes or {max_files:,} entries, from "
                f"{path.stat().st_size:,} bytes. Refused"
            )
        if entry.kind == "file":
            if name == ".":
                raise DataError(f"{path}: has an entry without a name. Refused")
            names[name] = entry.size
    if not names:
        raise DataError(f"{path}: holds no files")
    return names


def _safe_name(name: str) -> str | None:
    """The name as a path within, or None."""
    if "\0" in name or "\\" in name or name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return None
    parts = name.rstrip("/").split("/")
    if ".." in parts:
        return None
    return posixpath.normpath(name)


def _look_through(path: Path, staging: Path, names: dict[str, int]) -> list[str]:
    """What really was unpacked: nothing but plain files that the list named."""
    done = []
    for place, folders, files in os.walk(staging):
        for name in [*folders, *files]:
            file = Path(place, name)
            mode = file.lstat().st_mode
            relative = file.relative_to(staging).as_posix()
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode) or relative not in names:
                raise DataError(f"{path}: unpacked {relative!r}, which its list does not name as a file. Refused")
            if file.stat().st_size != names[relative]:
                raise DataError(f"{path}: {relative!r} is not as long as its list says; the archive is damaged")
            file.chmod(0o644)
            done.append(relative)
    if len(done) < len(names):
        missing = min(set(names) - set(done))
        raise DataError(f"{path}: {missing!r} was listed, but not unpacked; the archive is damaged")
    return sorted(done)


def _no_link_above(out: Path, target: Path) -> None:
    """A folder that an earlier link at the destination leads elsewhere would take files along."""
    for place in target.relative_to(out).parents:
        if (out / place).is_symlink() and place != Path():
            raise DataError(f"{out / place} is a link; unpacking would follow it. Refused")


def _copy(source: IO[bytes] | None, target: Path, limit: int) -> int:
    """Copy at most limit bytes; whoever declared fewer lied."""
    assert source is not None
    target.parent.mkdir(parents=True, exist_ok=True)
    done = 0
    with source, target.open("wb") as file:
        while chunk := source.read(_CHUNK):
            done += len(chunk)
            if done > limit:
                raise DataError(f"{target.name} is larger than the archive's list says. Refused")
            file.write(chunk)
    return done


# -- zip, tar ----------------------------------------------------------------------------------------------


def _zip_entries(path: Path) -> Iterable[Entry]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            mode = info.external_attr >> 16
            kind = "folder" if info.is_dir() else "file"
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "link" if stat.S_ISLNK(mode) else "device"
            if info.flag_bits & 1:
                raise DataError(f"{path}: {info.filename!r} is encrypted")
            yield Entry(info.orig_filename, info.file_size, kind)


def _extract_zip(path: Path, out: Path, limit: int, advance: Callable[[int], None]) -> None:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                _copy(archive.open(info), out / posixpath.normpath(info.orig_filename), info.file_size)
                advance(1)


def _tar_entries(path: Path) -> Iterable[Entry]:
    with tarfile.open(path) as archive:
        # Sizes are checked as they come, before the next header is looked for behind so many bytes.
        for member in archive:
            kind = (
                "file" if member.isreg() else "folder" if member.isdir() else "link" if _is_link(member) else "device"
            )
            if member.issparse():
                kind = "sparse file"
            yield Entry(member.name, member.size, kind)


def _is_link(member: Any) -> bool:
    return bool(member.issym() or member.islnk())


def _extract_tar(path: Path, out: Path, limit: int, advance: Callable[[int], None]) -> None:
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isreg():
                _copy(archive.extractfile(member), out / posixpath.normpath(member.name), member.size)
                advance(1)
        # A compressed stream's checksum stands behind its end, where tarfile does not look.
        rest: Any = archive.fileobj
        while limit > 0 and (chunk := rest.read(_CHUNK)):
            limit -= len(chunk)


# -- rar, by an installed tool -----------------------------------------------------------------------------


def _rar_list(path: Path) -> tuple[str, list[Entry]]:
    """The first installed tool that can read the archive, and what it lists.

    Some builds of 7z know no .rar. bsdtar comes last: it does not notice damage within members stored uncompressed.
    """
    reason: DataError | None = None
    for tool in RAR_TOOLS:
        if shutil.which(tool):
            try:
                return tool, list(_rar_entries(path, tool))
            except DataError as error:
                reason = reason or error
    if reason is not None:
        raise reason
    raise ConfigError(
        "a .rar needs unrar, 7z or bsdtar, and none is installed: apt install unrar, apt install 7zip (with "
        "7zip-rar), or apt install libarchive-tools"
    )


def _run(command: list[str], path: Path, limit: int | None = None) -> str:
    def confine() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit or 0, limit or 0))

    done = subprocess.run(
        command,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        preexec_fn=confine if limit is not None else None,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        check=False,
    )
    if done.returncode:
        reason = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise DataError(f"{path}: {command[0]} cannot unpack it: {reason[-1] if reason else done.returncode}")
    return done.stdout.decode(errors="surrogateescape")


def _rar_entries(path: Path, tool: str) -> Iterable[Entry]:
    place = str(path.absolute())
    if tool == "unrar":
        yield from _unrar_list(_run(["unrar", "lt", "-p-", "-c-", "--", place], path))
    elif tool == "bsdtar":
        yield from _bsdtar_list(_run(["bsdtar", "-tvf", place], path))
    else:
        yield from _seven_zip_list(_run([tool, "l", "-slt", "-ba", "-p", "--", place], path))


def _unrar_list(text: str) -> Iterable[Entry]:
    for block in re.split(r"\n\s*\n", text):
        found = dict(re.findall(r"^\s*(Name|Type|Size|Target): ?(.*)$", block, re.MULTILINE))
        if "Name" in found and "Type" in found:
            kind = {"File": "file", "Directory": "folder"}.get(found["Type"], found["Type"].lower())
            yield Entry(found["Name"], int(found.get("Size") or 0), "link" if "Target" in found else kind)


def _seven_zip_list(text: str) -> Iterable[Entry]:
    for block in re.split(r"\n\s*\n", text):
        found = dict(
            re.findall(r"^(Path|Size|Attributes|Folder|Symbolic Link|Hard Link|Encrypted) = (.*)$", block, re.MULTILINE)
        )
        if "Path" not in found:
            continue
        attributes = found.get("Attributes", "")
        if found.get("Symbolic Link") or found.get("Hard Link") or " l" in attributes:
            kind = "link"
        else:
            kind = "folder" if found.get("Folder") == "+" or attributes.startswith("D") else "file"
        yield Entry(found["Path"], int(found.get("Size") or 0), kind)


def _bsdtar_list(text: str) -> Iterable[Entry]:
    for line in text.splitlines():
        # -rw-r--r--  0 0      0        1234 Jan  1  2020 some/name
        match = re.match(r"(\S)\S+\s+\d+\s+\S+\s+\S+\s+(\d+)\s+\S+\s+\S+\s+\S+ (.*)$", line)
        if match is None:
            raise DataError(f"bsdtar lists what cannot be understood: {line!r}")
        kind = {"-": "file", "d": "folder", "l": "link", "h": "link"}.get(match[1], "device")
        yield Entry(match[3], int(match[2]), kind)


def _extract_rar(path: Path, tool: str, out: Path, limit: int, advance: Callable[[int], None]) -> None:
    place = str(path.absolute())
    command = {
        "unrar": ["unrar", "x", "-p-", "-idq", "-o+", "--", place, f"{out}/"],
        "bsdtar": ["bsdtar", "-xf", place, "-C", str(out)],
    }.get(tool, [tool, "x", "-y", "-bd", "-p", f"-o{out}", "--", place])
    with _counting_files(out, advance):
        _run(command, path, limit)


@contextmanager
def _counting_files(folder: Path, advance: Callable[[int], None]) -> Iterator[None]:
    """Advance by what appears in a folder: the tools do not tell how far they are."""
    ended = threading.Event()

    def watch() -> None:
        seen, last = 0, False
        while not last:
            last = ended.wait(1.0)
            now = sum(len(files) for _, _, files in os.walk(folder))
            advance(now - seen)
            seen = now

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
