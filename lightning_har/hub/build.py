"""Makes checkpoints from their pinned sources: check the digest, convert, write, compare."""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_har.errors import WeightsError
from lightning_har.hub.convert import converter
from lightning_har.modules.base import ActionRecognizer
from lightning_har.modules.pretrained import load, save
from lightning_har.nets.size import count_parameters
from lightning_har.spec import InputSpec
from lightning_har.types import Video
from lightning_har.weights.card import Card, Protocol, Result, Upstream, read_card
from lightning_har.weights.fetch import Digests, digests, fetch
from lightning_har.weights.hub import README, Zoo, resolve
from lightning_har.weights.publish import put_in_place

_LOG = logging.getLogger(__name__)

_LONGEST = 32
"""Frames of the golden clip; a network for longer ones gets half of this."""
_SHOWN = 5
"""Logits that a card keeps."""


def build(card: Card, out: str | Path, *, cache_dir: str | Path | None = None, zoo: Zoo | None = None) -> Card:
    """Fetch a checkpoint's pinned sources, convert them, and write the folder.

    Args:
        card: The project's.
        out: The folder; one that is there is replaced.
        cache_dir: Where the sources are kept; None takes the library's cache.
        zoo: Where the float checkpoint of one in 8 bits is looked up; None asks the environment.

    Returns:
        The card of what was made.

    Raises:
        WeightsError: A source has no address or no digest, cannot be fetched, is not what was pinned, or does not
            convert to what is expected.
    """
    if card.converter is None:
        raise WeightsError(f"{card.name} has no converter: it is made by {card.recipe or 'hand'}")
    if card.converter == "int8" and card.base_model:
        return convert(card, [resolve(card.base_model, zoo=zoo)], out)
    if card.recipe:
        raise WeightsError(
            f"{card.name} is not fetched but trained: lightning-har run {card.recipe} --out RUN; then "
            f"lightning-har zoo convert {card.name} RUN --out DIR"
        )
    if not (card.upstream and all(file.url and file.pinned for file in card.upstream)):
        raise WeightsError(
            f"{card.name} has no pinned source to fetch. Give the files: lightning-har zoo convert {card.name} FILE ..."
        )
    files = [
        fetch(
            file.url or "",
            what=f"{card.name}: {file.path}",
            sha256=file.sha256,
            sha256_prefix=file.sha256_prefix,
            git_blob_sha1=file.git_blob_sha1,
            cache_dir=cache_dir,
        )
        for file in card.upstream
    ]
    return convert(card, files, out)


def convert(card: Card, files: Sequence[str | Path], out: str | Path, *, unverified: bool = False) -> Card:
    """Convert files on disk, and write the folder.

    Args:
        card: The project's, or one of your own.
        files: Under any name, in any order: they are known by their digests. Unverified ones by their names, else
            by their order. A folder stands for the files in it that the card names: a run's for its best.ckpt.
            Where the card pins no digest, a run's report.json does, or the README.md of a checkpoint that this one
            is made from.
        out: The folder; one that is there is replaced.
        unverified: Take files that match no pinned digest; the card then says so. PyTorch files are still read as
            tensors only.

    Returns:
        The card of what was made.

    Raises:
        WeightsError: A file is missing or not what was pinned, or does not convert to what is expected.
    """
    converting = card.converter
    if converting is None:
        raise WeightsError(f"{card.name} has no converter: it is made by {card.recipe or 'hand'}")
    given = _listed(card, [Path(file) for file in files])
    card = _vouched(card, given)
    found, card = _identify(card, given, unverified)
    with tempfile.TemporaryDirectory() as temporary:
        # Under their upstream names, which is how the parts of one checkpoint find each other.
        for name, file in found.items():
            try:
                (Path(temporary) / Path(name).name).symlink_to(file.resolve())
            except OSError:  # Windows asks for a privilege
                shutil.copyfile(file, Path(temporary) / Path(name).name)
        module = converter(converting)([Path(temporary) / Path(name).name for name in found])
        if converting == "lightning_checkpoint":
            card = _from_report(card, next(iter(found.values())))
        return _write(module, card, Path(out))


def _write(module: ActionRecognizer, card: Card, out: Path) -> Card:
    if card.recipe and module.spec is None:
        raise WeightsError(
            f"{card.name} takes video; this run was trained on stored features and has no backbone in it. Train it on "
            f"the videos themselves: lightning-har run {card.recipe}"
        )
    module.eval()
    golden = golden_outputs(module)
    count, _ = count_parameters(module.net)
    if card.parameters not in (None, count):
        raise WeightsError(f"{card.name} has {count:,} parameters; its card says {card.parameters:,}: not this network")
    if card.golden:
        compare(golden, card.golden, card.name)
    card = replace(card, status="built", parameters=count, golden=golden, revision=None)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        save(module, part, card, int8=card.converter == "int8")
        again = golden_outputs(load(part))
        if again != golden:
            raise WeightsError(f"{card.name} reads back as another network: {again}, was {golden}")
        put_in_place(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return read_card(out / README)


def _listed(card: Card, given: Sequence[Path]) -> list[Path]:
    """The files that were given, and for a folder those in it that the card names."""
    found: list[Path] = []
    for path in given:
        if not path.is_dir():
            found.append(path)
            continue
        inside = [path / Path(file.path).name for file in card.upstream]
        if missing := [file.name for file in inside if not file.is_file()]:
            near = sorted(str(file.parent) for file in path.glob(f"*/{missing[0]}"))
            hint = f". Give one of {', '.join(near)}" if near else ""
            raise WeightsError(f"{path} has no {' and no '.join(missing)}, which {card.name} is made from{hint}")
        found += inside
    return found


def _vouched(card: Card, given: Sequence[Path]) -> Card:
    """The card with the digests that stand beside the files, for those that it does not pin itself."""
    digest_of: dict[str, str | None] = {}
    for path in given:
        if card.converter == "lightning_checkpoint" and path.with_name(REPORT).is_file():
            sha256 = _read_report(path.with_name(REPORT))["cost"].get("checkpoint_sha256")
            digest_of = {Path(file.path).name: sha256 for file in card.upstream}
        elif card.converter == "int8" and path.with_name(README).is_file():
            source = read_card(path.with_name(README))
            if source.name == card.base_model and not source.unverified:
                digest_of |= source.sha256
    return replace(
        card,
        upstream=tuple(
            file if file.url or file.pinned else replace(file, sha256=digest_of.get(Path(file.path).name))
            for file in card.upstream
        ),
    )


def _identify(card: Card, files: Sequence[Path], unverified: bool) -> tuple[dict[str, Path], Card]:
    """Which file is which, and the card with what was found."""
    if len(files) != len(card.upstream):
        wanted = ", ".join(file.path for file in card.upstream) or "no file"
        raise WeightsError(f"{card.name} is made from {wanted}; {len(files)} files were given")
    own = {path: digests(path) for path in files}
    if len(own) < len(files):
        raise WeightsError(f"{card.name} is made from {len(files)} files; the same one was given twice")
    left = dict(own)
    found: dict[str, Path] = {}
    for wanted_file in card.upstream:
        match = next((path for path, d in left.items() if _matches(wanted_file, d)), None)
        if match is not None:
            found[wanted_file.path] = match
            del left[match]
    if left and not unverified:
        missing = [file for file in card.upstream if file.path not in found]
        told = "; ".join(f"{file.path}: {file.pin}" for file in missing)
        got = "; ".join(f"{p}: SHA-256 {d.sha256}, git blob SHA-1 {d.git_blob_sha1}" for p, d in left.items())
        raise WeightsError(
            f"{card.name} is refused: expected {told}; got {got}. If you trust where it comes from, say --unverified; "
            "the card then says so too"
        )
    for wanted_file in card.upstream:
        if wanted_file.path not in found:
            name = Path(wanted_file.path).name
            path = next((path for path in left if path.name == name), next(iter(left)))
            found[wanted_file.path] = path
            del left[path]
            card = replace(card, unverified=True)
            _LOG.warning("%s: %s is not verified", card.name, path)
    known = {file.path: file for file in card.upstream}
    found = {name: found[name] for name in known}
    upstream = []
    for name, path in found.items():
        verified = _matches(known[name], own[path])
        pinned = known[name] if verified else Upstream(name)
        upstream.append(replace(pinned, sha256=own[path].sha256))
    return found, replace(card, upstream=tuple(upstream))


def _matches(file: Upstream, found: Digests) -> bool:
    return file.pinned and all(
        (
            file.sha256 in (None, found.sha256),
            file.git_blob_sha1 in (None, found.git_blob_sha1),
            found.sha256.startswith(file.sha256_prefix or ""),
        )
    )


# -- golden check ------------------------------------------------------------------------------------------


def golden_clip(module: ActionRecognizer) -> Video:
    """The same clip of a drifting pattern for everybody: whole numbers, no file, no generator.

    Returns:
        uint8 (1, C, T, H, W), or a dict of such by modality; for a module on features float (1, T, D).
    """
    if module.spec is None:
        t, d = torch.meshgrid(torch.arange(8), torch.arange(int(module.hparams["feature_dim"])), indexing="ij")
        return ((t * 7 + d * 13) % 64 / 64)[None]
    if isinstance(module.spec, Mapping):
        return {modality: _pattern(spec) for modality, spec in module.spec.items()}
    return _pattern(module.spec)


def _pattern(spec: InputSpec) -> Tensor:
    frames = spec.num_frames if spec.num_frames <= _LONGEST else _LONGEST // 2
    sizes = (spec.channels, frames, *spec.size)
    c, t, h, w = torch.meshgrid(*(torch.arange(size) for size in sizes), indexing="ij")
    return ((h * 3 + w * 2 + t * 9 + c * 40 + (h // 16) * (w // 16) * 5) % 256).to(torch.uint8)[None]


def golden_outputs(module: ActionRecognizer) -> dict[str, Any]:
    """What the network says of the golden clip: of each head the first logits, and the greatest.

    Raises:
        WeightsError: They are not finite, or all the same.
    """
    with torch.no_grad():
        logits = module(golden_clip(module))
    found = {}
    for head, x in (logits if isinstance(logits, Mapping) else {"action": logits}).items():
        row = x[0].float()
        if not bool(torch.isfinite(row).all()) or (row.numel() > 1 and float(row.std()) == 0):
            raise WeightsError(f"the network's output on the golden clip is no prediction: {row[:_SHOWN].tolist()}")
        found[head] = {"first": [round(v, 5) for v in row[:_SHOWN].tolist()], "argmax": int(row.argmax())}
    return found


def compare(found: Mapping[str, Any], expected: Mapping[str, Any], name: str) -> None:
    """Hold outputs on the golden clip against a card's.

    Raises:
        WeightsError: They differ by more than the machines' arithmetic does.
    """
    for head, wanted in expected.items():
        got = found.get(head)
        close = got is not None and all(
            math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-3) for a, b in zip(got["first"], wanted["first"], strict=True)
        )
        if got is None or not close or got["argmax"] != wanted["argmax"]:
            raise WeightsError(f"{name} fails its golden check: expected {dict(wanted)} of {head}, got {got}")


# -- a run's own -------------------------------------------------------------------------------------------


REPORT = "report.json"


def _read_report(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(report, dict) and isinstance(report["cost"], dict):
            return report
        reason = "it has no cost"
    except (OSError, ValueError, KeyError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise WeightsError(f"{path} is not a report of this library: {reason}")


def _from_report(card: Card, checkpoint: Path) -> Card:
    """Results and protocol from the run's report beside a .ckpt, where there is one."""
    path = checkpoint.with_name(REPORT)
    if not path.is_file():
        return card
    report = _read_report(path)
    try:
        told, hardware, cost, latency = (report[key] for key in ("protocol", "hardware", "cost", "latency"))
        skipped = report["files"]["skipped"]
        split = told["split"] + (f", without {skipped} unreadable videos" if skipped else "")
        results = [
            Result(told["data"], _metric(head, name), round(100 * value, 2), split)
            for head, levels in report["metrics"].get("test", {}).items()
            for name, value in levels.get("video", {}).items()
            if name.startswith("top") and value is not None
        ]
        costs = [
            f"{cost['parameters']:,} parameters",
            f"{cost['macs']:,} MACs a clip" if cost["macs"] else "",
            f"{latency['p50_ms']:.1f} ms a clip (median)" if latency else "",
        ]
        protocol = Protocol(
            data=told["data"],
            split=split,
            file_list_sha256=told["file_list_sha256"],
            views=told["views"],
            crop=told["crop"],
            seed=report["seed"],
            commit=report["commit"],
            hardware=f"{hardware['cpu']}, {hardware['threads']} threads, {hardware['accelerator']}",
            cost=", ".join(filter(None, costs)),
        )
        recipe, note = str(report["recipe"]).partition("/")[0], report["note"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is not a report of this library: {type(error).__name__}: {error}") from error
    if cost.get("checkpoint_sha256") not in (None, digests(checkpoint).sha256):
        raise WeightsError(f"{path} is the report of another {checkpoint.name} than the one beside it; put them right")
    if card.recipe and Path(card.recipe).stem != recipe:
        raise WeightsError(f"{card.name} is trained by {card.recipe}; {path} is of a run of {recipe}")
    listed = card.protocol.file_list_sha256
    if listed not in (None, protocol.file_list_sha256):
        raise WeightsError(
            f"{card.name} is scored on the list of clips {listed}; {path} is of a run that was scored on "
            f"{protocol.file_list_sha256}. Run {card.recipe} as it is: without --smoke, its data unchanged"
        )
    notes = f"{card.notes.strip()} {note}".strip() if note else card.notes
    return replace(card, results=(*card.results, *results), protocol=protocol, notes=notes)


def _metric(head: str, name: str) -> str:
    name = f"top-{name[3:]}" if name[3:].isdigit() else name
    return name if head == "action" else f"{head} {name}"
