"""``data check``: what is wrong with a file is found before training, whatever it does to the decoder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from lightning_har.data.check import FileReport, check_file, check_files, read_report
from lightning_har.data.fake import fake_frames, write_video
from lightning_har.data.parallel import Died, map_unordered
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
    write_video(folder / "good.avi", fake_frames(0, 40, (48, 64)))
    avi = bytearray((folder / "good.avi").read_bytes())
    rng = np.random.default_rng(0)
    for i in rng.integers(len(avi) // 4, len(avi) * 3 // 4, len(avi) // 100):
        avi[i] ^= 0xFF
    (folder / "flipped.avi").write_bytes(avi)
    return folder


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [("good.mp4", "ok", ""), ("good.avi", "ok", ""), ("short.mp4", "short", "3 frames"), ("tiny.mp4", "odd", "18×16"),
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


def die(item):
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item * item


def test_a_worker_that_dies_names_its_item_and_takes_no_other_along():
    found = dict(map_unordered(die, range(8), workers=2))
    assert isinstance(found.pop(3), Died)
    assert found == {i: i * i for i in range(8) if i != 3}
    with pytest.raises(ConfigError, match="engine"):
        list(map_unordered(die, range(3), engine="threads"))


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
