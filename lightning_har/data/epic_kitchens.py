"""EPIC-KITCHENS-100 (Damen et al., IJCV 2022): actions as stretches of long egocentric videos, verb and noun.

``start_frame`` and ``stop_frame`` of its CSVs count the published frame pictures, at 60 per second (50 for the
videos added in 2020), from 1. The video files have rates of their own (59.94, 29.97, 47.95, 90), so their
stretches come from the timestamps and ``EPIC_100_video_info.csv``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning_har.data.datamodule import ActionDataModule
from lightning_har.data.decode import FrameSource
from lightning_har.data.fake import write_fake_video
from lightning_har.data.flow import open_flow
from lightning_har.data.manifest import Manifest, Record, raise_if, read_rows, unique_ids
from lightning_har.data.official import Source, first_present, keep_present
from lightning_har.errors import ConfigError, DataError
from lightning_har.types import ClassNames

SOURCE = Source(
    name="epic_kitchens",
    title="EPIC-KITCHENS-100",
    page="https://epic-kitchens.github.io/2024",
    size="700 videos, 100 hours; 1.25 TB as video; the frame pictures of the first 55 hours take 320 GB",
    terms="CC BY-NC 4.0: not for commercial purposes; videos come with the publisher's own download script",
    layout=(
        "DIR/epic-kitchens-100-annotations/EPIC_100_train.csv, EPIC_100_validation.csv, EPIC_100_verb_classes.csv,",
        "    EPIC_100_noun_classes.csv, and EPIC_100_video_info.csv for video files",
        "DIR/P01/rgb_frames/P01_01/frame_0000000001.jpg ..., DIR/P01/flow_frames/P01_01/u/ and v/",
        "or DIR/P01/videos/P01_01.MP4",
    ),
)
"""The videos' size is the total of a public mirror of all 700; that of the pictures is what the authors said of 2018's
part (epic-kitchens-55-annotations, issue 3). Licence and folders from the authors' repositories.
"""

Target = Literal["verb_noun", "verb", "noun", "verb_category", "action"]
_COLUMNS = ["narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp", "start_frame",
            "stop_frame", "verb_class", "noun_class"]  # fmt: skip
_TIME = re.compile(r"(\d{1,3}):(\d{1,2}):(\d{1,2}(?:\.\d+)?)", re.ASCII)
_FAKE_VERBS = (("take", "retrieve"), ("put", "leave"), ("wash", "clean"), ("open", "access"))
_FAKE_NOUNS = ("tap", "spoon", "plate", "cupboard", "knife")


class EpicKitchensDataModule(ActionDataModule):
    """EPIC-KITCHENS-100, or the part of it that is on disk.

    The test labels are not published and scores are reported on the validation list: that is "test" here, and the
    validation part is taken from the training list, whole videos at a time.

    Args:
        root: Folder of the participants' folders and of ``epic-kitchens-100-annotations``.
        target: What is predicted. "verb_noun": two heads, 97 verbs and 300 nouns. "verb", "noun",
            "verb_category" (13, study C's first experiments): one. "action": the pairs of verb and noun that occur.
        annotations: Folder of the CSVs, where it is elsewhere.
        **kwargs: ``ActionDataModule``'s.

    Attributes:
        coverage: After first use: actions of the list and those whose video is on disk, by split.

    Raises:
        DataError: On first use: CSVs or all videos are missing (the message tells where they come from), or CSVs
            that are damaged.
    """

    source = SOURCE

    def __init__(
        self,
        root: str | Path,
        *,
        target: Target = "verb_noun",
        annotations: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if target not in ("verb_noun", "verb", "noun", "verb_category", "action"):
            raise ConfigError(f"target is {target!r}; it must be verb_noun, verb, noun, verb_category or action")
        self.root = Path(root)
        self.target = target
        self.annotations = None if annotations is None else Path(annotations)

    def load_manifests(self) -> dict[str, Manifest]:
        """The actions of the training and validation lists whose videos are on disk."""
        folders = ["epic-kitchens-100-annotations", "annotations", "EPIC_100_train.csv"]
        place = self.annotations or first_present(self.root, folders, SOURCE, "annotations")
        lists = place.parent if place.is_file() else place
        found = read_epic(
            lists, self.root, {"train": "EPIC_100_train.csv", "test": "EPIC_100_validation.csv"}, self.target
        )
        kept, self.coverage = keep_present(found, SOURCE)
        return kept

    def opener(self, manifest: Manifest, modality: str) -> Any:
        """As ``ActionDataModule.opener``; flow may lie in ``flow_frames`` beside ``rgb_frames``."""
        if modality == "flow" and self.flow_root is None and all("/rgb_frames/" in r.path for r in manifest):
            return _FlowFrames(manifest.root)
        return super().opener(manifest, modality)

    @classmethod
    def fake(cls, root: Path) -> None:
        """Write a tiny EPIC-KITCHENS-100: four videos of two people, a few actions each."""
        lists = root / "epic-kitchens-100-annotations"
        lists.mkdir(parents=True, exist_ok=True)
        verbs = [f"{i},{v},\"['{v}']\",{c}" for i, (v, c) in enumerate(_FAKE_VERBS)]
        nouns = [f"{i},{n},\"['{n}']\",kitchen" for i, n in enumerate(_FAKE_NOUNS)]
        (lists / "EPIC_100_verb_classes.csv").write_text("\n".join(["id,key,instances,category", *verbs]) + "\n")
        (lists / "EPIC_100_noun_classes.csv").write_text("\n".join(["id,key,instances,category", *nouns]) + "\n")
        videos = [("P01_01", "train"), ("P01_02", "train"), ("P02_03", "train"), ("P02_101", "validation")]
        info = ["video_id,duration,fps,resolution", *(f"{v},2.4,25.0,64x48" for v, _ in videos)]
        (lists / "EPIC_100_video_info.csv").write_text("\n".join(info) + "\n")
        header = (
            "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,"
            "stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
        )
        rows: dict[str, list[str]] = {"train": [header], "validation": [header]}
        for k, (video, split) in enumerate(videos):
            write_fake_video(root / video[:3] / "videos" / f"{video}.MP4", seed=k, num_frames=60)
            for i in range(4):
                v, n = (i + k) % 4, (2 * i + k) % 5
                verb, noun, start = _FAKE_VERBS[v][0], _FAKE_NOUNS[n], 0.5 * i
                rows[split].append(
                    f"{video}_{i},{video[:3]},{video},00:00:00.{i}00,00:00:{start:05.2f},00:00:{start + 0.8:05.2f},"
                    f"{int(start * 60) + 1},{int((start + 0.8) * 60)},{verb} {noun},{verb},{v},{noun},{n},"
                    f"['{noun}'],[{n}]"
                )
        for split, lines in rows.items():
            (lists / f"EPIC_100_{split}.csv").write_text("\n".join(lines) + "\n")

    @classmethod
    def smoke_arguments(cls, folder: Path) -> dict[str, Any]:
        """Arguments for a tiny fake data set, written below folder."""
        cls.fake(folder / "epic")
        return {"root": str(folder / "epic"), "annotations": None, "batch_size": 2, "num_workers": 0}


class _FlowFrames:
    """Opens P01/flow_frames/P01_01 for P01/rgb_frames/P01_01."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, record: Record, threads: int) -> FrameSource:
        return open_flow(self.root / record.path.replace("/rgb_frames/", "/flow_frames/"))


def read_epic(lists: Path, root: Path, splits: Mapping[str, str], target: Target = "verb_noun") -> dict[str, Manifest]:
    """The records of the official CSVs, whether their videos are on disk or not.

    Args:
        lists: Folder of the CSVs.
        root: Folder of P01, P02, ...
        splits: CSV of each split.
        target: See ``EpicKitchensDataModule``.

    Raises:
        DataError: A CSV is missing, lacks a column, or has rows that cannot be used.
    """
    for name in (*splits.values(), "EPIC_100_verb_classes.csv", "EPIC_100_noun_classes.csv"):
        first_present(lists, [name], SOURCE, name)
    verbs, categories = _classes(lists / "EPIC_100_verb_classes.csv")
    nouns, _ = _classes(lists / "EPIC_100_noun_classes.csv")
    rates = _rates(lists / "EPIC_100_video_info.csv")
    rows = {split: read_rows(lists / name, _COLUMNS) for split, name in splits.items()}
    parsed: dict[str, list[tuple[Record, int, int]]] = {}
    for split, name in splits.items():
        parsed[split], problems = [], []
        for number, row in enumerate(rows[split], start=2):
            try:
                parsed[split].append(_record(row, len(verbs), len(nouns), root, rates, split))
            except ValueError as error:
                problems.append(f"line {number}: {error}")
        raise_if(problems, f"{lists / name}: {{count}} of {len(rows[split])} rows cannot be used")
    actions = sorted({(v, n) for part in parsed.values() for _, v, n in part})
    groups = sorted(set(categories))
    names: dict[Target, ClassNames] = {
        "verb_noun": {"verb": verbs, "noun": nouns},
        "verb": verbs,
        "noun": nouns,
        "verb_category": tuple(groups),
        "action": tuple(f"{verbs[v]} {nouns[n]}" for v, n in actions),
    }
    index = {pair: i for i, pair in enumerate(actions)}

    def label(v: int, n: int) -> int | dict[str, int]:
        if target == "verb_noun":
            return {"verb": v, "noun": n}
        return {"verb": v, "noun": n, "verb_category": groups.index(categories[v]), "action": index[v, n]}[target]

    found = {}
    for split, part in parsed.items():
        records = [Record(r.id, r.path, r.start, r.stop, label(v, n), r.split, r.group, fps=r.fps) for r, v, n in part]
        found[split] = Manifest(unique_ids(records, str(lists / splits[split])), names[target], root)
    return found


def video_place(root: Path, participant: str, video: str) -> str:
    """Where a video lies below root: its frame pictures if they are there, else its file."""
    frames = f"{participant}/rgb_frames/{video}"
    if (root / frames).is_dir():
        return frames
    candidates = [f"{participant}/videos/{video}.MP4", f"{participant}/{video}.MP4", f"{video}.MP4"]
    candidates += [c[:-4] + ".mp4" for c in candidates]
    return next((c for c in candidates if (root / c).is_file()), candidates[0])


def _classes(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and categories in the order of their ids."""
    rows = read_rows(path, ["id", "key", "category"])
    wrong = [f"line {i + 2}: {row['id']}" for i, row in enumerate(rows) if row["id"] != str(i)]
    raise_if(wrong, f"{path}: {{count}} ids do not count from 0")
    return tuple(row["key"] for row in rows), tuple(row["category"] for row in rows)


def _rates(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    rates = {}
    for row in read_rows(path, ["video_id", "fps"]):
        try:
            rates[row["video_id"]] = float(row["fps"])
        except ValueError:
            raise DataError(f"{path}: fps of {row['video_id']} is {row['fps']!r}, not a number") from None
    raise_if([v for v, fps in rates.items() if not 1 <= fps <= 1000], f"{path}: {{count}} frame rates cannot be")
    return rates


def _seconds(text: str) -> float:
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no time hh:mm:ss.ss")
    hours, minutes, seconds = int(match[1]), int(match[2]), float(match[3])
    return 3600 * hours + 60 * minutes + seconds


def _whole(row: Mapping[str, str], key: str, limit: int | None = None) -> int:
    text = row[key]
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{key} is {text!r}, not a whole number")
    if limit is not None and int(text) >= limit:
        raise ValueError(f"{key} is {text}; there are {limit}, from 0")
    return int(text)


def _record(
    row: Mapping[str, str], num_verbs: int, num_nouns: int, root: Path, rates: Mapping[str, float], split: str
) -> tuple[Record, int, int]:
    participant, video = row["participant_id"], row["video_id"]
    for name in (participant, video):
        if not name.isascii() or not name.replace("_", "").isalnum():
            raise ValueError(f"{name!r} is no participant or video")
    verb, noun = _whole(row, "verb_class", num_verbs), _whole(row, "noun_class", num_nouns)
    path = video_place(root, participant, video)
    if "/rgb_frames/" in path:
        start, stop, rate = _whole(row, "start_frame") - 1, _whole(row, "stop_frame"), None
    else:
        rate = rates.get(video)
        if rate is None:
            raise ValueError(f"the frame rate of {video} is not in EPIC_100_video_info.csv, which video files need")
        start = math.floor(_seconds(row["start_timestamp"]) * rate)
        stop = math.ceil(_seconds(row["stop_timestamp"]) * rate)
    if not 0 <= start < stop:
        raise ValueError(f"{row['narration_id']}: frames {start} to {stop} are no stretch")
    return Record(row["narration_id"], path, start, stop, None, split, video, fps=rate), verb, noun
