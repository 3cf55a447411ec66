"""``NAME:DIR``, a folder or a CSV on the command line to a data module."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_har.cli.main import nearest
from lightning_har.errors import ConfigError

if TYPE_CHECKING:
    from lightning_har.data.datamodule import ActionDataModule

DATASETS = {
    "ucf101": "ucf101:UCF101DataModule",
    "hmdb51": "hmdb51:HMDB51DataModule",
    "kinetics": "kinetics:KineticsDataModule",
    "epic_kitchens": "epic_kitchens:EpicKitchensDataModule",
    "msr_daily": "msr_daily:MSRDailyActivityDataModule",
}
"""The official data sets: name to module and class in ``lightning_har.data``."""

HELP = f"a folder of clips per class, a CSV with path,label, or NAME:DIR with NAME one of {', '.join(DATASETS)}"


def dataset_class(name: str) -> Any:
    """The data module's class of an official data set.

    Raises:
        ConfigError: No such data set.
    """
    if name not in DATASETS:
        raise ConfigError(f"no data set {name!r}{nearest(name, DATASETS)}; there are {', '.join(DATASETS)}")
    module, _, attribute = DATASETS[name].partition(":")
    return getattr(importlib.import_module(f"lightning_har.data.{module}"), attribute)


def open_data(
    text: str, *, split: str | None = None, split_column: str | None = None, **kwargs: Any
) -> ActionDataModule:
    """A data module for what stands after ``--data``.

    Args:
        text: See ``HELP``.
        split: Official split, of a data set that has several.
        split_column: Column of a CSV that holds its splits or folds; its records are then taken as they are.
        **kwargs: ``ActionDataModule``'s.

    Raises:
        ConfigError: No such data set, file or folder; an option that it does not have.
    """
    from lightning_har.data.features import ManifestDataModule
    from lightning_har.data.folder import VideoFolderDataModule
    from lightning_har.data.manifest import Manifest

    name, colon, folder = text.partition(":")
    if colon and not Path(text).exists():
        options = {} if split is None else {"split": int(split) if split.isdigit() else split}
        cls = dataset_class(name)
        try:
            module: ActionDataModule = cls(folder, **options, **kwargs)
        except TypeError as error:
            raise ConfigError(f"{name}: {error}") from error
        return module
    if split is not None:
        raise ConfigError(f"--split is for official data sets; {text} has none")
    if split_column is not None:
        return ManifestDataModule(Manifest.from_csv(text, split_column=split_column), **kwargs)
    if not Path(text).exists():
        raise ConfigError(f"no data at {text}; give {HELP}")
    return VideoFolderDataModule(text, **kwargs)
