"""One shard: a tar file, written and read back. It is worked on in other processes, which import little."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import NamedTuple

from lightning_har._files import whole_file
from lightning_har.data.decode import Slice
from lightning_har.errors import DataError


class Sample(NamedTuple):
    """A file of a data set.

    Attributes:
        key: Of the WebDataset sample, unique in its split.
        file: Where it lies now.
        path: In its data set.
        note: JSON that goes beside it.
    """

    key: str
    file: Path
    path: str
    note: str

    @property
    def name(self) -> str:
        """In the shard."""
        return self.key + (self.file.suffix.lower() or ".video")


class Shard(NamedTuple):
    """What goes into a tar file."""

    tar: Path
    samples: tuple[Sample, ...]


def write_shard(shard: Shard) -> dict[str, Slice]:
    """Write a shard, whole or not at all, unless it is there.

    Returns:
        Where its videos lie, by path, as read from what was written.

    Raises:
        DataError: It cannot be written, or is there and damaged, or holds something else.
    """
    if not shard.tar.exists():
        _write(shard)
    found: dict[str, Slice] = {}
    notes: list[str] = []
    try:
        with tarfile.open(shard.tar, "r:") as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    content = tar.extractfile(member)
                    notes.append(content.read().decode() if content is not None else "")
                else:
                    found[member.name] = Slice(shard.tar, member.offset_data, member.size, member.name)
    except (tarfile.TarError, EOFError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{shard.tar}: is damaged ({error}); delete it, and call this again") from error
    same = list(found) == [s.name for s in shard.samples] and notes == [s.note for s in shard.samples]
    if not same or any(found[s.name].size != s.file.stat().st_size for s in shard.samples):
        raise DataError(f"{shard.tar}: holds other videos than these; take another folder, or delete this one")
    return {s.path: found[s.name] for s in shard.samples}


def _write(shard: Shard) -> None:
    from webdataset import TarWriter

    shard.tar.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            whole_file(shard.tar) as part,
            open(part, "wb") as file,
            TarWriter(file, encoder=False, mtime=0, format="PAX_FORMAT") as writer,  # of files over 8 GiB too
        ):
            for s in shard.samples:
                writer.write({"__key__": s.key, "json": s.note.encode()})
                # Not by write(), which wants the whole video in memory.
                member = tarfile.TarInfo(s.name)
                member.mode, member.uname, member.gname = writer.mode, writer.user, writer.group
                with s.file.open("rb") as video:
                    member.size = os.fstat(video.fileno()).st_size
                    writer.tarstream.addfile(member, video)
    except OSError as error:
        raise DataError(f"{shard.tar}: cannot be written: {error}") from error
