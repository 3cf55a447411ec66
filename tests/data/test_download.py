"""Downloads: continued after a break, never mixed from two files, checked against their digest."""

from __future__ import annotations

import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lightning_har.data import download as module
from lightning_har.data.download import download
from lightning_har.data.official import Archive
from lightning_har.errors import DataError


class Server(ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = os.urandom(3_000_000)
        self.etag = '"one"'
        self.break_after = None  # bytes of a response, after which the connection is closed
        self.requests = []
        self.status = None


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        start = 0
        wanted = self.headers.get("Range")
        server.requests.append(wanted)
        if server.status:
            self.send_error(server.status)
            return
        if wanted and self.headers.get("If-Range") == server.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        body = server.content[start:]
        self.send_header("ETag", server.etag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.break_after])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "_PAUSE", 0.001)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def archive(server, digest=None):
    return Archive(f"http://127.0.0.1:{server.server_address[1]}/a.rar", "a.rar", digest)


def test_it_comes_whole_and_once(server, tmp_path):
    digest = hashlib.sha256(server.content).hexdigest()
    for _ in range(2):
        assert download(archive(server, digest), tmp_path / "new").read_bytes() == server.content
    assert server.requests == [None]
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.rar"]


def test_it_goes_on_after_every_break(server, tmp_path):
    server.break_after = 1_000_000
    assert download(archive(server), tmp_path).read_bytes() == server.content
    assert server.requests == [None, "bytes=1000000-", "bytes=2000000-"]


def test_it_goes_on_after_a_kill_while_the_file_is_the_same(server, tmp_path):
    (tmp_path / "a.rar.part").write_bytes(server.content[:777])
    (tmp_path / "a.rar.part.tag").write_text('"one"')
    assert download(archive(server), tmp_path).read_bytes() == server.content
    assert server.requests == ["bytes=777-"]


def test_a_part_of_another_file_is_not_continued(server, tmp_path):
    (tmp_path / "a.rar.part").write_bytes(b"x" * 777)
    (tmp_path / "a.rar.part.tag").write_text('"zero"')
    assert download(archive(server), tmp_path).read_bytes() == server.content
    (tmp_path / "a.rar").unlink()
    (tmp_path / "a.rar.part").write_bytes(b"x" * 777)
    assert download(archive(server), tmp_path).read_bytes() == server.content
    assert server.requests == ["bytes=777-", None]


def test_another_digest_is_refused_and_not_kept(server, tmp_path):
    with pytest.raises(DataError, match="SHA-256"):
        download(archive(server, "00" * 32), tmp_path)
    assert not (tmp_path / "a.rar").exists()
    assert not (tmp_path / "a.rar.part").exists()


def test_a_server_that_will_not_is_named_with_what_to_do(server, tmp_path):
    for server.status, tries in ((404, 1), (503, 5)):
        server.requests.clear()
        with pytest.raises(DataError, match=rf"HTTP {server.status}.*by hand"):
            download(archive(server), tmp_path)
        assert len(server.requests) == tries
