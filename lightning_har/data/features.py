"""Stored features of frames: one .npy of (T, D) per clip, and a CSV that lists them.

The frames of a frozen backbone never change, so neither do its features (study E). ``data.extract`` writes them.
``manifest.csv`` needs the columns ``path,label,split`` and may have ``group`` or ``fold``: anyone can write such files
with numpy. Files are float32, float16, or uint8 with the columns ``scale`` and ``offset``: feature = code × scale +
offset.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_har.data.datamodule import ActionDataModule
from lightning_har.data.dataset import ActionDataset, Collate
from lightning_har.data.manifest import Manifest, Record, read_rows
from lightning_har.data.sampling import plan
from lightning_har.data.splits import split_by_fold, split_by_group
from lightning_har.errors import ConfigError, DataError, DecodeError
from lightning_har.spec import Sampling
from lightning_har.types import ClassNames, to_class_names

SETTINGS = "extract.json"
MANIFEST = "manifest.csv"
SPLITS = ("train", "val", "test")


class FeatureDataset(ActionDataset):
    """Record ``i`` of a manifest as features (T, D), read from a memory map.

    Args:
        manifest: The records; their files are .npy.
        sampling: Which of the stored frames; its ``num_frames`` None takes all.
        scales: (scale, offset) by path, for uint8 files.
        dim: D.
        num_frames: What all clips must have where the sampling takes all.
        **kwargs: ``ActionDataset``'s.
    """

    def __init__(
        self,
        manifest: Manifest,
        sampling: Sampling,
        scales: Mapping[str, tuple[float, float]],
        dim: int,
        num_frames: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(manifest, {}, {}, {}, **kwargs)
        self.sampling = sampling
        self.scales = scales
        self.dim = dim
        self.num_frames = num_frames

    def _read(self, record: Record, index: int) -> dict[str, Tensor]:
        stored = open_features(self.manifest.file(record))
        if stored.shape[1] != self.dim:
            raise DataError(f"{record.path}: has {stored.shape[1]} features per frame, the others {self.dim}")
        if self.sampling.num_frames is None:
            if len(stored) != self.num_frames:
                raise DataError(
                    f"{record.path}: has {len(stored)} frames, the first clip {self.num_frames}; "
                    "pass num_frames=N to take N of each"
                )
            rows: NDArray[Any] = stored
        else:
            epoch = 0 if self.epoch is None else int(self.epoch)
            rows = stored[plan(len(stored), self.sampling, np.random.default_rng((self.seed, epoch, index, 0)))[0]]
        # A copy: PyTorch wants memory that it may write to.
        values = np.array(rows, np.float32)
        if stored.dtype == np.uint8:
            scale, offset = self.scales.get(record.path, (1 / 255, 0.0))
            values *= np.float32(scale)
            values += np.float32(offset)
        return {"features": torch.from_numpy(values)}


class FeatureDataModule(ActionDataModule):
    """Stored features of frames: batches of float32 (B, T, D), for ``CNNRNNModule(backbone=None, feature_dim=D)``.

    Args:
        manifest: CSV with ``path,label`` (or a column per head), and perhaps ``split``, ``group``, ``fold``,
            ``id``, ``scale``, ``offset``; paths of .npy files, relative to its folder. What is not split is split
            here, by groups.
        num_frames: T, taken as the samplings say; None takes each sampling's own, and where that has none, all frames
            that are stored.
        fold: The fold to test on, of a CSV with a column ``fold``; the others are for training.
        heads: Columns with the labels of several heads; None takes those that ``extract_features`` noted.
        test_fraction: Share of the clips to test on where the CSV names no test split; 0 for none.
        **kwargs: ``ActionDataModule``'s; no spec. ``num_workers`` None is 0, which is fastest here.

    Raises:
        DataError: On first use: a bad CSV, or a file that is not an array (T, D).
    """

    def __init__(
        self,
        manifest: str | Path,
        *,
        num_frames: int | None = None,
        fold: str | int | None = None,
        heads: Sequence[str] | None = None,
        test_fraction: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= test_fraction < 1:
            raise ConfigError(f"test_fraction is {test_fraction}; it must be at least 0 and less than 1")
        self.manifest = Path(manifest)
        self.num_frames = num_frames
        self.fold = None if fold is None else str(fold)
        self.heads = heads
        self.test_fraction = test_fraction
        self._scales: dict[str, tuple[float, float]] | None = None

    def load_manifests(self) -> dict[str, Manifest]:
        """Read the CSV, and split what is not split."""
        names, heads = self._noted_names(), self.heads
        if heads is None and isinstance(names, dict):
            heads = list(names)
        column = "split" if self.fold is None else "fold"
        manifest = Manifest.from_csv(self.manifest, heads=heads, class_names=names, split_column=column)
        if self.fold is not None:
            return split_by_fold(manifest, self.fold, self.manifest)
        parts = {split: list(m) for split, m in manifest.by_split().items()}
        unknown = sorted(set(parts) - set(SPLITS))
        if unknown:
            raise DataError(
                f"{self.manifest}: unknown splits {', '.join(unknown[:3])}; they must be train, val or test"
            )
        parts.setdefault("train", []).extend(r for r in manifest if r.split is None)
        if "test" not in parts and parts["train"] and self.test_fraction:
            parts["train"], parts["test"] = split_by_group(parts["train"], self.test_fraction, self.seed)
        return {split: manifest.with_records(records) for split, records in parts.items() if records}

    def dataset_of(self, manifest: Manifest, sampling: Sampling | Mapping[str, Sampling]) -> FeatureDataset:
        """A new data set over any records of this data.

        Raises:
            ConfigError: A spec was given, or a sampling by modality or of several views.
        """
        if self.spec is not None:
            raise ConfigError(
                "these are features, not clips: the network must have no backbone, as "
                f"CNNRNNModule(backbone=None, feature_dim={self.feature_shape[1]})"
            )
        if not isinstance(sampling, Sampling) or sampling.num_clips > 1:
            raise ConfigError(f"features have one modality and one view; the sampling is {sampling}")
        frames, dim = self.feature_shape
        return FeatureDataset(
            manifest,
            replace(sampling, num_frames=self.num_frames or sampling.num_frames),
            self._read_scales(),
            dim,
            frames,
            on_error=self.on_error,
            seed=self.draw_seed,
        )

    @property
    def feature_shape(self) -> tuple[int, int]:
        """(T, D) as stored, of the first clip."""
        manifest = next(iter(self.manifests.values()))
        frames, dim = open_features(manifest.file(manifest[0])).shape
        return frames, dim

    def _loader(self, split: str) -> DataLoader[Any]:
        loader = super()._loader(split)
        frames, dim = self.feature_shape
        assert isinstance(loader.collate_fn, Collate)
        assert isinstance(loader.dataset, FeatureDataset)
        loader.collate_fn.shapes = {"features": (loader.dataset.sampling.num_frames or frames, dim)}
        return loader

    def _workers(self, videos: int) -> int:
        return self.num_workers or 0

    def _noted_names(self) -> ClassNames | None:
        path = self.manifest.parent / SETTINGS
        if not path.is_file():
            return None
        try:
            return to_class_names(read_settings(path.parent).get("class_names"))
        except TypeError as error:
            raise DataError(f"{path} is damaged: {error}; extract again") from error

    def _read_scales(self) -> dict[str, tuple[float, float]]:
        if self._scales is None:
            try:
                self._scales = {
                    os.path.normpath(row["path"]): (float(row["scale"]), float(row.get("offset") or 0))
                    for row in read_rows(self.manifest, ["path"])
                    if row.get("scale")
                }
            except ValueError as error:
                raise DataError(f"{self.manifest}: scale and offset must be numbers: {error}") from error
        return self._scales

    @classmethod
    def fake(cls, root: Path) -> None:
        """Write features of a few clips that never were, (8, 16) each, and their manifest."""
        rng = np.random.default_rng(0)
        rows = ["path,label,split,group"]
        for i in range(18):
            name, split = ("clap", "wave", "jump")[i % 3], "test" if i >= 12 else "train"
            path = root / name / f"{i:02d}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, (rng.standard_normal((8, 16)) + i % 3).astype(np.float32))
            rows.append(f"{name}/{i:02d}.npy,{name},{split},actor{i // 3}")
        (root / MANIFEST).write_text("\n".join(rows) + "\n")

    @classmethod
    def smoke_arguments(cls, folder: Path) -> dict[str, Any]:
        """Arguments for a tiny fake data set, written below folder."""
        cls.fake(folder / "features")
        return {"manifest": str(folder / "features" / MANIFEST), "fold": None, "batch_size": 4, "num_workers": 0}


def read_settings(folder: Path) -> dict[str, Any]:
    """How the features of a folder were extracted, as ``extract_features`` noted it.

    Raises:
        DataError: It is not noted there, or damaged.
    """
    path = folder / SETTINGS
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError(f"it is a {type(settings).__name__}, not a dict")
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); give the folder that `extract` wrote") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}; extract again") from error
    return settings


def open_features(path: Path) -> NDArray[Any]:
    """A memory map of an .npy file.

    Raises:
        DecodeError: It cannot be read.
        DataError: It is not (T, D) of float32, float16 or uint8.
    """
    try:
        stored = np.load(path, mmap_mode="r")
    except Exception as error:  # a damaged header is Python source to numpy, and fails as such
        raise DecodeError(f"{path}: is no .npy file that can be read: {error}") from error
    if not isinstance(stored, np.ndarray) or stored.ndim != 2 or not len(stored):
        raise DataError(f"{path}: is not an array (T, D), but {getattr(stored, 'shape', type(stored).__name__)}")
    if stored.dtype not in (np.float32, np.float16, np.uint8):
        raise DataError(f"{path}: is of {stored.dtype}; features are float32, float16 or uint8")
    return stored
