"""MSR DailyActivity3D (Wang et al., CVPR 2012): 16 activities by 10 people, twice each, split by person."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lightning_har.data.datamodule import ActionDataModule
from lightning_har.data.fake import write_fake_video
from lightning_har.data.folder import videos_in
from lightning_har.data.manifest import Manifest, Record, raise_if, unique_ids
from lightning_har.data.official import Coverage, Source, report_coverage
from lightning_har.errors import ConfigError

SOURCE = Source(
    name="msr_daily",
    title="MSR DailyActivity3D",
    page="https://sites.google.com/view/wanqingli/data-sets/msr-dailyactivity3d",
    size="320 RGB clips",
    terms="for research; ask the authors",
    layout=("DIR/a01_s01_e01_rgb.avi ... a16_s10_e02_rgb.avi, in DIR or in folders below it",),
)
"""Address, counts and the order of the classes as several public repositories have them; nobody tells the size."""

CLASSES = (
    "drink", "eat", "read book", "call cellphone", "write on a paper", "use laptop", "use vacuum cleaner",
    "cheer up", "sit still", "toss paper", "play game", "lie down on sofa", "walk", "play guitar", "stand up",
    "sit down",
)  # fmt: skip
TEST_SUBJECTS = (2, 4, 6, 8, 10)
"""The cross-subject protocol: odd ones for training."""

_NAME = re.compile(r"a(\d{2})_s(\d{2})_e(\d{2})(?:_rgb)?", re.ASCII | re.IGNORECASE)


class MSRDailyActivityDataModule(ActionDataModule):
    """MSR DailyActivity3D, RGB, split by person.

    A group is a person, so the validation part is of people that neither training nor test sees.

    Args:
        root: Folder with the clips, in it or in folders below.
        test_subjects: People 1 to 10 to test on; the others are for training.
        **kwargs: ``ActionDataModule``'s.

    Attributes:
        coverage: After first use: clips of the 320 that are on disk, by split.

    Raises:
        DataError: On first use: no clips (the message tells where they come from), or wrong names.
    """

    source = SOURCE

    def __init__(self, root: str | Path, *, test_subjects: Collection[int] = TEST_SUBJECTS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not set(test_subjects) < set(range(1, 11)) or not test_subjects:
            raise ConfigError(f"test_subjects is {sorted(test_subjects)}; they must be some, not all, of 1 to 10")
        self.root = Path(root)
        self.test_subjects = tuple(sorted(test_subjects))

    def load_manifests(self) -> dict[str, Manifest]:
        """The clips on disk, by person."""
        found = read_msr_daily(self.root, self.test_subjects)
        people = {"train": 10 - len(self.test_subjects), "test": len(self.test_subjects)}
        self.coverage = {s: Coverage(listed=n * 32, on_disk=len(found[s])) for s, n in people.items()}
        report_coverage(SOURCE.title, self.coverage)
        return found

    @classmethod
    def fake(cls, root: Path) -> None:
        """Write a tiny MSR DailyActivity3D: four people, one clip of each activity."""
        for a in range(1, 17):
            for s in (1, 2, 3, 4):
                write_fake_video(root / f"a{a:02d}_s{s:02d}_e01_rgb.avi", seed=10 * a + s, num_frames=8, size=(32, 40))

    @classmethod
    def smoke_arguments(cls, folder: Path) -> dict[str, Any]:
        """Arguments for a tiny fake data set, written below folder."""
        cls.fake(folder / "msr_daily")
        return {"root": str(folder / "msr_daily"), "batch_size": 2, "num_workers": 0}


def read_msr_daily(root: Path, test_subjects: Collection[int] = TEST_SUBJECTS) -> dict[str, Manifest]:
    """The "train" and "test" records of the clips below a folder. Depth videos and other files are passed over.

    Raises:
        DataError: No clips of either part; an activity or person that there is not.
    """
    if not root.is_dir():
        raise SOURCE.absent(f"{root.absolute()} is not a folder.")
    parts: dict[str, list[Record]] = {"train": [], "test": []}
    problems = []
    for file in videos_in(root):
        match = _NAME.fullmatch(file.stem)
        if match is None:
            continue
        action, subject, take = (int(number) for number in match.groups())
        if not (1 <= action <= 16 and 1 <= subject <= 10 and take >= 1):
            problems.append(file.name)
            continue
        part = "test" if subject in test_subjects else "train"
        path = file.relative_to(root).as_posix()
        parts[part].append(Record("", path, label=action - 1, split=part, group=f"s{subject:02d}"))
    raise_if(problems, f"{root}: {{count}} names are out of range", "There are a01 to a16 and s01 to s10.")
    for part, records in parts.items():
        if not records:
            raise SOURCE.absent(f"{root.absolute()} has no {part} clips named like a01_s01_e01_rgb.avi.")
    return {part: Manifest(unique_ids(records, str(root)), CLASSES, root) for part, records in parts.items()}
