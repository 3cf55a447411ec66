"""What stands after ``--data`` on the command line to a data module."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_har.cli.main import nearest
from lightning_har.data.named import DATASETS, data_factory
from lightning_har.errors import ConfigError

if TYPE_CHECKING:
    from lightning_har.data.datamodule import ActionDataModule


def dataset_class(name: str) -> Any:
    """The data module's class of an official data set.

    Raises:
        ConfigError: No such data set.
    """
    if name not in DATASETS:
        raise ConfigError(f"no data set {name!r}{nearest(name, DATASETS)}; there are {', '.join(DATASETS)}")
    return data_factory(f"{name}:").func


def open_data(
    text: str, *, split: str | None = None, split_column: str | None = None, **kwargs: Any
) -> ActionDataModule:
    """A data module for what stands after ``--data``.

    Args:
        text: See ``lightning_har.data.named.HELP``.
        split: Official split, of a data set that has several.
        split_column: Column of a CSV that holds its splits or folds; its records are then taken as they are.
        **kwargs: ``ActionDataModule``'s.

    Raises:
        ConfigError: No such data set, file or folder; an option that it does not have.
    """
    if split_column is not None:
        from lightning_har.data.extract import ManifestDataModule
        from lightning_har.data.manifest import Manifest

        return ManifestDataModule(Manifest.from_csv(text, split_column=split_column), **kwargs)
    factory = data_factory(text)
    if split is not None:
        if "split" not in inspect.signature(factory.func).parameters:
            raise ConfigError(f"{text} has no official splits to choose from; leave out --split")
        kwargs["split"] = int(split) if split.isdigit() else split
    module: ActionDataModule = factory(**kwargs)
    return module


def require_videos(data: ActionDataModule, text: str) -> None:
    """Refuse data that are no files of video.

    Raises:
        ConfigError: They are shards or features.
    """
    from lightning_har.data.features import FeatureDataModule
    from lightning_har.data.shards import ShardDataModule

    if isinstance(data, ShardDataModule):
        raise ConfigError(f"{data.root} holds shards; give the files that the shards were written from")
    if isinstance(data, FeatureDataModule):
        raise ConfigError(f"{text} holds features; give the clips that they were made from")


def draw_samples(text: str, model: str | None, path: Path, split: str = "train", flow_root: str | None = None) -> None:
    """Draw what a model is fed of some clips, after sampling and transforms: ``data show`` and ``show samples``.

    Args:
        text: See ``lightning_har.data.named.HELP``.
        model: What ``predict`` takes; None draws 8 frames, evenly spread, 224×224 from the middle.
        path: Picture to write.
        split: "train" (with its random crops), "val", "test" or "predict".
        flow_root: Where ``data flow`` put the flow. Without a model it is drawn below the frames.

    Raises:
        ConfigError: The data are features, which are no pictures.
        HarError: The data or the model cannot be had, or no clip can be read.
    """
    from lightning_har.data.features import FeatureDataModule
    from lightning_har.spec import InputSpec, Sampling
    from lightning_har.viz.grids import save_samples

    data = open_data(text, num_workers=0, flow_root=flow_root)
    if isinstance(data, FeatureDataModule):
        raise ConfigError(f"{text} holds features, which cannot be looked at; give the clips they were made from")
    if model is None:
        data.spec = InputSpec(8, (224, 224))
        if flow_root is not None:
            data.spec = {"rgb": data.spec, "flow": replace(data.spec, modality="flow", mean=(0.5,), std=(0.5,))}
        data.train_sampling = data.eval_sampling = Sampling("uniform")
    else:
        from lightning_har.modules.pretrained import load_model

        module = load_model(model)
        if module.spec is None:
            raise ConfigError(f"{model} takes features, not clips; give the model that made them")
        data.spec = module.spec
        data.train_sampling = module.train_sampling or data.train_sampling
        data.eval_sampling = module.eval_sampling or data.eval_sampling
    save_samples(data, path, split=split)
