from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import deque

import av
import pytest
from edge_models import FRAMES
from edge_runs import interrupted, without_torch

from lightning_har.edge import live
from lightning_har.edge.live import main as run_bundle
from lightning_har.edge.runtime import MANIFEST, Stopwatch, digest_of


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


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_what_ends_a_service_leaves_a_video_that_plays(made, video, tmp_path, name):
    target = tmp_path / "seen.mp4"
    command = [sys.executable, str(made / "run.py"), str(video), "--live", "--span", "0.1", "--output", str(target)]
    number = getattr(signal, name)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # As a service or a terminal starts it, however these tests were started.
    with subprocess.Popen(command, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL), **options) as process:
        assert "%" in process.stdout.readline()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert said == "stopped\n"
    with av.open(str(target)) as written:
        assert len(list(written.decode(video=0))) > 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_what_is_ignored_stays_ignored():
    """As nohup's hangup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with live._stopped_by_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_twice_leaves_a_video_that_plays(made, video, tmp_path, monkeypatch):
    def again(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(live.LiveSource, "close", again)
    target = tmp_path / "seen.mp4"
    assert run_bundle([str(video), "--live", "--span", "0.1", "--output", str(target)], folder=made) == 130
    with av.open(str(target)) as written:
        assert len(list(written.decode(video=0))) > 0


@pytest.mark.parametrize(
    ("sampling", "options", "span"),
    [
        ({"scheme": "dense"}, [], FRAMES / 25),
        ({"scheme": "dense", "time_stride": 2}, [], 2 * FRAMES / 25),
        ({"scheme": "dense", "time_stride": 2, "snippet_length": FRAMES}, [], 2 * FRAMES / 25),
        ({"scheme": "dense", "time_stride": 2}, ["--span", "0.9"], 0.9),
        ({"scheme": "uniform"}, [], 2.0),
        ({"scheme": "segments"}, [], 2.0),
    ],
)
def test_a_window_is_as_long_as_the_frames_of_a_file(made, video, tmp_path, capsys, sampling, options, span):
    folder = sampled(made, tmp_path / "b", **sampling)
    assert run_bundle([str(video), "--live", "--json", *options], folder=folder) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["span_s"] == pytest.approx(span)
    if not told["dropped"]:
        assert told["frames"] == pytest.approx(30 / 25 * FRAMES / span, abs=1.5)


@pytest.mark.parametrize("options", [[], ["--span", "1"]])
def test_snippets_are_not_to_be_had_from_a_camera(made, video, tmp_path, capsys, options):
    folder = sampled(made, tmp_path / "b", scheme="segments", snippet_length=2)
    assert run_bundle([str(video), "--live", *options], folder=folder) == 2
    assert "takes snippets of 2 consecutive frames" in capsys.readouterr().err
    assert run_bundle([str(video)], folder=folder) == 0


def sampled(made, folder, **sampling):
    """A copy of a bundle that samples otherwise."""
    shutil.copytree(made, folder)
    values = json.loads((folder / MANIFEST).read_text())
    values["sampling"] |= sampling
    values["digest"] = digest_of({k: v for k, v in values.items() if k != "digest"})
    (folder / MANIFEST).write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize("ended_by", ["itself", "--seconds"])
def test_a_source_that_is_shorter_than_the_window_is_told(made, video, capsys, ended_by):
    seconds = ["--seconds", "0.7"] if ended_by == "--seconds" else []
    assert run_bundle([str(video), "--live", "--span", "3", "--json", *seconds], folder=made) == 0
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["labels"] == []
    assert 0 < told["frames"] < FRAMES
    assert said.err == (
        f"{video}: ended without a label, after {told['frames']} of the {FRAMES} frames that one takes, "
        "spread over 3 s; give a smaller --span, or leave out --live\n"
    )


def test_a_file_that_is_cut_off_is_told(made, make_video, tmp_path, capsys):
    path = make_video(tmp_path / "cut.mp4", 30, options={"movflags": "faststart"})
    whole = path.read_bytes()
    for content, told in ((whole, False), (whole[: len(whole) * 3 // 4], True)):
        path.write_bytes(content)
        assert run_bundle([str(path), "--live", "--span", "0.1"], folder=made) == 0
        said = capsys.readouterr()
        assert "%" in said.out
        assert bool(re.fullmatch(rf"{path}: is truncated: \d+ of its 30 frames lie beyond its end\n", said.err)) == told
        assert told or said.err == ""


@pytest.mark.parametrize("gap", ["lost", "pause"])
def test_what_was_seen_before_a_gap_is_forgotten(made, video, capsys, monkeypatch, gap):
    """Two times one frame fewer than a label needs."""
    connections: list[int] = []

    def camera(source, paced):
        with av.open(str(video)) as container:
            frames = list(container.decode(video=0))
        for part in range(2) if gap == "pause" else [0]:
            for frame in frames[: FRAMES - 1]:
                time.sleep(0.05)
                yield frame
            if part == 0 and gap == "pause":
                time.sleep(0.5)
        connections.append(1)
        raise OSError("the cable is out")

    monkeypatch.setattr(live, "open_live", camera)
    monkeypatch.setattr(live, "LONGEST_PAUSE", 0.3 if gap == "pause" else 60.0)
    seconds = "1.5" if gap == "lost" else "1.2"
    assert run_bundle(["0", "--span", "0.01", "--seconds", seconds], folder=made) == 0
    said = capsys.readouterr()
    assert "%" not in said.out
    assert f"0: ended without a label, after {FRAMES - 1} of the {FRAMES} frames" in said.err
    assert gap == "pause" or len(connections) == 2


@pytest.mark.parametrize(
    ("then", "wait_for", "words"),
    [
        ("while True: time.sleep(60)", "shown", ["stopped", '"frame_to_label"']),
        ("raise OSError('the cable is out')", "again in", ["the cable is out", "again in"]),
    ],
    ids=["stalled", "lost"],
)
def test_ctrl_c_ends_a_camera(made, video, then, wait_for, words):
    done, said = interrupted_camera(made, video, then, wait_for)
    assert done == 0
    assert [word for word in words if word not in said] == []
    assert "Traceback" not in said


def interrupted_camera(folder, video, then, wait_for):
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
    return interrupted("-c", code, folder, video, wait_for=wait_for)


# -- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["av", "numpy", "onnxruntime"])
@pytest.mark.parametrize("live", [[], ["--live"]], ids=["file", "live"])
def test_a_package_that_is_missing_is_named(made, video, missing, live):
    done = without_torch(made / "run.py", video, *live, missing=[missing])
    assert done.returncode == 2
    assert re.search(rf"^error: .*\b{missing}\b.*pip install", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--threads", "0", "too few"),
        ("--threads", "10000", "too many"),
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


def test_a_link_to_the_video_is_not_written_over_either(made, video, tmp_path, capsys):
    before = video.read_bytes()
    link = tmp_path / "link.mp4"
    link.hardlink_to(video)
    assert run_bundle([str(video), "--output", str(link)], folder=made) == 2
    assert run_bundle([f"file://{video}", "--output", str(video)], folder=made) == 2
    assert capsys.readouterr().err.count("is the video itself") == 2
    assert video.read_bytes() == before


def test_a_name_with_a_colon_is_no_address(made, video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(video, "cam1-12:30.mp4")
    assert run_bundle(["cam1-12:30.mp4", "--output", "seen:1.mp4"], folder=made) == 0
    assert run_bundle(["cam1-12:30.mp4", "--live", "--span", "0.1"], folder=made) == 0


def test_a_label_that_the_terminal_has_no_letters_for_is_spelled(made, video, monkeypatch):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from lightning_har.edge import live\n"
        "live.top = lambda logits, bundle, count: [('跳', 1.0)]\n"
        "sys.exit(live.main(sys.argv[2:], folder=sys.argv[1]))\n"
    )
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = subprocess.run([sys.executable, "-c", code, str(made), str(video)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "100.0%  \\u8df3" in done.stdout


def test_a_camera_that_never_opens_is_a_message_and_no_success(made, capsys):
    assert run_bundle(["tcp://127.0.0.1:1", "--seconds", "0.3"], folder=made) == 2
    assert "error: tcp://127.0.0.1:1: Connection refused" in capsys.readouterr().err


def test_a_camera_that_is_not_there_is_refused_at_once(made, capsys):
    assert run_bundle(["7319"], folder=made) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: camera 7319: ")
    assert "again in" not in said


@pytest.mark.parametrize("live", [[], ["--live", "--span", "0.1"]], ids=["file", "live"])
def test_a_reader_that_has_had_enough_ends_it_without_a_word(made, video, live):
    """As ``python run.py clip.mp4 | head -1`` does."""
    command = [sys.executable, str(made / "run.py"), str(video), *live]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


def test_an_address_of_no_known_kind_is_refused_at_once(made, capsys):
    assert run_bundle(["rstp://camera/1"], folder=made) == 2
    said = capsys.readouterr().err
    assert "error: rstp://camera/1" in said
    assert "again in" not in said
