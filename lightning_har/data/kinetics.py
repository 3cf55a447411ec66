"""Kinetics-400, 600 and 700 (Kay et al., arXiv:1705.06950; Carreira et al., 2018 and 2019): clips of YouTube videos.

Videos vanish from YouTube, so nobody has all of the list: how much of it is on disk is printed, and kept in
``coverage`` to stand beside every score.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightning_har.data.datamodule import ActionDataModule
from lightning_har.data.fake import write_fake_video
from lightning_har.data.folder import videos_in
from lightning_har.data.manifest import Manifest, Record, raise_if, read_rows, unique_ids
from lightning_har.data.official import Source, first_present, keep_present, read_class_list
from lightning_har.errors import ConfigError, DataError

SOURCE = Source(
    name="kinetics",
    title="Kinetics",
    page="https://github.com/cvdfoundation/kinetics-dataset",
    size="306,000 clips of 10 s, 456 GB (400); 530,000, 779 GB (600); 630,000, 710 GB (700)",
    terms="CC BY 4.0 (Google) for the lists; the videos belong to their YouTube uploaders",
    layout=(
        "DIR/train.csv, validate.csv (or val.csv), test.csv: label,youtube_id,time_start,time_end,split",
        "DIR/**/<youtube_id>_<start, 6 digits>_<end, 6 digits>.mp4, in any folders",
    ),
)
"""Counts and sizes of what CVDF hosts, from FiftyOne's data set zoo; licence from DeepMind's page of the data set."""

Variant = Literal[400, 600, 700]
_LISTS = {"train": ("train",), "val": ("validate", "val", "validation"), "test": ("test",)}
_FAKE_CLASSES = ("abseiling", "air drumming", "playing squash or racquetball")


class KineticsDataModule(ActionDataModule):
    """Kinetics-400, 600 or 700, whole or a part of its classes and clips (mini-Kinetics).

    As published scores are on the validation list, that is the "test" split here, and the validation part is taken
    from the training list; ``test_on="test"`` follows the lists by their names.

    Args:
        root: Folder with the lists and, in any folders below it, the clips.
        variant: 400, 600 or 700: what the number of classes is checked against.
        classes: Names, a file with one name a line, or how many to draw at random by the seed (study B drew 5);
            None takes all.
        train_clips: At most so many clips per class for training, drawn at random by the seed from those on disk.
        test_clips: Likewise for testing.
        test_on: Which list is "test".
        annotations: Folder of the lists, where it is not root.
        **kwargs: ``ActionDataModule``'s.

    Attributes:
        coverage: After first use: clips of the list and those on disk, by split, before clips are drawn.

    Raises:
        DataError: On first use: lists or all videos are missing (the message tells where they come from), or lists
            that are damaged.
    """

    source = SOURCE

    def __init__(
        self,
        root: str | Path,
        *,
        variant: Variant = 400,
        classes: int | Sequence[str] | str | Path | None = None,
        train_clips: int | None = None,
        test_clips: int | None = None,
        test_on: Literal["val", "test"] = "val",
        annotations: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if variant not in (400, 600, 700):
            raise ConfigError(f"variant is {variant!r}; there are Kinetics 400, 600 and 700")
        if test_on not in ("val", "test"):
            raise ConfigError(f"test_on is {test_on!r}; it must be 'val' or 'test'")
        self.root = Path(root)
        self.variant = variant
        self.classes = classes
        self.train_clips = train_clips
        self.test_clips = test_clips
        self.test_on = test_on
        self.annotations = Path(annotations) if annotations is not None else self.root

    def load_manifests(self) -> dict[str, Manifest]:
        """The clips of the lists that are on disk."""
        lists = {"train": "train", "test": "val"} if self.test_on == "val" else {s: s for s in ("train", "val", "test")}
        found = read_kinetics(self.annotations, self.root, lists, self.variant)
        names = next(iter(found.values())).class_names
        assert isinstance(names, tuple)
        wanted = self._wanted(names)
        if wanted != names:
            found = {split: _only(manifest, wanted) for split, manifest in found.items()}
        kept, self.coverage = keep_present(found, SOURCE)
        limits = {"train": self.train_clips, "test": self.test_clips, "val": self.test_clips}
        return {split: _draw(m, limits[split], self.seed) for split, m in kept.items()}

    def _wanted(self, names: tuple[str, ...]) -> tuple[str, ...]:
        if self.classes is None:
            return names
        if isinstance(self.classes, int):
            if not 1 <= self.classes <= len(names):
                raise ConfigError(f"classes is {self.classes}; the lists have {len(names)}")
            drawn = np.random.default_rng(self.seed).choice(len(names), self.classes, replace=False)
            return tuple(names[i] for i in sorted(drawn))
        is_file = isinstance(self.classes, str | Path)
        wanted = read_class_list(Path(self.classes)) if is_file else tuple(self.classes)  # type: ignore[arg-type]
        raise_if([n for n in wanted if n not in names], "{count} classes are not in the lists")
        return tuple(sorted(wanted))

    @classmethod
    def fake(cls, root: Path) -> None:
        """Write a tiny Kinetics-400: three of its classes, eight clips each, one of them listed but not on disk."""
        header = "label,youtube_id,time_start,time_end,split"
        for split, numbers in (("train", range(5)), ("validate", range(5, 7)), ("test", range(7, 8))):
            rows = [header]
            for k, name in enumerate(_FAKE_CLASSES):
                for i in numbers:
                    rows.append(f"{name},-vid{k}_{i:05d},{i * 7},{i * 7 + 10},{split}")
                    if i:
                        file = f"-vid{k}_{i:05d}_{i * 7:06d}_{i * 7 + 10:06d}.mp4"
                        write_fake_video(root / split / name / file, seed=10 * k + i)
            (root / f"{split}.csv").write_text("\n".join(rows) + "\n")

    @classmethod
    def smoke_arguments(cls, folder: Path) -> dict[str, Any]:
        """Arguments for a tiny fake data set, written below folder."""
        cls.fake(folder / "kinetics")
        lists = {"root": str(folder / "kinetics"), "annotations": None, "classes": None}
        return {**lists, "train_clips": None, "test_clips": None, "batch_size": 2, "num_workers": 0}


def read_kinetics(lists: Path, root: Path, splits: Mapping[str, str], variant: Variant = 400) -> dict[str, Manifest]:
    """The records of the official CSVs, whether their clips are on disk or not.

    Args:
        lists: Folder of train.csv, validate.csv, test.csv.
        root: Folder of the clips, which may lie in any folders below it.
        splits: Our split to the list's: {"train": "train", "test": "val"}.
        variant: More classes than this are an error; fewer are a part of the data set.

    Raises:
        DataError: A list is missing, lacks a column or has rows that cannot be used.
    """
    if not lists.is_dir():
        raise SOURCE.absent(f"{lists.absolute()} is not a folder.")
    on_disk = {file.stem: file.relative_to(root).as_posix() for file in reversed(videos_in(root))}
    paths = {
        s: first_present(lists, [f"{n}.csv" for n in _LISTS[name]], SOURCE, f"{name} list")
        for s, name in splits.items()
    }
    rows = {split: read_rows(path, ["label", "youtube_id", "time_start", "time_end"]) for split, path in paths.items()}
    names = tuple(sorted({row["label"] for part in rows.values() for row in part} - {""}))
    if len(names) > variant:
        raise DataError(f"{lists}: the lists have {len(names)} classes, more than Kinetics-{variant}; wrong variant?")
    labels = {name: i for i, name in enumerate(names)}
    found = {}
    for split, part in rows.items():
        records, problems = [], []
        for number, row in enumerate(part, start=2):
            try:
                records.append(_record(row, labels, on_disk, split))
            except ValueError as error:
                problems.append(f"line {number}: {error}")
        raise_if(problems, f"{paths[split]}: {{count}} of {len(part)} rows cannot be used")
        found[split] = Manifest(unique_ids(records, str(paths[split])), names, root)
    return found


def clip_name(youtube_id: str, start: float, end: float) -> str:
    """``<youtube_id>_<start, 6 digits>_<end, 6 digits>``, whole seconds: what downloaders call a clip."""
    return f"{youtube_id}_{int(start):06d}_{int(end):06d}"


def _record(row: Mapping[str, str], labels: Mapping[str, int], on_disk: Mapping[str, str], split: str) -> Record:
    youtube_id = row["youtube_id"]
    if not youtube_id or os.path.basename(youtube_id) != youtube_id or "\0" in youtube_id or "\\" in youtube_id:
        raise ValueError(f"{youtube_id!r} is no YouTube id")
    if not row["label"]:
        raise ValueError(f"{youtube_id} has no label")
    try:
        start, end = float(row["time_start"]), float(row["time_end"])
    except ValueError:
        raise ValueError(f"{youtube_id}: times {row['time_start']!r}, {row['time_end']!r} are no numbers") from None
    if not 0 <= start < end < 1e6:
        raise ValueError(f"{youtube_id}: {start} to {end} s is no stretch of a video")
    name = clip_name(youtube_id, start, end)
    # The lists themselves take clips of one video into several parts (Kinetics-700): a group within its part.
    return Record(
        name, on_disk.get(name, f"{name}.mp4"), label=labels[row["label"]], split=split, group=f"{split}/{youtube_id}"
    )


def _only(manifest: Manifest, names: tuple[str, ...]) -> Manifest:
    before = manifest.class_names
    assert isinstance(before, tuple)
    labels = {before.index(name): i for i, name in enumerate(names)}
    records = [
        Record(r.id, r.path, label=labels[r.label], split=r.split, group=r.group)
        for r in manifest
        if isinstance(r.label, int) and r.label in labels
    ]
    return Manifest(tuple(records), names, manifest.root)


def _draw(manifest: Manifest, clips: int | None, seed: int) -> Manifest:
    """At most so many clips of each class, at random, in the list's order."""
    if clips is None:
        return manifest
    ids: dict[int, list[str]] = defaultdict(list)
    for r in manifest:
        if isinstance(r.label, int):
            ids[r.label].append(r.id)
    taken: set[str] = set()
    for label, own in ids.items():
        own.sort()
        order = np.random.default_rng((seed, label)).permutation(len(own))
        taken |= {own[i] for i in order[:clips]}
    return manifest.with_records(r for r in manifest if r.id in taken)
