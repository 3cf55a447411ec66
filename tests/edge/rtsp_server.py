"""A camera on this machine: RTSP, and H.264 in RTP inside its TCP connection (RFC 2326, RFC 3550, RFC 6184)."""

from __future__ import annotations

import base64
import itertools
import re
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np

FPS = 50
PAYLOAD = 400  # bytes: small, so that even a small key frame goes in fragments
SEQUENCE_SET, PICTURE_SET, FRAGMENT = 7, 8, 28  # types of NAL units


class RtspServer(socketserver.ThreadingTCPServer):
    """Shows a clip over and over, at 50 frames a second, to whoever asks; a context manager.

    Args:
        images: (T, H, W, 3) uint8.
        faults: One for each client that plays, in order: after how many frames it gets no more, and how: "close"
            hangs up, "stall" goes silent, "reports" goes on with RTCP alone. Clients after these are served for good.
        in_band: Send the parameter sets before each key frame alone; else in the session's description alone.
        first: The frame that each client gets first.
        login: "user:password" to ask for.

    Attributes:
        requests: The methods that clients asked for.
        whole, fragments: RTP packets sent with a whole NAL unit and with a part of one.
        newest: How many frames the last client has been sent.
    """

    daemon_threads = True

    def __init__(
        self,
        images: np.ndarray,
        *,
        faults: Iterable[tuple[int, str]] = (),
        in_band: bool = False,
        first: int = 0,
        login: str | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Client)
        self.host = f"127.0.0.1:{self.server_address[1]}"
        self.address = f"rtsp://{self.host}/clip"
        self.faults, self.first, self.login = iter(faults), first, login
        self.frames = encode(images)
        sets = [unit for unit in self.frames[0] if is_set(unit)]
        self.sets = None if in_band else b",".join(map(base64.b64encode, sets)).decode()
        if not in_band:
            self.frames = [[unit for unit in units if not is_set(unit)] for units in self.frames]
        self.requests: list[str] = []
        self.whole = self.fragments = self.newest = 0
        self.closed = threading.Event()

    def __enter__(self) -> RtspServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.closed.set()
        self.shutdown()
        self.server_close()


class _Client(socketserver.StreamRequestHandler):
    server: RtspServer

    def handle(self) -> None:
        self.sending = threading.Lock()
        self.gone = threading.Event()
        try:
            while (asked := self._request()) and not self.server.closed.is_set():
                self.server.requests.append(asked[0])
                self._answer(*asked)
        except OSError:  # the client, or this server, hung up
            pass
        finally:
            self.gone.set()

    def _request(self) -> tuple[str, str, dict[str, str]] | None:
        while (start := self.rfile.read(1)) == b"$":  # the client's RTCP
            self.rfile.read(struct.unpack("!xH", self.rfile.read(3))[0])
        if not start:
            return None
        line, *headers = iter(lambda: self.rfile.readline().decode().strip(), "")
        method, url, _ = (start.decode() + line).split()
        return method, url, {k.lower(): v.strip() for k, _, v in (header.partition(":") for header in headers)}

    def _answer(self, method: str, url: str, headers: dict[str, str]) -> None:
        server = self.server
        status, more, body = "200 OK", {"CSeq": headers["cseq"], "Session": "1;timeout=2"}, ""
        if server.login and headers.get("authorization") != f"Basic {base64.b64encode(server.login.encode()).decode()}":
            status, more["WWW-Authenticate"] = "401 Unauthorized", 'Basic realm="camera"'
        elif not re.fullmatch(rf"{server.address}(/.*)?", url):
            status = "404 Not Found"
        elif method == "OPTIONS":
            more["Public"] = "OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, TEARDOWN"
        elif method == "DESCRIBE":
            sets = "" if server.sets is None else f";sprop-parameter-sets={server.sets}"
            body = (
                "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=clip\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
                f"a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1{sets}\r\na=control:video\r\n"
            )
            more |= {"Content-Base": f"{server.address}/", "Content-Type": "application/sdp"}
        elif method == "SETUP" and not headers["transport"].startswith("RTP/AVP/TCP"):
            status = "461 Unsupported Transport"
        elif method == "SETUP":
            more["Transport"] = "RTP/AVP/TCP;unicast;interleaved=0-1"
        elif method not in ("PLAY", "GET_PARAMETER", "TEARDOWN"):
            status = "501 Not Implemented"
        more["Content-Length"] = str(len(body))
        lines = [f"RTSP/1.0 {status}", *(f"{name}: {value}" for name, value in more.items()), "", body]
        with self.sending:
            self.wfile.write("\r\n".join(lines).encode())
        if method == "PLAY" and status == "200 OK":
            threading.Thread(target=self._play, daemon=True).start()

    def _play(self) -> None:
        server = self.server
        last, fault = next(server.faults, (None, ""))
        sequence, begin = 0, time.perf_counter()
        try:
            for i in itertools.count():
                if self.gone.wait(max(0.0, begin + i / FPS - time.perf_counter())) or server.closed.is_set():
                    return
                if last is not None and i >= last and fault != "reports":
                    if fault == "close":
                        self.request.shutdown(socket.SHUT_RDWR)
                    return
                with self.sending:
                    if last is not None and i >= last:
                        report = struct.pack("!BBHIQIII", 0x80, 200, 6, 1, i, i * 90000 // FPS, sequence, 0)
                        self.wfile.write(b"$\x01" + struct.pack("!H", len(report)) + report)
                        continue
                    payloads = list(self._payloads(server.frames[(server.first + i) % len(server.frames)]))
                    for k, payload in enumerate(payloads):
                        kind = 96 | 0x80 * (k == len(payloads) - 1)  # the last of a frame is marked
                        header = struct.pack("!BBHII", 0x80, kind, sequence % 65536, i * 90000 // FPS, 1)
                        self.wfile.write(b"$\x00" + struct.pack("!H", 12 + len(payload)) + header + payload)
                        sequence += 1
                server.newest = i + 1
        except OSError:  # the client is gone
            pass

    def _payloads(self, units: list[bytes]) -> Iterator[bytes]:
        for unit in units:
            if len(unit) <= PAYLOAD:
                self.server.whole += 1
                yield unit
                continue
            parts = [unit[i : i + PAYLOAD] for i in range(1, len(unit), PAYLOAD)]
            for i, part in enumerate(parts):
                self.server.fragments += 1
                edge = 0x80 * (i == 0) | 0x40 * (i == len(parts) - 1)
                yield bytes([unit[0] & 0xE0 | FRAGMENT, edge | unit[0] & 0x1F]) + part


def encode(images: np.ndarray) -> list[list[bytes]]:
    """(T, H, W, 3) uint8 as H.264: the NAL units of each frame, every 25th a key frame."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width, encoder.pix_fmt = *images.shape[1:3], "yuv420p"
    encoder.time_base, encoder.framerate, encoder.gop_size = Fraction(1, FPS), FPS, 25
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "qp": "12"}
    packets = []
    for i, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts = i
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    return [re.split(rb"\x00\x00+\x01", bytes(packet))[1:] for packet in packets]


def is_set(unit: bytes) -> bool:
    """Whether a NAL unit holds parameters of the stream."""
    return unit[0] & 0x1F in (SEQUENCE_SET, PICTURE_SET)
