"""Shards: the same clips as the files they were written from, each once an epoch; whole after a kill."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_har import ShardDataModule, VideoFolderDataModule
from lightning_har.data.decode import Slice, probe, read_frames
from lightning_har.data.fake import fake_frames, write_fake_folder, write_video
from lightning_har.data.named import data_factory
from lightning_har.data.shards import write_shards
from lightning_har.errors import ConfigError, DataError, DecodeError
from lightning_har.spec import InputSpec

SPEC = InputSpec(num_frames=4, size=(32, 32))
SMALL = 9_000
"""Bytes: a shard of a few fake clips."""


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    write_fake_folder(root, clips=8)
    return root


def folder(clips, **kwargs):
    return VideoFolderDataModule(clips, spec=SPEC, batch_size=3, num_workers=0, **kwargs)


def shards(root, **kwargs):
    return ShardDataModule(root, spec=SPEC, batch_size=3, num_workers=0, **kwargs)


@pytest.fixture(scope="module")
def written(clips, tmp_path_factory):
    pytest.importorskip("webdataset", reason="shards are written by webdataset, which is not installed")
    out = tmp_path_factory.mktemp("shards")
    done = write_shards(folder(clips), out, shard_bytes=SMALL, workers=0)
    assert done.shards["train"] > 1
    return out


# -- a video within a larger file --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "avi", "mkv", "mpg", "ts"])
def test_a_slice_reads_as_the_file_does(suffix, tmp_path):
    write_video(tmp_path / f"a.{suffix}", fake_frames(1, 40, (48, 64)))
    content = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / "x,y: z.tar").write_bytes(b"\1" * 777 + content + b"\2" * 999)
    inside = Slice(tmp_path / "x,y: z.tar", 777, len(content), f"a.{suffix}")
    assert probe(inside) == probe(tmp_path / f"a.{suffix}")
    wanted = [0, 39, 17, 18, 2]
    assert (read_frames(inside, wanted) == read_frames(tmp_path / f"a.{suffix}", wanted)).all()


def test_a_slice_that_is_no_video_is_named(tmp_path):
    write_video(tmp_path / "a.mp4", fake_frames(1, 20, (48, 64)))
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.tar").write_bytes(content)
    with pytest.raises(DecodeError, match=r"b\.tar/v\.mp4: lies beyond the end of .*b\.tar, which is truncated"):
        probe(Slice(tmp_path / "b.tar", 100, len(content), "v.mp4"))
    with pytest.raises(DecodeError, match=r"b\.tar/v\.mp4: is empty"):
        probe(Slice(tmp_path / "b.tar", 100, 0, "v.mp4"))
    with pytest.raises(DecodeError, match=r"no\.tar/v\.mp4: does not exist"):
        probe(Slice(tmp_path / "no.tar", 0, 9, "v.mp4"))
    with pytest.raises(DecodeError, match=r"b\.tar/v\.mp4: is (no video|truncated)"):
        probe(Slice(tmp_path / "b.tar", 0, len(content) // 2, "v.mp4"))


# -- the same data -----------------------------------------------------------------------------------------


def test_the_batches_are_those_of_the_files(clips, written):
    files, data = folder(clips), shards(written)
    assert data.class_names == files.class_names
    assert {s: m.sha256() for s, m in data.manifests.items()} == {s: m.sha256() for s, m in files.manifests.items()}
    for split in ("train", "val", "test"):
        ours, theirs = (list(getattr(d, f"{split}_dataloader")()) for d in (data, files))
        assert len(ours) == len(theirs) > 0
        for a, b in zip(ours, theirs, strict=True):
            assert (a["id"], a["path"]) == (b["id"], b["path"])
            assert torch.equal(a["label"], b["label"])
            assert torch.equal(a["video"], b["video"])


def test_webdataset_itself_streams_them(clips, written):
    webdataset = pytest.importorskip("webdataset")
    manifests = folder(clips).manifests
    for split, manifest in manifests.items():
        paths = sorted(map(str, (written / split).glob("*.tar")))
        stream = webdataset.WebDataset(paths, shardshuffle=False)
        seen = {}
        for sample in stream:
            note = json.loads(sample["json"])
            assert sample["mp4"] == (clips / note["path"]).read_bytes()
            (clip,) = note["clips"]
            seen[clip["id"]] = (clip["label"], clip["class"]["label"], note["num_frames"])
        assert seen == {r.id: (r.label, r.path.split("/")[0], 16) for r in manifest}


def test_stretches_heads_groups_and_coverage_are_kept_and_a_video_is_stored_once(tmp_path):
    pytest.importorskip("webdataset")
    files = data_factory("epic_kitchens:x").func
    files.fake(tmp_path / "epic")
    source = files(tmp_path / "epic", spec=SPEC, num_workers=0)
    done = write_shards(source, tmp_path / "out", workers=0)
    data = shards(tmp_path / "out")
    assert data.class_names == source.class_names
    for split, manifest in source.manifests.items():
        ours = data.manifests[split]
        assert ours.sha256() == manifest.sha256()
        assert [(r.id, r.start, r.stop, r.group, r.label) for r in ours] == [
            (r.id, r.start, r.stop, r.group, r.label) for r in manifest
        ]
        assert len({r.path for r in ours}) < len(ours)
    assert data.coverage == source.coverage
    stored = sum(p.stat().st_size for p in (tmp_path / "out").rglob("*.tar"))
    videos = {manifest.file(r) for manifest in source.manifests.values() for r in manifest}
    assert stored < 1.5 * sum(p.stat().st_size for p in videos) + 30_000
    assert done.clips == {split: len(m) for split, m in source.manifests.items()}


# -- writing -----------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
sys.path.insert(0, "tests/data")
import lightning_har.data.shards as s
from test_shards import SMALL, folder
real, calls = os.replace, 0
def replace(a, b):
    global calls
    calls += 1
    if calls == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    real(a, b)
os.replace = replace
s.write_shards(folder(sys.argv[1]), sys.argv[2], shard_bytes=SMALL, workers=0)
"""


def test_no_video_is_read_into_memory_whole(clips, tmp_path, monkeypatch):
    pytest.importorskip("webdataset")
    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "read_bytes", lambda path: pytest.fail(f"{path} was read in one go"))
        write_shards(folder(clips), tmp_path, workers=0)
    record = folder(clips).manifests["test"][0]
    where = shards(tmp_path).manifests["test"].members[record.path]
    content = where.file.read_bytes()[where.start : where.start + where.size]
    assert content == folder(clips).manifests["test"].file(record).read_bytes()


@pytest.mark.slow
def test_a_killed_writer_goes_on_and_never_leaves_half_a_shard(clips, written, tmp_path):
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, clips, tmp_path], check=False, capture_output=True, text=True
    )
    assert killed.returncode == -9, killed.stderr
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("[0-9]*.tar")}
    assert 0 < len(before) < 4
    with pytest.raises(DataError, match=r"index\.jsonl does not exist"):
        _ = shards(tmp_path).manifests
    write_shards(folder(clips), tmp_path, shard_bytes=SMALL, workers=2)
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())
    for path in [*written.rglob("*.tar"), written / "index.jsonl"]:
        assert (tmp_path / path.relative_to(written)).read_bytes() == path.read_bytes()


def test_other_shards_in_the_folder_are_refused(clips, written, tmp_path):
    write_fake_folder(tmp_path / "others", classes=("clap", "wave"), clips=9)
    with pytest.raises(DataError, match="holds other videos than these; take another folder"):
        write_shards(folder(tmp_path / "others"), written, shard_bytes=SMALL, workers=0)
    with pytest.raises(DataError, match="holds other videos"):
        write_shards(folder(clips), written, shard_bytes=SMALL * 3, workers=0)


def test_a_damaged_shard_is_told_when_it_is_written_again(clips, tmp_path):
    pytest.importorskip("webdataset")
    write_shards(folder(clips), tmp_path, shard_bytes=SMALL, workers=0)
    path = tmp_path / "train" / "000001.tar"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"000001\.tar: (is damaged|holds other)"):
        write_shards(folder(clips), tmp_path, shard_bytes=SMALL, workers=0)


def test_what_cannot_be_opened_is_named_or_left_out(tmp_path):
    pytest.importorskip("webdataset")
    write_fake_folder(tmp_path / "clips", clips=8)
    (tmp_path / "clips" / "wave" / "wave_03.mp4").write_bytes(b"no video")
    with pytest.raises(DecodeError, match=r"wave_03\.mp4"):
        write_shards(folder(tmp_path / "clips"), tmp_path / "out", workers=0)
    done = write_shards(folder(tmp_path / "clips", on_error="skip"), tmp_path / "out", workers=0)
    assert [f.path for f in done.failures] == ["wave/wave_03.mp4"]
    ids = [r.id for m in shards(tmp_path / "out").manifests.values() for r in m]
    assert len(ids) == 15
    assert "wave/wave_03" not in ids


def test_folders_of_pictures_are_refused(clips, tmp_path):
    from PIL import Image

    pytest.importorskip("webdataset")
    for i in range(9):
        for k in range(6):
            path = tmp_path / f"{'ab'[k % 2]}{k}" / f"img_{i:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (48, 32), (30 * k, 9 * i, 99)).save(path)
    rows = [f"{'ab'[k % 2]}{k},{'ab'[k % 2]}" for k in range(6)]
    (tmp_path / "clips.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.raises(DataError, match="folders of pictures; shards hold videos"):
        write_shards(folder(tmp_path / "clips.csv"), tmp_path / "out", workers=0)


def test_without_webdataset_the_extra_is_named(clips, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(ConfigError, match=r"pip install 'lightning-har\[webdataset\]'"):
        write_shards(folder(clips), tmp_path, workers=0)


def test_reading_needs_no_webdataset(written, monkeypatch):
    monkeypatch.setitem(sys.modules, "webdataset", None)
    assert len(next(iter(shards(written).train_dataloader()))["id"]) == 3


# -- what is damaged ---------------------------------------------------------------------------------------


def copied(written, place):
    import shutil

    shutil.copytree(written, place)
    return place


def test_missing_and_cut_shards_are_named_before_training(written, tmp_path):
    root = copied(written, tmp_path / "a")
    (root / "train" / "000001.tar").unlink()
    with pytest.raises(DataError, match=r"1 shards of the train split are missing or cut short: .*000001\.tar"):
        _ = shards(root).manifests
    root = copied(written, tmp_path / "b")
    os.truncate(root / "test" / "000000.tar", 2000)
    with pytest.raises(DataError, match=r"test split are missing or cut short: .*000000\.tar"):
        _ = shards(root).manifests
    root = copied(written, tmp_path / "c")
    lines = (root / "index.jsonl").read_text().splitlines(keepends=True)
    (root / "index.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(DataError, match=r"index\.jsonl: is cut short"):
        _ = shards(root).manifests


def test_a_damaged_video_in_a_shard_is_named_and_skipped_as_any_other(written, tmp_path):
    root = copied(written, tmp_path / "a")
    record = shards(root).manifests["test"][0]
    where = shards(root).manifests["test"].members[record.path]
    with open(where.file, "r+b") as file:
        file.seek(where.start)
        file.write(b"\0" * where.size)
    with pytest.raises(DecodeError, match=r"000000\.tar/\d{9}\.mp4: is no video"):
        list(shards(root).test_dataloader())
    failures = [f for b in shards(root, on_error="skip").test_dataloader() for f in b["failures"]]
    assert [(f.id, f.path) for f in failures] == [(record.id, record.path)]


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("../../etc/passwd"),
    st.lists(st.integers(), max_size=4), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@given(line=st.integers(0, 20), key=st.sampled_from(["split", "member", "record", "class_names", "clips", "coverage",
                                                     "id", "path", "label", "start", "stop", "num_frames", "0", "2"]),
       value=ODD, cut=st.integers(0, 400))  # fmt: skip
def test_an_index_of_whatever_content_is_read_or_refused(written, tmp_path_factory, line, key, value, cut):
    root = tmp_path_factory.mktemp("odd")
    for split in ("train", "val", "test"):
        (root / split).symlink_to(written / split)
    lines = (written / "index.jsonl").read_text().splitlines()
    line %= len(lines)
    row = json.loads(lines[line])
    if key.isdigit() and "member" in row:
        row["member"][int(key)] = value
    elif key in row.get("record", ()):
        row["record"][key] = value
    else:
        row[key] = value
    lines[line] = json.dumps(row)
    text = "\n".join(lines)
    for content in (text, text[: -cut or None]):
        (root / "index.jsonl").write_text(content)
        try:
            manifests = shards(root).manifests
        except DataError:
            continue
        for manifest in manifests.values():
            assert all(m.file.resolve().is_relative_to(written.resolve()) for m in manifest.members.values())
            assert all(r.label is None or 0 <= r.label < 2 for r in manifest)


# -- ranks -------------------------------------------------------------------------------------------------

RANKS = """
import json, sys
import pytorch_lightning as pl
from lightning_har import ShardDataModule, TSNModule

root, devices, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
pl.seed_everything(0, verbose=False)
module = TSNModule(3, backbone="test_resnet", pretrained=False, input_size=32)
data = ShardDataModule(root, spec=module.spec, batch_size=4, num_workers=workers)
trained, tested = [], []

class Ids(pl.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trained.append([trainer.current_epoch, [
            i for i, label in zip(batch["id"], batch["label"].tolist()) if label >= 0]])
    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        tested.extend(outputs["id"] if outputs else [])

trainer = pl.Trainer(
    accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=2, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[Ids()],
)
score = trainer.test(module, data, verbose=False)[0]
backend = __import__("torch").distributed.get_backend() if devices > 1 else None
trainer.fit(module, data)
with open(f"{devices}-{trainer.global_rank}.json", "w") as file:
    json.dump({"score": score, "tested": tested, "trained": trained, "backend": backend}, file)
"""


@pytest.mark.slow
def test_101_videos_are_101_ids_on_two_ranks_with_two_workers_and_score_as_on_one(tmp_path):
    pytest.importorskip("webdataset")
    rows = []
    for i in range(101 + 3 + 101):
        write_video(tmp_path / f"{i}.mp4", fake_frames(i, 6, (36, 48)))
        split = "train" if i < 101 else "val" if i < 104 else "test"
        rows.append({"path": f"{i}.mp4", "label": "abc"[i % 3], "split": split})
    with (tmp_path / "clips.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    done = write_shards(
        VideoFolderDataModule(tmp_path / "clips.csv"), tmp_path / "shards", shard_bytes=70_000, workers=0
    )
    assert done.shards["train"] % 2, "shards that two ranks of two workers cannot share out evenly"
    assert done.shards["train"] > 1
    script = tmp_path / "script.py"
    script.write_text(RANKS)
    for devices, workers in ((1, 0), (2, 2)):
        call = [sys.executable, str(script), str(tmp_path / "shards"), str(devices), str(workers)]
        ran = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=550, check=False)
        assert ran.returncode == 0, ran.stderr[-3000:]
    alone, first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    assert first["backend"] == "gloo"
    test_ids = sorted(str(i) for i in range(104, 205))
    assert sorted(alone["tested"]) == test_ids
    assert sorted(first["tested"] + second["tested"]) == test_ids
    assert abs(len(first["tested"]) - len(second["tested"])) == 1
    assert first["score"] == pytest.approx(alone["score"], abs=1e-6)
    assert second["score"] == pytest.approx(alone["score"], abs=1e-6)
    orders = []
    for epoch in range(2):
        parts = [[i for e, ids in rank["trained"] if e == epoch for i in ids] for rank in (first, second)]
        assert sorted(parts[0] + parts[1]) == sorted(str(i) for i in range(101))
        orders.append(parts[0])
    assert orders[0] != orders[1]
