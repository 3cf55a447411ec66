"""What people really have on disk: every reader on bytes and names that make no sense, every reader of video on damage.

The readers of the official lists have tests of their own beside those of their good lists; here are the others.
"""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from rar_writer import write_rar
from torch.utils.data import DataLoader
from videos import write_sound, write_video

from lightning_har.data.archives import unpack
from lightning_har.data.check import check_files, read_report
from lightning_har.data.counts import _read_counts
from lightning_har.data.dataset import Collate
from lightning_har.data.epic_kitchens import EpicKitchensDataModule, read_epic
from lightning_har.data.features import FeatureDataModule
from lightning_har.data.flow import read_flow, write_flow
from lightning_har.data.folder import VideoFilesDataModule, scan_folder
from lightning_har.data.frames import FrameFolder
from lightning_har.data.msr_daily import read_msr_daily
from lightning_har.data.official import read_class_list
from lightning_har.errors import DataError, DecodeError, HarError
from lightning_har.spec import InputSpec, Sampling

ENDS = st.sampled_from(["\n", "\r\n", "\r", "\n\n"])
CELLS = st.one_of(
    st.sampled_from(["", " ", "0", "1", "-1", "97", "1e9", "nan", "a", "é", '"', "..", "/x", "\0", "\ufeff", "\x0c"]),
    st.text(max_size=6),
)
LINES = st.lists(CELLS, max_size=5).map(",".join)
CSV = st.tuples(st.sampled_from(["", "\ufeff"]), st.lists(st.tuples(LINES, ENDS), max_size=4)).map(
    lambda parts: parts[0] + "".join(line + end for line, end in parts[1])
)
BYTES = st.one_of(st.binary(max_size=120), CSV.map(lambda text: text.encode("utf-8", "surrogatepass")))
NAMES = st.lists(
    st.sampled_from(
        ["a01", "a17", "s01", "s11", "e01", "_", "rgb", "img", "x", "1", "007", " ", "é", "\n", ".avi", ".jpg"]
    ),
    min_size=1,
    max_size=7,
).map("".join)
quietly = settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bad")


def attempt(action, kind=DataError):
    """What it gives and "", or None and what it says where it refuses."""
    try:
        return action(), ""
    except kind as error:
        return None, str(error)


def emptied(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def replaced(whole, content, keeps_header):
    """Other bytes for those of a file, after its first line or from its start."""
    return (whole.splitlines(keepends=True)[0] if keeps_header else b"") + content


@quietly
@given(BYTES)
def test_a_list_of_classes(folder, content):
    (folder / "classes.txt").write_bytes(content)
    names, said = attempt(lambda: read_class_list(folder / "classes.txt"))
    if names is None:
        assert "classes.txt" in said
    else:
        assert len(set(names)) == len(names) > 0
        assert all(name == name.strip() != "" for name in names)


@pytest.fixture(scope="module")
def epic(tmp_path_factory):
    root = tmp_path_factory.mktemp("epic")
    EpicKitchensDataModule.fake(root)
    return root


@quietly
@given(
    st.sampled_from(["EPIC_100_verb_classes.csv", "EPIC_100_noun_classes.csv", "EPIC_100_video_info.csv"]),
    st.booleans(),
    BYTES,
)
def test_the_class_lists_and_frame_rates_of_epic_kitchens(epic, folder, name, keeps_header, content):
    lists = folder / "epic"
    if not lists.is_dir():
        shutil.copytree(epic / "epic-kitchens-100-annotations", lists)
    whole = (epic / "epic-kitchens-100-annotations" / name).read_bytes()
    (lists / name).write_bytes(replaced(whole, content, keeps_header))
    manifest, said = attempt(lambda: read_epic(lists, epic, {"test": "EPIC_100_validation.csv"})["test"])
    (lists / name).write_bytes(whole)
    if manifest is None:
        assert str(lists) in said
    else:
        assert all(0 <= r.label[h] < manifest.num_classes[h] for r in manifest for h in ("verb", "noun"))
        assert all(0 <= r.start < r.stop for r in manifest)


@quietly
@given(st.lists(NAMES, max_size=5, unique=True))
def test_the_file_names_of_msr_daily_activity(folder, names):
    root = emptied(folder / "msr")
    for name in ["a01_s01_e01_rgb.avi", "a16_s02_e02_rgb.avi", *names]:
        (root / name).write_bytes(b"")
    parts, said = attempt(lambda: read_msr_daily(root))
    if parts is None:
        assert "out of range" in said
    else:
        records = [r for manifest in parts.values() for r in manifest]
        assert len(records) >= 2
        assert all(0 <= r.label < 16 and (root / r.path).is_file() for r in records)


@quietly
@given(st.lists(st.tuples(NAMES, NAMES), max_size=4))
def test_the_names_of_a_folder_of_clips(folder, names):
    root = emptied(folder / "clips")
    for place, name in names:
        (root / f"c{place}").mkdir(exist_ok=True)
        (root / f"c{place}" / f"{name}.mp4").write_bytes(b"")
    manifest, said = attempt(lambda: scan_folder(root))
    if manifest is None:
        assert str(root) in said
    else:
        assert all(manifest.file(r).is_file() for r in manifest)
        assert {manifest.label_names(r)["label"] for r in manifest} == {f"c{place}" for place, _ in names}


@quietly
@given(st.lists(NAMES, max_size=6))
def test_the_names_of_frame_pictures(folder, names):
    root = emptied(folder / "frames")
    for name in names:
        (root / name).write_bytes(b"")
    for modality in ("rgb", "flow"):
        source, said = attempt(lambda modality=modality: FrameFolder(root, modality), DecodeError)
        if source is None:
            assert said.startswith(str(root))
        else:
            with pytest.raises(DecodeError, match="no picture that can be read"):
                source.read([source.num_frames - 1])


def hurt(content, seed, flips, share):
    """Bytes with some of them changed, and for odd seeds cut off."""
    rng = np.random.default_rng(seed)
    content = bytearray(content)
    for place in rng.integers(0, len(content), flips):
        content[place] ^= int(rng.integers(1, 256))
    return bytes(content[: int(len(content) * share) if seed % 2 else None])


HURT = (st.integers(0, 2**32), st.integers(0, 60), st.floats(0, 1))


@pytest.fixture(scope="module")
def stored_flow(tmp_path_factory):
    """What `data flow` writes, of 13 frames."""
    path = tmp_path_factory.mktemp("stored") / "a.flow.mkv"
    codes = np.random.default_rng(0).integers(0, 256, (12, 24, 40, 2)).astype(np.uint8)
    write_flow(path, iter([codes]), 13, 20.0, "dis")
    return path.read_bytes()


@quietly
@given(*HURT)
@example(0, 0, 1.0)
def test_the_bytes_of_stored_flow(folder, stored_flow, seed, flips, share):
    (folder / "x.flow.mkv").write_bytes(hurt(stored_flow, seed, flips, share))
    codes, said = attempt(lambda: read_flow(folder / "x.flow.mkv", [0, 5, 12]), DecodeError)
    if codes is None:
        assert flips or seed % 2
        assert "x.flow.mkv" in said
    else:
        assert codes.dtype == np.uint8
        assert codes.shape[0] == 3
        assert codes.shape[-1] == 2


@pytest.fixture(scope="module")
def pictures():
    """A frame's picture in each format, by suffix."""
    found = {}
    for suffix in ("jpg", "png", "bmp", "webp"):
        file = io.BytesIO()
        pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(file, {"jpg": "jpeg"}.get(suffix, suffix))
        found[suffix] = file.getvalue()
    return found


@quietly
@given(st.sampled_from(["jpg", "png", "bmp", "webp"]), st.sampled_from([None, (16, 20)]), *HURT)
@example("jpg", (16, 20), 0, 0, 1.0)
def test_the_bytes_of_frame_pictures(folder, pictures, suffix, size, seed, flips, share):
    root = emptied(folder / "pictures")
    (root / f"img_1.{suffix}").write_bytes(pictures[suffix])
    (root / f"img_2.{suffix}").write_bytes(hurt(pictures[suffix], seed, flips, share))
    frames, said = attempt(lambda: FrameFolder(root).read([0, 1], size), DecodeError)
    if frames is None:
        assert flips or seed % 2
        assert f"img_2.{suffix}" in said
    else:
        assert frames.shape == (2, *(size or (24, 40)), 3)
        assert frames.dtype == np.uint8


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    root = tmp_path_factory.mktemp("features")
    FeatureDataModule.fake(root)
    return root


@quietly
@given(st.booleans(), BYTES)
def test_the_manifest_of_features(features, keeps_header, content):
    whole = (features / "manifest.csv").read_bytes()
    damaged = features / "damaged.csv"
    damaged.write_bytes(replaced(whole, content, keeps_header))
    found, said = attempt(lambda: FeatureDataModule(damaged).manifests, HarError)
    assert said or found
    for manifest in (found or {}).values():
        assert all(manifest.file(r).is_file() and features in manifest.file(r).resolve().parents for r in manifest)


@quietly
@given(*HURT)
def test_the_bytes_of_features(features, seed, flips, share):
    rows = (features / "manifest.csv").read_text().splitlines()
    file = io.BytesIO()
    np.save(file, np.ones((8, 16), np.float32))
    (features / "damaged").mkdir(exist_ok=True)
    (features / "damaged" / "x.npy").write_bytes(hurt(file.getvalue(), seed, flips, share))
    columns = rows[0].split(",")
    row = {"path": "damaged/x.npy", "label": "a", "split": "test"}
    (features / "one.csv").write_text("\n".join([rows[0], ",".join(row.get(c, "") for c in columns)]) + "\n")
    data = FeatureDataModule(features / "one.csv", num_workers=0)
    batches, said = attempt(lambda: list(data.test_dataloader()), HarError)
    if batches is None:
        assert "x.npy" in said
    else:
        assert batches[0]["video"].shape[0] == 1
        assert batches[0]["video"].dtype == torch.float32


@quietly
@given(st.booleans(), BYTES)
def test_the_report_of_a_check_and_the_cache_of_counts(folder, keeps_header, content):
    header = b"path,status,reason,num_frames,fps,height,width,duration,size,mtime_ns\n" if keeps_header else b""
    (folder / "report.csv").write_bytes(header + content)
    rows, said = attempt(lambda: read_report(folder / "report.csv"))
    assert "report.csv" in said or all(isinstance(row.num_frames, int) for row in rows)
    (folder / "counts.csv").write_bytes(content)
    assert isinstance(_read_counts(folder / "counts.csv"), dict)


PARTS = st.sampled_from(["a", "..", ".", "", "b.txt", "C:", "é", " "])


@pytest.mark.skipif(not shutil.which("bsdtar"), reason="bsdtar is not installed")
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(PARTS, min_size=1, max_size=3).map("/".join).filter(bool), min_size=1, max_size=2, unique=True),
    st.booleans(),
)
def test_the_names_in_a_rar(folder, names, has_link):
    base = emptied(folder / "rar")
    (base / "a.rar").write_bytes(write_rar(dict.fromkeys(names, b"x"), {"link": "/etc"} if has_link else {}))
    try:
        unpack(base / "a.rar", base / "in" / "out")
    except (DataError, OSError):
        pass
    else:
        assert not has_link
    assert {p.name for p in base.iterdir()} <= {"a.rar", "in"}
    assert not any(p.is_symlink() for p in base.rglob("*"))


# -- damaged videos ----------------------------------------------------------------------------------------

WHOLE = {
    "h264.mp4": {},
    "h264.mkv": {},
    "h264.ts": {},
    "mpeg4.avi": {"codec": "mpeg4"},
    "one_frame.mp4": {"num_frames": 1},
    "odd_size.mp4": {"size": (77, 101), "pix_fmt": "yuv444p"},
    "variable_rate.mp4": {"pts": [i + (i > 20) * i for i in range(40)]},
    "turned_90.mp4": {"rotation": 90},
    "turned_180.mp4": {"rotation": 180},
    "turned_270.mp4": {"rotation": 270},
    "ten_bit.mp4": {"pix_fmt": "yuv420p10le"},
    "negative.mp4": {"pts": range(-7, 33), "options": {"avoid_negative_ts": "disabled"}},
}
DAMAGE = {
    "empty": lambda data: b"",
    "header": lambda data: data[:48],
    "cut_10": lambda data: data[: len(data) // 10],
    "cut_50": lambda data: data[: len(data) // 2],
    "cut_90": lambda data: data[: len(data) * 9 // 10],
    "flipped": lambda data: flipped(data),
}


def flipped(data):
    rng = np.random.default_rng(0)
    content = np.frombuffer(data, np.uint8).copy()
    content[rng.integers(0, len(content), 40)] ^= rng.integers(1, 256, 40).astype(np.uint8)
    return content.tobytes()


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Whole videos of every kind, and four of them after every damage."""
    root = tmp_path_factory.mktemp("damaged")
    for name, arguments in WHOLE.items():
        write_video(root / name, **{"num_frames": 40, "size": (48, 80), **arguments})
    for name in ("h264.mp4", "h264.mkv", "h264.ts", "mpeg4.avi"):
        for kind, damage in DAMAGE.items():
            (root / f"{kind}_{name}").write_bytes(damage((root / name).read_bytes()))
    write_sound(root / "sound.mp4")
    return root


def must_fail(name):
    return name == "sound.mp4" or name.startswith(("empty_", "header_")) or (name.startswith("cut_") and "mp4" in name)


def test_every_damaged_video_is_read_right_or_named_and_takes_no_other_along(damaged):
    files = sorted(damaged.iterdir())
    sampling = Sampling("uniform", crop="full")
    data = VideoFilesDataModule(files, spec=InputSpec(4, (40, 40)), eval_sampling=sampling, on_error="skip")
    dataset = data.dataset("predict")
    loader = DataLoader(
        dataset, batch_size=1, num_workers=2, collate_fn=Collate(dataset.specs, dataset.samplings, None)
    )
    clips, failures = {}, {}
    for batch in loader:
        failures |= {f.path.rpartition("/")[2]: f.reason for f in batch["failures"]}
        clips |= {p.rpartition("/")[2]: clip for p, clip in zip(batch["path"], batch["video"], strict=True)}
    assert len(clips) + len(failures) == len(files)
    assert set(WHOLE) <= set(clips)
    assert {f.name for f in files if must_fail(f.name)} <= set(failures)
    assert all(clip.shape == (3, 4, 40, 40) and clip.dtype == torch.uint8 for clip in clips.values())
    assert all(str(damaged / name) in reason for name, reason in failures.items())
    upright = clips["h264.mp4"].numpy().astype(int)
    for quarters, name in enumerate(("turned_90.mp4", "turned_180.mp4", "turned_270.mp4"), start=1):
        turned = np.rot90(upright, quarters, axes=(2, 3))
        assert np.abs(clips[name].numpy() - turned).mean() < 4, f"{name} stands the right way"
        assert np.abs(clips[name].numpy() - upright).mean() > 20


def test_every_damaged_video_is_told_by_the_check(damaged, tmp_path):
    names = sorted(f.name for f in damaged.iterdir())
    rows = {r.path: r for r in check_files(damaged, names, tmp_path / "r.csv", workers=2, time_limit=120)}
    assert list(rows) == names
    assert not [r for r in rows.values() if "died" in r.reason or "took longer" in r.reason]
    assert {n for n in names if must_fail(n)} <= {n for n, r in rows.items() if r.status == "corrupt"}
    found = {n: rows[n].status for n in WHOLE}
    assert found.pop("one_frame.mp4") == "short"
    odd = {"variable_rate.mp4", "turned_90.mp4", "turned_180.mp4", "turned_270.mp4"}
    assert {n for n, status in found.items() if status == "odd"} == odd
    assert {n for n, status in found.items() if status == "ok"} == set(found) - odd
    assert all(r.reason for r in rows.values() if r.status != "ok")
