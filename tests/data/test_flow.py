"""Optical flow: right where the motion is known, stored within its quantum, and read with RGB for the same crop."""

from __future__ import annotations

import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from videos import write_no_frames

from lightning_har import VideoFolderDataModule
from lightning_har.data import _flow_methods
from lightning_har.data.fake import write_fake_folder, write_video
from lightning_har.data.flow import (
    FlowVideo,
    cache_flow,
    compute_flow,
    dequantize,
    flow_file,
    flow_picture,
    quantize,
    read_flow,
    write_flow,
)
from lightning_har.data.folder import scan_folder
from lightning_har.errors import ConfigError, DecodeError
from lightning_har.spec import InputSpec, Sampling

cv2 = pytest.importorskip("cv2")


def moving(dx, dy, frames=3, size=(80, 96)):
    """A smooth texture that moves as a whole by (dx, dy) pixels a frame."""
    rng = np.random.default_rng(0)
    h, w = size
    ground = cv2.GaussianBlur(rng.integers(0, 256, (h + 80, w + 80, 3), np.uint8), (0, 0), 2)
    ground = cv2.normalize(ground, None, 0, 255, cv2.NORM_MINMAX)
    warp = [np.float32([[1, 0, t * dx - 40], [0, 1, t * dy - 40]]) for t in range(frames)]
    return np.stack([cv2.warpAffine(ground, m, (w, h)) for m in warp])


@pytest.mark.parametrize("method", ["dis", "farneback", "lucas_kanade"])
@pytest.mark.parametrize("shift", [(2.0, -1.0), (-5.0, 3.0), (0.0, 0.0)])
def test_a_known_motion_is_found(method, shift):
    flow = compute_flow(moving(*shift), method)
    assert flow.shape == (2, 80, 96, 2)
    assert flow.dtype == np.float32
    inner = flow[:, 16:-16, 16:-16]
    assert np.abs(np.median(inner, axis=(1, 2)) - shift).max() < 0.15
    assert np.mean(np.abs(inner - np.float32(shift)).max(-1) < 0.6) > 0.95


def test_lucas_kanade_follows_a_motion_wider_than_its_window():
    flow = compute_flow(moving(17.0, -9.0, 2, (160, 200)), "lucas_kanade")
    assert np.mean(np.abs(flow[:, 24:-24, 24:-24] - np.float32([17, -9])).max(-1) < 0.3) > 0.98


def test_lucas_kanade_leaves_what_has_no_texture_at_rest():
    flow = compute_flow(np.full((2, 64, 64, 3), 90, np.uint8), "lucas_kanade")
    assert not flow.any()


def test_what_is_not_installed_or_not_known_is_said(monkeypatch):
    frames = moving(1, 0, 2)
    if not hasattr(getattr(cv2, "optflow", None), "DualTVL1OpticalFlow_create"):
        with pytest.raises(ConfigError, match="opencv-contrib"):
            compute_flow(frames, "tvl1")
    with pytest.raises(ConfigError, match="horn"):
        compute_flow(frames, "horn")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match=r"lightning-har\[flow\]"):
        compute_flow(frames, "dis")


def test_raft_runs_at_odd_sizes_without_its_weights(monkeypatch):
    from torchvision.models.optical_flow import raft_small

    monkeypatch.setattr(_flow_methods, "_raft_model", lambda device: raft_small(weights=None).eval())
    flow = compute_flow(moving(1, 0, 2, (50, 71)), "raft")
    assert flow.shape == (1, 50, 71, 2)
    assert np.isfinite(flow).all()


def test_codes_keep_a_displacement_to_half_a_quantum():
    values = np.random.default_rng(0).uniform(-25, 25, (4, 5, 6, 2)).astype(np.float32)
    back = dequantize(quantize(values, 20.0), 20.0)
    assert np.abs(back - values.clip(-20, 20)).max() <= 20 / 255 + 1e-5
    assert quantize(np.float32([-20, 20, -99, 99]), 20.0).tolist() == [0, 255, 0, 255]


def test_a_stored_clip_comes_back_as_it_was(tmp_path):
    codes = np.random.default_rng(0).integers(0, 256, (40, 33, 47, 2)).astype(np.uint8)
    write_flow(tmp_path / "a.flow.mkv", iter([codes[:32], codes[32:]]), 41, 12.5, "dis")
    source = FlowVideo(tmp_path / "a.flow.mkv")
    assert source.info == (41, 12.5, "dis")
    for wanted in (range(41), [3], [40], [39, 40], [30, 2, 2, 17], [0, 20, 22, 39]):
        assert np.array_equal(source.read(list(wanted)), codes[np.minimum(list(wanted), 39)])
    source.close()
    assert read_flow(tmp_path / "a.flow.mkv", [1, 7], (16, 24)).shape == (2, 16, 24, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["a.flow.mkv"]


def test_damage_is_named(tmp_path):
    path = tmp_path / "a.flow.mkv"
    write_flow(path, iter([np.random.default_rng(0).integers(0, 256, (20, 32, 32, 2)).astype(np.uint8)]), 21, 20, "dis")
    with pytest.raises(DecodeError, match="21, from 0"):
        read_flow(path, [21])
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 3):
        path.write_bytes(whole[:cut])
        with pytest.raises(DecodeError, match=r"a\.flow\.mkv"):
            read_flow(path, [19])
    write_video(tmp_path / "b.flow.mkv", np.zeros((3, 32, 32, 3), np.uint8))
    with pytest.raises(DecodeError, match="bound"):
        read_flow(tmp_path / "b.flow.mkv", [0])
    with pytest.raises(DecodeError, match="data flow"):
        read_flow(tmp_path / "c.flow.mkv", [0])


def test_stored_flow_without_a_rate_or_time_stamps_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.flow.mkv"
    write_flow(path, iter([np.zeros((3, 32, 32, 2), np.uint8)]), 4, 20, "dis")
    source = FlowVideo(path)
    source._container.seek(0)
    stampless = [SimpleNamespace(pts=None) for _ in source._container.decode(video=0)]
    assert len(stampless) == 3
    source._container = SimpleNamespace(seek=lambda *_, **__: None, decode=lambda _: iter(stampless))
    with pytest.raises(DecodeError, match=r"a\.flow\.mkv: is damaged"):
        source.read([1])
    rateless = SimpleNamespace(
        metadata={"comment": '{"frames": 4, "bound": 20, "method": "dis"}'},
        streams=SimpleNamespace(video=[SimpleNamespace(average_rate=None, time_base=Fraction(1, 1000))]),
        close=lambda: None,
    )
    monkeypatch.setattr("av.open", lambda *_, **__: rateless)
    with pytest.raises(DecodeError, match=r"a\.flow\.mkv: is no stored flow.*rate"):
        FlowVideo(path)


def test_a_data_set_is_done_once_in_parallel_and_failures_are_told(tmp_path):
    write_fake_folder(tmp_path / "clips", clips=2)
    write_video(tmp_path / "clips" / "wave" / "one.mp4", np.zeros((1, 32, 32, 3), np.uint8))
    (tmp_path / "clips" / "wave" / "bad.mp4").write_bytes(b"no video")
    write_no_frames(tmp_path / "clips" / "wave" / "empty.avi")
    manifest = scan_folder(tmp_path / "clips")
    failures = cache_flow(manifest, tmp_path / "flow", method="farneback", side=24, workers=2)
    assert sorted(failures) == ["wave/bad.mp4", "wave/empty.avi"]
    assert failures["wave/empty.avi"].endswith("empty.avi: has no frames")
    stored = {r.path: flow_file(tmp_path / "flow", r) for r in manifest if r.path not in failures}
    assert FlowVideo(stored["wave/wave_00.mp4"]).info == (16, 20.0, "farneback")
    assert read_flow(stored["wave/wave_00.mp4"], [0, 15]).shape == (2, 24, 32, 2)
    assert np.all(read_flow(stored["wave/one.mp4"], [0]) == 128)
    before = {p: p.stat().st_mtime_ns for p in stored.values()}
    stored["wave/one.mp4"].unlink()
    cache_flow(manifest, tmp_path / "flow", method="farneback", side=24, workers=0)
    assert stored["wave/one.mp4"].exists()
    assert all(p.stat().st_mtime_ns == t for p, t in before.items() if "one" not in p.name)


def test_rgb_and_flow_are_of_the_same_frames_and_crop(tmp_path):
    """A square's flow must lie where the square is, whatever crop and frames were drawn."""
    for k in range(4):
        frames = np.zeros((20, 64, 80, 3), np.uint8)
        rng = np.random.default_rng(k)
        frames += rng.integers(0, 60, (64, 80, 1)).astype(np.uint8)
        square = rng.integers(100, 256, (24, 24, 1)).astype(np.uint8)
        for t in range(20):
            frames[t, 20:44, 5 + 2 * t : 29 + 2 * t] = square
        write_video(tmp_path / "clips" / "ab"[k % 2] / f"{k}.mp4", frames)
    cache_flow(scan_folder(tmp_path / "clips"), tmp_path / "flow", workers=0)
    specs = {"rgb": InputSpec(4, (48, 48)), "flow": InputSpec(4, (48, 48), modality="flow", mean=(0.5,), std=(1.0,))}
    data = VideoFolderDataModule(
        tmp_path / "clips", spec=specs, flow_root=tmp_path / "flow", test_fraction=0, val_fraction=0.5,
        batch_size=2, num_workers=0, train_sampling=Sampling("uniform", random=True, crop="random", flip=0.5),
    )  # fmt: skip
    signs = set()
    for epoch in range(4):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            assert {m: v.shape[1] for m, v in batch["video"].items()} == {"rgb": 3, "flow": 2}
            bright = batch["video"]["rgb"].float().mean(1) > 90
            x = dequantize(batch["video"]["flow"].numpy()[:, 0], 20.0)
            for clip, on in zip(x, bright.numpy(), strict=True):
                if on.sum() < 400:
                    continue
                moved = np.abs(clip) > 1
                assert np.mean(moved[on]) > 0.7
                assert np.mean(moved[~on]) < 0.45  # the flow's rim is softer than the square's
                signs.add(int(np.sign(np.median(clip[on]))))
    assert signs == {1, -1}  # mirrored clips move to the left


def test_flow_without_its_files_says_what_to_do(tmp_path):
    write_fake_folder(tmp_path / "clips", clips=4)
    spec = InputSpec(4, (32, 32), modality="flow", mean=(0.5,), std=(1.0,))
    with pytest.raises(ConfigError, match="lightning-har data flow"):
        next(iter(VideoFolderDataModule(tmp_path / "clips", spec=spec, num_workers=0).train_dataloader()))


def test_the_wheel_tells_directions_apart_and_rest_is_white():
    directions = np.float32([[1, 0], [0, 1], [-1, 0], [0, -1], [0, 0]])[None]
    picture = flow_picture(directions)[0].astype(int)
    assert picture[4].tolist() == [255, 255, 255]
    gaps = [np.abs(picture[i] - picture[j]).max() for i in range(5) for j in range(i)]
    assert min(gaps) > 100
    assert picture[0].tolist() == [255, 0, 0]
    around = np.linspace(0, 2 * np.pi, 721)
    turn = flow_picture(np.stack([np.cos(around), np.sin(around)], -1)[None].astype(np.float32))[0].astype(int)
    assert np.abs(np.diff(turn, axis=0)).max() <= 8


@pytest.mark.parametrize("wrong", [{"bound": 0}, {"side": -1}])
def test_bounds_and_sides_are_positive(tmp_path, wrong):
    write_fake_folder(tmp_path / "clips", clips=2)
    with pytest.raises(ConfigError, match="more than 0"):
        cache_flow(scan_folder(tmp_path / "clips"), tmp_path / "flow", **wrong)
