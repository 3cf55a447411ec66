"""UCF101's lists: the real ones by their published counts, damaged ones by the errors they give."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_har.data.ucf101 import ACTION_TYPES, UCF101DataModule, action_type, read_ucf101
from lightning_har.errors import ConfigError, DataError
from lightning_har.spec import InputSpec

SHARED = Path(__file__).parents[3] / "shared" / "data" / "annotations" / "ucf101"


@pytest.mark.shared
@pytest.mark.parametrize(("split", "train", "test"), [(1, 9537, 3783), (2, 9586, 3734), (3, 9624, 3696)])
def test_the_official_lists_have_their_published_counts(split, train, test):
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED}")
    parts = read_ucf101(SHARED, Path("videos"), split)
    assert (len(parts["train"]), len(parts["test"])) == (train, test)
    groups = [{r.group for r in parts[p]} for p in ("train", "test")]
    assert not groups[0] & groups[1]
    assert {r.label for r in parts["test"]} == set(range(101))
    assert sorted(parts["train"].class_names) == sorted(n for names in ACTION_TYPES.values() for n in names)


def test_the_five_types_part_the_101_classes():
    assert [len(names) for names in ACTION_TYPES.values()] == [20, 16, 5, 10, 50]
    assert len({n for names in ACTION_TYPES.values() for n in names}) == 101
    assert action_type("TaiChi") == "Body-Motion Only"
    # Those whose names would lead elsewhere.
    assert action_type("WalkingWithDog") == action_type("BlowingCandles") == "Body-Motion Only"
    assert action_type("BandMarching") == action_type("MilitaryParade") == "Human-Human Interaction"
    assert action_type("JumpRope") == action_type("SkateBoarding") == "Human-Object Interaction"
    assert action_type("IceDancing") == action_type("Punch") == "Sports"
    with pytest.raises(DataError, match="TaiChai"):
        action_type("TaiChai")


def test_a_fake_one_loads_like_the_real_one(tmp_path):
    arguments = UCF101DataModule.smoke_arguments(tmp_path)
    for split in (1, 2, 3):
        data = UCF101DataModule(**arguments, split=split, spec=InputSpec(3, (32, 32)))
        assert data.num_classes == 101
        assert data.fold == str(split)
        groups = {part: {r.group for r in m} for part, m in data.manifests.items()}
        assert set(groups) == {"train", "val", "test"}
        assert len(set.union(*groups.values())) == sum(map(len, groups.values())) == 9
    batch = next(iter(data.test_dataloader()))
    assert batch["video"].shape == (2, 3, 3, 32, 32)
    assert batch["label"].tolist() == [data.class_names.index(p.split("/")[0]) for p in batch["path"]]


def test_an_absent_data_set_says_all_in_one_message(tmp_path):
    with pytest.raises(DataError) as error:
        UCF101DataModule(tmp_path).manifests  # noqa: B018
    for part in ("ucfTrainTestlist", "crcv.ucf.edu", "6.5 GB", "UCF-101/", "data download ucf101", "data fake ucf101"):
        assert part in str(error.value)
    UCF101DataModule.fake(tmp_path)
    next(tmp_path.rglob("*_g08_c02.avi")).unlink()
    with pytest.raises(DataError, match=r"1 of the 12 videos of the train list.*_g08_c02\.avi"):
        UCF101DataModule(tmp_path).manifests  # noqa: B018
    with pytest.raises(ConfigError, match="splits 1, 2 and 3"):
        UCF101DataModule(tmp_path, split=4)


def _write(folder: Path, lines: str, encoding: str = "utf-8") -> dict:
    folder.mkdir(exist_ok=True)
    (folder / "classInd.txt").write_bytes(b"\xef\xbb\xbf1 Archery\r\n2 Bowling\r\n")
    (folder / "testlist01.txt").write_text("Bowling/v_Bowling_g02_c01.avi\n")
    (folder / "trainlist01.txt").write_text(lines, encoding=encoding, newline="")
    return read_ucf101(folder, folder, 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Archery/v_Archery_g01_c01.avi 2", "label 2, but Archery is 1"),
        ("Archery/v_Archery_g01_c01.avi 99", "label 99"),
        ("Juggling/v_Juggling_g01_c01.avi 1", "no class folder"),
        ("../Archery/v_Archery_g01_c01.avi 1", "leaves the root"),
        ("/Archery/v_Archery_g01_c01.avi 1", "leaves the root"),
        ("Archery/clip.avi 1", "not named like"),
        ("v_Archery_g01_c01.avi", "no class folder"),
        ("", "is empty"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path, line, message):
    with pytest.raises(DataError, match=message):
        _write(tmp_path, line)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n  \r\n"])
def test_spaces_line_ends_and_byte_order_marks_are_no_matter(tmp_path, ending):
    line = "  Archery/v_Archery of mine_g01_c01.avi   1 "
    records = _write(tmp_path, line + ending, "utf-8-sig")["train"].records
    assert [(r.path, r.label, r.group) for r in records] == [
        ("Archery/v_Archery of mine_g01_c01.avi", 0, "Archery_g01")
    ]


PARTS = st.sampled_from(["Archery", "Bowling", "v_Archery_g01_c01.avi", "..", "/", "\\", " ", "1", "3", "\ufeff", "\t"])


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.lists(PARTS).map("".join), st.text(max_size=60)))
def test_whatever_a_line_holds_it_is_a_record_inside_or_a_data_error(tmp_path_factory, line):
    folder = tmp_path_factory.getbasetemp() / "ucf_fuzz"
    try:
        parts = _write(folder, line)
    except (DataError, UnicodeEncodeError):
        return
    for record in parts["train"]:
        assert record.label in (0, 1)
        assert not record.path.startswith(("/", "../"))
        assert record.group
