from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque

import av
import numpy as np
import pytest
import torch
from edge_models import FRAMES, SIZE, clips, cnn_rnn, tsn, write_video
from videos import numbered_frame

from lightning_har.data.decode import read_frames
from lightning_har.edge import live
from lightning_har.edge.bundle import _requirements, bundle
from lightning_har.edge.live import LiveSource
from lightning_har.edge.live import main as run_bundle
from lightning_har.edge.runtime import MANIFEST, Converter, Recognizer, Stopwatch, digest_of, load_bundle, read_clip
from lightning_har.errors import ConfigError, DataError, DecodeError
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


def without_torch(*command, **kwargs):
    """Run Python where importing torch or Lightning fails, as on the device."""
    block = (
        "import sys, runpy; sys.modules.update(dict.fromkeys("
        "['torch', 'torchvision', 'pytorch_lightning', 'lightning', 'timm', 'matplotlib', 'onnx']));"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    # -S: no site-packages hooks, so that the bundle's own copy of the package is the one that is found.
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


# -- bad input -------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("format", ["yuv420p", "gray", "bgr24", "rgb24"])
@pytest.mark.parametrize("shape", [(48, 120), (200, 100)])
def test_frames_of_any_size_and_format_become_the_networks(format, shape):
    image = np.full((*shape, 3), (200, 100, 50), np.uint8)
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=format)
    for crop in ("center", "full"):
        converted = Converter(InputSpec(4, (32, 64)), Sampling(crop=crop))(frame)
        assert converted.shape == (32, 64, 3)
        mean = converted.reshape(-1, 3).mean(0)
        expected = [mean[0]] * 3 if format == "gray" else (200, 100, 50)
        assert np.abs(mean - expected).max() < 4


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
            time.sleep(0.1)
            yield "newer"

    source = LiveSource(connect, "camera", said.append, stall=0.3, backoff=0.05)
    frames = iter(source)
    assert next(frames)[0] == "new"
    assert source.reconnects == 2
    wake.set()
    assert next(frames)[0] == "newer"
    source.close()
    assert sum("no frame for 0.3 s" in text and "again in" in text for text in said) >= 2
    assert np.diff(attempts[:3]).min() > 0.3
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
    import socket

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


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "executorch"])
def test_every_requirement_has_a_wheel_for_arm64(tmp_path, format):
    """As the Dockerfile installs them: wheels alone, for this Python."""
    (tmp_path / "requirements.txt").write_text(_requirements(format))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--only-binary=:all:"),
            *("--platform", "manylinux_2_28_aarch64", "--platform", "manylinux_2_27_aarch64"),
            *("--platform", "manylinux2014_aarch64", "--target", tmp_path / "none"),
            *("--python-version", f"{sys.version_info[0]}.{sys.version_info[1]}"),
            *("-r", tmp_path / "requirements.txt", "--report", tmp_path / "report.json", "-q"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "report.json").read_text())["install"]
    wheels = [part["download_info"]["url"].rsplit("/", 1)[1] for part in found]
    assert len(wheels) == len((tmp_path / "requirements.txt").read_text().split())
    assert all(wheel.endswith("aarch64.whl") for wheel in wheels), wheels
