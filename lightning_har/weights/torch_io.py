"""Reads PyTorch files as tensors only: no object of theirs is ever built, no code of theirs runs."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_har.errors import WeightsError

_WRAPPERS = ("state_dict", "model_state")
"""Keys under which mmaction2 and Lightning, and pytorchvideo, keep the tensors beside other things."""


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict, or the one inside a training checkpoint.

    Args:
        path: A file of ``torch.save``, in its present or its old format. The present one is mapped, not copied.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        WeightsError: The file is missing or damaged, would run code to be read, or holds no state dict.
    """
    path = Path(path)
    content = read_torch(path)
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds a {type(content).__name__}, not a state dict (tensors by name)")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"{path} is not a state dict: {name!r} is a {type(value).__name__}, not a tensor. "
                f"Known wrappers: {', '.join(_WRAPPERS)}"
            )
    return dict(content)


def read_torch(path: str | Path, *, mmap: bool = True) -> Any:
    """Read whatever ``torch.save`` wrote, as tensors and plain values.

    Args:
        path: The file, as in ``load_state_dict``.
        mmap: Map the tensors, so that damage among them may go unseen; False reads them all.

    Raises:
        WeightsError: The file is missing, damaged or of another kind, or would run code to be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from error
    is_zip = start == b"PK\x03\x04"
    if not is_zip and start[:1] != b"\x80":  # with which a pickle begins
        raise WeightsError(f"{path} is no PyTorch file, whatever its name; give one that torch.save or a Trainer wrote")
    try:
        # Only the zip format can be mapped; and torch goes by the name where it is given one.
        if is_zip and path.suffix != ".safetensors":
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()
        detail = next((line.strip() for line in reason if "GLOBAL" in line or "Unsupported" in line), "")
        raise WeightsError(
            f"{path} is refused: it holds more than tensors, or is damaged; reading it could run code of "
            f"whoever wrote it. {detail or (reason[0] if reason else '')}"
        ) from error
    except Exception as error:  # a damaged file can make the reader stumble over anything
        summary = str(error).strip().splitlines()
        raise WeightsError(
            f"{path} is damaged or cut short: {type(error).__name__}: {summary[0] if summary else ''}; "
            "fetch or copy it again"
        ) from error
