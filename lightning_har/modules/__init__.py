"""LightningModules: thin, one per family, over the networks in `lightning_har.nets`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_har._version import __version__
from lightning_har.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from lightning_har.modules.base import ActionRecognizer


def load_checkpoint(path: str | Path, map_location: Any = "cpu") -> ActionRecognizer:
    """A module from a checkpoint, whatever its class; fetches nothing and runs no code from the file.

    Args:
        path: A .ckpt that a Trainer wrote.
        map_location: As in ``torch.load``.

    Returns:
        The module in eval mode, with its class names and evaluation protocol.

    Raises:
        WeightsError: No such file, not a checkpoint, not of one of this library's classes, or not of this version's:
            the class, its arguments or the shapes of its weights are others.
    """
    from lightning_har.weights.torch_io import read_torch

    if not Path(path).is_file():
        raise WeightsError(f"no checkpoint at {path}")
    checkpoint = read_torch(path, mmap=False)
    ours = checkpoint.get("lightning_har") if isinstance(checkpoint, dict) else None
    if ours is None or not ours["module"].startswith("lightning_har."):
        what = "another library wrote it" if ours is None else f"its class is {ours['module']}.{ours['class']}"
        raise WeightsError(
            f"{path} is not a checkpoint of lightning_har's own modules: {what}. "
            "Use YourClass.load_from_checkpoint(path)"
        )
    del checkpoint  # read again below: its tensors need not lie in memory twice
    remedy = f"It was written by lightning_har {ours['version']}, this is {__version__}; install that version"
    try:
        cls = getattr(importlib.import_module(ours["module"]), ours["class"])
    except (ImportError, AttributeError) as error:
        raise WeightsError(f"{path} is of {ours['module']}.{ours['class']}, which is not here. {remedy}") from error
    try:
        module: ActionRecognizer = cls.load_from_checkpoint(path, map_location=map_location)
    except WeightsError as error:
        raise WeightsError(f"{error} {remedy}") from error
    except (ConfigError, TypeError) as error:
        raise WeightsError(f"{path} cannot be built as its arguments say: {error}. {remedy}") from error
    module.eval()
    return module
