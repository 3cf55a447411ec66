"""The shape legend, and the one thing that data and modules exchange.

=====  ==========================================
B      videos in a batch
V      views of a video: clips in time × crops
C      channels (3 for RGB, 2 for optical flow)
T      frames of a clip
H, W   height, width in pixels
D      features
K      classes of a head
=====  ==========================================

A clip is ``(B, C, T, H, W)``; several views of one video are ``(B, V, C, T, H, W)``; several modalities are
a dict of clips, ``{"rgb": ..., "flow": ...}``; frame features are ``(B, T, D)``.
Clips are uint8 until they reach the device; a float clip is taken as already scaled and normalised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from torch import Tensor
from typing_extensions import NotRequired, TypedDict

Video: TypeAlias = Tensor | Mapping[str, Tensor]
"""A clip, or a dict of clips by modality."""

Logits: TypeAlias = Tensor | dict[str, Tensor]
"""(B, K), or a dict of such by head."""

NumClasses: TypeAlias = int | Mapping[str, int]
"""Classes of the only head, or of each head by name."""

ClassNames: TypeAlias = tuple[str, ...] | dict[str, tuple[str, ...]]
"""Names in label order, of the only head or of each head by name."""


def to_class_names(told: Any) -> ClassNames | None:
    """Class names as a file keeps them: a list, a dict of lists by head, or None.

    Raises:
        TypeError: It is none of these.
    """
    if isinstance(told, Mapping):
        return {str(head): _names(names) for head, names in told.items()}
    return None if told is None else _names(told)


def _names(told: Any) -> tuple[str, ...]:
    if isinstance(told, str):  # whose letters would be the names
        raise TypeError(f"class names are {told!r}, not a list")
    return tuple(map(str, told))


def listing(names: ClassNames) -> str:
    """Class names for a message, all of them, after their number."""
    if isinstance(names, dict):
        return "; ".join(f"{head} {listing(of_head)}" for head, of_head in names.items())
    return f"({len(names)}) {', '.join(names)}"


class Failure(NamedTuple):
    """A video that could not be read, as it travels from a loader's worker to the report."""

    id: str
    path: str
    reason: str


class Batch(TypedDict):
    """What a data module yields and a module eats. ``B`` is 0 when every video of the batch failed."""

    video: Video
    """uint8 or float; rank 5 for one view each, rank 6 for several; (B, T, D) for features."""
    label: NotRequired[Tensor | dict[str, Tensor]]
    """(B,) int64, or such a tensor per head; absent in prediction. -1 where unknown."""
    id: list[str]
    path: list[str]
    is_padding: NotRequired[Tensor]
    """(B,) bool: samples repeated only to even out ranks; they count in no metric."""
    failures: list[Failure]
    """Videos that this batch should have held."""
