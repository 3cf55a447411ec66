"""Puts a checkpoint folder where others find it: on a hub, or into a zoo folder."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from lightning_har._version import __version__
from lightning_har.errors import ConfigError, WeightsError
from lightning_har.weights.card import LIBRARY, Card, read_card, render
from lightning_har.weights.fetch import hub_problem
from lightning_har.weights.hub import (
    CONFIG,
    FILES,
    NAMESPACE,
    PICKLES,
    README,
    TOKEN,
    describe,
    endpoint,
    problems,
    read_config,
)

_TEXT = (".json", ".md", ".txt", ".csv", ".yaml")
_ALLOWED = (".safetensors", *_TEXT, ".onnx", ".tflite", ".pte", ".png")


def check_publishable(folder: str | Path, token: str | None = None) -> Card:
    """Refuse what must not be published: pickles, secrets, altered files, weights under no licence that allows it.

    Args:
        folder: A checkpoint.
        token: Searched for in the texts.

    Returns:
        Its card.

    Raises:
        WeightsError: One of these, named.
    """
    folder = Path(folder)
    read_config(folder)
    if found := problems(folder):
        raise WeightsError(f"{folder} is not published: " + "; ".join(f"{k}: {v}" for k, v in found.items()))
    try:
        card = read_card(folder / README)
    except ConfigError as error:
        raise WeightsError(f"{folder} is not published: it has no card. {error}") from error
    if not card.republish:
        raise WeightsError(
            f"{card.name} is not published: its licence ({card.license}) does not say that others may. It stays for "
            "your own use; everybody can build it with `lightning-har zoo build`"
        )
    for path in sorted(folder.rglob("*")):
        told = path.relative_to(folder).as_posix()
        if path.is_dir() or told.startswith("."):
            continue
        if path.suffix in PICKLES or path.suffix not in _ALLOWED:
            what = "it could run code when read" if path.suffix in PICKLES else "no file of a checkpoint"
            raise WeightsError(f"{folder} is not published: {told}: {what}. Only {', '.join(_ALLOWED)} are")
        if path.name not in FILES and told not in card.sha256:
            raise WeightsError(f"{folder} is not published: its card has no digest of {told}")
        if path.suffix in _TEXT:
            text = path.read_text(encoding="utf-8", errors="replace")
            if TOKEN.search(text) or (token and token in text):
                raise WeightsError(f"{folder} is not published: {told} holds an access token; remove it and revoke it")
    return card


def to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    commit_message: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a checkpoint.

    Args:
        folder: Checked by ``check_publishable``.
        repo_id: "owner/name"; made where missing.
        private: Of a repository that is made now; None takes the owner's default.
        commit_message: None says which library uploads.
        token: None takes the one you are logged in with.

    Returns:
        The commit, a revision to pin.

    Raises:
        WeightsError: The folder must not be published, or the hub refuses it.
    """
    card = check_publishable(folder, token)
    if problem := hub_problem():
        raise WeightsError(f"{repo_id} cannot be published: {problem}. A folder is a zoo too: --zoo PATH")
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=endpoint(), token=token, library_name=LIBRARY, library_version=__version__)
    # The card as it reads from there; no digest covers it, since it holds the others'.
    address = card.name if repo_id == f"{NAMESPACE}/{card.name}" else repo_id
    text = render(replace(card, status="published"), address=address)
    operations = [CommitOperationAdd(README, text.encode())]
    for path in sorted(Path(folder).rglob("*")):
        told = path.relative_to(folder).as_posix()
        if path.is_file() and told != README and not told.startswith("."):
            operations.append(CommitOperationAdd(told, path))
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message or f"Upload {card.name} with {LIBRARY} {__version__}",
        )
    except Exception as error:  # the client's own errors differ by version and transport
        refused = getattr(getattr(error, "response", None), "status_code", None) in (401, 403)
        hint = ". Log in (hf auth login) as somebody who may write there, or take a namespace of yours: --zoo NAME"
        raise WeightsError(
            f"{repo_id} cannot be published: {describe(error, token)}{hint if refused else ''}"
        ) from error
    return str(commit.oid)


def to_folder(folder: str | Path, zoo: str | Path, name: str) -> Path:
    """Copy a checkpoint into a zoo folder, all of it or nothing.

    Args:
        folder: Checked by ``check_publishable``.
        zoo: The folder of checkpoint folders.
        name: Of the checkpoint in the zoo; one of that name is replaced.

    Returns:
        Its place in the zoo.

    Raises:
        WeightsError: The folder must not be published, or the zoo cannot be written.
    """
    check_publishable(folder)
    return copy_checkpoint(folder, Path(zoo) / name)


def copy_checkpoint(folder: str | Path, place: str | Path) -> Path:
    """Copy a checkpoint, all of it or nothing; links of the hub's cache become files.

    Args:
        folder: The checkpoint.
        place: Its new folder; a checkpoint there is replaced.

    Returns:
        The new folder.

    Raises:
        WeightsError: It cannot be written, or something else is there.
    """
    place = Path(place)
    if place.resolve() == Path(folder).resolve():
        return place
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, part, ignore=shutil.ignore_patterns(".*"))
        put_in_place(part, place)
    except shutil.Error as error:  # of several files, each with its reason
        _, _, reason = error.args[0][0]
        raise WeightsError(f"{place} cannot be written: {reason}") from error
    except OSError as error:
        raise WeightsError(f"{place} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return place


def put_in_place(part: Path, place: Path) -> None:
    """Give a complete folder its name; what had the name goes, if it was a checkpoint or empty.

    Raises:
        WeightsError: Something else has the name.
    """
    if place.exists() and not ((place / CONFIG).is_file() or (place.is_dir() and not any(place.iterdir()))):
        raise WeightsError(f"{place} exists and is no checkpoint; it is left as it is. Give another folder")
    old = place.with_name(f".{place.name}.{os.getpid()}.old")
    try:
        if place.exists():
            os.replace(place, old)
        os.replace(part, place)
    finally:
        shutil.rmtree(old, ignore_errors=True)
