"""HMDB51's 153 split files."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_har.data.hmdb51 import CLASSES, HMDB51DataModule, read_hmdb51
from lightning_har.errors import ConfigError, DataError
from lightning_har.spec import InputSpec


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hmdb")
    HMDB51DataModule.fake(folder)
    return folder


def test_codes_part_the_clips(root):
    assert len(CLASSES) == len(set(CLASSES)) == 51
    assert len(list((root / "testTrainMulti_7030_splits").iterdir())) == 153
    for split, unused in ((1, 3), (2, 2), (3, 1)):
        data = HMDB51DataModule(root, split=split, spec=InputSpec(2, (16, 16)), num_workers=0)
        ids = {part: {r.id for r in m} for part, m in data.manifests.items()}
        assert sum(map(len, ids.values())) == len(set.union(*ids.values())) == 3 * 51
        assert len(ids["test"]) == 51
        assert not any(f"/film{unused}_" in name for names in ids.values() for name in names)
        assert not {r.group for r in data.manifests["train"]} & {r.group for r in data.manifests["val"]}
    batch = next(iter(data.test_dataloader()))
    assert [CLASSES[k] for k in batch["label"]] == [p.split("/")[0] for p in batch["path"]]


def test_smoke_arguments_give_a_data_set(tmp_path):
    assert HMDB51DataModule(**HMDB51DataModule.smoke_arguments(tmp_path)).num_classes == 51


def test_what_is_absent_is_said(root, tmp_path):
    with pytest.raises(DataError, match=r"(?s)serre\.lab\.brown\.edu.*data fake hmdb51"):
        HMDB51DataModule(tmp_path).manifests  # noqa: B018
    lists = root / "testTrainMulti_7030_splits"
    with pytest.raises(DataError, match="102 of the 102 videos of the train list"):
        HMDB51DataModule(tmp_path, annotations=lists).manifests  # noqa: B018
    for name in ("wave_test_split2.txt", "chew_test_split3.txt"):
        copy = tmp_path / "lists"
        copy.mkdir(exist_ok=True)
        for file in lists.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
        (copy / name).unlink()
        with pytest.raises(DataError, match=f"1 of the 153 split files.*{name}"):
            read_hmdb51(copy, root, 1)
    with pytest.raises(ConfigError, match="splits 1, 2 and 3"):
        HMDB51DataModule(root, split=0)


@pytest.fixture(scope="module")
def lists(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    for file in (root / "testTrainMulti_7030_splits").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def read(lists, text):
    (lists / "wave_test_split1.txt").write_text(text, encoding="utf-8", newline="")
    return read_hmdb51(lists, lists, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a.avi 3", "does not end in 1"), ("a.avi", "does not end in 1"), ("1", "does not end in 1"),
     ("../a.avi 1", "not a file's name"), ("/a.avi 1", "not a file's name"), ("", "is empty")],
)  # fmt: skip
def test_a_bad_line_is_named(lists, text, message):
    with pytest.raises(DataError, match=f"wave_test_split1.*{message}"):
        read(lists, text)


def test_odd_names_spaces_and_line_ends_are_taken(lists):
    names = ["#1 (a) [b];_wave_f.avi", "film & co_wave_u.avi"]
    parts = read(lists, f"\ufeff  {names[0]} 1 \r\n\r\n{names[1]}\t 2\r\n".replace("\t ", " "))
    assert [r.path for m in parts.values() for r in m if r.path.startswith("wave/")] == [f"wave/{n}" for n in names]


PARTS = st.sampled_from(["a.avi", "..", "/", " ", "1", "2", "0", "\n", "\r", "\0", "é"])


@settings(max_examples=80, deadline=None)
@given(st.one_of(st.lists(PARTS).map("".join), st.text(max_size=40)))
def test_fuzz(lists, text):
    try:
        parts = read(lists, text)
    except (DataError, UnicodeEncodeError):
        return
    for part, manifest in parts.items():
        for record in manifest:
            assert record.path.count("/") == 1
            assert ".." not in record.path.split("/")
            assert record.split == part
