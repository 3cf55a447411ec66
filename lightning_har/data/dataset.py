"""Records to samples to batches, and which rank sees which record in which epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate, get_worker_info
from typing_extensions import NotRequired, TypedDict

from lightning_har.data.decode import FrameSource
from lightning_har.data.manifest import Manifest, Record
from lightning_har.data.sampling import plan
from lightning_har.data.transforms import decode_size, draw_geometry, to_clips
from lightning_har.errors import ConfigError, DataError, DecodeError, HarError
from lightning_har.spec import InputSpec, Sampling
from lightning_har.types import Batch, Failure, Video

OnError: TypeAlias = Literal["raise", "skip"]
Opener: TypeAlias = Callable[[Record, int], FrameSource]
"""Opens the frames of a record in one modality: (record, decoder threads) -> an open video. Must pickle."""


_MOST_WORKERS = 1024


class Sample(TypedDict):
    """One video of a batch; the fields are ``Batch``'s, without its leading dimension."""

    video: Video
    label: NotRequired[int | Mapping[str, int]]
    id: str
    path: str
    is_padding: bool


class ActionDataset(Dataset[Sample | Failure]):
    """Record ``i`` of a manifest as a uint8 clip. Index ``-1 - i`` is the same, flagged as padding.

    What is random depends on (seed, epoch, index) only, neither on workers nor on what was read before.

    Args:
        manifest: The records.
        specs: What the network takes, by modality.
        samplings: How frames are chosen, by modality. Modalities of one record share their random numbers: with
            equal samplings they take the same frames, always the same crop.
        openers: What opens a record's frames, by modality.
        on_error: "raise" stops at a video that cannot be read; "skip" returns a Failure in its place.
        seed: Of everything random.
        epoch: One int64 in shared memory, which the sampler writes and every worker sees; None is always epoch 0.

    Attributes:
        threads: Of the decoder where no loader's worker reads; 0 is one per core.

    Raises:
        DecodeError: From ``dataset[i]``, when the video cannot be read and ``on_error`` is "raise".
    """

    def __init__(
        self,
        manifest: Manifest,
        specs: Mapping[str, InputSpec],
        samplings: Mapping[str, Sampling],
        openers: Mapping[str, Opener],
        *,
        on_error: OnError = "raise",
        seed: int = 0,
        epoch: Tensor | None = None,
    ) -> None:
        self.manifest = manifest
        self.specs = dict(specs)
        self.samplings = {m: samplings[m].with_defaults(spec) for m, spec in self.specs.items()}
        self.openers = dict(openers)
        self.on_error = on_error
        self.seed = seed
        self.epoch = epoch
        self.threads = 0
        # What each worker is reading, in shared memory: a worker that dies can no longer say it.
        self.reading = torch.full((_MOST_WORKERS,), -1, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> Sample | Failure:
        is_padding = index < 0
        index = -1 - index if is_padding else index
        record = self.manifest[index]
        try:
            clips = self._read(record, index)
        except DecodeError as error:
            if self.on_error == "raise":
                raise
            return Failure("" if is_padding else record.id, record.path, str(error))
        video: Video = clips if len(clips) > 1 else next(iter(clips.values()))
        sample: Sample = {"video": video, "id": record.id, "path": record.path, "is_padding": is_padding}
        # Padding has no label, so that no loss and no metric counts the clip a second time.
        if record.label is not None and not is_padding:
            sample["label"] = record.label
        return sample

    def _read(self, record: Record, index: int) -> dict[str, Tensor]:
        worker = get_worker_info()
        if worker is not None and worker.id < _MOST_WORKERS:
            self.reading[worker.id] = index
        threads = self.threads if worker is None else 1  # workers are parallel already
        epoch = 0 if self.epoch is None else int(self.epoch)
        geometry = None
        length = record.num_frames
        clips = {}
        for modality, spec in self.specs.items():
            sampling = self.samplings[modality]
            source = self.openers[modality](record, threads)
            try:
                # The first modality's length holds for all: flow has a frame less, which its reader knows.
                if length is None:
                    length = source.num_frames
                start, stop = _stretch(record, length)
                # The same numbers for each modality, so that it takes the same frames.
                offsets = np.random.default_rng((self.seed, epoch, index, 0))
                indices = start + plan(stop - start, sampling, offsets)
                size = partial(decode_size, spec=spec, sampling=sampling)
                frames = source.read(indices.reshape(-1), size)
            finally:
                source.close()
            if geometry is None:
                draws = np.random.default_rng((self.seed, epoch, index, 1))
                geometry = draw_geometry(frames.shape[1:3], spec, sampling, draws)
            clips[modality] = to_clips(frames, len(indices), spec, sampling, geometry)
        return clips


def _stretch(record: Record, length: int) -> tuple[int, int]:
    if not length:
        raise DecodeError(f"{record.path}: has no frames")
    start = record.start or 0
    stop = length if record.stop is None else min(record.stop, length)
    if start >= stop:
        end = "the end" if record.stop is None else record.stop
        raise DecodeError(f"{record.path}: frames {start} to {end} are wanted of a video of {length}")
    return start, stop


class Collate:
    """Samples and failures to a ``Batch``; one of no videos has the right shapes too.

    Args:
        specs: What the network takes, by modality.
        samplings: How it is sampled, by modality.
        heads: Names of the heads; () for a single one, None where there are no labels.
    """

    def __init__(
        self,
        specs: Mapping[str, InputSpec],
        samplings: Mapping[str, Sampling],
        heads: tuple[str, ...] | None = (),
    ) -> None:
        self.shapes = {m: clip_shape(spec, samplings[m]) for m, spec in specs.items()}
        self.heads = heads

    def __call__(self, samples: Sequence[Sample | Failure]) -> Batch:
        """Join them in order."""
        good = [s for s in samples if not isinstance(s, Failure)]
        # A failure without an id is that of a padding sample: its own rank reports it.
        failures = [s for s in samples if isinstance(s, Failure) and s.id]
        batch: Batch = {
            "video": self._videos(good),
            "id": [s["id"] for s in good],
            "path": [s["path"] for s in good],
            "is_padding": torch.tensor([s["is_padding"] for s in good], dtype=torch.bool),
            "failures": failures,
        }
        if self.heads == ():
            batch["label"] = torch.tensor([_label(s, None) for s in good], dtype=torch.int64)
        elif self.heads is not None:
            batch["label"] = {h: torch.tensor([_label(s, h) for s in good], dtype=torch.int64) for h in self.heads}
        return batch

    def _videos(self, samples: Sequence[Sample]) -> Video:
        if not samples:
            empty = {m: torch.empty((0, *shape), dtype=torch.uint8) for m, shape in self.shapes.items()}
            return empty if len(empty) > 1 else next(iter(empty.values()))
        # default_collate stacks into shared memory within a worker: one copy less.
        videos: Video = default_collate([s["video"] for s in samples])
        return videos


class ActionLoader(DataLoader[Any]):
    """A DataLoader whose workers' errors say what they say without workers, and whose dead worker names its files."""

    def __iter__(self) -> Any:  # DataLoader's own type is private
        """The batches.

        Raises:
            HarError: What a worker raised, with its own message.
            DecodeError: A worker was killed, or took its process down with it.
        """
        return self._watched(super().__iter__())

    def _watched(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        try:
            yield from batches
        except HarError as error:
            if not str(error).startswith("Caught "):
                raise
            # torch puts the worker's traceback into the message, which ends it: "lightning_har.errors.DataError: ..."
            kind = type(error)
            told = str(error).rpartition(f"\n{kind.__module__}.{kind.__qualname__}: ")[2]
            raise kind(told.strip()) from error
        except (RuntimeError, ConnectionError, EOFError) as error:
            # A worker's death shows as a signal, or as the end of the pipe that its batches came through.
            signs = ("exited unexpectedly", "killed by signal", "ancillary data")
            is_pipe = isinstance(error, ConnectionError | EOFError) and "Caught" not in str(error)
            if not (is_pipe or any(sign in str(error) for sign in signs)):
                raise
            dataset = self.dataset
            assert isinstance(dataset, ActionDataset)
            files = [dataset.manifest[int(i)].path for i in dataset.reading[: self.num_workers] if i >= 0]
            raise DecodeError(
                f"{', '.join(files) or 'no file yet'}: a worker of the data loader died while its workers were at "
                f"these files. One of them may crash the decoder, or memory ran out: lower num_workers or "
                f"batch_size, or look with num_workers=0. ({error})"
            ) from error


def _label(sample: Sample, head: str | None) -> int:
    label = sample.get("label")
    if label is None:
        return -1
    if head is None:
        if isinstance(label, Mapping):
            raise DataError(f"{sample['id']} has labels by head; one label was expected")
        return label
    if not isinstance(label, Mapping):
        raise DataError(f"{sample['id']} has one label; one for each head was expected")
    return label.get(head, -1)


def clip_shape(spec: InputSpec, sampling: Sampling) -> tuple[int, ...]:
    """(C, T, H, W), or (V, C, T, H, W) where a video has several views."""
    frames = sampling.num_frames or spec.num_frames
    shape = (spec.channels, frames, *spec.size)
    return shape if sampling.num_views == 1 else (sampling.num_views, *shape)


class EpochSampler(DistributedSampler[Any]):
    """Which records a rank reads; without distribution it is one rank of one.

    Lightning keeps a DistributedSampler as it is, and calls its ``set_epoch``.

    Args:
        dataset: Its length and epoch are used.
        shuffle: Training: order drawn from (seed, epoch); otherwise in order. Ranks are evened out by negative
            indices, which the dataset flags as padding: every video counts once.
        num_replicas: Ranks.
        rank: This one.
        balanced: In training, take each class equally often: an epoch is as long as ever, a rare class's videos come
            again in it (with the epoch's one augmentation), a common class's are left out in turn.

    Raises:
        ConfigError: ``balanced`` where records have no label, or one for each of several heads.
    """

    def __init__(
        self,
        dataset: ActionDataset,
        *,
        shuffle: bool,
        num_replicas: int = 1,
        rank: int = 0,
        balanced: bool = False,
    ) -> None:
        super().__init__(
            dataset, num_replicas=num_replicas, rank=rank, shuffle=shuffle, seed=dataset.seed, drop_last=False
        )
        self.by_class = _by_class(dataset.manifest) if balanced and shuffle else []

    def set_epoch(self, epoch: int) -> None:
        """Of the order, and of the augmentations in every worker."""
        super().set_epoch(epoch)
        shared = self.dataset.epoch  # type: ignore[attr-defined]
        if shared is not None:
            shared.fill_(epoch)

    def __iter__(self) -> Iterator[int]:
        if self.by_class:
            yield from self._balanced()[self.rank :: self.num_replicas]
            return
        count = len(self.dataset)  # type: ignore[arg-type]
        for place, i in zip(range(self.rank, self.total_size, self.num_replicas), super().__iter__(), strict=True):
            yield i if place < count else -1 - i

    def _balanced(self) -> list[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        share, rest = divmod(self.total_size, len(self.by_class))
        more = set(rng.permutation(len(self.by_class))[:rest].tolist())
        drawn: list[int] = []
        for k, members in enumerate(self.by_class):
            count = share + (k in more)
            rounds = -(-count // len(members))
            drawn += np.concatenate([rng.permutation(members) for _ in range(rounds)])[:count].tolist() if count else []
        return [drawn[i] for i in rng.permutation(len(drawn))]


def _by_class(manifest: Manifest) -> list[list[int]]:
    """Indices of the records of each class that has any."""
    members: dict[int, list[int]] = {}
    for i, record in enumerate(manifest):
        if not isinstance(record.label, int):
            given = "no label" if record.label is None else f"labels for {', '.join(sorted(record.label))}"
            raise ConfigError(
                f"balanced sampling needs one label for each video; {record.id} has {given}. "
                "Weight the loss instead: class_weights, which takes weights by head"
            )
        members.setdefault(record.label, []).append(i)
    return [members[label] for label in sorted(members)]
