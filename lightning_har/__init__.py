"""Human action recognition in video with PyTorch Lightning.

Every public name is loaded on first use, so that ``import lightning_har`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lightning_har._version import __version__

if TYPE_CHECKING:
    from lightning_har.data.epic_kitchens import EpicKitchensDataModule as EpicKitchensDataModule
    from lightning_har.data.features import FeatureDataModule as FeatureDataModule
    from lightning_har.data.folder import VideoFolderDataModule as VideoFolderDataModule
    from lightning_har.data.hmdb51 import HMDB51DataModule as HMDB51DataModule
    from lightning_har.data.kinetics import KineticsDataModule as KineticsDataModule
    from lightning_har.data.msr_daily import MSRDailyActivityDataModule as MSRDailyActivityDataModule
    from lightning_har.data.shards import ShardDataModule as ShardDataModule
    from lightning_har.data.synthetic import SyntheticActionsDataModule as SyntheticActionsDataModule
    from lightning_har.data.ucf101 import UCF101DataModule as UCF101DataModule
    from lightning_har.modules.base import ActionRecognizer as ActionRecognizer
    from lightning_har.modules.cnn_rnn import CNNRNNModule as CNNRNNModule
    from lightning_har.modules.i3d import I3DModule as I3DModule
    from lightning_har.modules.pretrained import load as load
    from lightning_har.modules.pytorchvideo import PyTorchVideoModule as PyTorchVideoModule
    from lightning_har.modules.s3d import S3DModule as S3DModule
    from lightning_har.modules.tsn import TSNModule as TSNModule
    from lightning_har.modules.two_stream import TwoStreamModule as TwoStreamModule
    from lightning_har.spec import InputSpec as InputSpec
    from lightning_har.spec import Sampling as Sampling

_HOME = {
    "ActionRecognizer": "modules.base",
    "CNNRNNModule": "modules.cnn_rnn",
    "EpicKitchensDataModule": "data.epic_kitchens",
    "FeatureDataModule": "data.features",
    "HMDB51DataModule": "data.hmdb51",
    "I3DModule": "modules.i3d",
    "InputSpec": "spec",
    "KineticsDataModule": "data.kinetics",
    "MSRDailyActivityDataModule": "data.msr_daily",
    "PyTorchVideoModule": "modules.pytorchvideo",
    "S3DModule": "modules.s3d",
    "Sampling": "spec",
    "ShardDataModule": "data.shards",
    "SyntheticActionsDataModule": "data.synthetic",
    "TSNModule": "modules.tsn",
    "TwoStreamModule": "modules.two_stream",
    "UCF101DataModule": "data.ucf101",
    "VideoFolderDataModule": "data.folder",
    "load": "modules.pretrained",
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
