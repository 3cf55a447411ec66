"""UCF101 (Soomro, Zamir and Shah, CRCV-TR-12-01, 2012): 13,320 clips of 101 actions, three official splits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from lightning_har.data.datamodule import ActionDataModule
from lightning_har.data.fake import write_fake_video
from lightning_har.data.manifest import Manifest, Record, inside_root, raise_if, unique_ids
from lightning_har.data.official import Archive, Source, first_present, read_class_list, read_lines, require_files
from lightning_har.errors import ConfigError, DataError

SOURCE = Source(
    name="ucf101",
    title="UCF101",
    page="https://www.crcv.ucf.edu/research/data-sets/ucf101/",
    size="13,320 clips, 6.5 GB as a .rar",
    terms="none stated; the clips were taken from YouTube, for research",
    layout=(
        "DIR/UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi ...",
        "DIR/ucfTrainTestlist/classInd.txt, trainlist01.txt, testlist01.txt ... 03.txt",
    ),
    archives=(
        Archive("https://www.crcv.ucf.edu/data/UCF101/UCF101.rar", "UCF101.rar"),
        Archive(
            "https://www.crcv.ucf.edu/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip",
            "UCF101TrainTestSplits-RecognitionTask.zip",
            "5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
        ),
    ),
)
"""Size from FiftyOne's data set zoo (6.48 GB); the digest of the lists from the copies on the Hugging Face Hub. Neither
the report nor tensorflow_datasets knows a licence.
"""

ACTION_TYPES: dict[str, tuple[str, ...]] = {
    "Human-Object Interaction": (
        "ApplyEyeMakeup", "ApplyLipstick", "BlowDryHair", "BrushingTeeth", "CuttingInKitchen", "Hammering",
        "HulaHoop", "JugglingBalls", "JumpRope", "Knitting", "Mixing", "MoppingFloor", "Nunchucks", "PizzaTossing",
        "ShavingBeard", "SkateBoarding", "SoccerJuggling", "Typing", "WritingOnBoard", "YoYo",
    ),
    "Body-Motion Only": (
        "BabyCrawling", "BlowingCandles", "BodyWeightSquats", "HandstandPushups", "HandstandWalking", "JumpingJack",
        "Lunges", "PullUps", "PushUps", "RockClimbingIndoor", "RopeClimbing", "Swing", "TaiChi",
        "TrampolineJumping", "WalkingWithDog", "WallPushups",
    ),
    "Human-Human Interaction": ("BandMarching", "Haircut", "HeadMassage", "MilitaryParade", "SalsaSpin"),
    "Playing Musical Instruments": (
        "Drumming", "PlayingCello", "PlayingDaf", "PlayingDhol", "PlayingFlute", "PlayingGuitar", "PlayingPiano",
        "PlayingSitar", "PlayingTabla", "PlayingViolin",
    ),
    "Sports": (
        "Archery", "BalanceBeam", "BaseballPitch", "Basketball", "BasketballDunk", "BenchPress", "Biking",
        "Billiards", "Bowling", "BoxingPunchingBag", "BoxingSpeedBag", "BreastStroke", "CleanAndJerk",
        "CliffDiving", "CricketBowling", "CricketShot", "Diving", "Fencing", "FieldHockeyPenalty",
        "FloorGymnastics", "FrisbeeCatch", "FrontCrawl", "GolfSwing", "HammerThrow", "HighJump", "HorseRace",
        "HorseRiding", "IceDancing", "JavelinThrow", "Kayaking", "LongJump", "ParallelBars", "PoleVault",
        "PommelHorse", "Punch", "Rafting", "Rowing", "Shotput", "Skiing", "Skijet", "SkyDiving", "SoccerPenalty",
        "StillRings", "SumoWrestling", "Surfing", "TableTennisShot", "TennisSwing", "ThrowDiscus", "UnevenBars",
        "VolleyballSpiking",
    ),
}  # fmt: skip
"""The report's five types of action, each with its classes by their names in classInd.txt.

The report says which class is of which type by the colour of a frame in its figure 2 only. These lists are that figure
as two independent public evaluations by type wrote it out; the two agree on all 101 classes.
"""

_GROUP = re.compile(r"_g(\d+)_c\d+$", re.ASCII)
_FAKE_CLASSES = ("ApplyEyeMakeup", "BabyCrawling", "PlayingCello")


class UCF101DataModule(ActionDataModule):
    """UCF101 with its official splits.

    A group is a class's gXX: clips cut from one video. The official lists keep groups whole, and so does the
    validation part, which is taken from the training list.

    Args:
        root: Folder with ``UCF-101`` (or the class folders themselves) and ``ucfTrainTestlist``.
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
            raise ConfigError(f"split is {split!r}; UCF101 has splits 1, 2 and 3")
        self.root = Path(root)
        self.fold = str(split)
        self.annotations = None if annotations is None else Path(annotations)

    def load_manifests(self) -> dict[str, Manifest]:
        """The split's training and test lists."""
        lists = self.annotations or first_present(self.root, ["ucfTrainTestlist"], SOURCE, "split lists")
        videos = self.root / "UCF-101" if (self.root / "UCF-101").is_dir() else self.root
        found = read_ucf101(lists, videos, int(self.fold))
        for part, manifest in found.items():
            require_files(manifest, SOURCE, part)
        return found

    @classmethod
    def fake(cls, root: Path) -> None:
        """Write a tiny UCF101: all 101 class names, clips of three of them."""
        lists = root / "ucfTrainTestlist"
        lists.mkdir(parents=True, exist_ok=True)
        names = sorted(name for names in ACTION_TYPES.values() for name in names)
        (lists / "classInd.txt").write_text("".join(f"{i} {name}\r\n" for i, name in enumerate(names, start=1)))
        clips = [(name, f"v_{name}_g{g:02d}_c{c:02d}.avi") for name in _FAKE_CLASSES for g in (1, 8, 9) for c in (1, 2)]
        for i, (name, file) in enumerate(clips):
            write_fake_video(root / "UCF-101" / name / file, seed=i)
        for split, test_group in ((1, "_g01_"), (2, "_g08_"), (3, "_g09_")):
            train = [f"{n}/{f} {names.index(n) + 1}\r\n" for n, f in clips if test_group not in f]
            test = [f"{n}/{f}\r\n" for n, f in clips if test_group in f]
            (lists / f"trainlist{split:02d}.txt").write_text("".join(train))
            (lists / f"testlist{split:02d}.txt").write_text("".join(test))

    @classmethod
    def smoke_arguments(cls, folder: Path) -> dict[str, Any]:
        """Arguments for a tiny fake data set, written below folder."""
        cls.fake(folder / "ucf101")
        return {"root": str(folder / "ucf101"), "annotations": None, "batch_size": 2, "num_workers": 0}


def read_ucf101(lists: Path, videos: Path, split: int) -> dict[str, Manifest]:
    """The "train" and "test" records of an official split.

    Args:
        lists: Folder of classInd.txt, trainlist01.txt, testlist01.txt, ...
        videos: Folder that their paths start from.
        split: 1, 2 or 3.

    Raises:
        DataError: A list is missing or has lines that cannot be used; names the first and their count.
    """
    if not lists.is_dir():
        raise SOURCE.absent(f"{lists.absolute()} is not a folder.")
    names = read_class_list(lists / "classInd.txt")
    manifests = {}
    for part in ("train", "test"):
        path = lists / f"{part}list{split:02d}.txt"
        records, problems = [], []
        lines = read_lines(path)
        for number, line in lines:
            try:
                records.append(_record(line, names, videos, part))
            except ValueError as error:
                problems.append(f"line {number}: {error}")
        raise_if(problems, f"{path}: {{count}} of {len(lines)} lines cannot be used")
        manifests[part] = Manifest(unique_ids(records, str(path)), names, videos)
    return manifests


def action_type(class_name: str) -> str:
    """Which of the five types a class is of.

    Raises:
        DataError: UCF101 has no such class.
    """
    for kind, names in ACTION_TYPES.items():
        if class_name in names:
            return kind
    raise DataError(f"UCF101 has no class {class_name!r}")


def _record(line: str, names: tuple[str, ...], videos: Path, part: str) -> Record:
    text, _, number = line.rpartition(" ")
    if not (text and number.isascii() and number.isdigit()):
        text, number = line, ""
    path = inside_root(text.strip(), videos)
    folder, _, file = path.rpartition("/")
    name = folder.rpartition("/")[2]
    if name not in names:
        raise ValueError(f"{text} is in no class folder of classInd.txt")
    label = names.index(name)
    if number and int(number) != label + 1:
        raise ValueError(f"{text} has label {number}, but {name} is {label + 1} in classInd.txt")
    group = _GROUP.search(file.rpartition(".")[0])
    if group is None:
        raise ValueError(f"{text} is not named like v_{name}_g01_c01.avi")
    return Record("", path, label=label, split=part, group=f"{name}_g{group[1]}")
