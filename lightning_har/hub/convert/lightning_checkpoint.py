"""Any module of this library from a Trainer's .ckpt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_har.modules import load_checkpoint
from lightning_har.modules.base import ActionRecognizer


def convert(files: Sequence[Path]) -> ActionRecognizer:
    """The module from the one .ckpt file, read as tensors and plain values only.

    Raises:
        WeightsError: It is damaged, holds more than that, or another library's module.
    """
    return load_checkpoint(files[0])
