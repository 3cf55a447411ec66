"""Kinetics's lists, and how much of them is on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_har.data.kinetics import KineticsDataModule, _draw, clip_name, read_kinetics
from lightning_har.data.manifest import Manifest, Record
from lightning_har.data.official import read_class_list
from lightning_har.errors import ConfigError, DataError
from lightning_har.spec import InputSpec

SHARED = Path(__file__).parents[3] / "shared" / "data" / "annotations" / "kinetics"
HEADER = "label,youtube_id,time_start,time_end,split\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinetics")
    KineticsDataModule.fake(folder)
    return folder


@pytest.mark.shared
@pytest.mark.parametrize("variant", [400, 600])
def test_the_official_labels_are_read(variant):
    path = SHARED / f"kinetics{variant}_labels.txt"
    if not path.is_file():
        pytest.skip(f"no {path}")
    names = read_class_list(path)
    assert len(names) == variant
    assert names[0] == "abseiling"


def test_clips_are_named_by_whole_seconds():
    assert clip_name("-a_b", 7, 17.0) == "-a_b_000007_000017"


def test_what_is_on_disk_is_taken_and_the_rest_is_told(root, capsys):
    data = KineticsDataModule(root, spec=InputSpec(2, (16, 16)), batch_size=2, num_workers=0)
    sizes = {part: len(m) for part, m in data.manifests.items()}
    assert sizes["train"] + sizes["val"] == 12
    assert sizes["test"] == 6
    assert data.coverage == {"train": {"listed": 15, "on_disk": 12}, "test": {"listed": 6, "on_disk": 6}}
    assert "train 12 of 15 (80.0 %), test 6 of 6 (100.0 %)" in capsys.readouterr().err
    assert data.class_names == ("abseiling", "air drumming", "playing squash or racquetball")
    batch = next(iter(data.test_dataloader()))
    assert [p.split("/")[1] for p in batch["path"]] == [data.class_names[k] for k in batch["label"]]
    by_name = KineticsDataModule(root, test_on="test")
    assert {part: len(m) for part, m in by_name.manifests.items()} == {"train": 12, "val": 6, "test": 3}


def test_a_mini_kinetics_by_classes_and_clip_count(root, tmp_path):
    mini = KineticsDataModule(root, classes=["air drumming", "abseiling"], train_clips=3, test_clips=1)
    assert mini.class_names == ("abseiling", "air drumming")
    assert len(mini.manifests["train"]) + len(mini.manifests["val"]) == 6
    assert [r.label for r in mini.manifests["test"]] == [0, 1]
    again = KineticsDataModule(root, classes=["abseiling", "air drumming"], train_clips=3, test_clips=1)
    assert again.manifests["train"].sha256() == mini.manifests["train"].sha256()
    drawn = {KineticsDataModule(root, classes=1, seed=s).class_names for s in range(12)}
    assert len(drawn) == 3
    (tmp_path / "list.txt").write_text("air drumming\n")
    assert KineticsDataModule(root, classes=tmp_path / "list.txt").num_classes == 1
    with pytest.raises(DataError, match="1 classes are not in the lists: juggling"):
        KineticsDataModule(root, classes=["juggling"]).manifests  # noqa: B018
    with pytest.raises(ConfigError, match="the lists have 3"):
        KineticsDataModule(root, classes=4).manifests  # noqa: B018


def test_clips_are_drawn_in_one_pass(monkeypatch):
    records = tuple(Record(f"{i:03d}", f"{i}.mp4", label=i % 50) for i in range(200))
    passes = []
    monkeypatch.setattr(Manifest, "__iter__", lambda manifest: passes.append(1) or iter(manifest.records))
    drawn = _draw(Manifest(records, tuple(map(str, range(50))), Path()), 2, seed=1)
    assert sorted(r.label for r in drawn.records) == sorted([*range(50)] * 2)
    assert len(passes) <= 2


def test_what_is_absent_is_said(root, tmp_path):
    with pytest.raises(DataError, match=r"(?s)train list.*cvdfoundation"):
        KineticsDataModule(tmp_path).manifests  # noqa: B018
    with pytest.raises(DataError, match="none of the 15 clips of the train list"):
        KineticsDataModule(tmp_path, annotations=root).manifests  # noqa: B018
    for wrong in ({"variant": 500}, {"test_on": "train"}):
        with pytest.raises(ConfigError):
            KineticsDataModule(tmp_path, **wrong)
    assert KineticsDataModule(**KineticsDataModule.smoke_arguments(tmp_path)).num_classes == 3


def read(folder, text):
    (folder / "train.csv").write_text(text, encoding="utf-8", newline="")
    return read_kinetics(folder, folder, {"train": "train"}, 400)["train"]


@pytest.mark.parametrize(
    ("row", "message"),
    [("a,../x,0,10,train", "no YouTube id"), ("a,,0,10,train", "no YouTube id"), (",x,0,10,train", "has no label"),
     ("a,x,ten,20,train", "no numbers"), ("a,x,10,10,train", "no stretch"), ("a,x,-1,10,train", "no stretch"),
     ("a,x,nan,10,train", "no stretch"), ("a,x", "no numbers"), ("", "no rows")],
)  # fmt: skip
def test_a_bad_row_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, HEADER + row)


def test_missing_columns_repeated_rows_and_too_many_classes_are_named(tmp_path):
    with pytest.raises(DataError, match="no column time_end"):
        read(tmp_path, "label,youtube_id,time_start\na,x,0\n")
    with pytest.raises(DataError, match="more than once"):
        read(tmp_path, HEADER + "a,x,0,10,train\n" * 2)
    with pytest.raises(DataError, match="401 classes"):
        read(tmp_path, HEADER + "".join(f"c{i},v{i},0,10,train\n" for i in range(401)))


def test_a_byte_order_mark_and_carriage_returns_are_no_matter(tmp_path):
    manifest = read(tmp_path, "\ufeff" + (HEADER + '"a, b", x ,0.0,10.0,train\n').replace("\n", "\r\n"))
    assert [(r.id, r.path) for r in manifest] == [("x_000000_000010", "x_000000_000010.mp4")]
    assert manifest.class_names == ("a, b",)


CELL = st.sampled_from(["a", "x", "../x", "/x", "0", "10", "-1", "1e400", "inf", "", " ", '"', "\0", "\ufeff", "\r"])


@settings(max_examples=120, deadline=None)
@given(st.lists(st.lists(CELL, max_size=6).map(",".join), max_size=3).map("\n".join))
def test_fuzz(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp() / "kinetics_fuzz"
    folder.mkdir(exist_ok=True)
    try:
        manifest = read(folder, HEADER + text)
    except DataError:
        return
    for record in manifest:
        assert "/" not in record.path
        assert record.path not in ("..", ".")
        assert 0 <= record.label < manifest.num_classes
