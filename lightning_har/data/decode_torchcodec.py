"""torchcodec behind the same interface as PyAV; it decodes at the video's own size, and frames are resized after."""

from __future__ import annotations

import numpy as np

from lightning_har.data.decode import Frames, Indices, Size, VideoPath, check_file, location, reason
from lightning_har.errors import ConfigError, DecodeError

_NEEDS = (
    "decoder='torchcodec' needs FFmpeg's libraries (`apt install ffmpeg`, or what your system has for it) and a "
    "torchcodec made for this torch: pip install 'lightning-har[torchcodec]'; or take decoder='pyav', with neither"
)


class TorchCodecVideo:
    """A video file opened with torchcodec: the same frames, by another decoder.

    Args:
        path: The file, or where it lies in a larger one.
        threads: Of the decoder; 0 is one per core.

    Raises:
        DecodeError: The file cannot be opened, or holds no video.
        ConfigError: torchcodec is not installed, or finds no FFmpeg.
    """

    def __init__(self, path: VideoPath, threads: int = 0) -> None:
        try:
            from torchcodec.decoders import VideoDecoder
        except (ImportError, RuntimeError, OSError) as error:
            raise ConfigError(_NEEDS) from error
        self.path = path
        check_file(path)
        try:
            self._video = VideoDecoder(
                location(path), dimension_order="NHWC", num_ffmpeg_threads=threads, seek_mode="exact"
            )
        except (RuntimeError, ValueError, OSError) as error:
            if "libtorchcodec" in str(error):  # loaded with the first video, and not the video's fault
                raise ConfigError(_NEEDS) from error
            raise DecodeError(f"{path}: is no video that can be read: {reason(error)}") from error

    @property
    def num_frames(self) -> int:
        """Frames that can be asked for."""
        return len(self._video)

    @property
    def fps(self) -> float:
        """Mean frames per second; 0.0 where the file does not tell."""
        return float(self._video.metadata.average_fps or 0)

    def read(self, indices: Indices, size: Size = None) -> Frames:
        """Frames by index, uint8 (T, H, W, 3); see ``read_frames``.

        Raises:
            DecodeError: A frame is not there or cannot be decoded.
        """
        from torchvision.transforms.v2 import functional as tv

        wanted = [int(i) for i in indices]
        parts = []
        try:
            # A few at a time: they come at full size.
            for i in range(0, len(wanted), 8):
                frames = self._video.get_frames_at(wanted[i : i + 8]).data
                shown = (frames.shape[1], frames.shape[2])
                target = size(*shown) if callable(size) else size
                if target is not None and target != shown:
                    frames = tv.resize(frames.permute(0, 3, 1, 2), list(target)).permute(0, 2, 3, 1)
                parts.append(frames.numpy())
        except (RuntimeError, IndexError, ValueError) as error:
            raise DecodeError(f"{self.path}: {reason(error)}") from error
        if not parts:
            raise DecodeError(f"{self.path}: no frames were asked for")
        pixels: Frames = np.concatenate(parts)
        return pixels

    def close(self) -> None:
        """Close the file."""
        del self._video
