"""The runner on a camera that speaks RTSP."""

from __future__ import annotations

import json
import re
import socket
import time

import numpy as np
import pytest
from edge_runs import interrupted, without_torch
from rtsp_server import RtspServer
from videos import frame_number, numbered_frame

from lightning_har.edge import source as source_file
from lightning_har.edge.live import main as run_bundle
from lightning_har.edge.source import LiveSource, open_live


@pytest.fixture(scope="module")
def images():
    """Five seconds in colour, (250, 48, 80, 3): longer than any one connection below."""
    images = np.stack([numbered_frame(i, 48, 80) for i in range(250)])
    images[..., 2] //= 2
    return images


def live(address, said, **kwargs):
    return LiveSource(lambda: open_live(address, paced=False), address, said.append, backoff=0.1, **kwargs)


def taken(source, count, images):
    """The numbers of the next frames, each of which must be what the camera has sent."""
    numbers = []
    for frame, _ in source:
        image = frame.to_ndarray(format="rgb24")
        assert image.shape == images.shape[1:]
        number = frame_number(image)
        around = images[[number - 1, number, (number + 1) % len(images)]].astype(int)
        before, apart, after = np.abs(around - image).mean(axis=(1, 2, 3))
        assert apart < 4 < min(before, after)
        numbers.append(number)
        if len(numbers) == count:
            return numbers
    raise AssertionError(f"{len(numbers)} frames, then no more")


@pytest.mark.parametrize("in_band", [False, True], ids=["sets in the description", "sets in the stream"])
def test_the_frames_are_those_of_the_camera(images, in_band):
    said: list[str] = []
    with RtspServer(images, in_band=in_band) as server:
        source = live(server.address, said)
        numbers = taken(source, 30, images)
        source.close()
    assert said == []
    assert np.diff(numbers).min() >= 1
    assert server.whole > 0
    assert server.fragments > 0
    assert server.requests[:4] == ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"]  # TCP was asked for at once
    assert "GET_PARAMETER" in server.requests  # without it a camera ends the session


def test_a_stream_that_is_joined_between_two_key_frames(images):
    said: list[str] = []
    with RtspServer(images, in_band=True, first=7) as server:
        source = live(server.address, said)
        taken(source, 10, images)
        source.close()
    assert said == []


def test_a_slow_network_gets_the_newest_frame(images):
    with RtspServer(images) as server:
        source = live(server.address, [])
        for _ in range(6):
            (number,) = taken(source, 1, images)
            behind = server.newest - 1 - number
            time.sleep(0.3)  # 15 frames
        source.close()
    assert source.dropped > 40
    assert 0 <= behind < 20


def test_two_at_once(images):
    with RtspServer(images) as server:
        sources = [live(server.address, []) for _ in range(2)]
        for source in sources:
            taken(source, 10, images)
        for source in sources:
            source.close()
    assert server.requests.count("PLAY") == 2


# -- a camera that does not behave -----------------------------------------------------------------------------


def test_a_camera_that_hangs_up_is_connected_again(images):
    said: list[str] = []
    with RtspServer(images, faults=[(30, "close"), (40, "close")]) as server:
        source = live(server.address, said)
        while server.requests.count("PLAY") < 3:
            taken(source, 1, images)
        taken(source, 10, images)
        source.close()
    assert source.reconnects == 2
    # The pause is short again once there were frames.
    assert said == [f"{server.address}: lost (ended); trying again in 0.1 s"] * 2


@pytest.mark.parametrize("fault", [(30, "stall"), (30, "reports"), (0, "stall"), (0, "reports")])
def test_a_camera_that_goes_silent_is_connected_again(images, fault, monkeypatch):
    """Also one that says it is there, in RTCP, and shows nothing. FFmpeg ends the old session before it is given up."""
    monkeypatch.setattr(source_file, "FFMPEG_SECONDS", 1.0)
    said: list[str] = []
    with RtspServer(images, faults=[fault]) as server:
        source = live(server.address, said, stall=1.8)
        while server.requests.count("PLAY") < 2:
            taken(source, 1, images)
        taken(source, 10, images)
        source.close()
    assert said[0] == f"{server.address}: lost (sent no picture for 1 s); trying again in 0.1 s"


def test_a_wrong_password_is_told_at_once_and_not_shown(made, images, capsys):
    with RtspServer(images, login="me:secret") as server:
        source = live(f"rtsp://me:secret@{server.host}/clip", [])
        taken(source, 3, images)
        source.close()
        address = f"rtsp://me:wr0ng@{server.host}/clip"
        assert run_bundle([address, "--seconds", "60"], folder=made) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: rtsp://{server.host}/clip: Server returned 401 Unauthorized")
    assert said.err.count("\n") == 1
    assert "wr0ng" not in said.out + said.err


def test_a_wrong_path_is_told_at_once(made, images, capsys):
    with RtspServer(images) as server:
        address = f"rtsp://{server.host}/clap"
        assert run_bundle([address, "--seconds", "60"], folder=made) == 2
    said = capsys.readouterr().err
    assert said == f"error: {address}: Server returned 404 Not Found; check the path in the address\n"


def test_a_password_that_is_changed_later_is_waited_for(images):
    said: list[str] = []
    with RtspServer(images, login="me:secret", faults=[(30, "close")]) as server:
        source = live(f"rtsp://me:secret@{server.host}/clip", said, seconds=4.0)
        taken(source, 3, images)
        server.login = "me:another"
        list(source)
        source.close()
    assert sum("401 Unauthorized" in text and "again in" in text for text in said) >= 2


# -- the runner ------------------------------------------------------------------------------------------------

OPTIONS = ("--span", "0.2", "--json", "--threads", "1")


@pytest.mark.slow
def test_the_runner_goes_on_after_a_lost_connection(made, images):
    with RtspServer(images, faults=[(30, "close")]) as server:
        done = without_torch(made / "run.py", server.address, *OPTIONS, "--seconds", "4")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [f"{server.address}: lost (ended); trying again in 0.5 s"]
    *labels, told = done.stdout.splitlines()
    assert re.fullmatch(r" *\d+\.\d\d s +\d+\.\d% +(clap|jump|kick|wave)", labels[0])
    told = json.loads(told)
    assert told["reconnects"] == 1
    assert told["frames"] > 10


@pytest.fixture
def nobody():
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"rtsp://127.0.0.1:{taken.getsockname()[1]}/clip"


def test_an_address_where_nobody_listens(made, nobody, capsys):
    assert run_bundle([nobody, "--seconds", "2"], folder=made) == 2
    *said, error = capsys.readouterr().err.splitlines()
    assert said == [
        f"{nobody}: lost (Connection refused); trying again in {pause} s" for pause in ("0.5", "1.0", "2.0")
    ]
    assert error == f"error: {nobody}: Connection refused"


def test_ctrl_c_where_nobody_listens(made, nobody):
    code, said = interrupted(made / "run.py", nobody, *OPTIONS, wait_for="again in")
    assert code == 0
    assert said.splitlines()[-2] == "stopped"
    assert json.loads(said.splitlines()[-1])["frames"] == 0


@pytest.mark.slow
def test_ctrl_c_while_a_stream_stalls(made, images):
    with RtspServer(images, faults=[(60, "stall")]) as server:
        code, said = interrupted(made / "run.py", server.address, *OPTIONS, wait_for=" s  ", then=1.5)
        assert server.newest == 60
    assert code == 0
    assert said.splitlines()[-2] == "stopped"
    assert json.loads(said.splitlines()[-1])["frames"] > 0
