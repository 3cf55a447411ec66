"""Videos whose frames say their numbers, made for a test and not stored."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

BITS = 10


def numbered_frame(number, height, width):
    """A picture that says its number: vertical bars for its bits in the upper half, a ramp below."""
    frame = np.empty((height, width, 3), np.uint8)
    frame[:] = np.linspace(30, 200, width, dtype=np.uint8)[None, :, None]
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        frame[: height // 2, left:right] = 230 if number >> bit & 1 else 20
    return frame


def frame_number(frame):
    """The number that a decoded ``numbered_frame`` says."""
    height, width = frame.shape[:2]
    bars = frame[height // 8 : height // 3].mean(axis=(0, 2))
    middles = [round((bit + 0.5) * width / BITS) for bit in range(BITS)]
    return sum(1 << bit for bit, x in enumerate(middles) if bars[min(x, width - 1)] > 125)


def write_video(
    path,
    num_frames=30,
    size=(48, 80),
    *,
    codec="libx264",
    pix_fmt="yuv420p",
    gop=12,
    b_frames=2,
    fps=25,
    pts=None,
    rotation=None,
    options=None,
    first=0,
):
    """Write numbered frames to a video file; ``pts`` are in frames, by default 0, 1, 2, ..."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = *size, pix_fmt
        stream.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.time_base = Fraction(1, fps)
        if codec == "libx264":
            stream.codec_context.options = {"preset": "ultrafast", "bf": str(b_frames), "crf": "20"}
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for i in range(num_frames):
            frame = av.VideoFrame.from_ndarray(numbered_frame(first + i, *size), format="rgb24")
            frame.pts = i if pts is None else pts[i]
            frame.time_base = Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def blank(path, numbers):
    """Write zeros over some packets of a video file, which no decoder takes."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for start, size in (places[number] for number in numbers):
        content[start : start + size] = bytes(size)
    path.write_bytes(content)
    return path


def write_no_frames(path):
    """Write the header of a video that was stopped before its first frame; an .avi tells of its stream."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.start_encoding()
    return path


def write_sound(path):
    """Write a file with sound alone, no video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_sound_with_cover(path):
    """Write an .mp3 with a cover picture."""
    with av.open(str(path), "w") as container:
        sound, cover = container.add_stream("mp3", rate=44100), container.add_stream("mjpeg", rate=1)
        sound.layout = "mono"
        cover.height, cover.width, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(numbered_frame(9, 32, 32), format="rgb24")))
        container.mux(cover.encode(None))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 11520), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


def put_cover_first(path):
    """Give an MP4 a cover picture, as its first stream."""
    picture = io.BytesIO()
    Image.fromarray(numbered_frame(9, 32, 32)).save(picture, "jpeg")
    cover = _box(b"covr", _box(b"data", struct.pack(">II", 13, 0) + picture.getvalue()))
    tags = _box(b"hdlr", bytes(8) + b"mdirappl" + bytes(9)) + _box(b"ilst", cover)
    data = path.read_bytes()
    # The index is the last box, so that nothing moves that it points to; its first box is no stream.
    start = data.index(b"moov") - 4
    index = data[start + 8 :]
    (first,) = struct.unpack(">I", index[:4])
    covered = index[:first] + _box(b"udta", _box(b"meta", bytes(4) + tags)) + index[first:]
    path.write_bytes(data[:start] + _box(b"moov", covered))
    with av.open(str(path)) as container:
        assert container.streams[0].disposition & av.stream.Disposition.attached_pic
    return path


def _box(kind, content):
    return struct.pack(">I4s", 8 + len(content), kind) + content
