"""Data as the command line names it: ``NAME:DIR``, ``synthetic``, a folder or a CSV."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import Any

from lightning_har.errors import ConfigError

DATASETS = {
    "epic_kitchens": "epic_kitchens:EpicKitchensDataModule",
    "hmdb51": "hmdb51:HMDB51DataModule",
    "kinetics": "kinetics:KineticsDataModule",
    "msr_daily": "msr_daily:MSRDailyActivityDataModule",
    "ucf101": "ucf101:UCF101DataModule",
}
"""The official data sets: name to file and class in ``lightning_har.data``."""

HELP = (
    "a folder of clips per class, a CSV with path,label (and fold), synthetic, features:DIR, shards:DIR, "
    f"or NAME:DIR with NAME one of {', '.join(DATASETS)}"
)


def data_factory(text: str) -> partial[Any]:
    """The data module for a name, with its place as the only argument given.

    Args:
        text: See ``HELP``; ``features:DIR`` is what ``extract_features`` wrote, ``shards:DIR`` what ``write_shards``
            did.

    Raises:
        ConfigError: No such data set, file or folder.
    """
    if text == "synthetic":
        return partial(_class("synthetic:SyntheticActionsDataModule"))
    name, colon, place = text.partition(":")
    if colon and not Path(text).exists():
        if name == "features":
            path = Path(place)
            manifest = path if path.suffix == ".csv" else path / "manifest.csv"
            return partial(_class("features:FeatureDataModule"), manifest=str(manifest))
        if name == "shards":
            return partial(_class("shards:ShardDataModule"), root=place)
        if name not in DATASETS:
            from difflib import get_close_matches

            near = get_close_matches(name, DATASETS, n=2, cutoff=0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise ConfigError(f"no data set {name!r}{hint}; give {HELP}")
        return partial(_class(DATASETS[name]), root=place)
    if not Path(text).exists():
        raise ConfigError(f"no data at {text}; give {HELP}")
    return partial(_class("folder:VideoFolderDataModule"), root=text)


def _class(home: str) -> Any:
    module, _, name = home.partition(":")
    return getattr(importlib.import_module(f"lightning_har.data.{module}"), name)
