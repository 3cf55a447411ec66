"""Your own clips: a folder per class, or a CSV."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_har.data.datamodule import ActionDataModule
from lightning_har.data.dataset import Opener
from lightning_har.data.manifest import VIDEO_SUFFIXES, Manifest, Record, raise_if, sort_names, unique_ids
from lightning_har.data.splits import split_by_fold, split_by_group
from lightning_har.errors import ConfigError, DataError
from lightning_har.types import ClassNames

_LAYOUT = """
  your own clips: a folder with a folder of clips per class, or a CSV with the columns path,label
  layout:
    DIR/wave/one.mp4 ...
    DIR/clap/two.mp4 ...
    or, where you have split them: DIR/train/wave/one.mp4 ..., DIR/val/wave/..., DIR/test/wave/...
    or CLIPS.csv: its first line is path,label; the others are like wave/one.mp4,wave, from the CSV's folder
  to try things out: lightning-har data fake folder DIR"""


class OwnClips:
    """What ``official.Source`` is to a data set that has a publisher."""

    def absent(self, what: str) -> DataError:
        """The error for clips that are not there; ``what`` is missing."""
        return DataError(f"{what}{_LAYOUT}")


_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class VideoFolderDataModule(ActionDataModule):
    """Clips from ``root/<class>/*``, from ``root/{train,val,test}/<class>/*``, or from a CSV.

    What is not split is split here: ``test_fraction`` for testing and ``val_fraction`` of the rest for validation,
    by the CSV's groups and stratified by class (``splits.split_by_group``). Class names come from the data.

    Args:
        root: A folder, or a CSV with ``path,label`` and perhaps ``split``, ``group``, ``fold`` and more
            (``Manifest.from_csv``).
        fold: Of a CSV with a column ``fold``: the fold to test on; the others are for training.
        test_fraction: Share of the clips to test on where the data names no test split; 0 for none.
        **kwargs: ``ActionDataModule``'s.

    Raises:
        DataError: On first use: a missing or empty folder, a class that cannot be split, a bad CSV.
    """

    source = OwnClips()

    def __init__(
        self, root: str | Path, *, fold: str | int | None = None, test_fraction: float = 0.2, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= test_fraction < 1:
            raise ConfigError(f"test_fraction is {test_fraction}; it must be at least 0 and less than 1")
        self.root = Path(root)
        self.fold = None if fold is None else str(fold)
        self.test_fraction = test_fraction

    @staticmethod
    def smoke_arguments(folder: Path) -> dict[str, Any]:
        """Arguments for a recipe's ``--smoke``: a CSV of a few rendered clips, written into ``folder``."""
        from lightning_har.data.synthetic import generate

        root = generate(folder, clips_per_class=(2, 1, 1), size=64)
        return {"root": str(root), "fold": None, "batch_size": 2, "num_workers": 0}

    def all_clips(self) -> Manifest:
        """The clips of the folder or CSV, not split and not checked."""
        return Manifest.from_csv(self.root) if self._is_csv else scan_folder(self.root)

    @property
    def _is_csv(self) -> bool:
        return self.root.suffix.lower() == ".csv"

    def load_manifests(self) -> dict[str, Manifest]:
        """Read the folder or CSV, and split what is not split."""
        if self.fold is not None:
            if not self._is_csv:
                raise ConfigError(f"fold={self.fold} needs a CSV with a column fold; {self.root} is a folder")
            folds = Manifest.from_csv(self.root, split_column="fold")
            _check_splittable(folds, self.root)
            return split_by_fold(folds, self.fold, self.root)
        manifest = self.all_clips()
        unknown = sorted({r.split for r in manifest if r.split and r.split not in _SPLITS})
        raise_if(unknown, f"{self.root}: {{count}} unknown splits", "They must be train, val or test.")
        parts: dict[str, list[Record]] = {}
        for record in manifest:
            parts.setdefault(_SPLITS.get(record.split or "", "train"), []).append(record)
        train = parts.get("train", [])
        if train and not ("val" in parts and "test" in parts):
            _check_splittable(manifest.with_records(train), self.root)
        if "test" not in parts and train and self.test_fraction:
            parts["train"], parts["test"] = split_by_group(train, self.test_fraction, self.seed)
        _check_trained(manifest, parts, self.root)
        return {split: manifest.with_records(records) for split, records in parts.items()}


class VideoFilesDataModule(ActionDataModule):
    """Files without labels, to predict.

    Args:
        files: Their paths.
        class_names: Of the model that will predict.
        **kwargs: ``ActionDataModule``'s.
    """

    def __init__(self, files: Iterable[str | Path], *, class_names: ClassNames | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.files = [str(file) for file in files]
        self._names = class_names

    def load_manifests(self) -> dict[str, Manifest]:
        """The files, as the "predict" records."""
        return {"predict": Manifest.from_files(self.files, class_names=self._names)}

    def opener(self, manifest: Manifest, modality: str) -> Opener:
        """What opens a file's frames, or a frame folder's.

        Raises:
            ConfigError: Flow is wanted, and nothing says where that of a mere file is stored.
        """
        if modality == "flow" and self.flow_root is None and not all(Path(file).is_dir() for file in self.files):
            raise ConfigError(
                "the model takes optical flow, and a file by itself has none. Score the model on a data set: "
                "lightning-har data flow DATA --out DIR, then lightning-har test MODEL --data DATA --flow-root DIR"
            )
        return super().opener(manifest, modality)


def scan_folder(root: str | Path) -> Manifest:
    """The video files of ``root/<class>/**`` or ``root/<split>/<class>/**``, in the order of their paths.

    Hidden files and files that are no videos by their suffix are passed over, folders of frame pictures too.

    Raises:
        DataError: No such folder, no class folders, or class folders without a video.
    """
    root = Path(root)
    if not root.is_dir():
        raise VideoFolderDataModule.source.absent(f"{root.absolute()} is not a folder.")
    folders = sorted(d.name for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))
    has_splits = bool(folders) and all(name in _SPLITS for name in folders) and "train" in map(_SPLITS.get, folders)
    places = [(f, s) for s in folders for f in _subfolders(root / s)] if has_splits else [(f, None) for f in folders]
    if not places:
        raise VideoFolderDataModule.source.absent(f"{root.absolute()} has no folders.")
    names = sort_names(name for name, _ in places)
    records, empty = [], []
    for name, split in places:
        folder = root / split / name if split else root / name
        files = videos_in(folder)
        if not files:
            empty.append(str(folder.relative_to(root)))
        label = names.index(name)
        records += [
            Record("", file.relative_to(root).as_posix(), label=label, split=_SPLITS.get(split or "")) for file in files
        ]
    raise_if(
        empty,
        f"{{count}} class folders of {root.absolute()} have no videos",
        f"Known suffixes: {' '.join(sorted(VIDEO_SUFFIXES))}. Folders of frame pictures are named by a CSV.",
    )
    return Manifest(unique_ids(records, str(root)), names, root)


def videos_in(folder: str | Path) -> list[Path]:
    """Video files below a folder, by their suffix, sorted."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(place, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES
        ]
    return sorted(found)


def _subfolders(folder: Path) -> list[str]:
    return sorted(d.name for d in folder.iterdir() if d.is_dir() and not d.name.startswith("."))


def _check_trained(manifest: Manifest, parts: Mapping[str, Sequence[Record]], source: Path) -> None:
    if "train" not in parts:
        return
    seen = {"/".join(manifest.label_names(record).values()) for record in parts["train"]}
    unknown: dict[str, str] = {}
    for split in ("val", "test"):
        for record in parts.get(split, ()):
            name = "/".join(manifest.label_names(record).values())
            if name not in seen:
                unknown.setdefault(name, f"{name} ({split}, {record.path})")
    raise_if(
        list(unknown.values()),
        f"{{count}} labels of {source} have no clip to train on",
        "Correct the label, or add clips of it to the training split.",
    )


def _check_splittable(manifest: Manifest, source: Path) -> None:
    counts: dict[str, int] = {}
    for record in manifest:
        name = "/".join(manifest.label_names(record).values())
        counts[name] = counts.get(name, 0) + 1
    raise_if(
        [name for name, count in counts.items() if count < 2],
        f"{{count}} classes of {source} have a single clip, which cannot be both trained and tested on",
        "Add clips, remove the class, or give the splits yourself.",
    )
