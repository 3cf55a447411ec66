"""What a network eats, and how frames are chosen for it. No torch here: the edge runtime reads it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from lightning_har.errors import ConfigError

Modality = Literal["rgb", "flow"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class InputSpec:
    """What a network eats. A property of its weights, not of a data set.

    A uint8 value ``u`` becomes ``((u / 255) * (hi - lo) + lo - mean) / std``.

    Attributes:
        num_frames: T, frames of a clip. A network may take other lengths; this is its own.
        size: (H, W) in pixels.
        value_range: (lo, hi), what 0 and 255 become before mean and std.
        mean: Per channel, or one for all, in units of ``value_range``.
        std: Likewise.
        channel_order: "rgb" or "bgr"; meaningless for flow.
        modality: "rgb" (C = 3) or "flow" (C = 2: x, y).
        snippet_length: The T frames are ``T / snippet_length`` snippets of so many consecutive frames, which the
            network stacks (TSN takes 5 of flow from each segment).
    """

    num_frames: int
    size: tuple[int, int]
    value_range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    channel_order: Literal["rgb", "bgr"] = "rgb"
    modality: Modality = "rgb"
    snippet_length: int = 1

    def __post_init__(self) -> None:
        if self.modality not in ("rgb", "flow"):
            raise ConfigError(f"modality is {self.modality!r}; it must be 'rgb' or 'flow'")
        if self.channel_order not in ("rgb", "bgr"):
            raise ConfigError(f"channel_order is {self.channel_order!r}; it must be 'rgb' or 'bgr'")
        if self.num_frames < 1 or min(self.size) < 1:
            raise ConfigError(f"num_frames and size must be positive, got {self.num_frames} and {self.size}")
        if self.snippet_length < 1 or self.num_frames % self.snippet_length:
            raise ConfigError(f"{self.num_frames} frames are not whole snippets of {self.snippet_length}")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise ConfigError(
                    f"{name} has {len(getattr(self, name))} values; a {self.modality} clip has "
                    f"{self.channels} channels, so give {self.channels} or 1"
                )

    @property
    def channels(self) -> int:
        """C, the channels of a clip."""
        return 3 if self.modality == "rgb" else 2

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputSpec:
        """The inverse of ``to_dict``; unknown keys are an error."""
        return cls(**_known(cls, values))


@dataclass(frozen=True)
class Sampling:
    """How frames and crops are chosen: a protocol, not architecture. One for training, one for evaluation.

    Attributes:
        scheme: "segments": the video is cut into ``T / snippet_length`` equal segments, one snippet from each
            (TSN, section 3.1). "uniform": T frames evenly spread from the first to the last. "dense": T frames
            ``time_stride`` apart.
        num_frames: T; None takes the InputSpec's.
        snippet_length: Consecutive frames taken from each segment; None takes the InputSpec's.
        time_stride: Frames from one sampled frame to the next in "dense".
        random: Random offset within a segment, random start of a dense clip (training); else the centre.
        num_clips: Views in time, evenly spread over the video (evaluation).
        crop: "random" (RandomResizedCrop, training); "center"; "three" (along the longer side); "ten" (corners
            and centre, and their mirror images); "full" (the whole frame resized, its aspect not kept).
        short_side: What the short side is resized to before "center", "three" and "ten"; None takes
            size / 0.875, so that 224 is cut from 256.
        scale: Least and greatest share of the area that "random" keeps.
        flip: Probability of mirroring a training clip left to right. (Not for actions that differ by side.)
    """

    scheme: Literal["segments", "uniform", "dense"] = "uniform"
    num_frames: int | None = None
    snippet_length: int | None = None
    time_stride: int = 1
    random: bool = False
    num_clips: int = 1
    crop: Literal["random", "center", "three", "ten", "full"] = "center"
    short_side: int | None = None
    scale: tuple[float, float] = (0.5, 1.0)
    flip: float = 0.0

    def __post_init__(self) -> None:
        for name, choices in (
            ("scheme", ("segments", "uniform", "dense")),
            ("crop", ("random", "center", "three", "ten", "full")),
        ):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(choices)}")
        for name in ("snippet_length", "time_stride", "num_clips"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"flip is {self.flip}; it is a probability")

    @property
    def num_crops(self) -> int:
        """Crops per clip."""
        return {"three": 3, "ten": 10}.get(self.crop, 1)

    @property
    def num_views(self) -> int:
        """V, clips × crops."""
        return self.num_clips * self.num_crops

    def with_defaults(self, spec: InputSpec) -> Sampling:
        """With every None filled from the InputSpec."""
        side = self.short_side or round(min(spec.size) / 0.875)
        return replace(
            self,
            num_frames=self.num_frames or spec.num_frames,
            snippet_length=self.snippet_length or spec.snippet_length,
            short_side=side,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Sampling:
        """The inverse of ``to_dict``; unknown keys are an error."""
        return cls(**_known(cls, values))


def _known(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in fields(cls)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise ConfigError(
            f"{cls.__name__} has no field {', '.join(unknown)}; it was written by a newer version, or misspelt. "
            f"Known: {', '.join(sorted(names))}"
        )
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
