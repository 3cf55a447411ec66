"""Human action recognition in video with PyTorch Lightning.

Every public name is loaded on first use, so that ``import lightning_har`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lightning_har._version import __version__

if TYPE_CHECKING:
    from lightning_har.data.folder import VideoFolderDataModule as VideoFolderDataModule
    from lightning_har.data.synthetic import SyntheticActionsDataModule as SyntheticActionsDataModule
    from lightning_har.modules.base import ActionRecognizer as ActionRecognizer
    from lightning_har.modules.cnn_rnn import CNNRNNModule as CNNRNNModule
    from lightning_har.modules.tsn import TSNModule as TSNModule
    from lightning_har.run import run as run
    from lightning_har.spec import InputSpec as InputSpec
    from lightning_har.spec import Sampling as Sampling

_HOME = {
    "ActionRecognizer": "modules.base",
    "CNNRNNModule": "modules.cnn_rnn",
    "InputSpec": "spec",
    "Sampling": "spec",
    "SyntheticActionsDataModule": "data.synthetic",
    "TSNModule": "modules.tsn",
    "VideoFolderDataModule": "data.folder",
    "run": "run",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lightning_har' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"lightning_har.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
