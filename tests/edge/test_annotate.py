from __future__ import annotations

import subprocess
import sys
import time
from types import SimpleNamespace

import av
import numpy as np
import pytest
from edge_models import FRAMES, SIZE
from videos import blank, numbered_frame

from lightning_har.data.decode import read_frames
from lightning_har.edge import live
from lightning_har.edge.bundle import bundle
from lightning_har.edge.live import main as run_bundle
from lightning_har.edge.runtime import Recognizer
from lightning_har.errors import DecodeError


def shown_in(path):
    """Times and pictures of a video's frames."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [float(f.time) for f in frames], [f.to_ndarray(format="rgb24") for f in frames]


@pytest.mark.parametrize("name", ["seen.mp4", "seen.mkv"])
def test_the_annotated_video_keeps_the_pace(made, make_video, tmp_path, name):
    video = make_video(tmp_path / "slow.mp4", num_frames=20, fps=10)
    assert run_bundle([str(video), "--output", str(tmp_path / name)], folder=made) == 0
    times, _ = shown_in(tmp_path / name)
    assert times == pytest.approx([i / 10 for i in range(20)], abs=1e-3)


def test_the_annotated_video_keeps_an_irregular_pace(made, make_video, tmp_path):
    pts = [0, 1, 2, 10, 11, 30, 31, 32]
    video = make_video(tmp_path / "phone.mp4", num_frames=len(pts), pts=pts, b_frames=0)
    assert run_bundle([str(video), "--output", str(tmp_path / "seen.mp4")], folder=made) == 0
    times, _ = shown_in(tmp_path / "seen.mp4")
    assert times == pytest.approx([t / 25 for t in pts], abs=1e-3)


def test_times_that_jump_back_go_on(made, tmp_path, monkeypatch):
    """As in recordings that were put together."""

    def recording(source, paced):
        for i, when in enumerate([5.0, 5.1, 0.0, 0.1]):
            yield SimpleNamespace(time=when, rotation=0, to_ndarray=lambda format, i=i: numbered_frame(i, 48, 80))

    monkeypatch.setattr(live, "open_live", recording)
    monkeypatch.setattr(live, "read_clip", lambda path, spec, sampling: np.zeros((FRAMES, *spec.size, 3), np.uint8))
    assert run_bundle(["clip.mp4", "--output", str(tmp_path / "seen.mp4")], folder=made) == 0
    times, _ = shown_in(tmp_path / "seen.mp4")
    assert times == pytest.approx([0.0, 0.1, 0.14, 0.24], abs=2e-3)


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits")
@pytest.mark.parametrize("live", [[], ["--live"]], ids=["file", "live"])
def test_a_disk_that_is_full_is_a_message(made, make_video, tmp_path, live):
    """More frames than x264 looks ahead, so that the first thing written is the header; it crashed."""
    video = make_video(tmp_path / "long.mp4", num_frames=80)
    command = [sys.executable, str(made / "run.py"), str(video), *live, "--output", str(tmp_path / "seen.mp4")]
    code = (
        "import os, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert f"error: cannot write {tmp_path / 'seen.mp4'}: File too large" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["seen.webm", "seen.gif"])
def test_a_file_that_takes_no_h264_is_refused_before_anything_is_recognised(made, video, tmp_path, name, capsys):
    assert run_bundle([str(video), "--output", str(tmp_path / name)], folder=made) == 2
    said = capsys.readouterr()
    assert f"error: cannot write {tmp_path / name}: " in said.err
    assert "give a file such as seen.mp4" in said.err
    assert "%" not in said.out
    assert not (tmp_path / name).exists()


def test_the_annotated_video_of_a_camera_keeps_its_pace(made, tmp_path, monkeypatch):
    def camera(source, paced):
        for i in range(5):
            yield av.VideoFrame.from_ndarray(numbered_frame(i, 48, 80), format="rgb24")
            time.sleep(0.3)

    monkeypatch.setattr(live, "open_live", camera)
    arguments = ["clip.mp4", "--live", "--span", "0.01", "--output", str(tmp_path / "seen.mp4")]
    assert run_bundle(arguments, folder=made) == 0
    times, _ = shown_in(tmp_path / "seen.mp4")
    assert times[-1] - times[0] > 0.29 * (len(times) - 1) > 0


def test_the_annotated_video_stands_upright(made, make_video, tmp_path):
    video = make_video(tmp_path / "turned.mp4", num_frames=8, size=(96, 128), rotation=90)
    expected = read_frames(video, range(8))
    assert expected.shape[1:3] == (128, 96)
    assert run_bundle([str(video), "--output", str(tmp_path / "seen.mp4")], folder=made) == 0
    _, images = shown_in(tmp_path / "seen.mp4")
    assert images[0].shape == (128, 96, 3)
    below = slice(30, None)  # the caption's rows are above
    for image, wanted in zip(images, expected, strict=True):
        assert np.abs(image[below].astype(int) - wanted[below]).mean() < 10


def test_the_annotated_video_is_whole_up_to_a_decode_error(made, video, tmp_path, monkeypatch, capsys):
    def breaks_off(source, paced):
        for i in range(5):
            yield av.VideoFrame.from_ndarray(numbered_frame(i, 48, 80), format="rgb24")
        raise DecodeError(f"{source}: is damaged")

    monkeypatch.setattr(live, "open_live", breaks_off)
    assert run_bundle([str(video), "--output", str(tmp_path / "seen.mp4")], folder=made) == 2
    assert "is damaged" in capsys.readouterr().err
    assert len(shown_in(tmp_path / "seen.mp4")[0]) == 5


def test_a_frame_that_cannot_be_decoded_is_left_out(made, make_video, tmp_path):
    """One that the clip does without."""
    video = blank(make_video(tmp_path / "a.avi", 30, codec="mjpeg", pix_fmt="yuvj420p", b_frames=0), [3])
    assert run_bundle([str(video), "--output", str(tmp_path / "seen.mp4")], folder=made) == 0
    times, _ = shown_in(tmp_path / "seen.mp4")
    assert times == pytest.approx([i / 25 for i in range(30) if i != 3], abs=1e-3)


@pytest.mark.parametrize("name", ["seen.mpfour", "nowhere/seen.mp4", "seen.avi"])
@pytest.mark.parametrize("live", [[], ["--live", "--span", "0.1"]], ids=["file", "live"])
def test_output_that_cannot_be_written_is_a_message(made, video, tmp_path, name, live, capsys):
    assert run_bundle([str(video), "--output", str(tmp_path / name), *live], folder=made) == 2
    assert f"cannot write {tmp_path / name}" in capsys.readouterr().err


# -- several heads ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_heads(tmp_path_factory):
    from lightning_har.modules.cnn_rnn import CNNRNNModule

    module = CNNRNNModule(
        {"verb": 2, "noun": 3}, backbone="resnet10t", hidden=16, num_frames=2, input_size=SIZE, pretrained=False
    )
    module.class_names = {"verb": ("open", "close"), "noun": ("door", "box", "tap")}
    folder = tmp_path_factory.mktemp("heads") / "b"
    bundle(module.eval(), folder)
    return folder


def test_a_change_of_any_head_is_shown_with_all_heads(two_heads, video, tmp_path, capsys, monkeypatch):
    calls = []

    def push(self, frame):
        calls.append(frame)
        return {"verb": np.array([0.0, 2.0]), "noun": np.array([0.0, 3.0, 0.0] if len(calls) < 3 else [4.0, 0.0, 0.0])}

    monkeypatch.setattr(Recognizer, "push", push)
    arguments = [str(video), "--live", "--span", "0.01", "--output", str(tmp_path / "seen.mp4")]
    assert run_bundle(arguments, folder=two_heads) == 0
    assert len(calls) >= 3
    said = [line.split("  ")[-1] for line in capsys.readouterr().out.splitlines() if "%" in line]
    assert said == ["verb: close", "noun: box", "verb: close", "noun: door"]
    _, images = shown_in(tmp_path / "seen.mp4")
    # Under each caption of 24 rows a bar of 4.
    green = np.abs(images[0][:, 0].astype(int) - (80, 200, 120)).sum(1) < 60
    assert np.flatnonzero(green).tolist() == [*range(24, 28), *range(52, 56)]
