"""HMDB51 (Kuehne et al., ICCV 2011): 6,766 clips of 51 actions, three official splits in 153 files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from lightning_har.data.datamodule import ActionDataModule
from lightning_har.data.fake import write_fake_video
from lightning_har.data.manifest import Manifest, Record, inside_root, raise_if, unique_ids
from lightning_har.data.official import Archive, Source, first_present, read_lines, require_files
from lightning_har.errors import ConfigError, DataError

_SERVER = "http://serre-lab.clps.brown.edu/wp-content/uploads/2013/10"

SOURCE = Source(
    name="hmdb51",
    title="HMDB51",
    page="https://serre.lab.brown.edu/hmdb51.html",
    size="6,766 clips, 2.1 GB as a .rar of .rar files",
    terms="CC BY 4.0; the clips were taken from films and the web",
    layout=(
        "DIR/hmdb51_org/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi ...",
        "DIR/testTrainMulti_7030_splits/brush_hair_test_split1.txt ... (153 files)",
    ),
    archives=(
        Archive(f"{_SERVER}/hmdb51_org.rar", "hmdb51_org.rar"),
        Archive(f"{_SERVER}/test_train_splits.rar", "test_train_splits.rar"),
    ),
)
"""Licence from the authors' page, size from GluonCV's documentation. The archives' address is the one that public code
has used since 2013; FiftyOne found it gone in November 2025 (its pull request 6528). ``page`` is the authors' new one.
"""

CLASSES = (
    "brush_hair", "cartwheel", "catch", "chew", "clap", "climb", "climb_stairs", "dive", "draw_sword", "dribble",
    "drink", "eat", "fall_floor", "fencing", "flic_flac", "golf", "handstand", "hit", "hug", "jump", "kick",
    "kick_ball", "kiss", "laugh", "pick", "pour", "pullup", "punch", "push", "pushup", "ride_bike", "ride_horse",
    "run", "shake_hands", "shoot_ball", "shoot_bow", "shoot_gun", "sit", "situp", "smile", "smoke", "somersault",
    "stand", "swing_baseball", "sword", "sword_exercise", "talk", "throw", "turn", "walk", "wave",
)  # fmt: skip
_CODES = {"1": "train", "2": "test", "0": None}


class HMDB51DataModule(ActionDataModule):
    """HMDB51 with its official splits: 70 training and 30 test clips of each class.

    The validation part is taken from the training clips so that clips of one source (what stands before the action
    in a file's name) stay together.

    Args:
        root: Folder with ``hmdb51_org`` (or the class folders themselves) and ``testTrainMulti_7030_splits``.
        split: Which of the three official splits.
        annotations: Folder of the split files, where it is not in root.
        **kwargs: ``ActionDataModule``'s.

    Raises:
        DataError: On first use: videos or lists are missing (the message tells where they come from), or damaged.
    """

    source = SOURCE

    def __init__(
        self, root: str | Path, *, split: Literal[1, 2, 3] = 1, annotations: str | Path | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if split not in (1, 2, 3):
            raise ConfigError(f"split is {split!r}; HMDB51 has splits 1, 2 and 3")
        self.root = Path(root)
        self.fold = str(split)
        self.annotations = None if annotations is None else Path(annotations)

    def load_manifests(self) -> dict[str, Manifest]:
        """The split's training and test clips."""
        names = ["testTrainMulti_7030_splits", "test_train_splits"]
        lists = self.annotations or first_present(self.root, names, SOURCE, "split lists")
        videos = self.root / "hmdb51_org" if (self.root / "hmdb51_org").is_dir() else self.root
        found = read_hmdb51(lists, videos, int(self.fold))
        for part, manifest in found.items():
            require_files(manifest, SOURCE, part)
        return found

    @classmethod
    def fake(cls, root: Path) -> None:
        """Write a tiny HMDB51: four clips of each class, whose codes 1, 1, 2, 0 change places between the splits."""
        lists = root / "testTrainMulti_7030_splits"
        lists.mkdir(parents=True, exist_ok=True)
        for k, name in enumerate(CLASSES):
            clips = [f"film{i}_{name}_f_nm_np1_fr_med_0.avi" for i in range(4)]
            for i, clip in enumerate(clips):
                write_fake_video(root / "hmdb51_org" / name / clip, seed=4 * k + i, num_frames=8, size=(32, 40))
            for split in (1, 2, 3):
                codes = ("1120", "1201", "2011")[split - 1]
                lines = [f"{clip} {code} \n" for clip, code in zip(clips, codes, strict=True)]
                (lists / f"{name}_test_split{split}.txt").write_text("".join(lines))

    @classmethod
    def smoke_arguments(cls, folder: Path) -> dict[str, Any]:
        """Arguments for a tiny fake data set, written below folder."""
        cls.fake(folder / "hmdb51")
        return {"root": str(folder / "hmdb51"), "annotations": None, "batch_size": 2, "num_workers": 0}


def read_hmdb51(lists: Path, videos: Path, split: int) -> dict[str, Manifest]:
    """The "train" (code 1) and "test" (code 2) records of an official split; code 0 is in neither.

    Args:
        lists: Folder of ``<class>_test_split<n>.txt``, one per class and split, 153 in all.
        videos: Folder of the class folders.
        split: 1, 2 or 3.

    Raises:
        DataError: Split files are missing or have lines that cannot be used; names the first and their count.
    """
    if not lists.is_dir():
        raise SOURCE.absent(f"{lists.absolute()} is not a folder.")
    missing = [f"{c}_test_split{n}.txt" for n in (1, 2, 3) for c in CLASSES]
    missing = [name for name in missing if not (lists / name).is_file()]
    raise_if(missing, f"{{count}} of the 153 split files are not in {lists.absolute()}")
    parts: dict[str, list[Record]] = {"train": [], "test": []}
    problems: list[str] = []
    for label, name in enumerate(CLASSES):
        path = lists / f"{name}_test_split{split}.txt"
        for number, line in read_lines(path):
            try:
                record = _record(line, label, videos)
            except ValueError as error:
                problems.append(f"{path.name}, line {number}: {error}")
                continue
            if record.split is not None:
                parts[record.split].append(record)
    raise_if(problems, f"{lists}: {{count}} lines cannot be used")
    for part, records in parts.items():
        if not records:
            raise DataError(f"{lists}: split {split} has no {part} clips")
    return {part: Manifest(unique_ids(records, str(lists)), CLASSES, videos) for part, records in parts.items()}


def _record(line: str, label: int, videos: Path) -> Record:
    file, _, code = line.rpartition(" ")
    file = file.strip()
    if not file or code not in _CODES:
        raise ValueError(f"{line!r} does not end in 1 (train), 2 (test) or 0 (neither)")
    if "/" in file or "\\" in file:
        raise ValueError(f"{file!r} is not a file's name")
    name, part = CLASSES[label], _CODES[code]
    # Films lend clips to both official parts, so a source is a group only within its part.
    group = f"{part}/{file.split(f'_{name}_')[0]}"
    return Record("", inside_root(f"{name}/{file}", videos), label=label, split=part, group=group)
