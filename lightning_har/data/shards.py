"""Data sets in shards: a few large tar files in place of many small ones.

``root/<split>/000000.tar`` and so on are WebDataset shards: a file of the data set is a sample of two members, the
video as it was and a ``.json`` with its path and clips, and ``webdataset`` streams them. ``index.jsonl`` says where in
which shard each video lies. With it videos are read in place and in any order, so that the samplers of every other data
module hold here too: each clip once in an epoch, whatever the number of shards, processes and workers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_har._files import whole_file
from lightning_har.data._shard_files import Sample, Shard, write_shard
from lightning_har.data.counts import count_frames
from lightning_har.data.datamodule import ActionDataModule
from lightning_har.data.dataset import Opener
from lightning_har.data.decode import Decoder, FrameSource, Slice, open_video
from lightning_har.data.manifest import Manifest, Record, inside_root, raise_if, unique_ids
from lightning_har.data.parallel import Died, Engine, map_unordered, progress
from lightning_har.errors import ConfigError, DataError, DecodeError
from lightning_har.types import ClassNames, Failure, to_class_names

INDEX = "index.jsonl"


@dataclass(frozen=True)
class ShardManifest(Manifest):
    """Records whose files lie in shards.

    Attributes:
        members: Where, by path.
    """

    members: Mapping[str, Slice]

    def missing_files(self) -> list[str]:
        """Paths that are in no shard, or in one that does not exist or is cut short."""
        sizes = {file: file.stat().st_size if file.is_file() else 0 for file in {m.file for m in self.members.values()}}
        whole = {path for path, m in self.members.items() if m.start + m.size <= sizes[m.file]}
        return [path for path in dict.fromkeys(r.path for r in self.records) if path not in whole]


class ShardDataModule(ActionDataModule):
    """What ``write_shards`` wrote: the same splits, labels, order and clips as the data set that it was written from.

    Args:
        root: Folder of the shards, where random access is quick: a local disk or a shared file system.
        **kwargs: ``ActionDataModule``'s. Stored flow stays outside the shards: ``flow_root``.

    Attributes:
        coverage: After first use: how much of the official list it has, where that was known.

    Raises:
        DataError: On first use: no index, or a shard is missing or cut short.
    """

    def __init__(self, root: str | Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = Path(root)

    def load_manifests(self) -> dict[str, Manifest]:
        """Read the index."""
        path = self.root / INDEX
        if not path.is_file():
            remedy = "write it with: lightning-har data shards DATA --out DIR"
            raise DataError(f"{path.absolute()} does not exist; {remedy}")
        records: dict[str, list[Record]] = {}
        members: dict[str, dict[str, Slice]] = {}
        try:
            with open(path, encoding="utf-8") as file:
                head = json.loads(next(file))
                names = to_class_names(head["class_names"])
                coverage, clips = dict(head["coverage"]), dict(head["clips"])
                for line in file:
                    row = json.loads(line)
                    record, member = _record(row["record"], names), _member(row["member"], self.root.absolute())
                    records.setdefault(row["split"], []).append(record)
                    members.setdefault(row["split"], {})[record.path] = member
        except (StopIteration, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: is no index of shards that can be read ({error!r})") from error
        if clips != {split: len(of_split) for split, of_split in records.items()}:
            raise DataError(f"{path}: is cut short; write it again: lightning-har data shards DATA --out DIR")
        self.coverage = coverage
        found: dict[str, Manifest] = {}
        for split, of_split in records.items():
            # A folder for each split: files of two splits may bear one name, where their folders differed.
            unique = unique_ids(of_split, str(path))
            manifest = ShardManifest(unique, names, self.root / split, members[split])
            raise_if(
                sorted({str(members[split][p].file) for p in manifest.missing_files()}),
                f"{{count}} shards of the {split} split are missing or cut short",
            )
            found[split] = manifest
        return found

    def opener(self, manifest: Manifest, modality: str) -> Opener:
        """What opens a record's frames: RGB from its shard, flow from ``flow_root``."""
        if modality == "rgb":
            assert isinstance(manifest, ShardManifest)
            return partial(_open_member, manifest.members, self.decoder)
        return super().opener(manifest, modality)


def _record(fields: dict[str, Any], names: ClassNames | None) -> Record:
    record = Record(**fields)
    if not isinstance(record.id, str) or not record.id or not isinstance(record.path, str):
        raise ValueError(f"{record} has no id or no path")
    for value in (record.start, record.stop, record.num_frames):
        if value is not None and (not isinstance(value, int) or value < 0):
            raise ValueError(f"{record.id}: {value!r} is no number of a frame")
    if record.label is not None and isinstance(record.label, dict) != isinstance(names, dict):
        raise ValueError(f"{record.id}: label {record.label!r} and the class names differ in whether there are heads")
    labels = record.label if isinstance(record.label, dict) else {"": record.label}
    of_head = names if isinstance(names, dict) else {"": names or ()}
    for head, label in labels.items():
        if label is not None and not (isinstance(label, int) and 0 <= label < len(of_head[head])):
            raise ValueError(f"{record.id}: label {label!r} is not one of the {len(of_head[head])} classes")
    return record


def _member(fields: Sequence[Any], root: Path) -> Slice:
    shard, name, start, size = fields
    if not (isinstance(start, int) and isinstance(size, int) and start >= 0 and size >= 0):
        raise ValueError(f"{name} lies at no place: {start!r}, {size!r}")
    return Slice(root / inside_root(shard, root), start, size, str(name))


class Written(NamedTuple):
    """What ``write_shards`` did.

    Attributes:
        index_file: It lists the clips.
        shards: By split.
        clips: By split.
        failures: Files that cannot be read; the shards lack them.
    """

    index_file: Path
    shards: dict[str, int]
    clips: dict[str, int]
    failures: list[Failure]


def write_shards(
    data: ActionDataModule,
    out: str | Path,
    *,
    shard_bytes: int = 10**9,
    workers: int | None = None,
    engine: Engine = "processes",
) -> Written:
    """Write a data set as WebDataset shards. Videos are copied as they are, each once, whatever clips are cut from it.

    A shard appears whole or not at all, the index last. Called again after a kill, it writes the shards that lack.

    Args:
        data: Its splits, ``seed`` and ``on_error`` hold: "skip" leaves out files that cannot be opened.
        out: Folder to write.
        shard_bytes: Size of a shard, about; a larger file gets a shard of its own.
        workers: Processes; None takes one per core.
        engine: "processes" or "ray".

    Returns:
        The index's path, counts and failures.

    Raises:
        ConfigError: webdataset is not installed.
        DataError: ``out`` holds other shards, a file is a folder of pictures, or a process died.
        DecodeError: A file cannot be opened and ``data.on_error`` is "raise".
    """
    try:
        import webdataset  # noqa: F401
    except ImportError as error:
        raise ConfigError("shards are written by webdataset: pip install 'lightning-har[webdataset]'") from error
    if shard_bytes < 1:
        raise ConfigError(f"shard_bytes is {shard_bytes}; it must be at least 1")
    out = Path(out)
    manifests: dict[str, Manifest] = {}
    failures: list[Failure] = []
    for split, manifest in data.manifests.items():
        manifests[split], failed = _readable(data, manifest)
        failures += failed
        if not len(manifests[split]):
            raise DataError(f"the {split} split has no video that can be opened; the first: {failed[0].reason}")
    plan = {split: _plan(m, out / split, shard_bytes, data.seed) for split, m in manifests.items()}
    todo = [shard for shards in plan.values() for shard in shards]
    members: dict[Path, dict[str, Slice]] = {shard.tar.parent: {} for shard in todo}
    with progress("shards", sum(len(shard.samples) for shard in todo)) as advance:
        for shard, found in map_unordered(write_shard, todo, workers=workers, engine=engine):
            if isinstance(found, Died):
                raise DataError(f"{shard.tar}: {found}")
            members[shard.tar.parent] |= found
            advance(len(shard.samples))
    _write_index(out, data, manifests, members)
    clips = {split: len(m) for split, m in manifests.items()}
    return Written(out / INDEX, {split: len(shards) for split, shards in plan.items()}, clips, failures)


def _readable(data: ActionDataModule, manifest: Manifest) -> tuple[Manifest, list[Failure]]:
    """Records with their frame counts, and those that have none because their file cannot be opened."""
    folders = [r.path for r in manifest if manifest.file(r).is_dir()]
    raise_if(folders, "{count} files are folders of pictures; shards hold videos")
    opener = data.opener(manifest, "rgb")
    counted = count_frames(manifest, opener)
    failures = []
    for record in counted:
        if record.num_frames is None:
            try:
                source = opener(record, 1)
                try:
                    if not source.num_frames:
                        raise DecodeError(f"{manifest.file(record)}: has no frames")
                finally:
                    source.close()
            except DecodeError as error:
                if data.on_error == "raise":
                    raise
                failures.append(Failure(record.id, record.path, str(error)))
    return counted.with_records(r for r in counted if r.num_frames is not None), failures


def _plan(manifest: Manifest, folder: Path, shard_bytes: int, seed: int) -> list[Shard]:
    """Which file goes where: the same for the same data, so that an interrupted run is continued."""
    clips: dict[str, list[Record]] = {}
    for record in manifest:
        clips.setdefault(record.path, []).append(record)
    paths = list(clips)
    samples: list[Sample] = []
    shards: list[Shard] = []
    room = shard_bytes
    # Mixed: who streams a shard shall meet all classes.
    for number, i in enumerate(np.random.default_rng(seed).permutation(len(paths)).tolist()):
        path = paths[i]
        file = manifest.file(clips[path][0]).absolute()
        size = file.stat().st_size
        if samples and size > room:
            shards.append(Shard(folder.absolute() / f"{len(shards):06d}.tar", tuple(samples)))
            samples, room = [], shard_bytes
        samples.append(Sample(f"{number:09d}", file, path, _note(manifest, clips[path])))
        room -= size
    if samples:
        shards.append(Shard(folder.absolute() / f"{len(shards):06d}.tar", tuple(samples)))
    return shards


def _note(manifest: Manifest, records: Sequence[Record]) -> str:
    """What the ``.json`` beside a video says."""
    clips = [
        {"id": r.id, "label": r.label, "class": manifest.label_names(r), "start": r.start, "stop": r.stop,
         "group": r.group}
        for r in records
    ]  # fmt: skip
    first = records[0]
    return json.dumps({"path": first.path, "num_frames": first.num_frames, "fps": first.fps, "clips": clips})


def _write_index(
    out: Path, data: ActionDataModule, manifests: Mapping[str, Manifest], members: Mapping[Path, Mapping[str, Slice]]
) -> None:
    with whole_file(out / INDEX) as part, open(part, "w", encoding="utf-8") as file:
        head = {
            "class_names": data.class_names,
            "coverage": data.coverage,
            "clips": {split: len(m) for split, m in manifests.items()},
        }
        file.write(json.dumps(head) + "\n")
        for split, manifest in manifests.items():
            for record in manifest:
                m = members[(out / split).absolute()][record.path]
                where = [f"{split}/{m.file.name}", m.name, m.start, m.size]
                file.write(json.dumps({"split": split, "member": where, "record": asdict(record)}) + "\n")


def _open_member(members: Mapping[str, Slice], decoder: Decoder, record: Record, threads: int) -> FrameSource:
    return open_video(members[record.path], decoder, threads)
