"""Features of frames, computed once and kept, as ``data.features`` reads them."""

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
from torch.utils.data import SequentialSampler

from lightning_har._files import whole_file
from lightning_har.data.datamodule import ActionDataModule
from lightning_har.data.dataset import ActionDataset, ActionLoader, Collate
from lightning_har.data.features import MANIFEST, SETTINGS, SPLITS
from lightning_har.data.manifest import Manifest, Record
from lightning_har.data.parallel import Died, Engine, map_unordered, progress
from lightning_har.errors import ConfigError, DataError, DecodeError
from lightning_har.spec import InputSpec
from lightning_har.types import Batch, Failure, Video

Dtype: TypeAlias = Literal["float32", "float16", "uint8"]
SCALES = "scales.jsonl"


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
    """A manifest as it is, not split: what ``extract_features`` reads from, and the demo's page.

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
    column = "split" if {*splits} <= {None, *SPLITS} else "fold"
    with whole_file(out / MANIFEST) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", *heads, column, "group", "id", *(["scale", "offset"] if scales is not None else [])])
        for (_, manifest, r), split in zip(records, splits, strict=True):
            path = feature_file(out, r.id).relative_to(out).as_posix()
            labels = manifest.label_names(r)
            extra = scales[r.id] if scales is not None else ()
            writer.writerow([path, *(labels.get(h, "") for h in heads), split or "", r.group or "", r.id, *extra])
