"""Cached features: the same as computed, whole after a kill, and trained from."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from lightning_har import CNNRNNModule, VideoFolderDataModule
from lightning_har._lightning import Trainer
from lightning_har.data.extract import ManifestDataModule, extract_features, feature_file
from lightning_har.data.fake import write_fake_folder
from lightning_har.data.features import FeatureDataModule, open_features
from lightning_har.data.manifest import Manifest, Record
from lightning_har.errors import ConfigError, DataError, DecodeError
from lightning_har.spec import InputSpec, Sampling

SPEC = InputSpec(num_frames=4, size=(16, 16))
SAMPLING = Sampling("uniform", crop="full")


def colours(video):
    """(B, C, T, H, W) to the mean of each channel, (B, T, 3)."""
    return video.float().mean((3, 4)).transpose(1, 2)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    write_fake_folder(root, clips=5)
    return root


def folder(clips, **kwargs):
    kwargs = {"batch_size": 3, "num_workers": 0, "eval_sampling": SAMPLING} | kwargs
    return VideoFolderDataModule(clips, spec=SPEC, **kwargs)


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0), ("float16", 0.1), ("uint8", 0.3)])
def test_stored_features_are_those_of_the_evaluation_frames(clips, tmp_path, dtype, error):
    data = folder(clips)
    done = extract_features(colours, data, tmp_path, dtype=dtype)
    assert (done.extracted, done.kept, done.failures) == (10, 0, [])
    stored = FeatureDataModule(done.manifest, batch_size=1, eval_sampling=SAMPLING)
    assert stored.class_names == data.class_names
    for split in ("train", "val", "test"):
        assert [r.id for r in stored.manifests[split]] == [r.id for r in data.manifests[split]]
    for batch, expected in zip(stored.test_dataloader(), folder(clips, batch_size=1).test_dataloader(), strict=True):
        assert batch["id"] == expected["id"]
        assert batch["label"] == expected["label"]
        torch.testing.assert_close(batch["video"], colours(expected["video"]), atol=error, rtol=0)
    first = np.load(feature_file(tmp_path, data.manifests["train"][0].id))
    assert first.dtype == dtype
    assert first.shape == (4, 3)


KILLED = """
import os, signal, sys
sys.path.insert(0, "tests/data")
from test_features import colours, extract_features, folder
calls = 0
def extractor(video):
    global calls
    calls += 1
    if calls == {calls}:
        os.kill(os.getpid(), signal.SIGKILL)
    return colours(video)
extract_features(extractor, folder({clips!r}, batch_size=2), {out!r}, dtype={dtype!r})
"""


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_killed_extraction_goes_on_without_redoing_or_losing_a_clip(clips, tmp_path, dtype):
    script = KILLED.format(calls=3, clips=str(clips), out=str(tmp_path / "a"), dtype=dtype)
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "a").rglob("*.npy")}
    assert len(before) == 4
    assert not (tmp_path / "a" / "manifest.csv").exists()
    seen = []
    done = extract_features(lambda v: seen.append(len(v)) or colours(v), folder(clips), tmp_path / "a", dtype=dtype)
    assert (sum(seen), done.extracted, done.kept) == (6, 6, 4)
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    whole = extract_features(colours, folder(clips), tmp_path / "b", dtype=dtype)
    assert done.manifest.read_text() == whole.manifest.read_text()
    for path in (tmp_path / "b").rglob("*.npy"):
        other = tmp_path / "a" / path.relative_to(tmp_path / "b")
        assert other.read_bytes() == path.read_bytes()


def test_other_settings_are_refused_in_the_same_folder(clips, tmp_path):
    extract_features(colours, folder(clips), tmp_path, settings={"model": "a"})
    assert extract_features(colours, folder(clips), tmp_path, settings={"model": "a"}).extracted == 0
    with pytest.raises(ConfigError, match="model = 'a', not 'b'"):
        extract_features(colours, folder(clips), tmp_path, settings={"model": "b"})
    with pytest.raises(ConfigError, match="dtype"):
        extract_features(colours, folder(clips), tmp_path, dtype="float16", settings={"model": "a"})
    with pytest.raises(ConfigError, match="one view"):
        extract_features(colours, folder(clips, eval_sampling=Sampling(crop="ten")), tmp_path)


def test_wrong_output_is_named(clips, tmp_path):
    with pytest.raises(DataError, match=r"\(B, T, D\)"):
        extract_features(lambda v: colours(v).mean(1), folder(clips), tmp_path / "a")
    with pytest.raises(DataError, match="not finite"):
        extract_features(lambda v: colours(v) / 0 * 0, folder(clips), tmp_path / "b")
    with pytest.raises(DataError, match="float16"):
        extract_features(lambda v: colours(v) * 1e6 + 1e6, folder(clips), tmp_path / "c", dtype="float16")


def test_an_unreadable_clip_is_reported_and_left_out(tmp_path):
    write_fake_folder(tmp_path / "clips", clips=4)
    (tmp_path / "clips" / "wave" / "wave_01.mp4").write_bytes(b"no video")
    files = sorted((tmp_path / "clips").rglob("*.mp4"))
    records = [
        Record(f"{p.parent.name}/{p.stem}", f"{p.parent.name}/{p.name}", label=i // 4, split=str(i % 2))
        for i, p in enumerate(files)
    ]
    manifest = Manifest(tuple(records), ("clap", "wave"), tmp_path / "clips")
    options = {"spec": SPEC, "eval_sampling": SAMPLING, "num_workers": 0, "batch_size": 2}
    with pytest.raises(DecodeError, match=r"wave_01\.mp4"):
        extract_features(colours, ManifestDataModule(manifest, **options), tmp_path / "out")
    done = extract_features(colours, ManifestDataModule(manifest, **options, on_error="skip"), tmp_path / "out")
    assert [f.id for f in done.failures] == ["wave/wave_01"]
    assert done.extracted + done.kept == 7
    rows = list(csv.DictReader(done.manifest.open()))
    assert len(rows) == 7
    assert {row["fold"] for row in rows} == {"0", "1"}
    data = FeatureDataModule(done.manifest, fold=1)
    assert {r.split for r in data.manifests["test"]} == {"1"}
    assert {r.split for part in ("train", "val") for r in data.manifests[part]} == {"0"}


def test_clips_without_a_fold_are_refused_as_those_of_videos_are(tmp_path):
    rows = [f"{i}.npy,{'ab'[i % 2]},{i % 3 if i < 6 else ''}" for i in range(9)]
    table = tmp_path / "folds.csv"
    table.write_text("\n".join(["path,label,fold", *rows]) + "\n")
    for data in (FeatureDataModule(table, fold=1), VideoFolderDataModule(table, fold=1)):
        with pytest.raises(DataError, match=r"folds\.csv: 3 clips have no fold: 6\.npy; 7\.npy; 8\.npy"):
            data.load_manifests()


@pytest.mark.parametrize("text", ['{"class_names": "ab"}', "[]", "{"])
def test_damaged_settings_are_named(text, tmp_path):
    FeatureDataModule.fake(tmp_path)
    (tmp_path / "extract.json").write_text(text)
    with pytest.raises(DataError, match=r"extract\.json is damaged: .*extract again"):
        FeatureDataModule(tmp_path / "manifest.csv").load_manifests()


def test_features_that_anyone_wrote_with_numpy_train_a_recurrent_head(tmp_path):
    arguments = FeatureDataModule.smoke_arguments(tmp_path)
    data = FeatureDataModule(**arguments)
    assert data.feature_shape == (8, 16)
    torch.manual_seed(0)
    module = CNNRNNModule(
        data.num_classes, backbone=None, feature_dim=16, temporal="gru", hidden=8, topk=(1,), lr=0.01, dropout=0
    )
    trainer = Trainer(max_epochs=20, accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(module, datamodule=data)
    assert trainer.test(module, datamodule=data, verbose=False)[0]["test_video_top1"] > 0.6


def test_fewer_frames_can_be_taken_than_are_stored(tmp_path):
    FeatureDataModule.fake(tmp_path)
    data = FeatureDataModule(tmp_path / "manifest.csv", num_frames=3, eval_sampling=SAMPLING, batch_size=1,
                             train_sampling=Sampling("uniform", random=True))  # fmt: skip
    batch = next(iter(data.test_dataloader()))
    stored = np.load(tmp_path / batch["path"][0])
    assert np.array_equal(batch["video"][0].numpy(), stored[[0, 4, 7]])
    np.save(tmp_path / "clap" / "00.npy", stored[:5])
    assert {tuple(b["video"].shape) for b in data.train_dataloader()} == {(1, 3, 16)}
    uneven = FeatureDataModule(tmp_path / "manifest.csv", batch_size=1)
    with pytest.raises(DataError, match="num_frames"):
        list(uneven.train_dataloader()) + list(uneven.val_dataloader())


def test_a_sampling_may_take_its_own_number_of_frames(tmp_path):
    FeatureDataModule.fake(tmp_path)
    drawn = Sampling("segments", num_frames=3, random=True)
    data = FeatureDataModule(tmp_path / "manifest.csv", train_sampling=drawn, eval_sampling=SAMPLING, batch_size=1)
    assert {tuple(b["video"].shape) for b in data.train_dataloader()} == {(1, 3, 16)}
    assert {tuple(b["video"].shape) for b in data.test_dataloader()} == {(1, 8, 16)}
    data = FeatureDataModule(tmp_path / "manifest.csv", train_sampling=drawn, num_frames=2, batch_size=1)
    assert {tuple(b["video"].shape) for b in data.train_dataloader()} == {(1, 2, 16)}


def test_uint8_without_a_scale_is_a_255th(tmp_path):
    FeatureDataModule.fake(tmp_path)
    rows = (tmp_path / "manifest.csv").read_text().splitlines()
    for i, row in enumerate(rows[1:], start=1):
        np.save(tmp_path / row.split(",")[0], np.full((8, 16), i * 10, np.uint8))
        rows[i] += ",0.5,-1" if i % 2 else ",,"
    (tmp_path / "manifest.csv").write_text("\r\n".join([rows[0] + ",scale,offset", *rows[1:]]))
    data = FeatureDataModule(tmp_path / "manifest.csv", batch_size=1)
    found = {b["path"][0]: b["video"] for b in data.test_dataloader()}
    for i, row in enumerate(rows[1:], start=1):
        if "test" in row:
            assert found[row.split(",")[0]].unique().item() == pytest.approx(i * 5 - 1 if i % 2 else i * 10 / 255)


@pytest.mark.parametrize(
    ("content", "message"),
    [(np.zeros((2, 3, 4), np.float32), "not an array"), (np.zeros((2, 3)), "float64"), (b"junk", "no .npy file"),
     (b"", "no .npy file"), (np.zeros((8, 5), np.float32), "5 features per frame")],
)  # fmt: skip
def test_a_bad_file_is_named(tmp_path, content, message):
    FeatureDataModule.fake(tmp_path)
    data = FeatureDataModule(tmp_path / "manifest.csv", batch_size=1)
    data.setup()
    path = tmp_path / data.manifests["test"][0].path
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises((DataError, DecodeError), match=rf"{path.name}.*{message}"):
        next(iter(data.test_dataloader()))


def test_ids_never_leave_the_folder(tmp_path):
    for name in ("../a", "/a", "a/../b", "", ".", "..", "a\0b", "a" * 300, "a/./b", "line\nbreak"):
        assert feature_file(tmp_path, name).parent == tmp_path, name
        assert feature_file(tmp_path, name).name.startswith("id-")
    assert feature_file(tmp_path, "a b/ü:1-2") == tmp_path / "a b" / "ü:1-2.npy"


def test_heads_and_settings_travel_with_the_features(tmp_path):
    write_fake_folder(tmp_path / "clips", classes=("x",), clips=4)
    names = {"verb": ("take", "put"), "noun": ("cup", "pan", "lid")}
    records = [Record(str(i), f"x/x_{i:02d}.mp4", label={"verb": i % 2, "noun": i % 3}, split=("train", "test")[i // 3])
               for i in range(4)]  # fmt: skip
    manifest = Manifest(tuple(records), names, tmp_path / "clips")
    data = ManifestDataModule(manifest, spec=SPEC, eval_sampling=SAMPLING, num_workers=0)
    done = extract_features(colours, data, tmp_path / "out", settings={"model": "colours"})
    assert json.loads((tmp_path / "out" / "extract.json").read_text())["model"] == "colours"
    stored = FeatureDataModule(done.manifest)
    assert stored.class_names == names
    assert stored.manifests["test"][0].label == {"verb": 1, "noun": 0}
    assert open_features(stored.manifests["test"].file(stored.manifests["test"][0])).shape == (4, 3)
