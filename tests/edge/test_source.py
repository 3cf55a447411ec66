from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import os
import socket
import sys
import threading
import time
from functools import partial
from types import SimpleNamespace

import av
import numpy as np
import pytest
from edge_models import SIZE
from edge_runs import without_torch
from videos import blank, frame_number, put_cover_first, write_sound_with_cover

from lightning_har.edge import source as source_file
from lightning_har.edge.source import LiveSource, NoSourceError, Timeline, open_live
from lightning_har.errors import ConfigError, DecodeError


def packets(frames):
    """Packets of a frame each."""
    return (SimpleNamespace(decode=lambda frame=frame: [frame]) for frame in frames)


@pytest.fixture
def serve():
    """Answers with a handler, for a test, and tells the address."""
    with contextlib.ExitStack() as served:

        def serve(handler):
            server = served.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
            served.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            return f"http://127.0.0.1:{server.server_port}"

        yield serve


@pytest.fixture
def address_of(serve):
    """Serves a file, for a test, and tells its address."""
    return lambda path: serve(partial(http.server.SimpleHTTPRequestHandler, directory=path.parent)) + f"/{path.name}"


@pytest.mark.parametrize(
    ("source", "platform", "name", "format", "options", "thread_type"),
    [
        ("0", "linux", "/dev/video0", "v4l2", {}, "SLICE"),
        ("1", "darwin", "1", "avfoundation", {"framerate": "30"}, "SLICE"),
        ("rtsp://x", "linux", "rtsp://x", None, {"rtsp_flags": "prefer_tcp", "timeout": "8000000"}, "SLICE"),
        ("http://x", "linux", "http://x", None, {"rw_timeout": "8000000"}, "SLICE"),
        ("clip.mp4", "linux", os.path.abspath("clip.mp4"), None, {}, "AUTO"),
        ("cam-12:30.mp4", "linux", os.path.abspath("cam-12:30.mp4"), None, {}, "AUTO"),
    ],
)
def test_how_a_source_is_opened(monkeypatch, source, platform, name, format, options, thread_type):
    opened = {}
    codec = SimpleNamespace(name="mjpeg")
    stream = SimpleNamespace(thread_type=None, average_rate=25, codec_context=codec, disposition=0)

    def demux(asked):
        assert asked is stream
        return packets([SimpleNamespace(time=0.0)])

    def fake(*args, **kwargs):
        opened.update(kwargs, args=args)
        kind = SimpleNamespace(name=str(kwargs["format"]))
        video = SimpleNamespace(video=[stream])
        stream.container = SimpleNamespace(format=kind, streams=video, demux=demux, duration=None)
        return contextlib.nullcontext(stream.container)

    monkeypatch.setattr(av, "open", fake)
    monkeypatch.setattr(sys, "platform", platform)
    frames = open_live(source, paced=False)
    next(frames)
    if thread_type == "AUTO":
        assert list(frames) == []
    else:  # which does not say how long it is
        with pytest.raises(DecodeError, match="ended"):
            next(frames)
    timeout = None if thread_type == "AUTO" else (8.0, 8.0)
    assert opened == {"args": (name,), "format": format, "options": options, "timeout": timeout}
    assert stream.thread_type == thread_type


@pytest.mark.parametrize(
    ("duration", "lost"),
    [(None, True), (0, True), (400_000, True), (1_040_000, False), (3_000_000, False)],
    ids=["none", "nought", "of what came first", "its own", "of a longer sound"],
)
def test_a_stream_that_ends_is_lost_and_a_video_is_over(monkeypatch, duration, lost):
    """Live FLV says that it is 0 s long; of live MP4 FFmpeg takes what it has at first for all of it."""
    codec = SimpleNamespace(name="h264")
    stream = SimpleNamespace(thread_type=None, average_rate=25, codec_context=codec, disposition=0)
    stream.container = SimpleNamespace(
        format=SimpleNamespace(name="any"),
        streams=SimpleNamespace(video=[stream]),
        demux=lambda asked: packets(SimpleNamespace(time=i / 25) for i in range(26)),
        duration=duration,
    )
    monkeypatch.setattr(av, "open", lambda *args, **options: contextlib.nullcontext(stream.container))
    frames = open_live("http://x", paced=False)
    assert len(list(itertools.islice(frames, 26))) == 26
    with pytest.raises(DecodeError, match="ended") if lost else contextlib.nullcontext():
        assert list(frames) == []


@pytest.mark.parametrize(
    ("times", "shown"),
    [
        ([5.0, 5.1, 5.3], [0.0, 0.1, 0.3]),
        ([5.0, 5.1, 0.0, 0.1], [0.0, 0.1, 0.15, 0.25]),
        ([0.0, 0.1, 9000.0, 9000.1], [0.0, 0.1, 0.15, 0.25]),
        ([None, None, None], [0.0, 0.05, 0.1]),
        ([5.0, None, 5.2, 5.3], [0.0, 0.05, 0.1, 0.2]),
    ],
    ids=["from anywhere", "back", "far ahead", "unknown", "some unknown"],
)
def test_frames_are_shown_as_far_apart_as_they_were_taken(times, shown):
    timeline = Timeline(20, longest=10.0)
    assert [timeline.at(when) for when in times] == pytest.approx(shown)


def test_a_file_may_wait_long_between_its_frames():
    timeline = Timeline()
    assert [timeline.at(when) for when in (0.0, 60.0)] == [0.0, 60.0]


def test_a_file_of_an_address_is_given_at_its_own_pace(made, video, address_of):
    """The network gives 30 frames at one blow; a camera's window would see the last alone."""
    said: list[str] = []
    address = address_of(video)
    begin = time.perf_counter()
    source = LiveSource(lambda: open_live(address, paced=False), address, said.append)
    count = len(list(source)) + source.dropped
    assert count == 30
    assert time.perf_counter() - begin > 29 / 25
    assert said == [], "it was seen whole, and is not lost"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, r"401 Unauthorized.*; check the user and the password"),
        (403, r"403 Forbidden.*; check what this user may see"),
        (404, r"404 Not Found; check the path"),
    ],
)
def test_an_address_that_says_no_is_refused_at_once(serve, status, words):
    said: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(status)

    address = serve(Handler) + "/camera"
    with pytest.raises(NoSourceError, match=f"^{address}: Server returned {words}"):
        list(LiveSource(lambda: open_live(address, paced=False), address, said.append, seconds=60))
    assert said == []


def test_a_server_with_an_error_of_its_own_is_tried_again(serve):
    answers: list[int] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answers.append(503)
            self.send_error(503)

    address = serve(Handler) + "/camera"
    source = LiveSource(lambda: open_live(address, paced=False), address, lambda text: None, backoff=0.05, seconds=1.0)
    with pytest.raises(DecodeError, match="Server returned 5XX"):
        list(source)
    assert len(answers) > 1


def test_a_camera_that_this_user_may_not_open_is_refused_at_once(monkeypatch):
    def closed(*args, **options):
        raise av.error.PermissionError(13, "Permission denied", "/dev/video0")

    said: list[str] = []
    monkeypatch.setattr(av, "open", closed)
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(NoSourceError, match=r"^0: Permission denied; .* group video"):
        list(LiveSource(lambda: open_live("0", paced=False), "0", said.append, seconds=60))
    assert said == []


def test_a_cover_picture_is_no_video(tmp_path, make_video):
    video = put_cover_first(make_video(tmp_path / "a.mp4", 12))
    assert [frame_number(f.to_ndarray(format="rgb24")) for f in open_live(str(video), paced=False)] == [*range(12)]
    with pytest.raises(DecodeError, match=r"a\.mp3: has no video stream"):
        next(open_live(str(write_sound_with_cover(tmp_path / "a.mp3")), paced=False))


@pytest.mark.parametrize("over", ["a file", "http"])
def test_a_packet_that_cannot_be_decoded_is_passed_over(tmp_path, make_video, address_of, over):
    path = blank(make_video(tmp_path / "a.avi", 12, codec="mjpeg", pix_fmt="yuvj420p", b_frames=0), [0, 5, 11])
    frames = open_live(str(path) if over == "a file" else address_of(path), paced=False)
    numbers = [frame_number(f.to_ndarray(format="rgb24")) for f in frames]
    assert numbers == [n for n in range(12) if n not in (0, 5, 11)]


def test_a_file_of_which_nothing_can_be_decoded_is_an_error(tmp_path, make_video):
    path = blank(make_video(tmp_path / "a.avi", 12, codec="mjpeg", pix_fmt="yuvj420p", b_frames=0), range(12))
    with pytest.raises(DecodeError, match=r"a\.avi: Invalid data"):
        next(open_live(str(path), paced=False))


def test_a_camera_of_which_nothing_can_be_decoded_is_let_go(monkeypatch):
    """Not only given up: a camera that is held open cannot be opened again."""
    monkeypatch.setattr(source_file, "FFMPEG_SECONDS", 0.3)

    def damaged():
        time.sleep(0.02)
        raise av.error.InvalidDataError(-1, "Invalid data found")

    codec = SimpleNamespace(name="mjpeg")
    stream = SimpleNamespace(thread_type=None, average_rate=25, codec_context=codec, disposition=0)
    stream.container = SimpleNamespace(
        format=SimpleNamespace(name="v4l2"),
        streams=SimpleNamespace(video=[stream]),
        demux=lambda asked: itertools.chain(
            packets([SimpleNamespace(time=0.0)]), itertools.repeat(SimpleNamespace(decode=damaged))
        ),
        duration=None,
    )
    monkeypatch.setattr(av, "open", lambda *args, **options: contextlib.nullcontext(stream.container))
    frames = open_live("0", paced=False)
    next(frames)
    with pytest.raises(DecodeError, match=r"sent no picture for 0\.3 s"):
        next(frames)


def test_a_camera_by_number_on_windows_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigError, match="give the camera's address instead of 0"):
        next(open_live("0", paced=False))


def test_a_server_that_accepts_and_sends_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(source_file, "FFMPEG_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(DecodeError, match=r"no picture for 0\.3 s"):
        next(open_live(f"tcp://127.0.0.1:{server.getsockname()[1]}", paced=False))


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
        raise OSError("ended")

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


@pytest.mark.parametrize("anew", [False, True], ids=["in one loop", "in another loop"])
def test_a_camera_that_was_there_is_waited_for(anew):
    attempts: list[int] = []

    def connect():
        attempts.append(1)
        if len(attempts) == 2:
            raise NoSourceError("camera 0: there is no /dev/video0")
        yield len(attempts)
        raise OSError("ended")

    source = LiveSource(connect, "camera", lambda text: None, backoff=0.01)
    frames = iter(source)
    first = next(frames)[0]
    assert [first, next(iter(source) if anew else frames)[0]] == [1, 3]
    source.close()


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
