"""A video with what a model says of it written onto its frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

from lightning_har._files import whole_file
from lightning_har.data.decode import location, video_stream
from lightning_har.errors import ConfigError, DecodeError

SUFFIXES = (".mp4", ".mkv", ".mov", ".m4v", ".avi")
"""Of files that are written: containers that take H.264."""
Lines: TypeAlias = Sequence[tuple[str, float]]
"""(label, score in [0, 1]), best first."""


def annotate_video(source: str | Path, target: str | Path, lines: Lines | Callable[[int], Lines]) -> None:
    """Copy a video, frame by frame, with a bar and a line of text per class in its upper left corner.

    Args:
        source: The video.
        target: The file to write, H.264; its suffix, one of ``SUFFIXES``, chooses the container. A video less than
            240 pixels high is enlarged, so that the text can be read; an odd last row or column, which H.264 in 4:2:0
            does not have, is cut off.
        lines: What is written onto all frames; or a function from a frame's number to what is written onto it.

    Raises:
        ConfigError: ``target`` has another suffix.
        DecodeError: ``source`` cannot be read; ``target`` is then as it was.
        OSError: ``target`` cannot be written.
    """
    import av
    from PIL import Image

    if Path(target).suffix.lower() not in SUFFIXES:
        raise ConfigError(f"{target} is no video by its suffix; give {', '.join(SUFFIXES)}")
    of_frame = lines if callable(lines) else lambda frame: lines
    size: tuple[int, int] | None = None
    overlay, written = None, None
    try:
        with whole_file(target) as part:
            part.touch()  # FFmpeg says too late, and not of which file, that it cannot be written
            with av.open(location(source)) as reader, av.open(location(part), "w") as writer:
                video = video_stream(reader, source)
                rate = Fraction(video.average_rate or 25).limit_denominator(65535)
                stream = writer.add_stream("libx264", rate=rate)
                stream.pix_fmt = "yuv420p"
                for number, frame in enumerate(reader.decode(video)):
                    picture = frame.to_image()
                    # Phones store a turned picture and say by how much.
                    turn = getattr(frame, "rotation", 0) or 0
                    picture = picture.rotate(turn, expand=True) if turn else picture
                    times = -(-240 // picture.height)
                    picture = picture.resize((picture.width * times, picture.height * times)) if times > 1 else picture
                    picture = picture.crop((0, 0, picture.width // 2 * 2, picture.height // 2 * 2))
                    if size is None:
                        size = stream.width, stream.height = picture.size
                    wanted = tuple(of_frame(number))
                    if overlay is None or wanted != written:
                        overlay, written = _overlay(size, wanted), wanted
                    picture = picture.resize(size) if picture.size != size else picture
                    picture = Image.alpha_composite(picture.convert("RGBA"), overlay).convert("RGB")
                    writer.mux(stream.encode(av.VideoFrame.from_image(picture)))
                writer.mux(stream.encode(None))
            if overlay is None:
                raise DecodeError(f"{source}: has no frames")
    except (av.FFmpegError, OSError) as error:
        if error.filename == str(target):
            raise
        raise DecodeError(f"{source}: cannot be annotated: {error}") from error


def _overlay(size: tuple[int, int], lines: Lines) -> Any:
    """RGBA, transparent but for the text's plate."""
    from PIL import Image, ImageDraw, ImageFont

    width, height = size
    points = max(9, round(height / 22))
    font = ImageFont.load_default(points)
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    if not lines:
        return image
    draw = ImageDraw.Draw(image)
    texts = [f"{score:.0%}  {label}" for label, score in lines]
    step, pad = round(points * 1.5), max(3, points // 3)
    plate = min(width, round(max(draw.textlength(text, font=font) for text in texts)) + 4 * pad)
    draw.rectangle((0, 0, plate, step * len(texts) + pad), fill=(0, 0, 0, 150))
    for row, (text, (_, score)) in enumerate(zip(texts, lines, strict=True)):
        top = row * step + pad // 2
        draw.rectangle((0, top, round(plate * score), top + step - 2), fill=(40, 120, 220, 170))
        draw.text((2 * pad, top + (step - points) // 3), text, font=font, fill=(255, 255, 255, 255))
    return image
