"""Features of frames, computed once and kept: one .npy of (T, D) per clip, and a CSV that lists them.

The frames of a frozen backbone never change, so neither do its features (study E). ``manifest.csv`` needs the
columns ``path,label,split`` and may have ``group`` or ``fold``: anyone can write such files with numpy.
Files are float32, float16, or uint8 with the columns ``scale`` and ``offset``: feature = code × scale + offset.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

from lightning_har._files import whole_file
from lightning_har.data.datamodule import ActionDataModule
from lightning_har.data.dataset import ActionDataset, ActionLoader, Collate
from lightning_har.data.manifest import Manifest, Record, read_rows, split_by_group
from lightning_har.data.parallel import Died, Engine, map_unordered, progress
from lightning_har.data.sampling import plan
from lightning_har.errors import ConfigError, DataError, DecodeError
from lightning_har.spec import InputSpec, Sampling
from lightning_har.types import Batch, ClassNames, Failure, Video, to_class_names

Dtype: TypeAlias = Literal["float32", "float16", "uint8"]
SETTINGS = "extract.json"
SCALES = "scales.jsonl"
MANIFEST = "manifest.csv"
_SPLITS = ("train", "val", "test")


class Extraction(NamedTuple):
    """What ``extract_features`` did.

    Attributes:
        manifest: The CSV that lists the features.
        extracted: Clips worked on now.
        kept: Clips that an earlier, interrupted run had done.
        failures: Clips that could not be read; they are not in the manifest.
    """

    manifest: Path
    extracted: int
    kept: int
    failures: list[Failure]


class ManifestDataModule(ActionDataModule):
    """A manifest as it is, not split: what ``extract_features`` reads from.

    Args:
        manifest: Its records keep their own ``split``, or number of a fold.
        **kwargs: ``ActionDataModule``'s.
    """

    def __init__(self, manifest: Manifest, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._all = manifest

    def load_manifests(self) -> dict[str, Manifest]:
        """All records, as "predict"."""
        return {"predict": self._all}


def extract_features(
    extractor: Callable[[Video], Tensor],
    data: ActionDataModule,
    out: str | Path,
    *,
    dtype: Dtype = "float32",
    device: str | torch.device = "cpu",
    settings: Mapping[str, Any] | None = None,
    engine: Engine = "processes",
) -> Extraction:
    """Compute and store the features of every clip, in the frames that evaluation takes.

    A clip's file appears whole or not at all. Called again after a kill, it does what is left.

    Args:
        extractor: uint8 clips (B, C, T, H, W) on the device to float features (B, T, D), for example
            ``lambda v: module.net.frame_features(normalize(v, module.spec))`` of a ``CNNRNNModule``.
        data: With its ``spec`` set. Its ``eval_sampling``, ``batch_size``, ``num_workers`` and ``on_error`` hold.
        out: Folder: one .npy per clip, named by its id, ``manifest.csv``, and ``extract.json`` with the settings.
        dtype: Of the files. "uint8" spreads the 256 codes over each clip's own range.
        device: Where the extractor works.
        settings: Whatever else decides the features, such as the model's name. Kept in ``extract.json``; an
            interrupted extraction is continued only under the same.
        engine: "processes": the extractor works here, and ``num_workers`` processes decode for it. "ray": both are
            done on a Ray cluster, ``num_workers`` batches at a time (None: as many as it has cores, or GPUs where
            the device is one); the extractor must pickle (``map_unordered``), and follow a clip to its device.

    Returns:
        The manifest's path, counts and failures.

    Raises:
        ConfigError: No spec, several views per clip, a wrong dtype or engine, ``out`` was written with other
            settings, or Ray is not installed.
        DataError: The extractor's output is not (B, T, D), or not finite.
        DecodeError: A video cannot be read and ``data.on_error`` is "raise".
    """
    if dtype not in ("float32", "float16", "uint8"):
        raise ConfigError(f"dtype is {dtype!r}; it must be float32, float16 or uint8")
    if engine not in ("processes", "ray"):
        raise ConfigError(f"engine is {engine!r}; it must be 'processes' or 'ray'")
    out = Path(out)
    sampling = _one_view(data)
    todo = {split: [r for r in m if not feature_file(out, r.id).exists()] for split, m in data.manifests.items()}
    total = sum(len(m) for m in data.manifests.values())
    pending = sum(map(len, todo.values()))
    out.mkdir(parents=True, exist_ok=True)
    # Several files of one run and one of another would train without a word.
    _check_settings(out, {"dtype": dtype, **sampling, **(settings or {}), "class_names": data.class_names})
    work = partial(_work, extractor, device)
    gpus = int(torch.device(device).type == "cuda")
    failures: list[Failure] = []
    with progress("features", total) as advance, open(out / SCALES, "a", encoding="utf-8") as scales:
        advance(total - pending)
        for split, records in todo.items():
            if not records:
                continue
            whole = data.manifests[split]
            # Ray works in other folders.
            manifest = replace(whole, records=tuple(records), root=whole.root.absolute())
            dataset = data.dataset_of(manifest, data.eval_sampling)
            for done in _on_ray(work, dataset, data, gpus) if engine == "ray" else map(work, _loader(dataset, data)):
                failures += done.failures
                for name, values in done.features:
                    _store(feature_file(out, name), name, values, dtype, scales)
                advance(len(done.features) + len(done.failures))
    failed = {f.id for f in failures}
    _write_manifest(out, data.manifests, failed, read_scales(out) if dtype == "uint8" else None)
    return Extraction(out / MANIFEST, pending - len(failed), total - pending, failures)


def feature_file(out: Path, clip_id: str) -> Path:
    """Where the features of a clip lie: its id as a path, or a digest of an id that would be none within out."""
    plain = os.path.normpath(clip_id) == clip_id and not os.path.isabs(clip_id) and clip_id.isprintable()
    short = all(len(part.encode()) <= 200 for part in clip_id.split("/"))
    if not (plain and short) or clip_id.split("/")[0] == ".." or clip_id == ".":
        clip_id = f"id-{hashlib.sha256(clip_id.encode()).hexdigest()[:32]}"
    return out / f"{clip_id}.npy"


def read_scales(out: Path) -> dict[str, tuple[float, float]]:
    """(scale, offset) of each clip that was stored as uint8."""
    scales = {}
    for line in (out / SCALES).read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # the run was killed while it wrote this line; its clip was done again
        scales[entry["id"]] = (entry["scale"], entry["offset"])
    return scales


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
        parts = {split: list(m) for split, m in manifest.by_split().items()}
        if self.fold is not None:
            if self.fold not in parts:
                raise DataError(f"{self.manifest}: has no fold {self.fold}, only {', '.join(sorted(parts)) or 'none'}")
            rest = [r for r in manifest if r.split != self.fold]
            return {"train": manifest.with_records(rest), "test": manifest.with_records(parts[self.fold])}
        unknown = sorted(set(parts) - set(_SPLITS))
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
        return to_class_names(json.loads(path.read_text(encoding="utf-8")).get("class_names"))

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


def _one_view(data: ActionDataModule) -> dict[str, Any]:
    """The protocol that decides the features, as ``extract.json`` holds it."""
    if not isinstance(data.spec, InputSpec):
        raise ConfigError("features are of one modality: set data.spec to the extractor's InputSpec")
    sampling = data.eval_sampling
    if isinstance(sampling, Mapping):
        sampling = sampling[data.spec.modality]
    sampling = sampling.with_defaults(data.spec)
    if sampling.num_views > 1 or sampling.random:
        raise ConfigError(f"features are of one view that is not random; the evaluation sampling is {sampling}")
    return {"spec": data.spec.to_dict(), "sampling": sampling.to_dict()}


def _check_settings(out: Path, settings: dict[str, Any]) -> None:
    path = out / SETTINGS
    now = json.loads(json.dumps(settings))
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        for key in {**before, **now}:
            if before.get(key) != now.get(key):
                raise ConfigError(
                    f"{out} holds features extracted with {key} = {before.get(key)!r}, not {now.get(key)!r}; "
                    "take another folder, or delete this one"
                )
        return
    with whole_file(path) as part:
        part.write_text(json.dumps(now, indent=1), encoding="utf-8")


class _Done(NamedTuple):
    """What became of a batch."""

    features: list[tuple[str, NDArray[np.float32]]]
    """By clip id."""
    failures: list[Failure]


_Work: TypeAlias = Callable[[Batch], _Done]


def _loader(dataset: ActionDataset, data: ActionDataModule) -> ActionLoader:
    return ActionLoader(
        dataset,
        batch_size=data.batch_size,
        sampler=SequentialSampler(dataset),
        num_workers=data._workers(len(dataset)),
        collate_fn=Collate(dataset.specs, dataset.samplings, None),
    )


def _on_ray(work: _Work, dataset: ActionDataset, data: ActionDataModule, gpus: int) -> Iterator[_Done]:
    records, size = dataset.manifest.records, data.batch_size
    dataset.manifest = dataset.manifest.with_records(())  # the records travel with the batches
    dataset.threads = 1
    job = partial(_work_on, work, dataset)
    todo = [records[i : i + size] for i in range(0, len(records), size)]
    while todo:
        lost: list[tuple[Record, ...]] = []
        for part, done in map_unordered(job, todo, workers=data.num_workers, engine="ray", gpus=gpus):
            if not isinstance(done, Died):
                yield done
            elif len(part) > 1:
                lost += [(record,) for record in part]  # one of them did it: each again, alone
            elif data.on_error == "raise":
                raise DecodeError(f"{part[0].path}: {done}")
            else:
                yield _Done([], [Failure(part[0].id, part[0].path, str(done))])
        todo = lost


def _work_on(work: _Work, dataset: ActionDataset, records: Sequence[Record]) -> _Done:
    """A batch from files to features, in whatever process."""
    dataset.manifest = dataset.manifest.with_records(records)
    collate = Collate(dataset.specs, dataset.samplings, None)
    return work(collate([dataset[i] for i in range(len(records))]))


def _work(extractor: Callable[[Video], Tensor], device: str | torch.device, batch: Batch) -> _Done:
    features: Iterable[NDArray[np.float32]] = ()
    if batch["id"]:
        features = _extract(extractor, batch["video"], device, batch["path"])
    return _Done(list(zip(batch["id"], features, strict=True)), batch["failures"])


def _extract(
    extractor: Callable[[Video], Tensor], video: Video, device: str | torch.device, paths: Sequence[str]
) -> NDArray[np.float32]:
    assert isinstance(video, Tensor)
    with torch.inference_mode():
        features = extractor(video.to(device))
    expected = (video.shape[0], video.shape[2])
    if features.ndim != 3 or tuple(features.shape[:2]) != expected:
        raise DataError(
            f"the extractor must give (B, T, D) = {expected} + (D,) for a clip of shape {tuple(video.shape)}; "
            f"it gave {tuple(features.shape)}"
        )
    values: NDArray[np.float32] = features.float().cpu().numpy()
    finite = np.isfinite(values).all((1, 2))
    if not finite.all():
        raise DataError(f"{paths[int(np.argmin(finite))]}: its features are not finite")
    return values


def _store(path: Path, clip_id: str, values: NDArray[np.float32], dtype: Dtype, scales: Any) -> None:
    if dtype == "uint8":
        offset = float(values.min())
        scale = float(values.max() - values.min()) / 255 or 1.0
        # The scale first: a file without one could not be read.
        scales.write(json.dumps({"id": clip_id, "scale": scale, "offset": offset}) + "\n")
        scales.flush()
        stored: NDArray[Any] = np.rint((values - offset) / scale).clip(0, 255).astype(np.uint8)
    else:
        with np.errstate(over="ignore"):
            stored = values.astype(dtype)
        if not np.isfinite(stored).all():
            raise DataError(f"{clip_id}: its features do not fit float16 (largest {np.abs(values).max():.3g})")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        np.save(part, stored)


def _write_manifest(
    out: Path,
    manifests: Mapping[str, Manifest],
    failed: set[str],
    scales: Mapping[str, tuple[float, float]] | None,
) -> None:
    records = [(split, m, r) for split, m in manifests.items() for r in m if r.id not in failed]
    names = next(iter(manifests.values())).class_names
    heads = list(names) if isinstance(names, dict) else ["label"]
    splits = [r.split if split == "predict" else split for split, _, r in records]
    column = "split" if {*splits} <= {None, *_SPLITS} else "fold"
    with whole_file(out / MANIFEST) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", *heads, column, "group", "id", *(["scale", "offset"] if scales is not None else [])])
        for (_, manifest, r), split in zip(records, splits, strict=True):
            path = feature_file(out, r.id).relative_to(out).as_posix()
            labels = manifest.label_names(r)
            extra = scales[r.id] if scales is not None else ()
            writer.writerow([path, *(labels.get(h, "") for h in heads), split or "", r.group or "", r.id, *extra])
