"""``lightning-har zoo``: list, inspect, download, verify, convert, build and publish checkpoints."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_har.cli.main import give_examples
from lightning_har.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from lightning_har.weights.card import Card
    from lightning_har.weights.hub import Zoo

EPILOG = """\
A zoo is a namespace on a hub (a user's or an organisation's name), or a folder of checkpoint folders: --zoo, else
LIGHTNING_HAR_ZOO, else the project's namespace, lightning-har. Where a folder of that name exists, it is the folder.
HF_ENDPOINT says which hub. HF_TOKEN, or `hf auth login`, opens private repositories.

examples:
  lightning-har zoo list
  lightning-har zoo info quickstart
  lightning-har zoo download quickstart --out quickstart/
  lightning-har zoo build mobilenetv2-quantized-imagenet --zoo /srv/zoo
  lightning-har zoo convert i3d-inceptionv1-kinetics400-rgb model.ckpt.index model.ckpt.data-00000-of-00001 --out i3d/
  lightning-har zoo convert quickstart runs/mine/gru --out quickstart/
  lightning-har zoo verify i3d/
  lightning-har zoo publish i3d/ --zoo my-name --private
"""


def add_parser(subparsers: Any) -> None:
    """Add ``zoo`` to the commands."""
    parser = subparsers.add_parser(
        "zoo",
        help="checkpoints: list, info, download, verify, convert, build, publish",
        description="Checkpoints in safetensors, with their cards.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--zoo", metavar="PATH|NAMESPACE", help="a folder, or a namespace on the hub")
    common.add_argument("--json", action="store_true", help="print JSON")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(name: str, function: Any, text: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = actions.add_parser(name, parents=[common], help=text, description=text)
        sub.set_defaults(function=function)
        return sub

    action("list", list_, "the project's cards, and what the zoo has")
    info = action("info", info_, "a checkpoint's card")
    info.add_argument("name", metavar="NAME|DIR")
    download = action("download", download_, "fetch a checkpoint, verified")
    download.add_argument("name", metavar="NAME")
    download.add_argument("--out", type=Path, metavar="DIR", help="copy it there; default: the hub client's cache")
    download.add_argument("--revision", help="branch, tag or commit")
    download.add_argument("--force", action="store_true", help="fetch even what the cache has")
    verify = action("verify", verify_, "digest every file anew")
    verify.add_argument("name", metavar="NAME|DIR")
    convert = action("convert", convert_, "make a checkpoint from upstream's files, or a run's, on disk")
    convert.add_argument("name", metavar="NAME")
    convert.add_argument("files", nargs="+", metavar="FILE|DIR", help="upstream's files; a run's folder")
    convert.add_argument("--out", type=Path, metavar="DIR", help="default: NAME, in the zoo if that is a folder")
    convert.add_argument(
        "--unverified", action="store_true", help="take files that match no pinned digest; the card then says so"
    )
    build = action("build", build_, "make a checkpoint from its pinned source, fetched")
    build.add_argument("name", metavar="NAME")
    build.add_argument("--out", type=Path, metavar="DIR", help="default: NAME, in the zoo if that is a folder")
    publish = action("publish", publish_, "put a checkpoint into the zoo")
    publish.add_argument("folder", type=Path, metavar="DIR")
    publish.add_argument("--name", help="in the zoo; default: the card's name")
    publish.add_argument("--private", action="store_true", help="of a repository that is made now")
    publish.add_argument("--message", help="of the commit")
    give_examples(actions, "zoo", EPILOG)


def list_(args: argparse.Namespace) -> int:
    """Print a line for every card and every checkpoint of the zoo."""
    from lightning_har.hub.index import load_cards, summary
    from lightning_har.weights.card import Card, read_card
    from lightning_har.weights.hub import NAMESPACE, README, find_zoo, names

    zoo, cards = find_zoo(args.zoo), load_cards()
    there: list[str] | None = None
    if zoo.chosen:
        try:
            there = names(zoo)
        except WeightsError as error:
            print(f"{error}; these are the project's cards only", file=sys.stderr)
    for name in there or ():
        if zoo.folder is not None:
            try:
                cards[name] = read_card(zoo.folder / name / README)
            except ConfigError as error:
                print(error, file=sys.stderr)
        if name not in cards or (zoo.folder is None and zoo.namespace != NAMESPACE):
            cards[name] = Card(name="unread", status="published")  # others' of the project's name are not the project's
    # By what they are loaded by, which need not be what their cards call them.
    rows = [
        {**summary(card), "name": name, "available": None if there is None else name in there}
        for name, card in cards.items()
    ]
    if args.json:
        print(json.dumps({"zoo": str(zoo), "asked": there is not None, "checkpoints": rows}, indent=2))
        return 0
    table = [("NAME", "STATUS", "TASK", "PARAMETERS", "TOP-1", "LICENCE")]
    for row in sorted(rows, key=lambda row: str(row["name"])):
        top1, count = row["top1"], row["parameters"]
        told = "-" if top1 is None else f"{top1['value']:g} %{' (published)' if top1['published'] else ''}"
        state = "in the zoo" if row["available"] else str(row["status"])
        table.append((row["name"], state, row["task"], f"{count:,}" if count else "-", told, row["license"]))
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


def info_(args: argparse.Namespace) -> int:
    """Print a checkpoint's card."""
    from lightning_har.weights.card import render

    card = _card(args.name, args.zoo)
    print(json.dumps({"name": card.name, **card.to_dict()}, indent=2) if args.json else render(card), end="")
    if args.json:
        print()
    return 0


def download_(args: argparse.Namespace) -> int:
    """Fetch a checkpoint and print where it lies."""
    from lightning_har.weights.hub import find_zoo, resolve
    from lightning_har.weights.publish import copy_checkpoint

    folder = resolve(args.name, zoo=find_zoo(args.zoo), revision=args.revision, force_download=args.force)
    if args.out:
        folder = copy_checkpoint(folder, args.out)
    print(json.dumps({"name": args.name, "folder": str(folder)}) if args.json else folder)
    return 0


def verify_(args: argparse.Namespace) -> int:
    """Digest a checkpoint's files anew and hold them against its card and the project's."""
    from lightning_har.weights.fetch import digests
    from lightning_har.weights.hub import FILES, README, find_card, find_zoo, problems, read_config, resolve

    zoo, folder = find_zoo(args.zoo), Path(args.name)
    if not folder.is_dir():
        folder = zoo.folder / args.name if zoo.folder else resolve(args.name, zoo=zoo)
        if not folder.is_dir():
            resolve(args.name, zoo=zoo)  # which knows the nearest names
    read_config(folder)
    try:
        card: Card | None = _card(str(folder), None)
    except ConfigError:
        card = None
    project = find_card(card.name) if card else None
    found = problems(folder, project.sha256 if project else None, digest=digests)
    for name in card.sha256 if card else ():
        if not (folder / name).is_file():
            found.setdefault(name, "it is missing")
    files = sorted({*FILES, *(card.sha256 if card else ())} - ({README} if card is None else set()))
    if args.json:
        told = {name: found.get(name, "ok") for name in files}
        unverified = card.unverified if card else None
        print(json.dumps({"folder": str(folder), "ok": not found, "files": told, "unverified_source": unverified}))
    else:
        for name in files:
            print(f"{'BAD' if name in found else 'ok ':<3} {name}{f': {found[name]}' if name in found else ''}")
        if card and card.unverified:
            print("note: its card says that the files it was made from were not verified")
    return 2 if found else 0


def convert_(args: argparse.Namespace) -> int:
    """Convert files on disk."""
    from lightning_har.weights.card import Card, Upstream
    from lightning_har.weights.hub import find_card, find_zoo

    zoo = find_zoo(args.zoo)
    card = find_card(args.name)
    first = Path(args.files[0])
    if card is None and len(args.files) == 1 and (first.is_dir() or first.suffix == ".ckpt"):
        upstream = Upstream("best.ckpt" if first.is_dir() else first.name)
        card = Card(name=args.name, converter="lightning_checkpoint", upstream=(upstream,))
    if card is None:
        card = _card(args.name, args.zoo)
    from lightning_har.hub.build import convert

    out = args.out or _place(args.name, zoo)
    _done(convert(card, args.files, out, unverified=args.unverified), out, args)
    return 0


def build_(args: argparse.Namespace) -> int:
    """Fetch and convert."""
    from lightning_har.weights.hub import find_card, find_zoo, unknown

    zoo = find_zoo(args.zoo)
    card = find_card(args.name)
    if card is None:
        raise unknown(args.name, zoo, ask=False)
    from lightning_har.hub.build import build

    out = args.out or _place(args.name, zoo)
    _done(build(card, out, zoo=zoo), out, args)
    return 0


def publish_(args: argparse.Namespace) -> int:
    """Put a checkpoint into the zoo."""
    from lightning_har.weights.hub import find_zoo
    from lightning_har.weights.publish import check_publishable, to_folder, to_hub

    zoo = find_zoo(args.zoo)
    card = check_publishable(args.folder)
    name = args.name or card.name
    told: dict[str, Any] = {"name": name, "sha256": dict(card.sha256)}
    if zoo.folder is not None:
        told["folder"] = str(to_folder(args.folder, zoo.folder, name))
    else:
        told["repository"] = zoo.repository(name)
        told["revision"] = to_hub(
            args.folder, told["repository"], private=args.private or None, commit_message=args.message
        )
    if args.json:
        print(json.dumps(told, indent=2))
    elif "folder" in told:
        print(f"{name} is in {told['folder']}")
    else:
        print(f"{told['repository']} is published; to pin it in its card:\nrevision: {told['revision']}\nsha256:")
        for file, sha256 in card.sha256.items():
            print(f"  {file}: {sha256}")
    return 0


def _place(name: str, zoo: Zoo) -> Path:
    return zoo.folder / name if zoo.folder else Path(name)


def _done(card: Card, out: Path, args: argparse.Namespace) -> None:
    if args.json:
        told = {"name": card.name, "folder": str(out), "unverified": card.unverified, "parameters": card.parameters}
        print(json.dumps({**told, "sha256": dict(card.sha256), "golden": dict(card.golden)}, indent=2))
        return
    print(f"{card.name} is in {out}{' (unverified source)' if card.unverified else ''}")
    for file, sha256 in card.sha256.items():
        print(f"  {sha256}  {file}")


def _card(name: str, where: str | None) -> Card:
    """The card of a folder, of the zoo folder's checkpoint, of the project, or of the hub's checkpoint."""
    from lightning_har.weights.card import read_card
    from lightning_har.weights.hub import NAMESPACE, README, fetch_card, find_card, find_zoo, unknown

    if Path(name).is_dir():
        return read_card(Path(name) / README)
    zoo = find_zoo(where)
    if zoo.folder is not None and (zoo.folder / name).is_dir():
        return read_card(zoo.folder / name / README)
    card = find_card(name)
    if zoo.folder is None and (card is None or zoo.namespace != NAMESPACE):
        try:
            return fetch_card(name, zoo)
        except WeightsError:
            if card is None:
                raise
    if card is None:
        raise unknown(name, zoo)
    return card
