from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import nullcontext
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from edge_models import FRAMES, SIZE, clips, cnn_rnn, tsn, write_video
from videos import numbered_frame

from lightning_har.data.decode import read_frames
from lightning_har.edge import bundle as bundle_file
from lightning_har.edge import live
from lightning_har.edge import source as source_file
from lightning_har.edge.bundle import _WHEELS, _requirements, bundle
from lightning_har.edge.live import main as run_bundle
from lightning_har.edge.runtime import (
    MANIFEST,
    Converter,
    Recognizer,
    Stopwatch,
    digest_of,
    load_bundle,
    open_graph,
    read_clip,
)
from lightning_har.edge.source import LiveSource, open_live
from lightning_har.errors import ConfigError, DataError, DecodeError, WeightsError
from lightning_har.spec import InputSpec, Sampling


@pytest.fixture(scope="module")
def module():
    return cnn_rnn()


@pytest.fixture(scope="module")
def made(module, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "gru"
    bundle(module, folder)
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    frames = clips(1, frames=30, size=96)["video"][0].permute(1, 2, 3, 0).numpy()
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", frames)


@pytest.fixture
def copied(made, tmp_path):
    import shutil

    return shutil.copytree(made, tmp_path / "copy")


def without_torch(*command, missing=(), **kwargs):
    """Run Python where importing torch or Lightning fails, as on the device; or what is missing there besides."""
    absent = ["torch", "torchvision", "pytorch_lightning", "lightning", "timm", "matplotlib", "onnx", *missing]
    block = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({absent}));"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", block, *map(str, command)],
        capture_output=True,
        text=True,
        env=env,
        timeout=120,
        **kwargs,
    )


def test_the_bundle_predicts_as_pytorch_without_torch(module, made, video, tmp_path):
    done = without_torch(made / "run.py", video, "--json", "--output", tmp_path / "seen.mp4", "--threads", 1, cwd="/")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    found = load_bundle(made)
    frames = read_clip(video, found.spec, found.sampling)
    with torch.no_grad():
        expected = module(torch.from_numpy(frames).permute(3, 0, 1, 2)[None]).softmax(1)[0]
    best = int(expected.argmax())
    assert told["labels"][0][0] == module.class_names[best]
    assert told["labels"][0][1] == pytest.approx(float(expected[best]), abs=1e-4)
    assert told["clip"]["p50_ms"] > 0
    assert 0 < told["peak_memory_mb"] < 500
    with av.open(str(tmp_path / "seen.mp4")) as container:
        images = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    with av.open(str(video)) as container:
        originals = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(images) == len(originals) == 30
    assert np.abs(images[0][:20].astype(int) - originals[0][:20]).mean() > 20  # the caption
    assert np.abs(images[0][40:].astype(int) - originals[0][40:]).mean() < 20


def test_a_file_as_a_camera(made, video):
    done = without_torch(made / "run.py", video, "--live", "--span", "0.4", "--json", "--threads", 1)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["frames"] >= FRAMES
    assert told["frame_to_label"]["p50_ms"] > 0
    assert told["frames"] + told["dropped"] + told["left_out_by_span"] == 30


def test_what_is_counted_is_not_what_is_kept_for_percentiles(made, video, capsys, monkeypatch):
    class Forgetful(Stopwatch):
        def __init__(self):
            super().__init__()
            self.times = deque(maxlen=2)

    monkeypatch.setattr(live, "Stopwatch", Forgetful)
    assert run_bundle([str(video), "--repeat", "3", "--json"], folder=made) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["clips"] == 3
    assert run_bundle([str(video), "--live", "--span", "0.1", "--json"], folder=made) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["frames"] + told["dropped"] + told["left_out_by_span"] == 30
    assert told["frames"] > 2


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """Of a TSN that is tested on more frames than it was trained on, and whose classes have awkward names."""
    module = tsn()
    module.eval_sampling = Sampling("segments", num_frames=8)
    module.class_names = ("file", "allow_pickle", "on/off", "a.npy")
    folder = tmp_path_factory.mktemp("longer") / "b"
    bundle(module, folder)
    return module, folder


def test_the_graphs_take_as_many_frames_as_the_evaluation_samples(longer, video):
    module, folder = longer
    found = load_bundle(folder)
    frames = read_clip(video, found.spec, found.sampling)
    assert len(frames) == found.spec.num_frames == 8
    assert module.spec.num_frames == FRAMES
    with torch.no_grad():
        expected = module(torch.from_numpy(frames).permute(3, 0, 1, 2)[None])[0].numpy()
    np.testing.assert_allclose(Recognizer.from_bundle(found).clip(frames)["logits"], expected, atol=1e-4)


def test_a_class_may_have_any_name(longer, video, tmp_path, capsys):
    module, folder = longer
    with np.load(folder / "captions.npz") as stored:
        pictures = list(stored.values())
    assert len({picture.tobytes() for picture in pictures}) == 4
    assert run_bundle([str(video), "--top", "4", "--output", str(tmp_path / "seen.mp4")], folder=folder) == 0
    said = capsys.readouterr().out
    assert [name for name in module.class_names if name not in said] == []


def test_frames_that_the_network_does_not_take_are_refused(tmp_path):
    module = tsn(temporal_shift="causal")
    module.eval_sampling = Sampling("segments", num_frames=8)
    with pytest.raises(ConfigError, match="a shift over 6 segments got 8 frames"):
        bundle(module, tmp_path / "b", kind="clip")


@pytest.mark.slow
@pytest.mark.parametrize("is_new", [True, False])
def test_a_bundle_that_fails_leaves_nothing(module, tmp_path, monkeypatch, is_new):
    out = tmp_path / "b"
    if not is_new:
        out.mkdir()

    def fail(texts):
        assert (out / "frame.onnx").is_file()
        raise OSError("no space left")

    monkeypatch.setattr(bundle_file, "draw_captions", fail)
    with pytest.raises(OSError, match="no space left"):
        bundle(module, out)
    assert list(tmp_path.rglob("*")) == ([] if is_new else [out])


@pytest.mark.parametrize("live", [[], ["--live", "--span", "0.1"]], ids=["file", "live"])
def test_what_is_printed_for_people(made, video, live, capsys):
    assert run_bundle([str(video), *live], folder=made) == 0
    said = capsys.readouterr().out
    number = r"\d+(\.\d+)?"
    percentiles = rf"p50_ms {number}  p95_ms {number}  p99_ms {number}"
    for name, value in {
        "fps": number,
        "network": percentiles,
        "frame to label" if live else "clip": percentiles,
        "peak memory mb": number,
        "dropped": r"\d+",
    }.items():
        assert re.search(rf"^{name} +{value}$", said, re.MULTILINE), (name, said)


# -- the annotated video ---------------------------------------------------------------------------------------


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


def test_live_windows_are_the_clips_logits(module, made):
    recognizer = Recognizer.from_bundle(load_bundle(made))
    frames = clips(1, frames=FRAMES + 2)["video"]
    images = frames[0].permute(1, 2, 3, 0).numpy()
    shown = [recognizer.push(image) for image in images]
    assert [s is None for s in shown] == [True] * (FRAMES - 1) + [False] * 3
    with torch.no_grad():
        np.testing.assert_allclose(shown[-1]["logits"], module(frames[:, :, 2:])[0].numpy(), atol=1e-4)


@pytest.mark.parametrize(("build", "kind"), [(tsn, "clip"), (lambda: tsn(temporal_shift="causal"), "stream")])
def test_other_cuts_run_too(build, kind, tmp_path):
    model = build()
    bundle(model, tmp_path / "b", kind=kind)
    recognizer = Recognizer.from_bundle(load_bundle(tmp_path / "b"))
    video = clips(1)["video"]
    images = video[0].permute(1, 2, 3, 0).numpy()
    for image in images:
        last = recognizer.push(image)
    with torch.no_grad():
        expected = model(video)[0].numpy()
    np.testing.assert_allclose(last["logits"], expected, atol=1e-4)
    np.testing.assert_allclose(recognizer.clip(images)["logits"], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("source", "platform", "name", "format", "options", "thread_type"),
    [
        ("0", "linux", "/dev/video0", "v4l2", {}, "SLICE"),
        ("1", "darwin", "1", "avfoundation", {"framerate": "30"}, "SLICE"),
        ("rtsp://x", "linux", "rtsp://x", None, {"rtsp_transport": "tcp", "timeout": "8000000"}, "SLICE"),
        ("http://x", "linux", "http://x", None, {"rw_timeout": "8000000"}, "SLICE"),
        ("clip.mp4", "linux", "clip.mp4", None, {}, "AUTO"),
    ],
)
def test_how_a_source_is_opened(monkeypatch, source, platform, name, format, options, thread_type):
    opened = {}
    stream = SimpleNamespace(thread_type=None)

    def decode(asked):
        assert asked is stream
        yield SimpleNamespace(time=0.0)

    def fake(*args, **kwargs):
        opened.update(kwargs, args=args)
        return nullcontext(SimpleNamespace(streams=SimpleNamespace(video=[stream]), decode=decode))

    monkeypatch.setattr(av, "open", fake)
    monkeypatch.setattr(sys, "platform", platform)
    assert len(list(open_live(source, paced=False))) == 1
    timeout = None if thread_type == "AUTO" else (8.0, 8.0)
    assert opened == {"args": (name,), "format": format, "options": options, "timeout": timeout}
    assert stream.thread_type == thread_type


def test_a_camera_by_number_on_windows_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigError, match="give the camera's address instead of 0"):
        next(open_live("0", paced=False))


def test_a_server_that_accepts_and_sends_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(source_file, "FFMPEG_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(DecodeError, match=r"nothing for 0\.3 s"):
        next(open_live(f"tcp://127.0.0.1:{server.getsockname()[1]}", paced=False))


# -- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["av", "numpy", "onnxruntime"])
@pytest.mark.parametrize("live", [[], ["--live"]], ids=["file", "live"])
def test_a_package_that_is_missing_is_named(made, video, missing, live):
    done = without_torch(made / "run.py", video, *live, missing=[missing])
    assert done.returncode == 2
    assert re.search(rf"^error: .*\b{missing}\b.*pip install", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


def test_what_onnxruntime_cannot_run_is_an_error_with_its_name(made):
    recognizer = Recognizer.from_bundle(load_bundle(made))
    with pytest.raises(WeightsError, match=r"frame\.onnx: onnxruntime cannot run it: .*invalid dimensions"):
        recognizer.clip(np.zeros((FRAMES, SIZE // 2, SIZE, 3), np.uint8))


def test_what_executorch_cannot_run_is_an_error_with_its_name(tmp_path):
    exir = pytest.importorskip("executorch.exir")
    program = torch.export.export(torch.nn.Linear(2, 3), (torch.zeros(1, 2),))
    path = tmp_path / "model.pte"
    path.write_bytes(exir.to_edge_transform_and_lower(program).to_executorch().buffer)
    graph = open_graph(path)
    assert graph([np.zeros((1, 2), np.float32)])[0].shape == (1, 3)
    with pytest.raises(WeightsError, match=r"model\.pte: executorch cannot run it"):
        graph([np.zeros((1, 5), np.float32)])


def test_a_missing_file_is_named(copied):
    (copied / "head.onnx").unlink()
    with pytest.raises(DataError, match=r"head\.onnx is missing"):
        load_bundle(copied)


@pytest.mark.parametrize("name", ["frame.onnx", "run.py", "lightning_har/edge/runtime.py", "captions.npz"])
def test_an_altered_file_is_named(copied, name):
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(bytes(content))
    with pytest.raises(DataError, match=rf"{name} was altered"):
        load_bundle(copied)


def test_altered_labels_are_refused(copied):
    values = json.loads((copied / MANIFEST).read_text())
    values["labels"]["logits"].reverse()
    (copied / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(DataError, match="altered"):
        load_bundle(copied)


def test_a_newer_format_is_refused(copied):
    values = json.loads((copied / MANIFEST).read_text())
    values["format_version"] = 99
    values["digest"] = digest_of({k: v for k, v in values.items() if k != "digest"})
    (copied / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(DataError, match="99"):
        load_bundle(copied)


def test_no_bundle_and_no_video(tmp_path, made):
    with pytest.raises(DataError, match="is no bundle"):
        load_bundle(tmp_path)
    done = without_torch(made / "run.py", tmp_path / "none.mp4")
    assert done.returncode == 2
    assert "none.mp4" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_with_files_is_not_overwritten(module, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="not empty"):
        bundle(module, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def slope(shape):
    """A picture whose colours rise along both axes, so that no part of it is like another."""
    y, x = np.mgrid[0 : 1 : complex(shape[0]), 0 : 1 : complex(shape[1])]
    return np.stack((40 + 170 * x, 40 + 170 * y, 200 - 80 * x - 80 * y), -1).round().astype(np.uint8)


@pytest.mark.parametrize("format", ["yuv420p", "gray", "bgr24", "rgb24", "yuyv422", "yuvj422p"])
@pytest.mark.parametrize("shape", [(48, 120), (200, 100)])
@pytest.mark.parametrize("crop", ["center", "full"])
def test_frames_of_any_size_and_format_become_the_networks(format, shape, crop):
    image = slope(shape)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=format)
    size = (32, 64)
    converted = Converter(InputSpec(4, size), Sampling(crop=crop))(frame).astype(float)
    assert converted.shape == (*size, 3)
    # What the frame shows there, from the slope itself: the crop is the largest of that aspect, times 0.875.
    rows, columns = shape
    if crop == "center":
        scale = max(37 / min(shape), 32 / rows, 64 / columns)
        rows, columns = 32 / scale, 64 / scale
    y = shape[0] / 2 + rows * ((np.arange(32) + 0.5) / 32 - 0.5) - 0.5
    x = shape[1] / 2 + columns * ((np.arange(64) + 0.5) / 64 - 0.5) - 0.5
    y, x = np.meshgrid(y / (shape[0] - 1), x / (shape[1] - 1), indexing="ij")
    expected = np.stack((40 + 170 * x, 40 + 170 * y, 200 - 80 * x - 80 * y), -1)
    if format == "gray":
        expected = (expected @ (0.299, 0.587, 0.114))[..., None]
    inner = np.s_[2:-2, 2:-2]
    assert np.abs(converted - expected)[inner].max() < 8
    assert np.abs(converted - expected)[inner].mean() < 3


@pytest.mark.parametrize("rotation", [None, 90, 180, 270])
@pytest.mark.parametrize("crop", ["center", "full"])
def test_a_cameras_frames_are_those_that_a_file_gives(make_video, tmp_path, rotation, crop):
    video = make_video(tmp_path / "turned.mp4", num_frames=4, size=(96, 128), rotation=rotation)
    spec, sampling = InputSpec(4, (64, 48)), Sampling(crop=crop)
    expected = read_clip(video, spec, sampling)
    convert = Converter(spec, sampling)
    with av.open(str(video)) as container:
        found = [convert(frame) for frame in container.decode(video=0)]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--threads", "0", "too few"),
        ("--top", "0", "too few"),
        ("--repeat", "-1", "too few"),
        ("--span", "0", "no time"),
        ("--seconds", "nan", "no time"),
        ("--top", "many", "invalid count"),
    ],
)
def test_options_out_of_range_are_refused(made, option, value, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_bundle(["clip.mp4", option, value], folder=made)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert option in said
    assert words in said


def test_the_video_itself_is_not_written_over(made, video, capsys):
    before = video.read_bytes()
    assert run_bundle([str(video), "--output", str(video)], folder=made) == 2
    assert "is the video itself" in capsys.readouterr().err
    assert video.read_bytes() == before


@pytest.mark.parametrize("name", ["seen.mpfour", "nowhere/seen.mp4", "seen.avi"])
@pytest.mark.parametrize("live", [[], ["--live", "--span", "0.1"]], ids=["file", "live"])
def test_output_that_cannot_be_written_is_a_message(made, video, tmp_path, name, live, capsys):
    assert run_bundle([str(video), "--output", str(tmp_path / name), *live], folder=made) == 2
    assert f"cannot write {tmp_path / name}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("then", "wait_for", "words"),
    [
        ("while True: time.sleep(60)", "shown", ["stopped", '"frame_to_label"']),
        ("raise OSError('the cable is out')", "again in", ["the cable is out", "again in"]),
    ],
    ids=["stalled", "lost"],
)
def test_ctrl_c_ends_a_camera(made, video, then, wait_for, words):
    done, said = interrupted(made, video, then, wait_for)
    assert done == 0
    assert [word for word in words if word not in said] == []
    assert "Traceback" not in said


def interrupted(folder, video, then, wait_for):
    """The exit code and words of the runner on a camera that shows a clip and then does something, sent a SIGINT."""
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where tests run in the background
        "sys.path.insert(0, sys.argv[1])\n"
        "from lightning_har.edge import live\n"
        "once = live.open_live\n"
        "def camera(source, paced):\n"
        "    yield from once(sys.argv[2], paced=True)\n"
        "    print('shown', flush=True)\n"
        f"    {then}\n"
        "live.open_live = camera\n"
        "sys.exit(live.main(['0', '--span', '0.01', '--json', '--threads', '1'], folder=sys.argv[1]))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), str(video)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = ""
    for line in process.stdout:
        said += line
        if wait_for in line:
            break
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    return process.returncode, said + rest


# -- a source that does not behave -----------------------------------------------------------------------------


def test_a_slow_reader_gets_the_newest_frame_and_the_rest_is_counted():
    sent = 40

    def connect():
        for i in range(sent):
            time.sleep(0.005)
            yield i

    source = LiveSource(connect, "camera", lambda text: None, retry=False)
    seen = []
    for frame, _ in source:
        seen.append(frame)
        time.sleep(0.05)
    assert seen == sorted(set(seen))
    assert seen[-1] == sent - 1
    assert len(seen) < sent / 2
    assert source.dropped + len(seen) == sent


def test_a_lost_camera_is_connected_again_with_growing_pauses():
    said: list[str] = []
    attempts: list[float] = []

    def connect():
        attempts.append(time.perf_counter())
        if len(attempts) in (2, 3):
            raise OSError("no such device")
        yield len(attempts)

    source = LiveSource(connect, "camera", said.append, backoff=0.05)
    frames = iter(source)
    assert next(frames)[0] == 1
    assert next(frames)[0] == 4
    source.close()
    pauses = np.diff(attempts)
    assert pauses[1] > 1.5 * pauses[0] * 0.9
    assert pauses[2] > pauses[1]
    assert any("no such device" in text and "again in" in text for text in said)
    assert source.reconnects >= 3


def test_a_stall_of_what_is_not_tried_again_is_told_and_ends_cleanly():
    release = threading.Event()
    said: list[str] = []

    def connect():
        yield 1
        release.wait(5)

    source = LiveSource(connect, "stream", said.append, stall=0.1, retry=False)
    frames = iter(source)
    assert next(frames)[0] == 1
    threading.Timer(0.35, release.set).start()
    assert list(frames) == []
    assert any("no frame for" in text for text in said)


def test_a_camera_that_hangs_is_left_behind_and_opened_again():
    """What its thread reads once it wakes up, after another has taken over, is not shown."""
    wake = threading.Event()
    woke = threading.Event()
    said: list[str] = []
    attempts: list[float] = []

    def connect():
        attempts.append(time.perf_counter())
        if len(attempts) == 1:
            wake.wait(60)
            try:
                yield "old"
                yield "older"
            finally:
                woke.set()
        elif len(attempts) == 2:
            wake.wait(60)  # hangs too
        else:
            yield "new"
            assert woke.wait(60)
            yield "newer"

    source = LiveSource(connect, "camera", said.append, stall=1.0, backoff=0.05)
    frames = iter(source)
    assert next(frames)[0] == "new"
    assert source.reconnects == 2
    wake.set()
    assert next(frames)[0] == "newer"
    source.close()
    assert sum("no frame for 1 s" in text and "again in" in text for text in said) >= 2
    assert np.diff(attempts[:3]).min() > 1
    assert source.dropped == 0


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConfigError("give an address"), ConfigError),
        (ZeroDivisionError("a mistake of ours"), ZeroDivisionError),
    ],
)
def test_what_trying_again_would_not_help_is_raised(error, kind):
    said: list[str] = []

    def connect():
        yield 1
        raise error

    frames = iter(LiveSource(connect, "camera", said.append, backoff=0.01, seconds=60))
    assert next(frames)[0] == 1
    with pytest.raises(kind, match=str(error)):
        next(frames)
    assert said == []


@pytest.mark.parametrize("hangs", [False, True])
def test_a_camera_that_never_opens_is_an_error(hangs):
    def connect():
        if hangs:
            threading.Event().wait(5)
        raise OSError("no such device")
        yield

    words = "gave no frame in 0.5 s" if hangs else "no such device"
    with pytest.raises((DecodeError, OSError), match=words):
        list(LiveSource(connect, "camera", lambda text: None, backoff=0.05, seconds=0.5))


def test_a_camera_that_never_opens_is_a_message_and_no_success(made, capsys):
    assert run_bundle(["tcp://127.0.0.1:1", "--seconds", "0.3"], folder=made) == 2
    assert "error: tcp://127.0.0.1:1: Connection refused" in capsys.readouterr().err


def test_an_address_of_no_known_kind_is_refused_at_once(made, capsys):
    assert run_bundle(["rstp://camera/1"], folder=made) == 2
    said = capsys.readouterr().err
    assert "error: rstp://camera/1" in said
    assert "again in" not in said


def test_a_stream_over_the_network_that_breaks_off_is_connected_again(made, video):
    """A server that sends the clip as MPEG-TS and hangs up, twice."""
    import io

    memory = io.BytesIO()
    with av.open(str(video)) as source, av.open(memory, "w", format="mpegts") as sink:
        stream = sink.add_stream("mpeg2video", rate=25)
        stream.width = stream.height = SIZE
        for frame in source.decode(video=0):
            sink.mux(stream.encode(frame.reformat(width=SIZE, height=SIZE, format="yuv420p")))
        sink.mux(stream.encode())
    server = socket.create_server(("127.0.0.1", 0))
    served = []

    def serve():
        for _ in range(2):
            connection, _address = server.accept()
            connection.sendall(memory.getvalue())
            connection.close()
            served.append(1)
        server.close()

    threading.Thread(target=serve, daemon=True).start()
    address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    done = without_torch(made / "run.py", address, "--seconds", "3", "--span", "0.01", "--json", "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert len(served) == 2
    assert "lost" in done.stderr
    assert "again in" in done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["reconnects"] >= 1
    assert told["frames"] > 0


# -- slow ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_in_a_fresh_environment(made, video, tmp_path):
    """Only what requirements.txt names is installed."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "-r", made / "requirements.txt"], check=True)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode != 0
    done = subprocess.run([python, made / "run.py", video, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["peak_memory_mb"] < 250


def test_the_dockerfile_is_for_arm64_and_this_python(made):
    lines = (made / "Dockerfile").read_text().splitlines()
    assert f"FROM --platform=linux/arm64 python:{sys.version_info[0]}.{sys.version_info[1]}-slim" in lines
    (entry,) = [line for line in lines if line.startswith("ENTRYPOINT")]
    assert (made / json.loads(entry.removeprefix("ENTRYPOINT "))[1]).is_file()
    for copied in (line.split()[1] for line in lines if line.startswith("COPY")):
        assert (made / copied).exists()
    assert "RUN pip install --no-cache-dir --only-binary=:all: -r requirements.txt" in lines


# As if this were the device: pip asks the running machine which of a package's requirements hold.
_PIP_ON_ARM64 = (
    "import platform, runpy; platform.machine = lambda: 'aarch64'; runpy.run_module('pip', run_name='__main__')"
)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "executorch"])
def test_every_requirement_has_a_wheel_for_arm64(tmp_path, format):
    """With what they require in turn, as the Dockerfile installs them: wheels, for this Python."""
    wanted = _requirements(format).split()
    for option in _WHEELS[format].split():
        if option.startswith("--no-binary="):
            # pip builds these from source; here beforehand, since with --platform it takes wheels alone.
            built = tmp_path / "built"
            source = [option, f"{option.partition('=')[2]}==4.9.*"]
            subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", built, *source], check=True)
            assert all(path.name.endswith("-py3-none-any.whl") for path in built.iterdir())
    wheels = []
    for options, names in (
        ([], [w for w in wanted if not w.startswith("torch")]),
        # Of torch's own requirements most are CUDA's.
        (["--no-deps"], [w for w in wanted if w.startswith("torch")]),
    ):
        if not names:
            continue
        done = subprocess.run(
            [
                *(sys.executable, "-c", _PIP_ON_ARM64, "install", "--dry-run", "--ignore-installed", *options),
                *("--only-binary=:all:", "--find-links", tmp_path / "built", "--target", tmp_path / "none"),
                *("--platform", "manylinux_2_28_aarch64", "--platform", "manylinux_2_27_aarch64"),
                *("--platform", "manylinux_2_17_aarch64", "--platform", "manylinux2014_aarch64"),
                *("--python-version", f"{sys.version_info[0]}.{sys.version_info[1]}"),
                *(*names, "--report", tmp_path / "report.json", "-q"),
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / "report.json").read_text())["install"]
        wheels += [part["download_info"]["url"].rsplit("/", 1)[1] for part in found]
    assert all(wheel.endswith(("aarch64.whl", "none-any.whl")) for wheel in wheels), wheels
    for name in (requirement.split(">=")[0] for requirement in wanted):
        assert any(wheel.startswith(f"{name}-") and wheel.endswith("aarch64.whl") for wheel in wheels), name
