"""``lightning-har data``: from a name to a data set that trains, and what there is to know about it."""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_har._files import whole_file
from lightning_har.cli import _shards
from lightning_har.cli._arguments import PICTURES, above_zero, check_device, check_output, positive, whole
from lightning_har.cli._data import dataset_class, open_data, require_videos
from lightning_har.cli.main import give_examples
from lightning_har.data.named import DATASETS, HELP
from lightning_har.errors import ConfigError, DataError, DecodeError

if TYPE_CHECKING:
    from lightning_har.data.manifest import Manifest

EPILOG = f"""\
NAME is one of {", ".join(DATASETS)}.
DATA is {HELP}.

examples:
  lightning-har data show ucf101
  lightning-har data show clips/ --model runs/mine --picture samples.png
  lightning-har data download hmdb51 data/hmdb51
  lightning-har data prepare hmdb51 data/hmdb51 --reencode data/hmdb51-256
  lightning-har data check hmdb51:data/hmdb51-256 --report check.csv
  lightning-har data stats clips/ --picture stats.png
  lightning-har data split clips.csv --out split.csv --test 0.2 --val 0.1
  lightning-har data flow ucf101:data/ucf101 --out data/ucf101-flow
  lightning-har data show ucf101:data/ucf101 --flow-root data/ucf101-flow --picture flow.png
  lightning-har data shards ucf101:data/ucf101 --out data/ucf101-shards
  lightning-har data fake epic_kitchens /tmp/epic
"""


def add_parser(subparsers: Any) -> None:
    """Add ``data`` and its own commands."""
    parser = subparsers.add_parser(
        "data",
        help="data sets: show, download, prepare, check, stats, split, flow, shards, fake",
        description="Get, prepare, check and measure data sets.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(function=lambda args: parser.print_help() or 2)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    show = commands.add_parser(
        "show", help="where a data set comes from; or what is in one on disk, and what a model is fed of it"
    )
    show.add_argument("what", metavar="NAME|DATA")
    show.add_argument("--model", metavar="RUN|CHECKPOINT", help="draw what it is fed (default: 8 frames of 224×224)")
    show.add_argument("--flow-root", metavar="DIR", help="draw the flow that `data flow` put there, too")
    show.add_argument("--picture", default="samples.png", metavar="PNG", help="of some clips (default: samples.png)")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(function=_show)

    download = commands.add_parser("download", help="fetch a data set's archives, and continue where it stopped")
    download.add_argument("name", metavar="NAME")
    download.add_argument("folder", metavar="DIR")
    download.set_defaults(function=_download)

    fake = commands.add_parser("fake", help="write a tiny data set in exactly that layout and format")
    fake.add_argument("name", metavar="NAME", help=f"{', '.join(DATASETS)}, folder or features")
    fake.add_argument("folder", metavar="DIR")
    fake.set_defaults(function=_fake)

    prepare = commands.add_parser("prepare", help="check and unpack archives, re-encode for quick seeking")
    prepare.add_argument("name", metavar="NAME|folder", help="folder: re-encode DIR, whatever it holds")
    prepare.add_argument("folder", metavar="DIR")
    prepare.add_argument("--reencode", metavar="OUT", help="write the videos again, smaller, into this folder")
    prepare.add_argument("--short-side", type=positive, default=256, metavar="PIXELS", help="of those (default: 256)")
    prepare.add_argument("--keyframes", type=positive, default=12, metavar="N", help="one every N frames (default: 12)")
    prepare.add_argument(
        "--quality", type=whole, default=20, metavar="CRF", help="x264's, less is better (default: 20)"
    )
    _add_engine(prepare)
    prepare.set_defaults(function=_prepare)

    check = commands.add_parser("check", help="decode every file: corrupt, short, odd; exit code 1 if any is corrupt")
    _add_data(check)
    check.add_argument("--report", default="check.csv", metavar="CSV", help="what is written and resumed from")
    check.add_argument("--min-frames", type=whole, default=8, metavar="N", help="fewer are short (default: 8)")
    check.add_argument(
        "--time-limit",
        type=above_zero,
        default=3600.0,
        metavar="SECONDS",
        help="give up a file after so long (default: 3600); not with --workers 0",
    )
    check.add_argument("--json", action="store_true", help="print JSON")
    _add_engine(check)
    check.set_defaults(function=_check)

    stats = commands.add_parser("stats", help="clips per class, lengths, sizes, frame rates")
    _add_data(stats)
    stats.add_argument("--picture", default="stats.png", metavar="PNG", help="(default: stats.png)")
    stats.add_argument("--json", action="store_true", help="print JSON")
    _add_engine(stats)
    stats.set_defaults(function=_stats)

    split = commands.add_parser("split", help="write a CSV with splits or folds that keep groups whole")
    split.add_argument("data", metavar="DIR|CSV", help="a folder of clips per class, or a CSV with path,label")
    split.add_argument("--out", required=True, metavar="CSV")
    split.add_argument("--test", type=float, default=0.2, metavar="SHARE", help="(default: 0.2)")
    split.add_argument("--val", type=float, default=0.1, metavar="SHARE", help="of all clips (default: 0.1)")
    split.add_argument("--folds", type=int, metavar="N", help="folds instead, in a column fold")
    split.add_argument("--seed", type=whole, default=0, metavar="N")
    split.set_defaults(function=_split)

    flow = commands.add_parser("flow", help="compute and store optical flow, once")
    _add_data(flow)
    flow.add_argument("--out", required=True, metavar="DIR", help="flow_root of the data module")
    flow.add_argument("--method", default="dis", help="dis, farneback, lucas_kanade, tvl1 or raft (default: dis)")
    flow.add_argument(
        "--bound", type=above_zero, default=20.0, metavar="PIXELS", help="largest displacement (default: 20)"
    )
    flow.add_argument("--short-side", type=positive, default=256, metavar="PIXELS", help="(default: 256)")
    flow.add_argument("--device", default="cpu", help="for raft")
    _add_engine(flow)
    flow.set_defaults(function=_flow)

    _add_engine(_shards.add_parser(commands))
    give_examples(commands, "data", EPILOG)


def _add_data(parser: Any) -> None:
    parser.add_argument("data", metavar="DATA", help=HELP)
    parser.add_argument("--split", metavar="N", help="official split of NAME:DIR")


def _add_engine(parser: Any) -> None:
    parser.add_argument("--workers", type=whole, metavar="N", help="processes (default: one per core)")
    parser.add_argument("--engine", choices=("processes", "ray"), default="processes", help="(default: processes)")


def _show(args: argparse.Namespace) -> int:
    if args.what in DATASETS:
        source = dataset_class(args.what).source
        print(json.dumps(asdict(source), indent=2) if args.json else source.describe())
        return 0
    from rich.console import Console
    from rich.table import Table

    from lightning_har.cli._data import draw_samples
    from lightning_har.data.features import FeatureDataModule
    from lightning_har.data.stats import class_counts

    data = open_data(args.what)
    drawn, failed = None if isinstance(data, FeatureDataModule) else args.picture, ""
    if drawn:
        _check_picture(drawn)
    splits = {}
    for split, manifest in data.manifests.items():
        splits[split] = {
            "clips": len(manifest),
            "files": len({r.path for r in manifest}),
            "groups": len({r.group for r in manifest if r.group is not None}),
            "classes": sum(1 for n in class_counts(manifest).values() if n),
            "sha256": manifest.sha256(),
        }
    try:
        if drawn:
            draw_samples(args.what, args.model, Path(drawn), next(iter(splits)), args.flow_root)
    except DecodeError as error:
        drawn, failed = None, f"no picture: {error}"
        print(failed, file=sys.stderr)
    names = data.class_names
    heads = names if isinstance(names, dict) else {"classes": names or ()}
    if args.json:
        print(json.dumps({"splits": splits, "classes": heads, "picture": drawn}, indent=2))
        return int(bool(failed))
    table = Table("split", "clips", "files", "groups", "classes", "sha256 of the list")
    for split, told in splits.items():
        *counts, digest = told.values()
        table.add_row(split, *(str(n or "-") for n in counts), str(digest)[:12])
    Console().print(table)
    for head, of_head in heads.items():
        print(f"{head}: {', '.join(of_head)}")
    if drawn:
        print(f"picture: {drawn}")
    return int(bool(failed))


def _download(args: argparse.Namespace) -> int:
    source = dataset_class(args.name).source
    if not source.archives:
        print(f"{args.name} cannot be fetched for you:\n{source.describe()}", file=sys.stderr)
        return 2
    from lightning_har.data.download import download

    print(f"{source.title}: {source.terms}")
    for archive in source.archives:
        try:
            path = download(archive, args.folder)
        except DataError as error:
            raise DataError(f"{error}. The data set's page: {source.page}") from error
        checked = "digest checked" if archive.sha256 else "nobody published a digest to check it by"
        print(f"{path}: {path.stat().st_size:,} bytes, {checked}")
    print(f"next: lightning-har data prepare {args.name} {args.folder}")
    return 0


def _fake(args: argparse.Namespace) -> int:
    folder = Path(args.folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; a fake data set gets a folder of its own")
    if args.name == "folder":
        from lightning_har.data.fake import write_fake_folder

        write_fake_folder(folder)
        print(f"{folder}: read it as {folder}")
    elif args.name == "features":
        from lightning_har.data.features import FeatureDataModule

        FeatureDataModule.fake(folder)
        print(f"{folder}: read it as features:{folder}")
    else:
        dataset_class(args.name).fake(folder)
        print(f"{folder}: read it as {args.name}:{folder}")
    return 0


def _prepare(args: argparse.Namespace) -> int:
    from lightning_har.data.prepare import reencode_folder, unpack_source

    if args.name == "folder" and args.reencode is None:
        raise ConfigError(
            "of a folder there is nothing to unpack; give --reencode OUT to write its videos again, smaller"
        )
    if args.name != "folder":
        source = dataset_class(args.name).source
        for name in unpack_source(source, args.folder):
            print(f"{Path(args.folder, name)}: unpacked; it may be deleted")
    if args.reencode is None:
        return 0
    failures = reencode_folder(
        args.folder, args.reencode, side=args.short_side, keyframes=args.keyframes, quality=args.quality,
        workers=args.workers, engine=args.engine,
    )  # fmt: skip
    return _tell_failures(failures, f"{args.reencode}: written")


def _check(args: argparse.Namespace) -> int:
    from lightning_har.data.check import check_files

    files: dict[str, Path] = {}
    for manifest in _unchecked(args).values():
        files |= {r.path: manifest.root for r in manifest}
    roots = set(files.values())
    if len(roots) != 1:
        raise DataError(f"{args.data}: its splits lie in several folders: {', '.join(map(str, sorted(roots)))}")
    rows = check_files(
        roots.pop(),
        files,
        args.report,
        min_frames=args.min_frames,
        workers=args.workers,
        engine=args.engine,
        time_limit=args.time_limit,
    )
    counts = Counter(row.status for row in rows)
    if args.json:
        found = [row._asdict() for row in rows if row.status != "ok"]
        print(json.dumps({"files": len(rows), "found": found, "report": str(args.report)}, indent=2))
        return 1 if counts["corrupt"] else 0
    for row in rows:
        if row.status != "ok":
            print(f"{row.status}: {row.path}: {row.reason}")
    told = ", ".join(f"{counts[status]} {status}" for status in ("ok", "odd", "short", "corrupt"))
    print(f"{len(rows)} files: {told}; {args.report}")
    return 1 if counts["corrupt"] else 0


def _stats(args: argparse.Namespace) -> int:
    from rich.console import Console

    from lightning_har.data.stats import gather, save_stats_picture, stats_tables

    data = open_data(args.data, split=args.split)
    require_videos(data, args.data)
    _check_picture(args.picture)
    stats = gather(data.manifests, workers=args.workers, engine=args.engine)
    save_stats_picture(stats, args.picture)
    if args.json:
        told = {"clips": stats.clips, "unreadable": stats.unreadable, "picture": args.picture}
        print(json.dumps({**told, "infos": [info._asdict() for info in stats.infos]}, indent=2))
        return 1 if stats.unreadable else 0
    console = Console()
    for table in stats_tables(stats):
        console.print(table)
    return _tell_failures(dict.fromkeys(stats.unreadable, "cannot be read"), f"picture: {args.picture}")


def _split(args: argparse.Namespace) -> int:
    from lightning_har.data.folder import scan_folder
    from lightning_har.data.manifest import Manifest, Record
    from lightning_har.data.splits import split_by_group

    path, out = Path(args.data), Path(args.out)
    manifest = Manifest.from_csv(path) if path.suffix.lower() == ".csv" else scan_folder(path)
    if out.exists():
        raise ConfigError(f"{out} exists already; splits are drawn once, and a score holds only for its own")
    parts: dict[str, list[Record]] = {}
    rest = list(manifest)
    if args.folds is not None:
        if args.folds < 2:
            raise ConfigError(f"--folds is {args.folds}; there must be at least 2")
        for fold in range(args.folds, 1, -1):
            rest, parts[str(fold)] = split_by_group(rest, 1 / fold, args.seed)
        parts["1"] = rest
    else:
        if not 0 <= args.test < 1 or not 0 <= args.val < 1 or args.test + args.val >= 1:
            raise ConfigError(f"--test {args.test} and --val {args.val} must be shares that leave some to train on")
        if args.test:
            rest, parts["test"] = split_by_group(rest, args.test, args.seed)
        if args.val:
            rest, parts["val"] = split_by_group(rest, args.val / (1 - args.test), args.seed + 1)
        parts["train"] = rest
    column = "split" if args.folds is None else "fold"
    _write_split(manifest, {r.id: name for name, records in parts.items() for r in records}, column, out)
    for name in sorted(parts):
        counts = Counter(r.label for r in parts[name])
        groups = len({r.group for r in parts[name] if r.group is not None})
        print(f"{column} {name}: {len(parts[name])} clips, {len(counts)} classes, {groups or 'no'} groups")
    print(f"written: {out}")
    return 0


def _write_split(manifest: Manifest, part_of: dict[str, str], column: str, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "label", column, "group", "id", "start", "stop"])
        for r in manifest:
            path = os.path.relpath(manifest.file(r).absolute(), out.absolute().parent).replace(os.sep, "/")
            if path.startswith("../"):
                raise DataError(f"{out} must lie in {manifest.root.absolute()} or above it: its paths start from there")
            stretch = ["" if value is None else value for value in (r.start, r.stop)]
            writer.writerow([path, manifest.label_names(r)["label"], part_of[r.id], r.group or "", r.id, *stretch])


def _flow(args: argparse.Namespace) -> int:
    from lightning_har.data.flow import cache_flow

    if args.method == "raft" and args.engine == "processes":  # on Ray the device is another machine's
        check_device(args.device)
    failures: dict[str, str] = {}
    for manifest in _unchecked(args).values():
        failures |= cache_flow(
            manifest, args.out, method=args.method, bound=args.bound, side=args.short_side, workers=args.workers,
            engine=args.engine, device=args.device,
        )  # fmt: skip
    return _tell_failures(failures, f"{args.out}: pass it as flow_root")


def _unchecked(args: argparse.Namespace) -> dict[str, Manifest]:
    """The records of all splits; a video that is missing is a finding here, not an error."""
    from lightning_har.data.folder import VideoFolderDataModule

    data = open_data(args.data, split=args.split)
    require_videos(data, args.data)
    if isinstance(data, VideoFolderDataModule):  # what cannot be split can still be looked at
        return {"all": data.all_clips()}
    data.prepare_data()
    return data.load_manifests()


def _check_picture(path: str) -> None:
    """Refuse one that could not be drawn before every file is looked into; its folder is made."""
    if Path(path).suffix.lower() in PICTURES:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    check_output("--picture", path, PICTURES, "picture")


def _tell_failures(failures: dict[str, str], done: str) -> int:
    for path, reason in failures.items():
        print(f"{path}: {reason}", file=sys.stderr)
    print(done + (f"; {len(failures)} files failed" if failures else ""))
    return 1 if failures else 0
