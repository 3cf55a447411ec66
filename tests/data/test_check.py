"""``data check``: what is wrong with a file is found before training, whatever it does to the decoder."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from videos import put_cover_first

from lightning_har.cli.main import main
from lightning_har.data import check
from lightning_har.data.check import FileReport, check_file, check_files, read_report
from lightning_har.data.fake import fake_frames, write_fake_folder, write_video
from lightning_har.data.parallel import map_unordered
from lightning_har.errors import ConfigError, DataError


def write_mpeg4(path, frames=40, size=(48, 64), times=None, fps=25):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(fps))
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = Fraction(1, 1000)
        for i, image in enumerate(fake_frames(0, frames, size)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = times[i] if times else 1000 * i // fps
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("check")
    write_video(folder / "good.mp4", fake_frames(0, 40, (48, 64)))
    write_video(folder / "short.mp4", fake_frames(0, 3, (48, 64)))
    write_video(folder / "tiny.mp4", fake_frames(0, 20, (16, 18)))
    write_mpeg4(folder / "variable.mkv", times=[40 * i + (400 if i > 20 else 0) for i in range(40)])
    whole = (folder / "good.mp4").read_bytes()
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_bytes(b"no video at all")
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    write_video(folder / "cover.mp4", fake_frames(0, 40, (48, 64)))
    put_cover_first(folder / "cover.mp4")
    write_video(folder / "good.avi", fake_frames(0, 40, (48, 64)))
    avi = bytearray((folder / "good.avi").read_bytes())
    rng = np.random.default_rng(0)
    for i in rng.integers(len(avi) // 4, len(avi) * 3 // 4, len(avi) // 100):
        avi[i] ^= 0xFF
    (folder / "flipped.avi").write_bytes(avi)
    return folder


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [("good.mp4", "ok", ""), ("good.avi", "ok", ""), ("cover.mp4", "ok", ""),
     ("short.mp4", "short", "3 frames"), ("tiny.mp4", "odd", "18×16"),
     ("variable.mkv", "odd", "variable frame rate"), ("empty.mp4", "corrupt", "empty"),
     ("text.mp4", "corrupt", "no video"), ("cut.mp4", "corrupt", ""), ("flipped.avi", "corrupt", ""),
     ("absent.mp4", "corrupt", "does not exist")],
)  # fmt: skip
def test_every_kind_is_told_apart(root, name, status, reason):
    found = check_file(root, name)
    assert (found.path, found.status) == (name, status), found
    assert reason in found.reason
    assert bool(found.reason) == (status != "ok")
    assert str(root) not in found.reason
    if status == "ok":
        assert (found.num_frames, found.fps, found.height, found.width) == (40, 25, 48, 64)
        assert found.duration == pytest.approx(1.6)


def test_a_report_is_resumed_and_what_changed_is_done_again(root, tmp_path):
    names = sorted(p.name for p in root.iterdir())
    rows = check_files(root, names, tmp_path / "report.csv", workers=0)
    assert rows == read_report(tmp_path / "report.csv")
    assert [r.path for r in rows] == names
    # As a kill leaves it: some rows, the last one cut.
    lines = (tmp_path / "report.csv").read_text().splitlines(keepends=True)
    marked = [
        lines[0],
        lines[1].replace(rows[0].status, "corrupt,kept", 1).replace(",kept", ""),
        lines[2],
        lines[3][:9],
    ]
    (tmp_path / "report.csv").write_text("".join(marked))
    again = check_files(root, names, tmp_path / "report.csv", workers=2)
    assert again[0].status == "corrupt"  # the row was kept, right or not
    assert again[1:] == rows[1:]
    os.utime(root / names[0], ns=(1, 1))
    assert check_files(root, names, tmp_path / "report.csv", workers=0)[0].status == rows[0].status
    assert check_files(root, ["good.mp4"], tmp_path / "r.csv", min_frames=41, workers=0)[0].status == "short"
    assert check_files(root, ["good.mp4"], tmp_path / "r.csv", min_frames=40, workers=0)[0].status == "ok"


def test_what_is_no_report_is_not_overwritten(root, tmp_path):
    (tmp_path / "clips.csv").write_text("path,label\na,b\n")
    with pytest.raises(DataError, match="no report"):
        check_files(root, ["good.mp4"], tmp_path / "clips.csv", workers=0)
    assert (tmp_path / "clips.csv").read_text() == "path,label\na,b\n"
    (tmp_path / "bad.csv").write_text(",".join(FileReport._fields) + "\nx\ny\n")
    with pytest.raises(DataError, match="line 2"):
        read_report(tmp_path / "bad.csv")


def awkward(item):
    if item == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "exit":
        os._exit(3)
    if item == "hang":
        time.sleep(600)
    if item == "raise":
        raise DataError("this item cannot be")
    if item == "lock":
        return threading.Lock()
    return os.getpid(), item


def test_a_worker_that_dies_or_hangs_names_its_item_and_takes_no_other_along():
    items = ["a", "kill", "b", "hang", "c", "exit", "d", *range(20)]
    found = dict(map_unordered(awkward, items, workers=2, time_limit=3))
    died = {item: str(found.pop(item)) for item in ("kill", "exit", "hang")}
    assert "SIGKILL" in died["kill"]
    assert "exit code 3" in died["exit"]
    assert died["hang"] == "took longer than 3 s"
    assert {item: answer[1] for item, answer in found.items()} == {i: i for i in ["a", "b", "c", "d", *range(20)]}
    pids = {answer[0] for answer in found.values()}
    assert 1 <= len(pids) <= 2 + 3, "a process does many items"
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_what_a_worker_raises_is_raised_here_with_where_it_was():
    with pytest.raises(DataError, match="this item cannot be") as caught:
        list(map_unordered(awkward, ["raise"], workers=1))
    assert "in awkward" in str(caught.value.__cause__)
    with pytest.raises(RuntimeError, match="cannot be sent"):
        list(map_unordered(awkward, ["lock"], workers=1))
    with pytest.raises(ConfigError, match="engine"):
        list(map_unordered(awkward, range(3), engine="threads"))
    with pytest.raises(ConfigError, match="workers is -1"):
        list(map_unordered(awkward, range(3), workers=-1))


def test_processes_end_with_whoever_asks_for_no_more():
    results = map_unordered(awkward, range(100), workers=2)
    (pid, _), _ = (next(results)[1] for _ in range(2))
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for name in ("a.mp4", "b.mp4", "hangs.mp4", "kills.mp4", "y.mp4", "z.mp4"):
        write_video(folder / name, fake_frames(0, 10, (48, 64)))
    return folder


def start_check(folder, tmp_path, guard, limit=2):
    """A script that checks a folder, with a decoder that hangs at one of its files and crashes at another."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\n"
        "import lightning_har.data.check as c\n"
        "real = c._check_video\n"
        "def odd(file):\n"
        "    if file.name == 'hangs.mp4': time.sleep(600)\n"
        "    if file.name == 'kills.mp4': os.abort()\n"
        "    return real(file)\n"
        "c._check_video = odd\n"
        f"{guard}c.check_files({str(folder)!r}, sorted(os.listdir({str(folder)!r})), {str(tmp_path / 'r.csv')!r}, "
        f"workers=2, time_limit={limit})\n"
    )
    return subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_a_decoder_that_hangs_and_one_that_crashes_cost_their_file_alone(clips, tmp_path):
    process = start_check(clips, tmp_path, "if __name__ == '__main__': ")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    rows = {row.path: (row.status, row.reason) for row in read_report(tmp_path / "r.csv")}
    assert rows.pop("hangs.mp4") == ("corrupt", "took longer than 2 s")
    status, reason = rows.pop("kills.mp4")
    assert (status, reason[:51]) == ("corrupt", "the process that worked on it died (SIGABRT): it ma")
    assert rows == {f"{name}.mp4": ("ok", "") for name in "abyz"}
    # What took too long is tried again, the others are not.
    again = check_files(clips, [*rows, "hangs.mp4", "kills.mp4"], tmp_path / "r.csv", workers=0)
    assert {row.path: row.status for row in again} == {
        **{f"{name}.mp4": "ok" for name in ("a", "b", "hangs", "y", "z")}, "kills.mp4": "corrupt"}  # fmt: skip


def test_a_script_without_a_guard_is_told_what_it_lacks(clips, tmp_path):
    process = start_check(clips, tmp_path, "")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "ConfigError: a worker process ended before it began" in said.splitlines()[-1]
    assert "__main__" in said.splitlines()[-1]


def running(group):
    """Processes of a group that have not ended; those that nobody has asked about since are not counted."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, pgid = (place / "stat").read_text().rpartition(")")[2].split()[:3]
            found += [int(place.name)] if int(pgid) == group and state != "Z" else []
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="no /proc to see processes in")
def test_ctrl_c_ends_the_workers_too_and_what_was_found_stays(clips, tmp_path):
    process = start_check(clips, tmp_path, "if __name__ == '__main__': ", limit=600)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if (tmp_path / "r.csv").is_file() and len((tmp_path / "r.csv").read_text().splitlines()) == 6:
            break  # all but the one that hangs
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == -signal.SIGINT
    assert said.count("Traceback") == 1, "the workers say nothing"
    while time.monotonic() < deadline and running(process.pid):
        time.sleep(0.05)
    assert running(process.pid) == []
    assert len(read_report(tmp_path / "r.csv")) == 5


def test_the_command_gives_up_a_file_after_as_long_as_it_is_told(tmp_path, monkeypatch, capsys):
    write_fake_folder(tmp_path / "clips", clips=2)
    limits = []
    monkeypatch.setattr(check, "check_files", lambda *args, time_limit, **kwargs: limits.append(time_limit) or [])
    for arguments in ([], ["--time-limit", "7.5"]):
        assert main(["data", "check", str(tmp_path / "clips"), "--report", str(tmp_path / "r.csv"), *arguments]) == 0
    assert limits == [check.TIME_LIMIT, 7.5]
    capsys.readouterr()


def test_a_killed_check_leaves_a_report_that_goes_on(root, tmp_path):
    script = (
        "import os, signal, lightning_har.data.check as c\n"
        "n = 0\n"
        "real = c.check_file\n"
        "def stop(*a, **k):\n"
        "    global n\n"
        "    n += 1\n"
        "    if n == 4: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return real(*a, **k)\n"
        "c.check_file = stop\n"
        f"c.check_files({str(root)!r}, sorted(os.listdir({str(root)!r})), {str(tmp_path / 'r.csv')!r}, workers=0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert len(read_report(tmp_path / "r.csv")) == 3
    rows = check_files(root, sorted(p.name for p in root.iterdir()), tmp_path / "r.csv", workers=0)
    assert len(rows) == len(list(root.iterdir()))
