import csv
import shutil

import pytest

from lightning_har.data.folder import VideoFilesDataModule, VideoFolderDataModule
from lightning_har.errors import ConfigError, DataError
from lightning_har.spec import InputSpec


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def paths(data, split):
    return [r.path for r in data.manifests[split]]


def test_a_folder_per_class(class_folder):
    data = VideoFolderDataModule(class_folder, seed=1)
    assert data.class_names == ("jump", "walk")
    assert data.num_classes == 2
    assert list(data.manifests) == ["train", "val", "test"]
    everything = [p for split in data.manifests for p in paths(data, split)]
    assert sorted(everything) == sorted(p.relative_to(class_folder).as_posix() for p in class_folder.rglob("*.mp4"))
    again = VideoFolderDataModule(class_folder, seed=1)
    assert {s: m.sha256() for s, m in again.manifests.items()} == {s: m.sha256() for s, m in data.manifests.items()}
    assert {r.label for r in data.manifests["test"]} == {0, 1}
    assert list(VideoFolderDataModule(class_folder, test_fraction=0).manifests) == ["train", "val"]


def test_what_is_no_clip_is_passed_over(tmp_path):
    touch(tmp_path, "a/1.mp4", "a/2.MP4", "a/deep/3.avi", "a/notes.txt", "a/.4.mp4", ".git/5.mp4", "b/1.mp4", "b/2.mp4")
    data = VideoFolderDataModule(tmp_path, test_fraction=0)
    assert data.class_names == ("a", "b")
    assert sorted(paths(data, "train") + paths(data, "val")) == [
        "a/1.mp4", "a/2.MP4", "a/deep/3.avi", "b/1.mp4", "b/2.mp4",
    ]  # fmt: skip


def test_given_splits_stay(tmp_path):
    touch(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "val/a/3.mp4", "test/b/4.mp4")
    data = VideoFolderDataModule(tmp_path)
    assert data.class_names == ("a", "b")
    assert {s: paths(data, s) for s in data.manifests} == {
        "train": ["train/a/1.mp4", "train/b/2.mp4"],
        "val": ["val/a/3.mp4"],
        "test": ["test/b/4.mp4"],
    }


def test_validation_is_carved_from_training_never_from_test(tmp_path):
    touch(tmp_path, *(f"{s}/{c}/{i}.mp4" for s in ("train", "test") for c in "ab" for i in range(5)))
    data = VideoFolderDataModule(tmp_path)
    assert len(data.manifests["test"]) == 10
    assert all(p.startswith("train/") for p in paths(data, "val"))
    assert len(data.manifests["train"]) + len(data.manifests["val"]) == 10


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no folders"),
        (
            ["a/1.mp4", "a/2.mp4", "b/x.txt", "c/y.txt"],
            "2 class folders of .* have no videos: b; c.*pictures .* a CSV",
        ),
        (["a/1.mp4", "a/2.mp4", "b/1.mp4"], "1 classes of .* have a single clip.*: b"),
    ],
)
def test_bad_folders_are_named(files, message, tmp_path):
    touch(tmp_path, *files)
    with pytest.raises(DataError, match=message):
        _ = VideoFolderDataModule(tmp_path).manifests


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        _ = VideoFolderDataModule(tmp_path / "nowhere").num_classes


def write_csv(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_csv_with_groups_and_folds(tmp_path):
    rows = [(f"{c}/{g}{i}.mp4", c, f"{c}{g}", g % 3) for c in "ab" for g in range(9) for i in range(2)]
    touch(tmp_path, *(r[0] for r in rows))
    path = write_csv(tmp_path / "folds.csv", ("path", "label", "group", "fold"), rows)
    data = VideoFolderDataModule(path, fold=1)
    assert sorted(paths(data, "test")) == sorted(r[0] for r in rows if r[3] == 1)
    groups = {s: {r.group for r in m} for s, m in data.manifests.items()}
    assert not groups["train"] & groups["val"]
    with pytest.raises(DataError, match="no fold 7, only 0, 1, 2"):
        _ = VideoFolderDataModule(path, fold=7).manifests
    with pytest.raises(ConfigError, match="needs a CSV"):
        _ = VideoFolderDataModule(tmp_path, fold=1).manifests


def test_csv_with_splits(tmp_path):
    rows = [(f"{c}{i}.mp4", c, s) for c in "ab" for i, s in enumerate(("training", "train", "validation", "test"))]
    touch(tmp_path, *(r[0] for r in rows))
    data = VideoFolderDataModule(write_csv(tmp_path / "a.csv", ("path", "label", "split"), rows))
    assert {s: len(m) for s, m in data.manifests.items()} == {"train": 4, "val": 2, "test": 2}
    write_csv(tmp_path / "b.csv", ("path", "label", "split"), [*rows[1:], ("a0.mp4", "a", "holdout")])
    with pytest.raises(DataError, match="1 unknown splits: holdout"):
        _ = VideoFolderDataModule(tmp_path / "b.csv").manifests


def test_a_label_that_nothing_trains(tmp_path):
    rows = [(f"{c}{i}.mp4", c, s) for c in "ab" for i, s in enumerate(("train", "train", "val", "test"))]
    touch(tmp_path, *(r[0] for r in rows), "c.mp4")
    path = write_csv(tmp_path / "a.csv", ("path", "label", "split"), [*rows, ("c.mp4", "B", "test")])
    with pytest.raises(DataError, match=r"1 labels of .* no clip to train on: B \(test, c\.mp4\)"):
        _ = VideoFolderDataModule(path).manifests
    path = write_csv(tmp_path / "b.csv", ("path", "label", "split"), [("c.mp4", "B", "test")])
    assert list(VideoFolderDataModule(path).manifests) == ["test"], "what is only tested on needs no training split"


def test_a_class_of_one_clip_has_no_folds(tmp_path):
    rows = [*((f"{c}{i}.mp4", c, i) for c in "ab" for i in range(3)), ("c.mp4", "c", 1)]
    touch(tmp_path, *(r[0] for r in rows))
    with pytest.raises(DataError, match=r"1 classes of .* have a single clip.*: c"):
        _ = VideoFolderDataModule(write_csv(tmp_path / "a.csv", ("path", "label", "fold"), rows), fold=0).manifests


def test_a_path_in_two_splits(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    rows = [("1", "a.mp4", "x", "train"), ("2", "b.mp4", "y", "train"), ("3", "a.mp4", "x", "test")]
    rows.append(("4", "b.mp4", "y", "val"))
    path = write_csv(tmp_path / "a.csv", ("id", "path", "label", "split"), rows)
    with pytest.raises(DataError, match=r"2 files or groups are in two splits: .*b\.mp4 in train and val"):
        _ = VideoFolderDataModule(path).manifests
    path = write_csv(tmp_path / "b.csv", ("path", "label", "split"), [row[1:] for row in rows])
    with pytest.raises(DataError, match=r"2 ids .* than once: a \(in train and test\); b \(in train and val\)"):
        _ = VideoFolderDataModule(path).manifests


def test_absent_files_in_a_csv(tmp_path):
    path = write_csv(tmp_path / "a.csv", ("path", "label"), [(f"{i}.mp4", "x") for i in range(9)])
    with pytest.raises(DataError, match=r"files of the train split are not in"):
        _ = VideoFolderDataModule(path).manifests


def test_files_to_predict(class_folder, tmp_path):
    files = sorted(class_folder.rglob("*.mp4"))[:3]
    broken = tmp_path / "broken.mp4"
    shutil.copy(__file__, broken)
    data = VideoFilesDataModule(
        [*files, broken], class_names=("jump", "walk"), spec=InputSpec(4, (32, 32)), on_error="skip", batch_size=4
    )
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    assert batch["video"].shape == (3, 3, 4, 32, 32)
    assert batch["path"] == [str(f) for f in files]
    assert "label" not in batch
    assert [f.path for f in batch["failures"]] == [str(broken)]
    assert data.class_names == ("jump", "walk")
