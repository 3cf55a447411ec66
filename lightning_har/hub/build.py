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
from lightning_har.spec import InputSpec
from lightning_har.types import Video
from lightning_har.weights.card import Card, Protocol, Result, Upstream, read_card
from lightning_har.weights.fetch import Digests, digests, fetch
from lightning_har.weights.hub import README
from lightning_har.weights.publish import put_in_place

_LOG = logging.getLogger(__name__)

_LONGEST = 32
"""Frames of the golden clip; a network for longer ones gets half of this."""
_SHOWN = 5
"""Logits that a card keeps."""


def build(card: Card, out: str | Path, *, cache_dir: str | Path | None = None) -> Card:
    """Fetch a checkpoint's pinned sources, convert them, and write the folder.

    Args:
        card: The project's.
        out: The folder; one that is there is replaced.
        cache_dir: Where the sources are kept; None takes the library's cache.

    Returns:
        The card of what was made.

    Raises:
        WeightsError: A source has no address or no digest, cannot be fetched, is not what was pinned, or does not
            convert to what is expected.
    """
    if card.converter is None:
        raise WeightsError(f"{card.name} has no converter: it is made by {card.recipe or 'hand'}")
    without = [file.path for file in card.upstream if not (file.url and file.pinned)]
    if without or not card.upstream:
        made = f"{', '.join(without)} comes from a run of {card.recipe}" if card.recipe else "it has no pinned source"
        raise WeightsError(
            f"{card.name} cannot be fetched: {made}. Give the files: lightning-har zoo convert {card.name} FILE ..."
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
            by their order.
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
    found, card = _identify(card, [Path(file) for file in files], unverified)
    with tempfile.TemporaryDirectory() as temporary:
        # Under their upstream names, which is how the parts of one checkpoint find each other.
        for name, file in found.items():
            try:
                (Path(temporary) / Path(name).name).symlink_to(file.resolve())
            except OSError:  # Windows asks for a privilege
                shutil.copyfile(file, Path(temporary) / Path(name).name)
        module = converter(converting)([Path(temporary) / Path(name).name for name in found])
        if converting == "lightning_checkpoint":
            card = _from_report(card, next(iter(found.values())).with_name("report.json"))
        return _write(module, card, Path(out))


def _write(module: ActionRecognizer, card: Card, out: Path) -> Card:
    module.eval()
    golden = golden_outputs(module)
    count = sum(p.numel() for p in module.net.parameters())
    if card.parameters not in (None, count):
        raise WeightsError(f"{card.name} has {count:,} parameters; its card says {card.parameters:,}: not this network")
    if card.golden:
        compare(golden, card.golden, card.name)
    card = replace(card, status="built", parameters=count, golden=golden, revision=None)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        save(module, part, card)
        again = golden_outputs(load(part))
        if again != golden:
            raise WeightsError(f"{card.name} reads back as another network: {again}, was {golden}")
        put_in_place(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return read_card(out / README)


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


def _from_report(card: Card, path: Path) -> Card:
    """Results and protocol from the run's report beside a .ckpt, where there is one."""
    if not path.is_file():
        return card
    try:
        report = json.loads(path.read_text())
        told, hardware, cost = report["protocol"], report["hardware"], report["cost"]
        results = [
            Result(told["data"], _metric(head, name), round(100 * value, 2), told["split"])
            for head, levels in report["metrics"].get("test", {}).items()
            for name, value in levels.get("video", {}).items()
            if name.startswith("top") and value is not None
        ]
        protocol = Protocol(
            data=told["data"],
            split=told["split"],
            file_list_sha256=told["file_list_sha256"],
            views=told["views"],
            crop=told["crop"],
            seed=report["seed"],
            commit=report["commit"],
            hardware=f"{hardware['cpu']}, {hardware['threads']} threads, {hardware['accelerator']}",
            cost=f"{cost['parameters']:,} parameters" + (f", {cost['macs']:,} MACs" if cost["macs"] else ""),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is not a report of this library: {type(error).__name__}: {error}") from error
    return replace(card, results=(*card.results, *results), protocol=protocol)


def _metric(head: str, name: str) -> str:
    name = f"top-{name[3:]}" if name[3:].isdigit() else name
    return name if head == "action" else f"{head} {name}"
