"""The card of a checkpoint: one typed record, from which README.md and the index are rendered. No torch here."""

from __future__ import annotations

import math
import re
import reprlib
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lightning_har.errors import ConfigError

Status = Literal["convertible", "built", "published"]
STATUSES = ("convertible", "built", "published")
LIBRARY = "lightning-har"
T = TypeVar("T")

PRIVACY = (
    "Recognising what people do in video can serve surveillance. This model names actions, not persons, but its "
    "output is about people all the same: do not use it to watch anybody without their knowledge and a legal "
    "basis, nor to decide about them without a human who answers for the decision."
)


@dataclass(frozen=True)
class Result:
    """One number, and whose it is.

    Attributes:
        dataset: For example "Kinetics-400".
        metric: For example "top-1".
        value: In percent.
        split: For example "val".
        published: Taken from the publisher's own report; otherwise measured by this library under ``Protocol``.
        source: Address of the report it was taken from.
    """

    dataset: str
    metric: str
    value: float
    split: str
    published: bool = False
    source: str | None = None


@dataclass(frozen=True)
class Protocol:
    """How the measured results were made; None where not known.

    Attributes:
        data: Data set.
        split: Its part that was scored.
        file_list_sha256: Of the list of scored files.
        views: Clips × crops per video.
        crop: Name of the crop.
        seed: Of the run.
        commit: Of this library.
        hardware: What it ran on.
        cost: Parameters, operations, time, as measured.
    """

    data: str | None = None
    split: str | None = None
    file_list_sha256: str | None = None
    views: int | None = None
    crop: str | None = None
    seed: int | None = None
    commit: str | None = None
    hardware: str | None = None
    cost: str | None = None


@dataclass(frozen=True)
class Upstream:
    """A pinned file that a checkpoint is converted from.

    Attributes:
        path: Its name, with upstream's folders.
        url: Where it lies, pinned to a commit where there is one; None: it is made here, by a recipe.
        git_blob_sha1: Its object id in git.
        sha256_prefix: The beginning of its SHA-256, where upstream gives no more: a weak pin.
        sha256: Its full SHA-256, recorded when it was first verified.
    """

    path: str
    url: str | None = None
    git_blob_sha1: str | None = None
    sha256_prefix: str | None = None
    sha256: str | None = None

    @property
    def pinned(self) -> bool:
        """Whether any digest is known."""
        return bool(self.git_blob_sha1 or self.sha256_prefix or self.sha256)

    @property
    def pin(self) -> str:
        """The digest in words."""
        weak = f"SHA-256 beginning with {self.sha256_prefix} (a weak pin)" if self.sha256_prefix else None
        known = (
            self.git_blob_sha1 and f"git blob SHA-1 {self.git_blob_sha1}",
            f"SHA-256 {self.sha256}" if self.sha256 else weak,
        )
        return ", ".join(filter(None, known)) or "not pinned"


@dataclass(frozen=True)
class Card:
    """Everything that is said about a checkpoint.

    Attributes:
        name: Of the checkpoint; the last part of its repository.
        summary: One sentence.
        status: "convertible": how to make it is known; "built": made and verified; "published": on the hub.
        license: SPDX identifier, or "unknown".
        converter: File in ``lightning_har.hub.convert`` that makes it; None for a model saved from Python.
        recipe: Recipe that trains it, for one that is not converted from elsewhere.
        repository: Upstream's, for people.
        commit: Upstream's.
        upstream: The files it is converted from.
        republish: Whether its licence lets the converted weights be published.
        datasets: Trained on.
        base_model: What it was fine-tuned or quantized from.
        tags: For searching.
        task: What the network gives: "actions", "features" or "images".
        parameters: Of the network; None where not counted yet.
        results: Published and measured numbers.
        protocol: Of the measured ones.
        intended_use: What it is for, and what not.
        limitations: What it cannot do.
        privacy: Risk to privacy, and of surveillance.
        notes: What a user of the weights should know.
        revision: Commit of the hub repository that the digests belong to; None while unpublished.
        sha256: Digest of each file; None where not known yet.
        golden: Expected outputs on the golden clip, by name; empty where not known yet.
        unverified: The files it was made from matched no pinned digest.
    """

    name: str
    summary: str = ""
    status: Status = "built"
    license: str = "unknown"
    converter: str | None = None
    recipe: str | None = None
    repository: str | None = None
    commit: str | None = None
    upstream: tuple[Upstream, ...] = ()
    republish: bool = True
    datasets: tuple[str, ...] = ()
    base_model: str | None = None
    tags: tuple[str, ...] = ()
    task: Literal["actions", "features", "images"] = "actions"
    parameters: int | None = None
    results: tuple[Result, ...] = ()
    protocol: Protocol = field(default_factory=Protocol)
    intended_use: str = ""
    limitations: str = ""
    privacy: str = PRIVACY
    notes: str = ""
    revision: str | None = None
    sha256: Mapping[str, str | None] = field(default_factory=dict)
    golden: Mapping[str, Any] = field(default_factory=dict)
    unverified: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ConfigError(f"a checkpoint cannot be called {self.name!r}: letters, digits, '.', '_', '-' only")
        if self.status not in STATUSES:
            raise ConfigError(f"{self.name}: status is {self.status!r}; it must be one of {', '.join(STATUSES)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML types; what is empty or at its default is left out."""
        return _slim(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], what: str = "the card") -> Card:
        """The inverse of ``to_dict``.

        Args:
            values: As read from YAML.
            what: To begin an error with.

        Raises:
            ConfigError: Unknown or missing keys, values of another type, a wrong status or name.
        """
        found = {key: value for key, value in values.items() if value is not None}
        for key in ("upstream", "results", "datasets", "tags"):
            if isinstance(found.get(key), list):
                found[key] = tuple(found[key])
        records: dict[str, type] = {"upstream": Upstream, "results": Result}
        for key, kind in records.items():
            if isinstance(found.get(key), tuple):
                found[key] = tuple(_record(kind, value, f"{what}: {key}") for value in found[key])
        found["protocol"] = _record(Protocol, found.get("protocol", {}), f"{what}: protocol")
        return _record(cls, found, what)


def _record(cls: type[T], values: Any, what: str) -> T:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{what} is {reprlib.repr(values)}; a mapping is expected")
    known = {f.name: str(f.type) for f in fields(cls)}  # type: ignore[arg-type]
    if unknown := sorted(str(k) for k in values if k not in known):
        raise ConfigError(f"{what} has unknown keys: {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    hints = get_type_hints(cls)
    for key, value in values.items():
        if not _fits(value, hints[key]):
            named = get_args(hints[key]) if get_origin(hints[key]) is Literal else None
            expected = f"one of {', '.join(named)}" if named else known[key]
            raise ConfigError(f"{what}: {key} is {reprlib.repr(value)}; expected {expected}")
    try:
        return cls(**values)
    except (TypeError, ConfigError) as error:
        raise ConfigError(f"{what}: {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, of those that the records here use."""
    kind, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if kind is Literal:
        return value in inner
    if kind in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if kind is tuple:
        return isinstance(value, tuple) and all(_fits(one, inner[0]) for one in value)
    if kind is not None:
        return isinstance(value, Mapping) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if hint in (int, float):
        return isinstance(value, int | hint) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, hint)


def _slim(record: Any) -> dict[str, Any]:
    found = {}
    for f in fields(record):
        value = getattr(record, f.name)
        if f.name in ("name", "status", "sha256", "revision") or value != _default(f):
            found[f.name] = _plain(value)
    return found


def _default(f: Any) -> Any:
    return f.default_factory() if callable(f.default_factory) else f.default


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {k: v for k, v in asdict(value).items() if v is not None}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return dict(value) if isinstance(value, Mapping) else value


def read_card(path: str | Path) -> Card:
    """A card from its YAML file, or from the head of a README.md that ``render`` wrote.

    Raises:
        ConfigError: No such file, not YAML, or not a card of this library.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text: {error}") from error
    values: Any = _load_yaml(_front_matter(text, path) if path.suffix == ".md" else text, path)
    if path.suffix == ".md":
        values = values.get("lightning_har") if isinstance(values, Mapping) else None
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path} is not a card of {LIBRARY}")
    return Card.from_dict(values, str(path))


def _front_matter(text: str, path: Path) -> str:
    match = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", text, re.DOTALL)
    if match is None:
        raise ConfigError(f"{path} is not a card of {LIBRARY}: it does not begin with a block between '---' lines")
    return match[1]


_DEEPEST = 20
"""Levels of YAML; a card has four."""


def _load_yaml(text: str, path: Path) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        # First, since libyaml builds nested values by recursion: a stranger's thousands would end the process, and
        # what names itself has no end either.
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST or isinstance(event, yaml.AliasEvent):
                raise ConfigError(
                    f"{path} is not a card of {LIBRARY}: nested over {_DEEPEST} deep, or with aliases (*)"
                )
        return yaml.load(text, Loader=loader)
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: 2020-13-45 looks like a date, and is none
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path} is not YAML: {error}") from error


def render(card: Card, *, address: str | None = None) -> str:
    """README.md of a checkpoint: the head that the hub reads, and the text that people read.

    Args:
        card: The record. Its own digests name the other files; README.md cannot hold its own.
        address: What to load it by; None takes its name.
    """
    import yaml

    head: dict[str, Any] = {
        **_license(card),
        "library_name": LIBRARY,
        "pipeline_tag": "video-classification",
        "tags": sorted({"video", "action-recognition", "pytorch-lightning", *card.tags}),
    }
    if card.datasets:
        head["datasets"] = list(card.datasets)
    if card.base_model:
        head["base_model"] = card.base_model
    if card.results:
        head["model-index"] = [{"name": card.name, "results": [_index_entry(r) for r in card.results]}]
    head["lightning_har"] = card.to_dict()
    front = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=110)
    return f"---\n{front}---\n{_body(card, address or card.name)}"


def _license(card: Card) -> dict[str, str]:
    known = {"Apache-2.0": "apache-2.0", "BSD-3-Clause": "bsd-3-clause", "MIT": "mit", "CC-BY-4.0": "cc-by-4.0"}
    if card.license in known:
        return {"license": known[card.license]}
    return {"license": "other", "license_name": card.license.lower().replace(" ", "-")}


def _index_entry(result: Result) -> dict[str, Any]:
    whose = "published by its authors, not measured here" if result.published else "measured"
    entry: dict[str, Any] = {
        "task": {"type": "video-classification"},
        "dataset": {"name": result.dataset, "type": result.dataset.lower().replace(" ", "-"), "split": result.split},
        "metrics": [{"type": "accuracy", "name": f"{result.metric} ({whose})", "value": result.value}],
    }
    if result.source:
        entry["source"] = {"name": "publisher's report", "url": result.source}
    return entry


def _body(card: Card, address: str) -> str:
    parts = [f"# {card.name}", card.summary]
    if card.unverified:
        parts.append(
            "**Unverified.** The files this was converted from matched no pinned digest: nobody vouches that they "
            "are what they claim to be."
        )
    if card.status == "convertible":
        parts.append("**No weights yet.** This card says what they are made from, and how.")
    load = f'module = lightning_har.load("{address}")  # a LightningModule, in eval mode'
    parts.append(f"```python\nimport lightning_har\n\n{load}\n```")
    parts += [_section("Intended use", card.intended_use), _section("Limitations", card.limitations)]
    parts += [_section("Privacy and surveillance", card.privacy), _section("Notes", card.notes)]
    if card.results:
        rows = [
            f"| {r.dataset} | {r.split} | {r.metric} | {r.value:g} % | "
            f"{'published, not measured here' if r.published else 'measured'} |"
            for r in card.results
        ]
        parts.append(
            "\n".join(["## Results\n", "| data | split | metric | value | whose |", "|---|---|---|---|---|", *rows])
        )
    known = {k: v for k, v in asdict(card.protocol).items() if v is not None}
    told = [f"- {key.replace('_', ' ')}: {value}" for key, value in known.items()]
    if all(r.published for r in card.results):
        told.append("\nNothing was measured here yet." if told else "Nothing was measured here yet.")
    parts.append("\n".join(["## Protocol\n", *told]))
    parts.append(_origin(card))
    digests = [f"| {name} | {digest or 'not known yet'} |" for name, digest in card.sha256.items()]
    if digests:
        parts.append("\n".join(["## Files\n", "| file | SHA-256 |", "|---|---|", *digests]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text.strip()}" if text.strip() else ""


def _origin(card: Card) -> str:
    lines = [f"- licence: {card.license}"]
    if card.repository:
        lines.append(f"- repository: {card.repository}{f' at {card.commit}' if card.commit else ''}")
    lines += [f"- {file.path}: {file.pin}{f', {file.url}' if file.url else ''}" for file in card.upstream]
    if card.recipe:
        lines.append(f"- trained by: {card.recipe}")
    if card.base_model:
        lines.append(f"- made from: {card.base_model}")
    return "\n".join(["## Origin\n", *lines])
