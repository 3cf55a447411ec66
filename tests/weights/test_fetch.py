from __future__ import annotations

import hashlib
import http.server
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from lightning_har._files import cache_directory
from lightning_har.errors import ConfigError, WeightsError
from lightning_har.nets.backbones import build_backbone
from lightning_har.weights import fetch as fetch_module
from lightning_har.weights.fetch import digests, fetch

CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, np.uint8).tobytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
GIT = hashlib.sha1(b"blob 3000000\0" + CONTENT).hexdigest()


@dataclass
class Behaviour:
    """What the server does, and what it saw."""

    url: str = ""
    content: bytes = CONTENT
    ranges: bool = True
    cuts: list[float] = field(default_factory=list)
    """Where the next answers break off, as shares of the whole file."""
    stall: float | None = None
    """Where an answer stops and waits."""
    flips: int = 0
    """How many answers come with a flipped byte."""
    codes: list[int] = field(default_factory=list)
    """Error codes of the next answers."""
    seen: list[str | None] = field(default_factory=list)
    """The Range header of every request."""
    stalled: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch_module, "_PAUSE", 0.001)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    state = Behaviour()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            state.seen.append(asked)
            if state.codes:
                self.send_error(state.codes.pop(0))
                return
            body = state.content
            if state.flips:
                state.flips -= 1
                body = body[:1000] + bytes([body[1000] ^ 1]) + body[1001:]
            start = int(asked[6:-1]) if asked and state.ranges else 0
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            end = int(state.cuts.pop(0) * len(body)) if state.cuts else len(body)
            if state.stall is not None:
                end = int(state.stall * len(body))
            self.wfile.write(body[start:end])
            if state.stall is not None:
                self.wfile.flush()
                state.stalled.set()
                state.release.wait(20)

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_port}/models/net-{SHA256[:8]}.pth"
    yield state
    state.release.set()
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def left_in(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.suffix in (".pth", ".part"))


@pytest.mark.parametrize(
    "pin",
    [{"sha256": SHA256.upper()}, {"sha256_prefix": SHA256[:8]}, {"git_blob_sha1": GIT}, {"size": 3_000_000}, {}],
)
def test_fetches_once_under_every_kind_of_pin(server, tmp_path, pin):
    path = fetch(server.url, cache_dir=tmp_path, **pin)
    assert path.read_bytes() == CONTENT
    assert path.name == f"net-{SHA256[:8]}.pth"
    assert fetch(server.url, cache_dir=tmp_path, **pin) == path
    assert fetch(server.url, cache_dir=tmp_path, local_files_only=True, **pin) == path
    assert server.seen == [None]
    assert fetch(server.url, cache_dir=tmp_path, force_download=True, **pin) == path
    assert server.seen == [None, None]


def test_digests_are_those_of_the_tools(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"hello\n")
    found = digests(path)
    # From `sha256sum` and `git hash-object`.
    assert found.sha256 == "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    assert found.git_blob_sha1 == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert found.size == 6


def test_broken_connections_are_continued(server, tmp_path):
    server.cuts = [0.1, 0.5, 0.99]
    assert fetch(server.url, sha256=SHA256, cache_dir=tmp_path).read_bytes() == CONTENT
    assert server.seen == [None, "bytes=300000-", "bytes=1500000-", "bytes=2970000-"]


def test_a_server_without_ranges_is_asked_again_from_the_start(server, tmp_path):
    server.ranges = False
    server.cuts = [0.6, 0.4]
    assert fetch(server.url, sha256=SHA256, cache_dir=tmp_path).read_bytes() == CONTENT
    assert len(server.seen) == 3


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_killed_download_is_continued_by_the_next_call(server, tmp_path, share):
    server.stall = share
    code = (
        "import sys; from lightning_har.weights import fetch as f; f._CHUNK = 1 << 12; "
        "f.fetch(sys.argv[1], sha256=sys.argv[2], cache_dir=sys.argv[3])"
    )
    child = subprocess.Popen([sys.executable, "-c", code, server.url, SHA256, str(tmp_path)])
    try:
        assert server.stalled.wait(30)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            parts = list(tmp_path.rglob("*.part"))
            if parts and parts[0].stat().st_size > share * len(CONTENT) - (1 << 14):
                break
            time.sleep(0.01)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert left_in(tmp_path) == [f"net-{SHA256[:8]}.pth.part"]
    server.stall = None
    server.release.set()
    have = next(tmp_path.rglob("*.part")).stat().st_size
    assert 0 < have < len(CONTENT)
    assert fetch(server.url, sha256=SHA256, cache_dir=tmp_path).read_bytes() == CONTENT
    assert server.seen == [None, f"bytes={have}-"]
    assert left_in(tmp_path) == [f"net-{SHA256[:8]}.pth"]


def test_a_flipped_byte_is_refused_and_fetched_once_more(server, tmp_path):
    server.flips = 1
    assert fetch(server.url, sha256_prefix=SHA256[:8], cache_dir=tmp_path).read_bytes() == CONTENT
    assert server.seen == [None, None]


def test_flipped_twice_is_an_error_and_leaves_nothing(server, tmp_path):
    server.flips = 2
    with pytest.raises(WeightsError) as caught:
        fetch(server.url, what="I3D RGB", git_blob_sha1=GIT, cache_dir=tmp_path)
    message = str(caught.value)
    for part in ("I3D RGB", server.url, "fetched twice", f"expected git blob SHA-1 {GIT}", "pretrained=False", "path"):
        assert part in message
    assert left_in(tmp_path) == []
    assert len(server.seen) == 2


def test_a_part_of_another_file_does_no_harm(server, tmp_path):
    path = fetch(server.url, sha256=SHA256, cache_dir=tmp_path)
    path.rename(f"{path}.part")
    with open(f"{path}.part", "r+b") as file:
        file.truncate(1_000_000)
        file.write(b"other")
    server.seen.clear()
    assert fetch(server.url, sha256=SHA256, cache_dir=tmp_path).read_bytes() == CONTENT
    assert server.seen == ["bytes=1000000-", None]


@pytest.mark.parametrize("extra", [b"", b"too long"])
def test_a_finished_part_and_one_that_is_too_long(server, tmp_path, extra):
    path = fetch(server.url, sha256=SHA256, cache_dir=tmp_path)
    path.rename(f"{path}.part")
    with open(f"{path}.part", "ab") as file:
        file.write(extra)
    server.seen.clear()
    assert fetch(server.url, sha256=SHA256, cache_dir=tmp_path).read_bytes() == CONTENT
    assert server.seen == [f"bytes={3_000_000 + len(extra)}-"] + [None] * bool(extra)


def test_a_file_altered_in_the_cache_is_replaced(server, tmp_path, caplog):
    path = fetch(server.url, sha256=SHA256, cache_dir=tmp_path)
    time.sleep(0.01)
    with path.open("r+b") as file:
        file.write(bytes([CONTENT[0] ^ 1]))
    with caplog.at_level(logging.WARNING):
        assert fetch(server.url, sha256=SHA256, cache_dir=tmp_path).read_bytes() == CONTENT
    assert "altered in the cache" in caplog.text
    assert len(server.seen) == 2


def test_an_untouched_copy_is_not_read_again_and_a_touched_one_is(server, tmp_path, monkeypatch):
    path = fetch(server.url, sha256=SHA256, cache_dir=tmp_path)
    read = []
    monkeypatch.setattr(fetch_module, "digests", lambda p: read.append(p) or digests(p))
    fetch(server.url, sha256=SHA256, cache_dir=tmp_path)
    assert read == []
    os.utime(path)
    fetch(server.url, sha256=SHA256, cache_dir=tmp_path)
    fetch(server.url, sha256=SHA256, cache_dir=tmp_path)
    assert read == [path]


def test_two_processes_at_once_fetch_once(server, tmp_path):
    code = (
        "import sys; from lightning_har.weights.fetch import fetch; "
        "print(fetch(sys.argv[1], sha256=sys.argv[2], cache_dir=sys.argv[3]))"
    )
    command = [sys.executable, "-c", code, server.url, SHA256, str(tmp_path)]
    server.stall = 0.5
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert server.stalled.wait(30)
    time.sleep(0.3)
    server.stall = None
    server.release.set()
    outputs = [child.communicate(timeout=60)[0].strip() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert outputs[0] == outputs[1]
    assert Path(outputs[0]).read_bytes() == CONTENT
    assert server.seen == [None, "bytes=1500000-"]


def test_busy_servers_are_asked_again_and_refusals_are_not(server, tmp_path):
    server.codes = [503, 429]
    assert fetch(server.url, sha256=SHA256, cache_dir=tmp_path).read_bytes() == CONTENT
    server.codes = [404]
    with pytest.raises(WeightsError, match=r"cannot fetch net\.pth from http.*: HTTP 404 .*pretrained=False"):
        fetch(server.url.rsplit("/", 1)[0] + "/net.pth", cache_dir=tmp_path)
    assert len(server.seen) == 4


def test_no_network_says_which_where_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_module, "_PAUSE", 0.001)
    with pytest.raises(WeightsError) as caught:
        fetch("http://user:secret@127.0.0.1:9/a/net.pth?token=secret", what="TSN", cache_dir=tmp_path)
    message = str(caught.value)
    assert "cannot fetch TSN from http://127.0.0.1:9/a/net.pth: " in message
    assert "give its path" in message
    assert "pretrained=False" in message
    assert "secret" not in message


def test_local_files_only_never_asks(server, tmp_path):
    with pytest.raises(WeightsError, match="not in the cache"):
        fetch(server.url, cache_dir=tmp_path, local_files_only=True)
    assert server.seen == []
    assert list(tmp_path.iterdir()) == []


def test_another_pin_is_another_file(server, tmp_path):
    fetch(server.url, cache_dir=tmp_path)
    with pytest.raises(WeightsError, match=r"expected SHA-256 00"):
        fetch(server.url, sha256="0" * 64, cache_dir=tmp_path)
    with pytest.raises(WeightsError, match=r"expected 7 bytes, got 3,000,000"):
        fetch(server.url, size=7, cache_dir=tmp_path)
    assert len(left_in(tmp_path)) == 1


def test_local_paths_are_checked_in_place(tmp_path):
    path = tmp_path / "net.pth"
    path.write_bytes(CONTENT)
    assert fetch(str(path), sha256=SHA256) == path
    with pytest.raises(WeightsError, match=r"net\.pth at .* is refused: expected a SHA-256 that begins with dead"):
        fetch(str(path), sha256_prefix="dead")
    assert path.exists()
    with pytest.raises(WeightsError, match="cannot be read"):
        fetch(str(tmp_path / "absent.pth"))


@pytest.mark.parametrize("source", ["ftp://host/file", "file:///etc/passwd", "hf://owner", "hf://owner/name"])
def test_other_sources_are_refused(source):
    with pytest.raises(ConfigError):
        fetch(source)


def test_cache_directory_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "general"))
    monkeypatch.delenv("LIGHTNING_HAR_CACHE", raising=False)
    assert cache_directory() == tmp_path / "general" / "lightning_har"
    monkeypatch.setenv("LIGHTNING_HAR_CACHE", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"


@pytest.mark.parametrize("good_second", [True, False])
def test_the_hubs_cache_does_not_keep_a_bad_file(tmp_path, monkeypatch, good_second):
    """A stand-in for the client lays files out as it does: a link to a blob."""
    hub = pytest.importorskip("huggingface_hub")
    calls = []

    def download(repo_id, filename, *, revision, cache_dir, force_download, local_files_only):
        calls.append((repo_id, filename, revision, force_download))
        blob, link = tmp_path / "blob", tmp_path / "snapshot"
        blob.write_bytes(CONTENT if good_second and len(calls) == 2 else b"bad")
        link.unlink(missing_ok=True)
        link.symlink_to(blob)
        return str(link)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    monkeypatch.setattr(fetch_module, "hub_problem", lambda: None)
    source = "hf://owner/name@abc123/sub/net.safetensors"
    if good_second:
        assert fetch(source, sha256=SHA256).read_bytes() == CONTENT
    else:
        with pytest.raises(WeightsError, match=r"net\.safetensors from hf://owner/name.* is refused"):
            fetch(source, sha256=SHA256)
        assert list(tmp_path.iterdir()) == []
    assert calls == [("owner/name", "sub/net.safetensors", "abc123", again) for again in (False, True)]


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    """A hub that does not answer, and an empty cache of its client."""
    constants = pytest.importorskip("huggingface_hub").constants
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return constants


def test_a_hub_that_is_away_is_not_asked_again_and_again(no_hub, monkeypatch):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)  # the client's pauses between its tries
    with pytest.raises(WeightsError, match=r"cannot fetch x\.safetensors from hf://a.*127\.0\.0\.1 cannot be reached"):
        fetch("hf://a/b/x.safetensors")
    with pytest.raises(WeightsError, match=r"weights of 'mobilenetv2_035'.*cannot be reached.*pretrained=False"):
        build_backbone("mobilenetv2_035", pretrained=True)
    assert waited == []
    assert not no_hub.HF_HUB_OFFLINE, "the client is left as it was found"


def test_a_hub_that_is_away_is_not_missed_where_its_cache_has_the_file(no_hub):
    repository = Path(no_hub.HF_HUB_CACHE) / "models--a--b"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    file = repository / "snapshots" / ("0" * 40) / "x.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    assert fetch("hf://a/b/x.safetensors", sha256=SHA256) == file
