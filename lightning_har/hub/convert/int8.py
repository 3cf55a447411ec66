"""The 8-bit form of a checkpoint folder: matrices as int8 codes with a scale per output channel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_har.modules.base import ActionRecognizer
from lightning_har.modules.pretrained import load
from lightning_har.weights.int8 import round_weights


def convert(files: Sequence[Path]) -> ActionRecognizer:
    """The module from a float checkpoint's ``model.safetensors`` and ``config.json``, its matrices rounded.

    Raises:
        WeightsError: The two do not belong together, are damaged, or hold nothing to round.
    """
    module = load(files[0].parent)
    round_weights(module.net)
    return module
