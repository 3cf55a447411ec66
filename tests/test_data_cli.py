"""``lightning-har data``, as it is typed."""

from __future__ import annotations

import csv
import shutil

import pytest
from PIL import Image
from rar_writer import write_rar

from lightning_har import VideoFolderDataModule
from lightning_har.cli.main import main
from lightning_har.data.decode import probe
from lightning_har.data.decode_pyav import PyAVVideo
from lightning_har.data.fake import fake_frames, write_fake_folder, write_video
from lightning_har.data.hmdb51 import CLASSES, HMDB51DataModule
from lightning_har.data.named import DATASETS, data_factory
from lightning_har.errors import DataError


def data(*arguments):
    return main(["data", *map(str, arguments)])


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_is_described_faked_shown_and_checked(name, tmp_path, capsys):
    assert data("show", name) == 0
    text = capsys.readouterr().out
    assert "https://" in text
    assert "terms: " in text
    assert "layout:" in text
    assert data("fake", name, tmp_path / "fake") == 0
    spec = f"{name}:{tmp_path / 'fake'}"
    assert f"read it as {spec}" in capsys.readouterr().out
    picture = tmp_path / "samples.png"
    assert data("show", spec, "--picture", picture) == 0
    assert picture.stat().st_size > 5000
    text = capsys.readouterr().out
    assert all(split in text for split in ("train", "val", "test"))
    assert data("check", spec, "--report", tmp_path / "check.csv", "--workers", 0, "--min-frames", 4) == 0
    assert "0 corrupt" in capsys.readouterr().out
    assert data_factory(spec)().num_classes
    assert data("fake", name, tmp_path / "fake") == 2
    assert "not empty" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["folder", "features"])
def test_the_two_without_a_publisher_are_faked_too(name, tmp_path):
    assert data("fake", name, tmp_path / "x") == 0
    place = f"{'features:' if name == 'features' else ''}{tmp_path / 'x'}"
    assert set(data_factory(place)().manifests) == {"train", "val", "test"}


def test_check_names_what_is_wrong_and_says_so_by_its_exit_code(tmp_path, capsys):
    write_fake_folder(tmp_path / "clips", clips=3)
    call = ["check", tmp_path / "clips", "--report", tmp_path / "r.csv", "--workers", 1]
    assert data(*call) == 0
    assert "6 files: 6 ok, 0 odd, 0 short, 0 corrupt" in capsys.readouterr().out
    whole = (tmp_path / "clips" / "clap" / "clap_00.mp4").read_bytes()
    (tmp_path / "clips" / "clap" / "clap_00.mp4").write_bytes(whole[:-500])
    assert data(*call) == 1
    text = capsys.readouterr().out
    assert "corrupt: clap/clap_00.mp4: " in text
    assert "5 ok" in text


def test_stats_prints_and_draws(tmp_path, capsys):
    write_fake_folder(tmp_path / "clips", clips=5)
    assert data("stats", tmp_path / "clips", "--picture", tmp_path / "s.png", "--workers", 0) == 0
    assert "wave" in capsys.readouterr().out
    assert (tmp_path / "s.png").stat().st_size > 10_000


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_split_keeps_groups_whole_and_is_read_back(tmp_path, capsys):
    write_fake_folder(tmp_path, classes=("a", "b"), clips=20)
    lines = [f"{c}/{c}_{i:02d}.mp4,{c},{c}{i // 2}" for c in "ab" for i in range(20)]
    (tmp_path / "all.csv").write_text("\n".join(["path,label,group", *lines]))
    assert data("split", tmp_path / "all.csv", "--out", tmp_path / "split.csv", "--test", 0.2, "--val", 0.2) == 0
    rows = rows_of(tmp_path / "split.csv")
    assert len(rows) == 40
    where = {}
    for row in rows:
        assert where.setdefault(row["group"], row["split"]) == row["split"]
    counts = {s: sum(r["split"] == s for r in rows) for s in ("train", "val", "test")}
    assert counts == {"train": 24, "val": 8, "test": 8}
    assert all({r["label"] for r in rows if r["split"] == s} == {"a", "b"} for s in counts)
    loaded = VideoFolderDataModule(tmp_path / "split.csv")
    assert {s: len(m) for s, m in loaded.manifests.items()} == counts
    assert data("split", tmp_path / "all.csv", "--out", tmp_path / "split.csv") == 2
    assert data("split", tmp_path / "all.csv", "--out", tmp_path / "folds.csv", "--folds", 5) == 0
    folds = rows_of(tmp_path / "folds.csv")
    assert {f: sum(r["fold"] == f for r in folds) for f in "12345"} == dict.fromkeys("12345", 8)
    assert len({(r["group"], r["fold"]) for r in folds}) == 20
    assert VideoFolderDataModule(tmp_path / "folds.csv", fold=3).manifests["test"].records[0].split == "3"
    assert data("split", tmp_path / "all.csv", "--out", tmp_path / "x.csv", "--test", 0.6, "--val", 0.5) == 2
    capsys.readouterr()


def test_clips_that_cannot_be_split_are_checked(tmp_path, capsys):
    """One clip in a class, and a label that only a test has: nothing to train on, but files to look at."""
    pytest.importorskip("cv2")
    write_fake_folder(tmp_path / "clips", clips=1)
    rows = ["clap/clap_00.mp4,clap,train", "wave/gone.mp4,wave,test"]
    (tmp_path / "clips" / "all.csv").write_text("\n".join(["path,label,split", *rows]))
    for what, code in ((tmp_path / "clips", 0), (tmp_path / "clips" / "all.csv", 1)):
        assert data("check", what, "--report", tmp_path / f"{what.stem}.csv", "--workers", 0) == code
        assert data("flow", what, "--out", tmp_path / what.stem, "--workers", 0) == code
    assert "gone.mp4" in capsys.readouterr().err
    assert [row["path"] for row in rows_of(tmp_path / "all.csv")] == ["clap/clap_00.mp4", "wave/gone.mp4"]


def test_flow_is_stored_for_the_data_module(tmp_path, capsys):
    pytest.importorskip("cv2")
    write_fake_folder(tmp_path / "clips", clips=2)
    (tmp_path / "clips" / "wave" / "bad.mp4").write_bytes(b"x")
    assert data("flow", tmp_path / "clips", "--out", tmp_path / "flow", "--workers", 0) == 1
    assert "bad.mp4" in capsys.readouterr().err
    assert len(list((tmp_path / "flow").rglob("*.flow.mkv"))) == 4
    assert data("flow", tmp_path / "clips", "--out", tmp_path / "flow", "--method", "guess") == 2


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("bsdtar"), reason="bsdtar is not installed")
def test_prepare_unpacks_hmdb51_as_it_is_published_and_reencodes_it(tmp_path, capsys):
    HMDB51DataModule.fake(tmp_path / "fake")
    inner = {}
    for name in CLASSES:
        files = sorted((tmp_path / "fake" / "hmdb51_org" / name).iterdir())
        inner[f"{name}.rar"] = write_rar({f"{name}/{f.name}": f.read_bytes() for f in files})
    lists = sorted((tmp_path / "fake" / "testTrainMulti_7030_splits").iterdir())
    (tmp_path / "got").mkdir()
    (tmp_path / "got" / "hmdb51_org.rar").write_bytes(write_rar(inner))
    splits = {f"testTrainMulti_7030_splits/{f.name}": f.read_bytes() for f in lists}
    (tmp_path / "got" / "test_train_splits.rar").write_bytes(write_rar(splits))
    call = ("prepare", "hmdb51", tmp_path / "got", "--reencode", tmp_path / "small", "--short-side", 24, "--workers", 1)
    assert data(*call) == 0
    for folder in ("got", "small"):
        assert len(data_factory(f"hmdb51:{tmp_path / folder}")().manifests["test"]) == 51
    info = probe(next((tmp_path / "small" / "hmdb51_org" / "wave").iterdir()))
    assert (info.num_frames, info.height, info.width) == (8, 24, 30)
    assert not list((tmp_path / "small").rglob("*.rar"))
    capsys.readouterr()


def test_prepare_says_what_it_lacks_and_refuses_another_file(tmp_path, capsys):
    assert data("prepare", "ucf101", tmp_path) == 2
    assert "UCF101.rar" in capsys.readouterr().err
    (tmp_path / "UCF101TrainTestSplits-RecognitionTask.zip").write_bytes(b"not it")
    assert data("prepare", "ucf101", tmp_path) == 2
    assert "SHA-256" in capsys.readouterr().err
    assert data("download", "kinetics", tmp_path) == 2
    assert "cvdfoundation" in capsys.readouterr().err


def test_a_download_that_fails_tells_the_page_too(tmp_path, monkeypatch, capsys):
    def gone(archive, folder):
        raise DataError(f"cannot fetch {archive.name}: HTTP 404")

    monkeypatch.setattr("lightning_har.data.download.download", gone)
    assert data("download", "hmdb51", tmp_path) == 2
    assert "HTTP 404. The data set's page: https://serre.lab.brown.edu" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.webm", "b.WEBM", "c.ogv", "d.divx", "e.mxf"])
def test_a_name_whose_container_takes_no_h264_stays(tmp_path, make_video, number_of, name):
    codec, inside = ("libvpx", "x.webm") if "webm" in name.lower() else ("mpeg4", "x.avi")
    (tmp_path / "in").mkdir()
    make_video(tmp_path / inside, 30, codec=codec, fps=15).rename(tmp_path / "in" / name)
    assert data("prepare", "folder", tmp_path / "in", "--reencode", tmp_path / "out", "--workers", 0) == 0
    with PyAVVideo(tmp_path / "out" / name) as video:
        assert video.info().num_frames == 30
        assert [number_of(frame) for frame in video.read([3, 17])] == [3, 17]


def test_reencoded_videos_show_the_same_with_keyframes_close_together(tmp_path, capsys):
    write_video(tmp_path / "in" / "a" / "x.avi", fake_frames(3, 50, (120, 160)), fps=30)
    (tmp_path / "in" / "notes.txt").write_text("kept")
    (tmp_path / "in" / "bad.mp4").write_bytes(b"x")
    call = ("prepare", "folder", tmp_path / "in", "--reencode", tmp_path / "out", "--short-side", 60, "--keyframes", 5,
            "--workers", 0)  # fmt: skip
    assert data(*call) == 1
    assert "bad.mp4" in capsys.readouterr().err
    assert (tmp_path / "out" / "notes.txt").read_text() == "kept"
    with PyAVVideo(tmp_path / "out" / "a" / "x.avi") as small, PyAVVideo(tmp_path / "in" / "a" / "x.avi") as large:
        assert small.num_frames == 50
        assert small.fps == pytest.approx(30)
        assert small._timestamps().key_ranks.tolist() == list(range(0, 50, 5))
        near = small.read(range(0, 50, 7)).astype(float) - large.read(range(0, 50, 7), (60, 80))
    assert abs(near).mean() < 4
    assert data("prepare", "folder", tmp_path / "in", "--reencode", tmp_path / "in" / "x") == 2


def test_stored_flow_is_shown_below_the_frames(tmp_path):
    pytest.importorskip("cv2")
    write_fake_folder(tmp_path / "clips", clips=4)
    clips, flow = tmp_path / "clips", tmp_path / "flow"
    assert data("flow", clips, "--out", flow, "--method", "lucas_kanade", "--workers", 0) == 0
    assert data("show", clips, "--picture", tmp_path / "frames.png") == 0
    assert data("show", clips, "--flow-root", flow, "--picture", tmp_path / "flow.png") == 0
    with Image.open(tmp_path / "frames.png") as frames, Image.open(tmp_path / "flow.png") as both:
        assert both.height > 2.5 * frames.height  # x and y of each
