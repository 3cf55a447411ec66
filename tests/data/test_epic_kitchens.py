"""EPIC-KITCHENS's CSVs: stretches in frames of pictures and of video files, and every kind of label."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lightning_har.data.epic_kitchens import EpicKitchensDataModule, read_epic
from lightning_har.errors import ConfigError, DataError
from lightning_har.spec import InputSpec

SHARED = Path(__file__).parents[3] / "shared" / "data" / "annotations" / "epic_kitchens_100"
VALIDATION = {"test": "EPIC_100_validation.csv"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("epic")
    EpicKitchensDataModule.fake(folder)
    return folder


@pytest.mark.shared
def test_the_official_validation_list_has_its_published_counts(tmp_path):
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED}")
    manifest = read_epic(SHARED, Path("videos"), VALIDATION)["test"]
    assert len(manifest) == 9668
    assert manifest.num_classes == {"verb": 97, "noun": 300}
    assert len({r.group for r in manifest}) == 138
    counts = {t: read_epic(SHARED, Path("videos"), VALIDATION, t)["test"].num_classes
              for t in ("verb", "noun", "verb_category")}  # fmt: skip
    assert counts == {"verb": 97, "noun": 300, "verb_category": 13}
    actions = read_epic(SHARED, Path("videos"), VALIDATION, "action")["test"]
    assert actions.num_classes == len({(r.label["verb"], r.label["noun"]) for r in manifest})
    first, named = manifest[0], actions.label_names(actions[0])
    assert named == {"label": "take plate"}
    # 0 s to 1.89 s of a file at 59.94 frames a second; of the published pictures: 1 to 113, from 0.
    assert (first.id, first.path, first.start, first.stop) == ("P01_11_0", "P01/videos/P01_11.MP4", 0, 114)
    (tmp_path / "P01" / "rgb_frames" / "P01_11").mkdir(parents=True)
    first = read_epic(SHARED, tmp_path, VALIDATION)["test"][0]
    assert (first.path, first.start, first.stop, first.fps) == ("P01/rgb_frames/P01_11", 0, 113, None)


def test_segments_of_long_videos(root):
    data = EpicKitchensDataModule(root, spec=InputSpec(3, (16, 16)), batch_size=2, num_workers=0)
    assert data.num_classes == {"verb": 4, "noun": 5}
    assert {r.group for r in data.manifests["test"]} == {"P02_101"}
    assert {r.group for r in data.manifests["train"]} | {r.group for r in data.manifests["val"]} == {
        "P01_01", "P01_02", "P02_03"}  # fmt: skip
    assert [(r.start, r.stop) for r in data.manifests["test"]] == [(0, 20), (12, 33), (25, 45), (37, 58)]
    assert data.coverage["train"] == {"listed": 12, "on_disk": 12}
    batch = next(iter(data.test_dataloader()))
    assert batch["video"].shape == (2, 3, 3, 16, 16)
    assert {head: labels.tolist() for head, labels in batch["label"].items()} == {"verb": [3, 0], "noun": [3, 0]}


@pytest.mark.parametrize(("target", "count"), [("verb", 4), ("noun", 5), ("verb_category", 4), ("action", 10)])
def test_every_target_has_its_classes(root, target, count):
    data = EpicKitchensDataModule(root, target=target)
    pairs = {(r.label["verb"], r.label["noun"]) for m in EpicKitchensDataModule(root).manifests.values() for r in m}
    assert data.num_classes == (len(pairs) if target == "action" else count)
    labels = {r.label for m in data.manifests.values() for r in m}
    assert labels <= set(range(data.num_classes))
    if target == "verb_category":
        assert data.class_names == ("access", "clean", "leave", "retrieve")
        assert data.manifests["test"][0].label == data.class_names.index("access")


def test_frame_folders_and_their_flow(root, tmp_path):
    shutil.copytree(root / "epic-kitchens-100-annotations", tmp_path / "annotations")
    rng = np.random.default_rng(0)
    for video in ("P01_01", "P01_02", "P02_03", "P02_101"):
        for folder in (f"rgb_frames/{video}", f"flow_frames/{video}/u", f"flow_frames/{video}/v"):
            place = tmp_path / video[:3] / folder
            place.mkdir(parents=True)
            for i in range(144 - ("flow" in folder)):
                shape = (24, 32, 3) if "rgb" in folder else (24, 32)
                Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(place / f"frame_{i + 1:010d}.jpg")
    specs = {"rgb": InputSpec(3, (16, 16)), "flow": InputSpec(3, (16, 16), modality="flow", mean=(0.5,), std=(1.0,))}
    data = EpicKitchensDataModule(tmp_path, spec=specs, batch_size=2, num_workers=0)
    assert [(r.start, r.stop) for r in data.manifests["test"]] == [(0, 48), (30, 78), (60, 108), (90, 138)]
    batch = next(iter(data.test_dataloader()))
    assert batch["video"]["rgb"].shape == (2, 3, 3, 16, 16)
    assert batch["video"]["flow"].shape == (2, 2, 3, 16, 16)


def test_a_part_on_disk_is_taken_and_told(root, tmp_path, capsys):
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    (tmp_path / "P01" / "videos" / "P01_02.MP4").unlink()
    data = EpicKitchensDataModule(**{**EpicKitchensDataModule.smoke_arguments(tmp_path), "root": tmp_path})
    assert {r.group for m in data.manifests.values() for r in m} == {"P01_01", "P02_03", "P02_101"}
    assert "train 8 of 12 (66.7 %)" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "P02")
    with pytest.raises(DataError, match=r"(?s)none of the 4 clips of the test list.*CC BY-NC"):
        EpicKitchensDataModule(tmp_path).manifests  # noqa: B018
    with pytest.raises(DataError, match=r"(?s)no annotations.*EPIC_100_train\.csv"):
        EpicKitchensDataModule(tmp_path / "P01").manifests  # noqa: B018
    with pytest.raises(ConfigError, match="verb_noun"):
        EpicKitchensDataModule(tmp_path, target="adverb")


def edited(root, folder, **cells):
    """The fake validation list with cells of its first row changed."""
    if not (folder / "EPIC_100_train.csv").exists():
        shutil.copytree(root / "epic-kitchens-100-annotations", folder, dirs_exist_ok=True)
    path = folder / "EPIC_100_validation.csv"
    lines = (root / "epic-kitchens-100-annotations" / path.name).read_text().splitlines()
    names, row = lines[0].split(","), lines[1].split(",")
    for name, value in cells.items():
        row[names.index(name)] = value
    path.write_text("\ufeff" + "\r\n".join([lines[0], ",".join(row), *lines[2:]]), encoding="utf-8", newline="")
    return read_epic(folder, root, VALIDATION)["test"]


@pytest.mark.parametrize(
    ("cells", "message"),
    [({"verb_class": "97"}, "verb_class is 97; there are 4"), ({"noun_class": "-1"}, "not a whole number"),
     ({"noun_class": ""}, "not a whole number"), ({"video_id": "../P01_01"}, "no participant or video"),
     ({"participant_id": "/P01"}, "no participant or video"), ({"stop_timestamp": "00:00:00.00"}, "no stretch"),
     ({"start_timestamp": "1.5"}, "no time"), ({"video_id": "P09_09"}, "frame rate of P09_09")],
)  # fmt: skip
def test_a_bad_row_is_named(root, tmp_path, cells, message):
    assert len(edited(root, tmp_path)) == 4
    with pytest.raises(DataError, match=f"line 2: .*{message}"):
        edited(root, tmp_path, **cells)


def test_missing_columns_and_class_lists_are_named(root, tmp_path):
    edited(root, tmp_path)
    (tmp_path / "EPIC_100_validation.csv").write_text("narration_id,participant_id\nx,P01\n")
    with pytest.raises(DataError, match="no column video_id"):
        read_epic(tmp_path, root, VALIDATION)
    (tmp_path / "EPIC_100_verb_classes.csv").write_text("id,key,category\n1,take,x\n")
    with pytest.raises(DataError, match="do not count from 0"):
        read_epic(tmp_path, root, VALIDATION)


COLUMNS = st.sampled_from(["narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp",
                           "start_frame", "stop_frame", "verb_class", "noun_class"])  # fmt: skip
ODD = ["", " ", "..", "/", "P01", "-1", "3", "1e9", "nan:0:0", "0:0:inf", "0:0:1e308", "²"]
CELLS = st.one_of(st.sampled_from(ODD), st.text(max_size=8).filter(lambda s: not set(s) & set('",\r\n')))  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(st.dictionaries(COLUMNS, CELLS, max_size=3))
def test_fuzz(root, tmp_path_factory, cells):
    folder = tmp_path_factory.getbasetemp() / "epic_fuzz"
    folder.mkdir(exist_ok=True)
    try:
        manifest = edited(root, folder, **cells)
    except (DataError, UnicodeEncodeError):
        return
    for record in manifest:
        assert ".." not in record.path
        assert not record.path.startswith("/")
        assert 0 <= record.start < record.stop
        assert record.label["verb"] < 4
        assert record.label["noun"] < 5
