"""LightningModules: thin, one per family, over the networks in `lightning_har.nets`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_har.errors import WeightsError

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
        WeightsError: No such file, not a checkpoint, or not of one of this library's classes.
    """
    import pickle

    import torch

    if not Path(path).is_file():
        raise WeightsError(f"no checkpoint at {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as e:
        reason = str(e).splitlines()[0]
        raise WeightsError(f"{path} is no checkpoint, or is damaged: {reason}") from e
    ours = checkpoint.get("lightning_har") if isinstance(checkpoint, dict) else None
    if ours is None or not ours["module"].startswith("lightning_har."):
        what = "another library wrote it" if ours is None else f"its class is {ours['module']}.{ours['class']}"
        raise WeightsError(
            f"{path} is not a checkpoint of lightning_har's own modules: {what}. "
            "Use YourClass.load_from_checkpoint(path)"
        )
    cls = getattr(importlib.import_module(ours["module"]), ours["class"])
    module: ActionRecognizer = cls.load_from_checkpoint(path, map_location=map_location)
    module.eval()
    return module
