"""From a checkpoint's name to a verified folder: on disk, in a zoo folder, or on a Hugging Face Hub.

A zoo is a namespace on a hub (``HF_ENDPOINT`` says which hub) or a folder of checkpoint folders;
``LIGHTNING_HAR_ZOO`` names either. A checkpoint is a folder with ``model.safetensors``, ``config.json`` and
``README.md``. Every file is digested once and remembered by its size and times, so that loading again costs nothing.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_har._files import cache_directory, whole_file
from lightning_har._version import __version__
from lightning_har.errors import ConfigError, WeightsError
from lightning_har.weights.card import LIBRARY, Card, read_card
from lightning_har.weights.fetch import Digests, digests, hub_or_cache, hub_problem
from lightning_har.weights.resume import resume

_LOG = logging.getLogger(__name__)

WEIGHTS, CONFIG, README = "model.safetensors", "config.json", "README.md"
FILES = (WEIGHTS, CONFIG, README)
FORMAT_VERSION = 1
NAMESPACE = "lightning-har"
"""Where the project publishes."""
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle", ".tar", ".npy", ".npz", ".joblib")


@dataclass(frozen=True)
class Zoo:
    """Where checkpoints are looked for by name.

    Attributes:
        folder: A folder of checkpoint folders; None for a hub.
        namespace: User or organisation on the hub.
        chosen: Somebody named this zoo or this hub; it is not just the default.
    """

    folder: Path | None = None
    namespace: str = NAMESPACE
    chosen: bool = False

    def __str__(self) -> str:
        return str(self.folder) if self.folder else f"{endpoint() or 'https://huggingface.co'}/{self.namespace}"

    def repository(self, name: str) -> str:
        """The name with the namespace, unless it has one."""
        return name if "/" in name else f"{self.namespace}/{name}"


def find_zoo(where: str | Path | None = None) -> Zoo:
    """The zoo that the caller or the environment names.

    Args:
        where: A folder, or a namespace on the hub; None takes ``LIGHTNING_HAR_ZOO``, else the project's namespace.

    Raises:
        ConfigError: No such folder, and no possible namespace.
    """
    text = os.fspath(where or os.environ.get("LIGHTNING_HAR_ZOO") or "")
    if not text:
        return Zoo(chosen=endpoint() is not None)
    path = Path(text).expanduser()
    if path.is_dir():
        return Zoo(path, chosen=True)
    if looks_like_path(text) or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", text):
        raise ConfigError(f"no zoo at {text}: give an existing folder, or a namespace on the hub")
    return Zoo(None, text, chosen=True)


def looks_like_path(text: str) -> bool:
    """Whether a user who wrote this meant a place on disk."""
    return text.startswith((".", "~", os.sep)) or os.path.isabs(text) or text.count("/") > 1 or "\\" in text


def endpoint() -> str | None:
    """The hub's address where it is not the public one."""
    return (os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None


def cards_folder() -> Path | None:
    """Where the project's cards lie: in the checkout, or where the wheel put them."""
    checkout = Path(__file__).resolve().parents[2] / "zoo" / "cards"
    if checkout.is_dir():
        return checkout
    import importlib.metadata

    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(LIBRARY) or ():
            place = Path(str(file.locate())).resolve()
            if file.parts[-3:-1] == (LIBRARY, "cards") and place.is_file():
                return place.parent
    return None


def find_card(name: str) -> Card | None:
    """The project's card of that name."""
    folder = cards_folder()
    path = folder / f"{name}.yaml" if folder and re.fullmatch(r"[\w.-]+", name) else None
    return read_card(path) if path and path.is_file() else None


def fetch_card(name: str, zoo: Zoo) -> Card:
    """The card of a checkpoint on the hub; its weights are not fetched.

    Raises:
        WeightsError: There is no such repository, or it has no README.md.
        ConfigError: Its README.md is not of this library.
    """
    from huggingface_hub import hf_hub_download

    repository, unreached = zoo.repository(name), None
    try:
        with hub_or_cache() as unreached:
            path = hf_hub_download(repository, README, endpoint=endpoint(), library_name=LIBRARY)
    except Exception as error:  # the client's own errors differ by version and transport
        raise _refusal(error, name, repository, zoo, None, None, unreached) from error
    return read_card(path)


def names(zoo: Zoo, token: str | None = None) -> list[str]:
    """Names of the checkpoints in a zoo.

    Raises:
        WeightsError: The hub cannot be asked.
    """
    if zoo.folder is not None:
        return sorted(path.parent.name for path in zoo.folder.glob(f"[!.]*/{CONFIG}"))  # .NAME.part is half a copy
    if problem := hub_problem():
        raise WeightsError(f"{zoo} cannot be asked: {problem}")
    from huggingface_hub import HfApi

    try:
        models = list(HfApi(endpoint=endpoint(), token=token).list_models(author=zoo.namespace))
    except Exception as error:  # the client's own errors differ by version and transport
        raise WeightsError(f"{zoo} cannot be asked: {describe(error, token)}") from error
    return sorted(model.id.partition("/")[2] for model in models)


def resolve(
    id_or_path: str | Path,
    *,
    zoo: Zoo | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """The folder of a checkpoint, complete and verified.

    Args:
        id_or_path: A folder; a name in the zoo; or "owner/name" on the hub.
        zoo: Where names are looked up; None asks the environment.
        revision: Branch, tag or commit on the hub; None takes the commit that the project's card pins, else main.
        token: For private repositories; None takes the one you are logged in with.
        cache_dir: The hub client's cache; None takes its default.
        force_download: Fetch even what the cache has.
        local_files_only: Never use the network.

    Raises:
        WeightsError: Unknown (the nearest names are given), incomplete, or not what its digests say, twice in a row.
    """
    text = os.fspath(id_or_path)
    path = Path(text).expanduser()
    if not path.is_dir():
        if path.is_file():
            raise WeightsError(
                f"{path} is a file; a checkpoint is a folder with {', '.join(FILES)}. For a Trainer's .ckpt use "
                f"lightning_har.modules.load_checkpoint, or make a folder: lightning-har zoo convert"
            )
        if looks_like_path(text):
            raise WeightsError(f"no folder at {text}")
        zoo = zoo or find_zoo()
        if zoo.folder is None or "/" in text:
            card = find_card(text) if "/" not in text and zoo.namespace == NAMESPACE else None
            if not (force_download or local_files_only):
                pinned = revision or (card.revision if card else None)
                place = Path(cache_dir) if cache_dir else None
                resume(
                    zoo.repository(text), WEIGHTS, revision=pinned, endpoint=endpoint(), token=token, cache_dir=place
                )
            return _download(text, zoo, card, revision, token, cache_dir, force_download, local_files_only)
        path = zoo.folder / text
        if not path.is_dir():
            raise unknown(text, zoo)
    read_config(path)
    if found := problems(path):
        raise WeightsError(f"{_told(path, found)}. If you changed it yourself, write it anew with save_pretrained")
    return path


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's config.json, if this version can read it.

    Raises:
        WeightsError: Missing, damaged, of another library, or of a newer format.
    """
    path = folder / CONFIG
    missing = [name for name in (WEIGHTS, CONFIG) if not (folder / name).is_file()]
    if missing:
        pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES) if folder.is_dir() else []
        why = f". It holds {', '.join(pickled)}, which could run code when read: refused" if pickled else ""
        raise WeightsError(f"{folder} is not a checkpoint: it has no {' and no '.join(missing)}{why}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} is damaged: {error}. Fetch it again.") from error
    if not isinstance(config, dict) or config.get("library") != LIBRARY:
        raise WeightsError(f"{path} was not written by {LIBRARY}; this is another library's checkpoint")
    version = config.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        needed = config.get("requires_version") or config.get("library_version")
        raise WeightsError(
            f"{path} has format {version}; {LIBRARY} {__version__} reads up to {FORMAT_VERSION}. "
            f"It needs version {needed} or newer: pip install -U '{LIBRARY}>={needed}'"
        )
    kinds: dict[str, Any] = {"module": str, "class": str, "hyperparameters": dict, "num_classes": (int, dict)}
    if wrong := sorted(key for key, kind in kinds.items() if not isinstance(config.get(key), kind)):
        raise WeightsError(f"{path} is damaged: {', '.join(wrong)} missing or of the wrong type. Fetch it again.")
    return config


def problems(
    folder: Path, expected: Mapping[str, str | None] | None = None, *, digest: Callable[[Path], Digests] | None = None
) -> dict[str, str]:
    """What is wrong with a checkpoint's files, by name; empty where every digest agrees.

    A file is held against its README's digests, its config's, those given here, and the name that the hub's cache
    gave it, which is its digest.

    Args:
        folder: The checkpoint.
        expected: SHA-256 by file name, from a card.
        digest: How to digest a file; by default once, remembered.
    """
    digest = digest or remembered_digests
    wanted: dict[str, dict[str, str]] = {name: {} for name in FILES if (folder / name).is_file()}
    found: dict[str, str] = {}
    with contextlib.suppress(ConfigError):  # a README that somebody wrote by hand has no digests
        for name, sha256 in read_card(folder / README).sha256.items():
            if sha256:
                wanted.setdefault(name, {})[README] = sha256
    # A config.json that gives no digests, or is damaged, is for read_config to refuse.
    with contextlib.suppress(OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError):
        for name, sha256 in json.loads((folder / CONFIG).read_text(encoding="utf-8"))["sha256"].items():
            wanted.setdefault(name, {})[CONFIG] = sha256
    for name, given in (expected or {}).items():
        if given:
            wanted.setdefault(name, {})["the zoo's card"] = given
    if not wanted.get(WEIGHTS):
        found[WEIGHTS] = f"neither {CONFIG} nor {README} gives its digest"
    for name, sources in wanted.items():
        path = folder / name
        if not path.is_file() or Path(name).name != name:
            if name in FILES:  # others, such as an export beside the weights, are not needed to load it
                found[name] = "it is missing"
            continue
        own = digest(path)
        blob = path.resolve()
        if blob.parent.name == "blobs" and len(blob.name) in (40, 64):
            got = own.sha256 if len(blob.name) == 64 else own.git_blob_sha1
            if blob.name != got:
                found[name] = f"the hub promised {blob.name}, got {got}"
        for source, sha256 in sources.items():
            if sha256 != own.sha256:
                found[name] = f"{source} promises SHA-256 {sha256}, got {own.sha256}"
    return found


def remembered_digests(path: Path) -> Digests:
    """A file's digests, computed once as long as its size, times and inode stay the same."""
    status = path.stat()
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]
    key = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    memory = cache_directory() / "digests" / f"{key}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(memory.read_text())
        if known["stamp"] == stamp:
            return Digests(**known["digests"])
    found = digests(path)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs only time
        memory.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(memory) as part:
            part.write_text(json.dumps({"stamp": stamp, "digests": asdict(found)}))
    return found


def unknown(name: str, zoo: Zoo, token: str | None = None, *, ask: bool = True) -> WeightsError:
    """The answer to a name that the zoo does not have.

    Args:
        name: As the user wrote it.
        zoo: Where it was looked for.
        token: To see private names.
        ask: Whether the zoo can be asked for its names; the project's own are known without.
    """
    private = "" if zoo.folder else ", or it is private and you are not logged in to see it"
    return WeightsError(f"{zoo} has no checkpoint {name!r}{private}. {_hint(name, zoo, token, ask=ask)}")


def _hint(name: str, zoo: Zoo, token: str | None, *, ask: bool) -> str:
    folder = cards_folder()
    known = {path.stem for path in folder.glob("*.yaml")} if folder else set()
    if name in known:
        return f"Its source is known: lightning-har zoo build {name}"
    if ask:
        with contextlib.suppress(WeightsError):  # a hub that does not answer knows no names
            known |= set(names(zoo, token))
    near = difflib.get_close_matches(name.rpartition("/")[2], sorted(known), n=3, cutoff=0.4)
    return f"Nearest: {', '.join(near)}" if near else "`lightning-har zoo list` names all"


def describe(error: BaseException, token: str | None = None) -> str:
    """The first line of a client's error, without any token."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return scrub(f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}", token)


def scrub(text: str, token: str | None = None) -> str:
    """Text without tokens."""
    text = text.replace(token, "***") if token else text
    return TOKEN.sub("***", text)


TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}\b|\bBearer\s+\S+")
"""What an access token of the hub looks like."""


def _download(
    name: str,
    zoo: Zoo,
    card: Card | None,
    revision: str | None,
    token: str | None,
    cache_dir: str | Path | None,
    force: bool,
    local_only: bool,
) -> Path:
    from huggingface_hub import snapshot_download

    repository = zoo.repository(name)
    pinned = card is not None and card.revision is not None and revision in (None, card.revision)
    expected = card.sha256 if card is not None and pinned else {}
    revision = card.revision if card is not None and pinned else revision
    found: dict[str, str] = {}
    folder = Path()
    for attempt in (1, 2):
        unreached = None
        try:
            with contextlib.nullcontext() if local_only else hub_or_cache() as unreached:
                folder = Path(
                    snapshot_download(
                        repository,
                        revision=revision,
                        endpoint=endpoint(),
                        token=token,
                        cache_dir=cache_dir,
                        force_download=force and attempt == 1,
                        local_files_only=local_only,
                        allow_patterns=list(FILES),
                        library_name=LIBRARY,
                        library_version=__version__,
                    )
                )
        except Exception as error:  # the client's own errors differ by version and transport
            raise _refusal(error, name, repository, zoo, revision, token, unreached) from error
        absent = [file for file in (WEIGHTS, CONFIG) if not (folder / file).is_file()]
        if absent:
            raise WeightsError(
                f"{repository} is not a checkpoint of {LIBRARY}: it has no {' and no '.join(absent)}. "
                "Only safetensors are read; other weights are converted with `lightning-har zoo convert`"
            )
        found = problems(folder, expected)
        if not found:
            read_config(folder)
            return folder
        try:
            for file in found:
                # The cache is links to blobs: both go, so that nobody is given the bad file under its good name.
                (folder / file).resolve().unlink(missing_ok=True)
                (folder / file).unlink(missing_ok=True)
        except OSError as error:
            raise WeightsError(f"{_told(Path(repository), found)}; and it cannot be removed: {error}") from error
        if local_only:
            break
        _LOG.warning("%s, try %d of 2", _told(Path(repository), found), attempt)
    raise WeightsError(
        f"{_told(Path(repository), found)}. It was removed from the cache. "
        + ("Allow the network to fetch it again" if local_only else "Tell its publisher, or pin another revision")
    )


def _told(where: Path, found: Mapping[str, str]) -> str:
    return f"{where} is refused: " + "; ".join(f"{file}: {what}" for file, what in found.items())


def _refusal(
    error: Exception,
    name: str,
    repository: str,
    zoo: Zoo,
    revision: str | None,
    token: str | None,
    unreached: str | None,
) -> WeightsError:
    """What to tell of a client's error; ``unreached`` is why the hub was not even asked."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return WeightsError(f"{repository} is gated: ask for access on its page, and log in")
    if isinstance(error, errors.RevisionNotFoundError):
        return WeightsError(f"{repository} has no revision {revision!r}; give a branch, a tag or a full commit")
    if isinstance(error, errors.RepositoryNotFoundError) or status in (401, 403, 404):
        return unknown(name, zoo, token)
    if isinstance(error, errors.HFValidationError):
        return WeightsError(f"{repository!r} is no name on the hub: give a folder, a zoo's name, or owner/name")
    if unreached is not None or isinstance(error, errors.LocalEntryNotFoundError):
        return WeightsError(
            f"{repository} is not in the cache, and the hub cannot be asked ({unreached or describe(error, token)}). "
            f"Where there is no network, set LIGHTNING_HAR_ZOO to a folder of checkpoints. "
            f"{_hint(name, zoo, token, ask=False)}"
        )
    return WeightsError(f"cannot fetch {repository}: {describe(error, token)}")
