"""Reads and writes safetensors files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lightning_har._files import whole_file
from lightning_har.errors import WeightsError


def load_safetensors(path: str | Path) -> dict[str, Tensor]:
    """Read every tensor, onto the CPU; they are mapped, not copied.

    Args:
        path: The file.

    Raises:
        WeightsError: The file is missing, damaged or of another kind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise unreadable(Path(path), error) from error
    return tensors


def read_metadata(path: str | Path) -> dict[str, str]:
    """The text that was stored beside the tensors; no tensor is read.

    Raises:
        WeightsError: As ``load_safetensors``.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise unreadable(Path(path), error) from error


def save_safetensors(
    tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors, all or nothing: an interrupted write leaves what was there before.

    Args:
        tensors: By name; moved to the CPU and made contiguous.
        path: The file to write.
        metadata: Text to store beside them.

    Raises:
        WeightsError: Two names share memory, or the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = Path(path)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with whole_file(path) as part:
            save_file(plain, str(part), dict(metadata) if metadata else None)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{path} cannot be written: {error}") from error


def unreadable(path: Path, error: Exception) -> WeightsError:
    """What is wrong with a file that safetensors would not read."""
    if not path.is_file():
        return WeightsError(f"{path} cannot be read: there is no such file")
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return WeightsError(
            f"{path} is a PyTorch file (a pickle), not safetensors, whatever its name. Convert it first."
        )
    return WeightsError(
        f"{path} ({path.stat().st_size:,} bytes) is damaged, cut short or not safetensors: {error}. Fetch it again."
    )
