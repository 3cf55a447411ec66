"""Archives: what is harmless is unpacked, what is not never touches the disk."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rar_writer import write_rar

from lightning_har.data import archives
from lightning_har.data.archives import unpack, unpack_nested, verify
from lightning_har.errors import ConfigError, DataError

GOOD = {"a/b c.txt": b"one", "d.txt": b"two" * 1000, "a/e/é.bin": bytes(range(256))}
needs_bsdtar = pytest.mark.skipif(not shutil.which("bsdtar"), reason="bsdtar is not installed")


def write_zip(path, members, links=()):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        for name, target in dict(links).items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, target)


def write_tar(path, members, links=(), mode="w:gz", kind=tarfile.SYMTYPE):
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in dict(links).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)


def write_rar_file(path, members, links=()):
    Path(path).write_bytes(write_rar(members, dict(links)))


WRITERS = [
    pytest.param(write_zip, id="zip"),
    pytest.param(write_tar, id="tar"),
    pytest.param(write_rar_file, id="rar", marks=needs_bsdtar),
]


def everything(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


@pytest.mark.parametrize("write", WRITERS)
def test_files_come_out_as_they_went_in(tmp_path, write):
    write(tmp_path / "archive.bin", GOOD)  # its content decides, not its suffix
    assert unpack(tmp_path / "archive.bin", tmp_path / "out") == sorted(GOOD)
    assert {n: (tmp_path / "out" / n).read_bytes() for n in GOOD} == GOOD
    assert everything(tmp_path / "out") == sorted([*GOOD, "a", "a/e"])
    unpack(tmp_path / "archive.bin", tmp_path / "out")


@pytest.mark.parametrize("write", WRITERS)
def test_progress_reaches_the_number_of_files(tmp_path, monkeypatch, write):
    told = []

    @contextmanager
    def progress(description, total):
        told.append(total)
        yield told.append

    monkeypatch.setattr(archives, "progress", progress)
    write(tmp_path / "archive", GOOD)
    unpack(tmp_path / "archive", tmp_path / "out")
    assert told[0] == sum(told[1:]) == len(GOOD)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "a/../b", "..", "c:/evil", "a\\..\\evil"])
def test_a_path_that_leaves_is_refused_before_a_byte_is_written(tmp_path, write, name):
    write(tmp_path / "archive", {"good.txt": b"1", name: b"2"})
    with pytest.raises(DataError, match="Refused"):
        unpack(tmp_path / "archive", tmp_path / "deep" / "out")
    assert everything(tmp_path) == ["archive"]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("target", ["/etc", "..", "good.txt"])
def test_a_link_is_refused(tmp_path, write, target):
    write(tmp_path / "archive", {"good.txt": b"1"}, {"link": target})
    with pytest.raises(DataError, match="is a link"):
        unpack(tmp_path / "archive", tmp_path / "out")
    assert everything(tmp_path) == ["archive"]


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_hard_links_and_devices_are_refused(tmp_path, kind):
    write_tar(tmp_path / "archive", {"good.txt": b"1"}, {"odd": "good.txt"}, kind=kind)
    with pytest.raises(DataError, match="Refused"):
        unpack(tmp_path / "archive", tmp_path / "out")
    assert everything(tmp_path) == ["archive"]


@pytest.mark.parametrize("write", WRITERS)
def test_a_bomb_is_refused(tmp_path, write, monkeypatch):
    write(tmp_path / "archive", {f"{i}.txt": bytes(1 << 20) for i in range(8)})
    with pytest.raises(DataError, match="more than 4,000,000 bytes"):
        unpack(tmp_path / "archive", tmp_path / "out", max_bytes=4_000_000)
    with pytest.raises(DataError, match="7 entries"):
        unpack(tmp_path / "archive", tmp_path / "out", max_files=7)
    monkeypatch.setattr(archives, "MAX_RATIO", 2)
    assert len(unpack(tmp_path / "archive", tmp_path / "fine")) == 8  # below a gigabyte anything goes


def test_a_tar_that_declares_a_terabyte_is_refused_at_once(tmp_path):
    info = tarfile.TarInfo("huge")
    info.size = 1 << 42
    (tmp_path / "archive").write_bytes(info.tobuf() + bytes(10240))
    with pytest.raises(DataError, match="would unpack to more"):
        unpack(tmp_path / "archive", tmp_path / "out")


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path):
    write_zip(tmp_path / "archive", {"a": bytes(100_000)})
    data = (tmp_path / "archive").read_bytes().replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    (tmp_path / "archive").write_bytes(data)
    with pytest.raises(DataError):
        unpack(tmp_path / "archive", tmp_path / "out")
    assert everything(tmp_path / "out") == []


@pytest.mark.parametrize("write", WRITERS)
def test_damage_is_named_and_leaves_nothing(tmp_path, write):
    write(tmp_path / "archive", {"a.bin": os.urandom(50_000), "b.bin": os.urandom(50_000)})
    whole = (tmp_path / "archive").read_bytes()
    flipped = bytearray(whole)
    for i in range(60_000, 60_050):
        flipped[i] ^= 0xFF
    if write is not write_rar_file:  # bsdtar does not notice it in what is stored uncompressed
        (tmp_path / "archive").write_bytes(flipped)
        with pytest.raises(DataError, match="archive"):
            unpack(tmp_path / "archive", tmp_path / "out")
    for content in (b"", whole[:3], whole[: len(whole) // 2], b"junk" * 500):
        (tmp_path / "archive").write_bytes(content)
        with pytest.raises(DataError, match="archive"):
            unpack(tmp_path / "archive", tmp_path / "out")
        assert not (tmp_path / "out").exists() or everything(tmp_path / "out") == []


def test_a_link_at_the_destination_is_not_followed(tmp_path):
    write_zip(tmp_path / "archive", {"a/b.txt": b"1"})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="is a link"):
        unpack(tmp_path / "archive", tmp_path / "out")
    assert everything(tmp_path / "elsewhere") == []


def test_a_wrong_digest_is_named(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    verify(tmp_path / "a", "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD")
    with pytest.raises(DataError, match="ba7816bf"):
        verify(tmp_path / "a", "00" * 32)


@needs_bsdtar
def test_archives_within_archives_are_unpacked_as_hmdb51_needs(tmp_path):
    inner = {f"{c}.rar": write_rar({c: None, f"{c}/x_{c}.avi": c.encode()}) for c in ("wave", "walk")}
    (tmp_path / "hmdb51_org.rar").write_bytes(write_rar(inner))
    unpack(tmp_path / "hmdb51_org.rar", tmp_path / "hmdb51_org")
    assert unpack_nested(tmp_path / "hmdb51_org") == 2
    assert everything(tmp_path / "hmdb51_org") == ["walk", "walk/x_walk.avi", "wave", "wave/x_wave.avi"]


def test_without_a_tool_for_rar_it_is_said_what_to_install(tmp_path, monkeypatch):
    write_rar_file(tmp_path / "a.rar", GOOD)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="libarchive-tools"):
        unpack(tmp_path / "a.rar", tmp_path / "out")


def test_the_lists_of_unrar_and_7z_are_understood():
    unrar = """
UNRAR 6.21 freeware      Copyright (c) 1993-2023 Alexander Roshal

Archive: /tmp/a.rar
Details: RAR 5

        Name: d/a b.avi
        Type: File
        Size: 500
 Packed size: 500
       Ratio: 100%

        Name: d
        Type: Directory

        Name: ln
        Type: Unix symbolic link
      Target: /etc/passwd
"""
    assert list(archives._unrar_list(unrar)) == [("d/a b.avi", 500, "file"), ("d", 0, "folder"), ("ln", 0, "link")]
    seven = """Path = d
Folder = +
Size = 0
Attributes = D drwxr-xr-x

Path = d/a b.avi
Folder = -
Size = 500
Attributes = A -rw-r--r--
Encrypted = -

Path = ln
Folder = -
Size = 11
Attributes = A lrwxrwxrwx
Symbolic Link = /etc/passwd
"""
    assert list(archives._seven_zip_list(seven)) == [("d", 0, "folder"), ("d/a b.avi", 500, "file"), ("ln", 11, "link")]


PARTS = ["a", "..", ".", "", "b.txt", "C:", "\\", "é", " "]
NAMES = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("/".join).filter(bool)


@settings(max_examples=120, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=3, unique=True), st.booleans())
def test_fuzz_nothing_lands_outside(tmp_path_factory, names, is_tar):
    base = tmp_path_factory.mktemp("fuzz")
    (write_tar if is_tar else write_zip)(base / "archive", dict.fromkeys(names, b"x"))
    try:
        unpack(base / "archive", base / "in" / "out")
    except (DataError, OSError):
        pass
    else:
        assert all(p.is_file() or p.is_dir() for p in (base / "in" / "out").rglob("*"))
    assert {p.name for p in base.iterdir()} <= {"archive", "in"}
    assert not (base / "in").exists() or {p.name for p in (base / "in").iterdir()} <= {"out"}
