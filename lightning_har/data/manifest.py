"""A data set as a list of records, and the checks that stop a bad one before training.

A CSV needs only the columns ``path,label`` (or ``path`` and one column per head); it may have ``id, start, stop,
split, group, num_frames, fps``. Paths are relative to the CSV's folder.
"""

from __future__ import annotations

import csv
import hashlib
import os
import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from lightning_har.errors import DataError
from lightning_har.types import ClassNames, NumClasses

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ts", ".mts"}
    | {".ogv", ".vob", ".asf", ".mxf", ".divx"}
)

_N = TypeVar("_N", int, float)
_SHOWN = 3


@dataclass(frozen=True)
class Record:
    """A clip: a file, or a stretch of one.

    Attributes:
        id: Unique in its manifest.
        path: Of the file, relative to the manifest's root, with "/" between folders.
        start: First frame of the stretch; None is the file's first.
        stop: Frame after its last; None is the file's end.
        label: Index of the class, such an index per head, or None where unknown.
        split: Whatever the annotation says: "train", "val", "test", or the number of a fold.
        group: Clips of one group (one actor, one source video) never go to two splits. None is a group of its own.
        num_frames: Of the whole file; None where not counted yet.
        fps: Frames per second of the file; None where unknown.
    """

    id: str
    path: str
    start: int | None = None
    stop: int | None = None
    label: int | Mapping[str, int] | None = None
    split: str | None = None
    group: str | None = None
    num_frames: int | None = None
    fps: float | None = None


def same_classes(a: ClassNames | None, b: ClassNames | None) -> bool:
    """Whether two sets of classes have the same names, in whatever order, by head where there are heads."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_classes(a[head], b[head]) for head in a)
    if a is None or b is None or isinstance(a, dict) or isinstance(b, dict):
        return False
    return sorted(a) == sorted(b)


@dataclass(frozen=True)
class Manifest:
    """Records, the names of their classes, and the folder that their paths start from."""

    records: tuple[Record, ...]
    class_names: ClassNames | None
    root: Path

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]

    @property
    def num_classes(self) -> NumClasses | None:
        """Classes of the only head, or of each head; None for a manifest without labels."""
        if self.class_names is None:
            return None
        if isinstance(self.class_names, dict):
            return {head: len(names) for head, names in self.class_names.items()}
        return len(self.class_names)

    def file(self, record: Record) -> Path:
        """Where the record's file lies."""
        return self.root / record.path

    def with_records(self, records: Iterable[Record]) -> Manifest:
        """The same classes and root with other records."""
        return replace(self, records=tuple(records))

    def with_class_order(self, names: ClassNames) -> Manifest:
        """The same records and classes, the classes counted in the order of ``names``.

        Raises:
            DataError: These are not the same classes.
        """
        if not same_classes(self.class_names, names):
            raise DataError("only the same classes can be put in another order")
        if self.class_names == names:
            return self
        ours = self.class_names if isinstance(self.class_names, dict) else {"": self.class_names or ()}
        theirs = names if isinstance(names, dict) else {"": names}
        new = {head: [theirs[head].index(name) for name in ours[head]] for head in ours}

        def moved(record: Record) -> Record:
            if record.label is None:
                return record
            if isinstance(record.label, Mapping):
                return replace(record, label={head: new[head][k] for head, k in record.label.items()})
            return replace(record, label=new[""][record.label])

        return replace(self, records=tuple(moved(r) for r in self.records), class_names=names)

    def by_split(self) -> dict[str, Manifest]:
        """One manifest for each value of ``split``; records without one are left out."""
        parts: dict[str, list[Record]] = defaultdict(list)
        for record in self.records:
            if record.split is not None:
                parts[record.split].append(record)
        return {split: self.with_records(records) for split, records in parts.items()}

    def sha256(self) -> str:
        """Digest of the sorted list of paths, stretches and class names: the same on every machine."""
        lines = sorted(
            f"{record.path}\t{_text(record.start)}\t{_text(record.stop)}\t{self._label_text(record)}\n"
            for record in self.records
        )
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def label_names(self, record: Record) -> dict[str, str]:
        """Class name by column: ``{"label": ...}``, or by head; "" where the label is unknown."""
        names = self.class_names
        if names is None or record.label is None:
            return {"label": "" if record.label is None else str(record.label)}
        if isinstance(names, dict):
            labels = record.label if isinstance(record.label, Mapping) else {}
            return {head: names[head][labels[head]] if head in labels else "" for head in names}
        if isinstance(record.label, Mapping):
            raise DataError(f"{record.id}: has labels by head, but the manifest has one list of class names")
        return {"label": names[record.label]}

    def _label_text(self, record: Record) -> str:
        return "\t".join(self.label_names(record).values())

    def missing_files(self) -> list[str]:
        """Paths that do not exist, in the order of the records and each once."""
        return [path for path in dict.fromkeys(r.path for r in self.records) if not (self.root / path).exists()]

    def to_csv(self, path: str | Path) -> None:
        """Write the CSV that ``from_csv`` reads."""
        heads = list(self.class_names) if isinstance(self.class_names, dict) else ["label"]
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["id", "path", *heads, "start", "stop", "split", "group", "num_frames", "fps"])
            for r in self.records:
                names = self.label_names(r)
                rest = (r.start, r.stop, r.split, r.group, r.num_frames, r.fps)
                writer.writerow([r.id, r.path, *(names.get(h, "") for h in heads), *map(_text, rest)])

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        *,
        heads: Sequence[str] | None = None,
        class_names: ClassNames | None = None,
        split_column: str = "split",
    ) -> Manifest:
        """Read a CSV with ``path`` and ``label`` (or one column per head), and any of the record's other fields.

        Args:
            path: The CSV, whose paths start from its folder; UTF-8, with or without a byte order mark, any line ends.
            heads: Columns with the labels of several heads.
            class_names: In label order; None takes the names that occur, sorted (as numbers if all are).
                Where given, a label may also be an index into them.
            split_column: Read ``split`` from another column, such as "fold".

        Raises:
            DataError: A missing or empty file, a missing column, an unknown label, a number that is none, a path
                that leaves the root, an id that occurs twice. Names the first offenders and their count.
        """
        path = Path(path)
        rows = read_rows(path, ["path", *(heads or ["label"])])
        columns = tuple(heads or ("label",))
        names = _names_of(path, rows, columns, class_names, single=heads is None)
        problems: list[str] = []
        records = []
        for number, row in enumerate(rows, start=2):
            try:
                records.append(_record(row, columns, names, path.parent, split_column, single=heads is None))
            except ValueError as error:
                problems.append(f"line {number}: {error}")
        raise_if(problems, f"{path}: {{count}} of {len(rows)} rows cannot be used")
        found: ClassNames = names["label"] if heads is None else {h: names[h] for h in columns}
        return cls(unique_ids(records, str(path)), found, path.parent)

    @classmethod
    def from_files(cls, files: Iterable[str | Path], *, class_names: ClassNames | None = None) -> Manifest:
        """Files without labels, for prediction; their paths stay as given.

        Raises:
            DataError: No file, or files that do not exist.
        """
        paths = [str(file) for file in files]
        if not paths:
            raise DataError("no files to predict: the list is empty")
        # A path is its own id here: users give the same stem with several suffixes, and repeat files.
        counts: Counter[str] = Counter()
        records = []
        for path in paths:
            counts[path] += 1
            records.append(Record(path if counts[path] == 1 else f"{path}#{counts[path]}", path))
        manifest = cls(tuple(records), class_names, Path())
        raise_if(manifest.missing_files(), "{count} of the files to predict do not exist")
        return manifest


def raise_if(offenders: Sequence[str], message: str, remedy: str = "") -> None:
    """Raise a DataError that names the first offenders; ``{count}`` in the message is their number."""
    if offenders:
        shown = "; ".join(offenders[:_SHOWN]) + ("; ..." if len(offenders) > _SHOWN else "")
        text = f"{message.replace('{count}', str(len(offenders)))}: {shown}"
        raise DataError(f"{text}. {remedy}" if remedy else text)


def unique_ids(records: Sequence[Record], source: str) -> tuple[Record, ...]:
    """Fill empty ids with the path less its suffix (kept where two files differ only by it) and the stretch.

    Raises:
        DataError: An id occurs twice.
    """
    files = {r.path for r in records}
    stems = Counter(posixpath.splitext(path)[0] for path in files)
    done = []
    for r in records:
        if not r.id:
            stem = posixpath.splitext(r.path)[0]
            name = stem if stems[stem] == 1 else r.path
            cut = "" if r.start is None and r.stop is None else f":{_text(r.start)}-{_text(r.stop)}"
            r = replace(r, id=name + cut)
        done.append(r)
    splits: dict[str, list[str]] = defaultdict(list)
    for r in done:
        splits[r.id].append(r.split or "")
    # A clip that is in two splits may have been listed so by mistake: then they are named too.
    twice = [
        f"{name} (in {' and '.join(dict.fromkeys(found))})" if len(set(found)) > 1 else name
        for name, found in splits.items()
        if len(found) > 1
    ]
    raise_if(twice, f"{source}: {{count}} ids occur more than once", "Remove the repeated rows.")
    return tuple(done)


def check_manifests(manifests: Mapping[str, Manifest]) -> None:
    """What must hold before training.

    Raises:
        DataError: An empty split, a file that does not exist, a file or group in two splits, splits whose classes
            differ. Names the first offenders and their count.
    """
    names = {split: m.class_names for split, m in manifests.items() if m.class_names is not None}
    first = next(iter(names), None)
    for split, manifest in manifests.items():
        if not len(manifest):
            raise DataError(f"the {split} split of {manifest.root} has no videos")
        if first is not None and names.get(split, names[first]) != names[first]:
            raise DataError(f"the {first} and {split} splits of {manifest.root} have different class names")
        raise_if(
            manifest.missing_files(),
            f"{{count}} files of the {split} split are not in {manifest.root.absolute()}",
            "Correct the paths; those in a CSV start from the folder that it lies in.",
        )
    splits = [s for s in manifests if s != "predict"]
    where: dict[tuple[str, str], str] = {}
    shared = []
    for split in splits:
        manifest = manifests[split]
        keys = [("file", os.path.normpath(manifest.file(r)), r.path) for r in manifest]
        keys += [("group", f"{manifest.root}\0{r.group}", r.group) for r in manifest if r.group is not None]
        for kind, key, shown in dict.fromkeys(keys):
            if where.setdefault((kind, key), split) != split:
                shared.append(f"{kind} {shown} in {where[kind, key]} and {split}")
    raise_if(shared, "{count} files or groups are in two splits", "A score would count what was trained on.")


def _text(value: object) -> str:
    return "" if value is None else str(value)


def read_rows(path: Path, required: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV, by column name; cells stripped, empty lines left out. UTF-8, any line ends, a BOM or none.

    Raises:
        DataError: No such file, no CSV, no rows, or a required column is missing.
    """
    if not path.is_file():
        raise DataError(f"{path.absolute()} does not exist; give the path of a CSV file")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            header = [(name or "").strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            missing = [name for name in required if name not in header]
            if missing:
                raise DataError(
                    f"{path}: has no column {', '.join(missing)}; its columns are {', '.join(header) or 'none'}. "
                    "The first line names the columns: at least path and label."
                )
            rows = [{k: (v or "").strip() for k, v in r.items() if isinstance(k, str)} for r in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is not a CSV file in UTF-8: {error}") from error
    rows = [row for row in rows if any(row.values())]
    if not rows:
        raise DataError(f"{path}: has no rows below its header")
    return rows


def _names_of(
    path: Path, rows: list[dict[str, str]], columns: tuple[str, ...], given: ClassNames | None, *, single: bool
) -> dict[str, tuple[str, ...]]:
    if given is not None:
        if isinstance(given, dict) == single or (isinstance(given, dict) and not set(columns) <= set(given)):
            raise DataError(f"{path}: class_names must be {'one list' if single else f'a list per head {columns}'}")
        return {c: tuple(given[c]) for c in columns} if isinstance(given, dict) else {"label": tuple(given)}
    return {c: sort_names({row[c] for row in rows} - {""}) for c in columns}


def sort_names(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in label order: by number if all are whole numbers, else by code point."""
    found = set(names)
    if all(name.isascii() and name.isdigit() for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def _record(
    row: Mapping[str, str],
    columns: tuple[str, ...],
    names: Mapping[str, tuple[str, ...]],
    root: Path,
    split_column: str,
    *,
    single: bool,
) -> Record:
    labels = {}
    for column in columns:
        text = row[column]
        if not text:
            raise ValueError(f"{row['path']} has no {column}")
        if text in names[column]:
            labels[column] = names[column].index(text)
        elif text.isascii() and text.isdigit() and int(text) < len(names[column]):
            labels[column] = int(text)
        else:
            raise ValueError(f"unknown {column} {text!r}")
    start, stop = (_number(row, key, int) for key in ("start", "stop"))
    if (start or 0) < 0 or (stop is not None and stop <= (start or 0)):
        raise ValueError(f"{row['path']} has an empty stretch, frames {start} to {stop}")
    frames = _number(row, "num_frames", int)
    if frames is not None and frames < 1:
        raise ValueError(f"num_frames is {frames}")
    return Record(
        id=row.get("id", ""),
        path=inside_root(row["path"], root),
        start=start,
        stop=stop,
        label=labels["label"] if single else labels,
        split=row.get(split_column) or None,
        group=row.get("group") or None,
        num_frames=frames,
        fps=_number(row, "fps", float),
    )


def _number(row: Mapping[str, str], key: str, kind: Callable[[str], _N]) -> _N | None:
    text = row.get(key, "")
    if not text:
        return None
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{key} is {text!r}, not a number") from None


def inside_root(text: str, root: Path) -> str:
    """A path relative to the root, with "/" between folders.

    Raises:
        ValueError: It is empty, or leaves the root.
    """
    if not text:
        raise ValueError("no path")
    path = text.replace("\\", "/") if os.sep == "\\" else text
    if os.path.isabs(path):
        path = os.path.relpath(path, root.absolute())
    path = posixpath.normpath(Path(path).as_posix())
    if path == ".." or path.startswith("../") or "\0" in path:
        raise ValueError(f"{text} leaves the root {root.absolute()}; put files below it (of a CSV, its own folder)")
    return path
