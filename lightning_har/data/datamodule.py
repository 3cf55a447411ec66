"""What the data modules share: a subclass adds its annotation parser and its defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from lightning_har._lightning import LightningDataModule
from lightning_har.data.counts import count_frames
from lightning_har.data.dataset import ActionDataset, ActionLoader, Collate, EpochSampler, OnError, Opener
from lightning_har.data.decode import Decoder, FrameSource, open_video
from lightning_har.data.frames import FrameFolder
from lightning_har.data.manifest import Manifest, Record, check_manifests
from lightning_har.data.official import Coverage
from lightning_har.data.splits import split_by_group
from lightning_har.errors import ConfigError, DataError
from lightning_har.spec import InputSpec, Sampling
from lightning_har.types import Batch, ClassNames, NumClasses

TRAIN_SAMPLING = Sampling(scheme="segments", random=True, crop="random")
EVAL_SAMPLING = Sampling(scheme="uniform", crop="center")


class ActionDataModule(LightningDataModule):
    """Loads clips of labelled video files. Subclasses override ``load_manifests``.

    ``class_names``, ``num_classes`` and ``manifests`` are known without a spec, so that a network can be built
    from them; loaders need one: ``datamodule.spec = module.spec``. The module's samplings are given likewise; else
    those below hold, and what is tested is not what ``predict`` does later.

    Args:
        spec: What the network takes; several modalities are a dict by modality.
        train_sampling: How frames are chosen in training, or such by modality; None is TSN's random segments
            with random resized crops.
        eval_sampling: Likewise otherwise; None is uniform frames and the centre crop.
        batch_size: Videos of a batch, on each device.
        num_workers: Processes that read; None takes one per core up to 8, and none for a handful of videos.
        on_error: "raise" stops at a video that cannot be read; "skip" leaves it out and reports it in the batch.
        decoder: "pyav", or "torchcodec" where installed.
        flow_root: Folder of stored flow (``lightning-har data flow``), for networks that take flow. Frame folders
            may hold their flow pictures themselves.
        balanced_sampling: Train on each class equally often, however many videos it has; an epoch's length stays. For
            data with one head.
        val_fraction: Share of the training data that becomes the validation split where none is given.
        seed: Of splits; of order and augmentation too, together with ``run_seed``.

    Attributes:
        coverage: By split, clips of an official list and those of them that are here. After first use, of data that
            need not be whole; else empty.
        run_seed: The run's, which order and augmentation are drawn by beside ``seed``, and splits are not: runs of
            several seeds differ in what they draw, and not in what they are scored on.
    """

    def __init__(
        self,
        *,
        spec: InputSpec | Mapping[str, InputSpec] | None = None,
        train_sampling: Sampling | Mapping[str, Sampling] | None = None,
        eval_sampling: Sampling | Mapping[str, Sampling] | None = None,
        batch_size: int = 8,
        num_workers: int | None = None,
        on_error: OnError = "raise",
        decoder: Decoder = "pyav",
        flow_root: str | Path | None = None,
        balanced_sampling: bool = False,
        val_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error is {on_error!r}; it must be 'raise' or 'skip'")
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be at least 1")
        if num_workers is not None and num_workers < 0:
            raise ConfigError(f"num_workers is {num_workers}; it must be at least 0, which reads in this process")
        if not 0 < val_fraction < 1:
            raise ConfigError(f"val_fraction is {val_fraction}; it must lie between 0 and 1")
        self.spec = spec
        self.train_sampling = train_sampling or TRAIN_SAMPLING
        self.eval_sampling = eval_sampling or EVAL_SAMPLING
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.on_error: OnError = on_error
        self.decoder: Decoder = decoder
        self.flow_root = None if flow_root is None else Path(flow_root)
        self.balanced_sampling = balanced_sampling
        self.val_fraction = val_fraction
        self.seed = seed
        self.run_seed = 0
        self.coverage: dict[str, Coverage] = {}
        self._manifests: dict[str, Manifest] | None = None
        self._datasets: dict[str, ActionDataset] = {}

    def load_manifests(self) -> dict[str, Manifest]:
        """The data set's records: "train", and "val", "test" or "predict" where it has them.

        Called once, after ``prepare_data``. A validation split is carved from "train" where "val" is missing.
        """
        raise NotImplementedError(f"{type(self).__name__} must override load_manifests")

    def opener(self, manifest: Manifest, modality: str) -> Opener:
        """What opens a record's frames in a modality; it must pickle. A data set with frames of its own overrides it.

        Raises:
            ConfigError: A modality that the data set does not have.
        """
        if modality == "rgb":
            return partial(_open_file, manifest.root, self.decoder)
        if modality == "flow":
            return partial(_open_flow, manifest.root, self.flow_root)
        raise ConfigError(f"{type(self).__name__} has no {modality!r}, only 'rgb' and 'flow'; override opener()")

    @property
    def manifests(self) -> dict[str, Manifest]:
        """Records by split, checked: "train" and "val", "test", "predict" as far as there are such."""
        if self._manifests is None:
            found = dict(self.load_manifests())
            if not found:
                raise DataError(f"{type(self).__name__} found no data")
            if "train" in found and "val" not in found:
                rest, taken = split_by_group(found["train"].records, self.val_fraction, self.seed)
                found["val"] = found["train"].with_records(taken)
                found["train"] = found["train"].with_records(rest)
            order = [s for s in ("train", "val", "test", "predict") if s in found]
            found = {s: found[s] for s in order}
            check_manifests(found)
            self._manifests = found
        return self._manifests

    @property
    def class_names(self) -> ClassNames | None:
        """Names in label order, or such by head; None where the data has no labels."""
        return next((m.class_names for m in self.manifests.values() if m.class_names is not None), None)

    def order_classes(self, names: ClassNames) -> None:
        """Count the classes in the order of ``names``, such as that of the model that is to be scored.

        Raises:
            DataError: These are not the same classes.
        """
        self._manifests = {
            split: manifest if manifest.class_names is None else manifest.with_class_order(names)
            for split, manifest in self.manifests.items()
        }

    @property
    def num_classes(self) -> NumClasses | None:
        """Classes, or such by head; None where the data has no labels."""
        return next((m.num_classes for m in self.manifests.values() if m.num_classes is not None), None)

    def setup(self, stage: str | None = None) -> None:
        """Build the data sets of a stage: "fit", "validate", "test", "predict" or all.

        Raises:
            ConfigError: No spec was given.
            DataError: The data set is wrong, see ``check_manifests``.
        """
        splits = {
            "fit": ("train", "val"),
            "validate": ("val",),
            "test": ("test",),
            "predict": ("predict",),
        }.get(stage or "", ("train", "val", "test", "predict"))
        for split in splits:
            if split in self.manifests:
                self._datasets[split] = self.dataset(split)

    def dataset(self, split: str) -> ActionDataset:
        """A new data set over a split, sampled for training if it is "train".

        Raises:
            ConfigError: No spec was given.
            DataError: The data has no such split.
        """
        if split not in self.manifests:
            raise DataError(f"the data has no {split!r} split, only {', '.join(self.manifests)}")
        is_training = split == "train"
        dataset = self.dataset_of(self.manifests[split], self.train_sampling if is_training else self.eval_sampling)
        self.manifests[split] = dataset.manifest  # its frames are counted
        if is_training:
            dataset.epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        return dataset

    def dataset_of(self, manifest: Manifest, sampling: Sampling | Mapping[str, Sampling]) -> ActionDataset:
        """A new data set over any records of this data.

        Args:
            manifest: The records.
            sampling: How their frames are chosen, or such by modality.

        Raises:
            ConfigError: No spec was given, or a modality has no sampling.
        """
        if self.spec is None:
            raise ConfigError(
                "spec is not set: pass spec=module.spec to the data module, or set datamodule.spec before "
                "training. It says which frames the network takes."
            )
        specs: dict[str, InputSpec]
        specs = {self.spec.modality: self.spec} if isinstance(self.spec, InputSpec) else dict(self.spec)
        samplings = dict(sampling) if isinstance(sampling, Mapping) else dict.fromkeys(specs, sampling)
        if set(specs) - set(samplings):
            raise ConfigError(f"the sampling has modalities {sorted(samplings)}, the spec {sorted(specs)}")
        manifest = count_frames(manifest, self.opener(manifest, next(iter(specs))))
        return ActionDataset(
            manifest,
            specs,
            {m: samplings[m] for m in specs},
            {m: self.opener(manifest, m) for m in specs},
            on_error=self.on_error,
            seed=self.draw_seed,
        )

    @property
    def draw_seed(self) -> int:
        """Of order and augmentation; far apart, since a sampler adds the epoch: no run is another's next epoch."""
        return self.seed + 1_000_003 * self.run_seed

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled training batches."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Batch]:
        """Validation batches, in order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Test batches, in order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """Batches to predict, in order; of the "predict" records, else of "test"."""
        return self._loader("predict" if "predict" in self.manifests else "test")

    def _loader(self, split: str) -> DataLoader[Any]:
        if split not in self._datasets:
            self._datasets[split] = self.dataset(split)
        dataset = self._datasets[split]
        names = dataset.manifest.class_names
        heads = tuple(names) if isinstance(names, dict) else () if names is not None else None
        if split == "predict":
            heads = None
        trainer = getattr(self, "trainer", None)
        workers = self._workers(len(dataset))
        sampler = EpochSampler(
            dataset,
            shuffle=split == "train",
            num_replicas=trainer.world_size if trainer is not None else 1,
            rank=trainer.global_rank if trainer is not None else 0,
            balanced=self.balanced_sampling,
        )
        if split == "train" and trainer is not None:
            # Lightning sets the epoch after it has asked for the first batch: too late where a run is resumed.
            sampler.set_epoch(trainer.fit_loop.epoch_progress.current.processed)
        # A last batch of one video has no variance, and batch norm refuses it; each epoch it is another video.
        lone = split == "train" and len(sampler) > 1 and len(sampler) % self.batch_size == 1
        return ActionLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=lone and self.batch_size > 1,
            collate_fn=Collate(dataset.specs, dataset.samplings, heads),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _workers(self, videos: int) -> int:
        if self.num_workers is not None:
            return self.num_workers
        if videos <= 2 * self.batch_size:
            return 0  # starting processes would take longer than reading
        return min(os.cpu_count() or 1, 8)


def _open_file(root: Path, decoder: Decoder, record: Record, threads: int) -> FrameSource:
    path = root / record.path
    return FrameFolder(path) if path.is_dir() else open_video(path, decoder, threads)


def _open_flow(root: Path, flow_root: Path | None, record: Record, threads: int) -> FrameSource:
    from lightning_har.data.flow import flow_file, open_flow

    if flow_root is not None:
        return open_flow(flow_file(flow_root, record))
    if (root / record.path).is_dir():
        return open_flow(root / record.path)
    raise ConfigError(
        "flow is wanted, but flow_root is not set. Compute it once, lightning-har data flow DATA --out DIR, and pass "
        "flow_root=DIR to the data module (run: --data.flow_root DIR; others: --flow-root DIR)"
    )
