"""Reads a safetensors file straight into the memory of a network: no second copy, no page of the file mapped."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_har.errors import WeightsError


class Place(NamedTuple):
    """Where a tensor lies in the file.

    Attributes:
        dtype: Of torch.
        shape: Empty for a scalar.
        start: First byte, from the file's beginning.
        stop: Behind the last.
        scale: Of a tensor in 8 bits (``int8.join_scales``): where the factor of each row lies, float32 (K,).
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int
    scale: Place | None = None


_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def read_places(path: str | Path) -> dict[str, Place]:
    """List a file's tensors; only its head is read.

    Raises:
        WeightsError: The file is missing, cut short, damaged, of another kind, or holds a type that is not known.
    """
    from safetensors import SafetensorError, safe_open

    from lightning_har.weights.safetensors_io import unreadable

    path = Path(path)
    try:
        # safetensors checks the head against the file: sizes, order, no gaps, nothing behind the end.
        with safe_open(str(path), framework="pt"):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            head = json.loads(file.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise unreadable(path, error) from error
    head.pop("__metadata__", None)
    places = {}
    for name, told in head.items():
        if told["dtype"] not in _DTYPES:
            raise WeightsError(f"{path}: {name} is {told['dtype']}; known here: {', '.join(_DTYPES)}")
        start, stop = told["data_offsets"]
        places[name] = Place(_DTYPES[told["dtype"]], tuple(told["shape"]), 8 + length + start, 8 + length + stop)
    return places


def read_into(path: str | Path, places: Mapping[str, Place], targets: Mapping[str, Tensor]) -> None:
    """Fill tensors from a file, one after another; what is in 8 bits becomes codes × scale.

    Args:
        path: The file.
        places: Where they lie, those of ``targets`` at least.
        targets: CPU tensors by name, of the same shapes. Another dtype is converted.

    Raises:
        WeightsError: The file is shorter than it was.
    """
    with Path(path).open("rb", buffering=0) as file:
        for name in sorted(targets, key=lambda n: places[n].start):
            place, target = places[name], targets[name]
            direct = target.dtype == place.dtype and target.is_contiguous()
            content = target if direct else torch.empty(place.shape, dtype=place.dtype)
            _read(file, name, place, content)
            if not direct:
                target.copy_(content)
            if place.scale is not None:
                scale = torch.empty(place.scale.shape, dtype=place.scale.dtype)
                _read(file, name, place.scale, scale)
                target.mul_(by_row(scale, target.ndim))


def by_row(scale: Tensor, ndim: int) -> Tensor:
    """(K,) to (K, 1, ...) of ``ndim`` axes, a factor for each row of a tensor."""
    return scale.view(-1, *(1,) * (ndim - 1))


def _read(file: io.FileIO, name: str, place: Place, into: Tensor) -> None:
    if into.numel() == 0:
        return
    octets = memoryview(into.detach().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    file.seek(place.start)
    done = 0
    while done < len(octets):
        count = file.readinto(octets[done:])
        if not count:
            raise WeightsError(f"{file.name} ends within {name}: it was changed while it was read. Fetch it again.")
        done += count
