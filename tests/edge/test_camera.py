"""A camera by its number: FFmpeg's own Video4Linux reader, on a device that is made up below it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

COMPILER = shutil.which("cc")
pytestmark = [
    pytest.mark.skipif(COMPILER is None or sys.platform != "linux", reason="needs Linux and a C compiler"),
    pytest.mark.skipif(not Path("/usr/include/linux/videodev2.h").is_file(), reason="needs the kernel's C headers"),
]


@pytest.fixture(scope="module")
def camera(tmp_path_factory):
    library = tmp_path_factory.mktemp("camera") / "camera.so"
    source = Path(__file__).with_name("fake_camera.c")
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return {**os.environ, "LD_PRELOAD": str(library)}


def watch(made, environment, *options, source="97"):
    command = [sys.executable, str(made / "run.py"), source, "--span", "0.4", "--json", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_camera_is_read_and_its_picture_is_upright_and_whole(made, camera, tmp_path):
    seen = tmp_path / "seen.mp4"
    link = tmp_path / "by-id"
    link.symlink_to("/dev/video97")
    done = watch(made, camera, "--seconds", "2", "--output", str(seen), source=str(link))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["reconnects"] == 0
    assert told["frames"] > 10
    with av.open(str(seen)) as video:
        frames = [f.to_ndarray(format="gray") for f in video.decode(video=0)]
    assert frames[0].shape == (480, 640)
    middles = []
    for frame in frames[1:]:
        rows, columns = np.nonzero(frame[60:] > 150)  # below the label
        if 60 < columns.mean() < 560:
            assert rows.mean() + 60 == pytest.approx(240, abs=3)
            middles.append(columns.mean())
    assert len(middles) > 5
    assert np.median(np.diff(middles)) > 0, "the disc goes to the right"


def test_a_camera_that_is_unplugged_is_waited_for(made, camera):
    """Its frames lay in the driver's memory: what is left of them when it goes must not end the program."""
    # What is freed is overwritten, so that it cannot be used by luck.
    done = watch(made, {**camera, "FAKE_CAMERA_UNPLUG": "10", "MALLOC_PERTURB_": "165"}, "--seconds", "5")
    assert done.returncode == 0, (done.returncode, done.stderr)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["reconnects"] >= 3
    assert told["frames"] > 10
    assert "lost (No such device); trying again" in done.stderr
