"""Modules from and to checkpoint folders: model.safetensors, config.json, README.md. Reads no pickle.

``config.json`` holds the class, its arguments, the exact preprocessing, the evaluation protocol and the class names;
``model.safetensors`` the network's tensors, by the names of ``module.net.state_dict()``.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lightning_har._files import whole_file
from lightning_har._version import __version__
from lightning_har.errors import ConfigError, WeightsError
from lightning_har.modules import load_checkpoint
from lightning_har.modules.base import ActionRecognizer
from lightning_har.nets.size import count_parameters
from lightning_har.spec import InputSpec, Sampling
from lightning_har.types import NumClasses, to_class_names
from lightning_har.weights.card import LIBRARY, Card, render
from lightning_har.weights.fetch import digests
from lightning_har.weights.hub import CONFIG, FORMAT_VERSION, README, WEIGHTS, Zoo, read_config, resolve
from lightning_har.weights.in_place import Place, read_into, read_places
from lightning_har.weights.int8 import SCALE, join_scales, stored
from lightning_har.weights.matching import check_fit
from lightning_har.weights.safetensors_io import save_safetensors

if TYPE_CHECKING:
    from torch import nn

_LOG = logging.getLogger(__name__)

_FORMAT_SINCE = "0.1.0"
"""First version of this library that reads FORMAT_VERSION."""


def save(module: ActionRecognizer, folder: str | Path, card: Card | None = None, *, int8: bool = False) -> Path:
    """Write a module as a checkpoint folder.

    Args:
        module: One of this library's, or a subclass.
        folder: Made where missing; the three files are replaced.
        card: What is said of it; None says only what the module knows. Digests and parameters are filled in.
        int8: Store matrices in 8 bits, see ``weights.int8``; what is loaded then has rounded weights.

    Returns:
        The folder.

    Raises:
        ConfigError: An argument of the module cannot be written as JSON.
        WeightsError: Two names share memory, or the folder cannot be written.
    """
    folder = Path(folder)
    config = _config(module)  # first, so that nothing is written where it cannot be
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_safetensors(stored(module.net) if int8 else module.net.state_dict(), folder / WEIGHTS, {"format": "pt"})
        (folder / WEIGHTS).chmod(0o666 & ~_umask())  # safetensors writes for its owner alone
        config["sha256"] = {WEIGHTS: digests(folder / WEIGHTS).sha256}
        _write(folder / CONFIG, json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        card = card or Card(name=_card_name(folder.resolve().name))
        card = replace(
            card,
            parameters=count_parameters(module.net)[0],
            sha256={**config["sha256"], CONFIG: digests(folder / CONFIG).sha256},
        )
        _write(folder / README, render(card))
    except OSError as error:
        raise WeightsError(f"{folder} cannot be written: {error.strerror or error}") from error
    return folder


def load(
    id_or_path: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    num_classes: NumClasses | None = None,
    map_location: Any = None,
    cls: type[ActionRecognizer] = ActionRecognizer,
    zoo: Zoo | None = None,
) -> ActionRecognizer:
    """A module from a checkpoint, whatever its class; runs no code from it.

    Args:
        id_or_path: A folder; a name in the zoo (``LIGHTNING_HAR_ZOO``: a folder, or a namespace on the hub); or
            "owner/name" on the hub.
        revision: Branch, tag or commit on the hub; None takes what the project's card pins, else main.
        token: For private repositories; None takes the one you are logged in with.
        cache_dir: The hub client's cache; None takes its default.
        force_download: Fetch even what the cache has.
        local_files_only: Never use the network.
        num_classes: Another number of classes, or heads by name: the head, and nothing else, is new and untrained;
            which tensors that are is logged as a warning. 0 leaves it off: ``forward`` gives features.
        map_location: A device to move the module to.
        cls: What it must be; the base class takes any of the library's.
        zoo: Where names are looked up; None asks the environment.

    Returns:
        The module in eval mode, with its preprocessing, evaluation protocol and class names.

    Raises:
        WeightsError: Unknown, incomplete, not what its digests say, of a newer format, of another class, or its
            tensors do not fit.
    """
    folder = resolve(
        id_or_path,
        zoo=zoo,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        force_download=force_download,
        local_files_only=local_files_only,
    )
    config = read_config(folder)
    found = _class(config, cls, folder)
    what = str(id_or_path)
    places = join_scales(read_places(folder / WEIGHTS), what)
    if num_classes is None:
        module = _build(found, config, what)
        _fill(module.net, folder, places, what)
    else:
        module = _with_new_head(found, config, folder, places, num_classes, what)
    _introduce(module, config, keep_names=num_classes is None, what=what)
    if map_location is not None:
        module.to(map_location)
    module.eval()
    return module


def load_model(model: str | Path) -> ActionRecognizer:
    """A module from a checkpoint, a run's folder (its best checkpoint), or what ``load`` takes.

    Raises:
        ConfigError: A run's folder without a best checkpoint.
        WeightsError: Nothing of that name, or not a checkpoint of ours.
    """
    path = weights_of(model)
    return load(model) if path is None or path.name == WEIGHTS else load_checkpoint(path)


def weights_of(model: str | Path) -> Path | None:
    """The file that holds the weights of what ``load_model`` takes; None for a name in a zoo or on the hub.

    Raises:
        ConfigError: A run's folder without a best checkpoint.
    """
    path = Path(model)
    if path.is_file() or path.suffix == ".ckpt":
        return path
    if not path.is_dir():
        return None
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    best = path / "best.ckpt"
    if not best.is_file():
        inner = sorted(str(p.parent) for p in path.glob("*/best.ckpt"))
        hint = f"; there is {' and '.join(inner)}" if inner else "; was the run stopped in its first epoch?"
        raise ConfigError(f"{path} has no best.ckpt{hint}")
    return best


def push_to_hub(
    module: ActionRecognizer,
    repo_id: str,
    *,
    private: bool | None = None,
    commit_message: str | None = None,
    token: str | None = None,
    card: Card | None = None,
) -> str:
    """Save a module and publish it on the hub.

    Args:
        module: As in ``save``.
        repo_id: "owner/name"; made where missing.
        private: Of a repository that is made now.
        commit_message: Of the upload.
        token: None takes the one you are logged in with.
        card: As in ``save``.

    Returns:
        The commit, a revision to pin.

    Raises:
        WeightsError: The hub refuses it.
    """
    from lightning_har.weights.publish import to_hub

    with tempfile.TemporaryDirectory() as temporary:
        name = _card_name(repo_id.rpartition("/")[2])
        folder = save(module, Path(temporary) / name, card or Card(name=name))
        commit: str = to_hub(folder, repo_id, private=private, commit_message=commit_message, token=token)
        return commit


def _card_name(text: str) -> str:
    kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in text).strip("._-")
    return kept or "checkpoint"


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _write(path: Path, text: str) -> None:
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def _config(module: ActionRecognizer) -> dict[str, Any]:
    cls, spec = type(module), module.spec
    if module.class_names is not None and not _fits_classes(module.class_names, module.num_classes):
        raise ConfigError(f"class_names has other names than {cls.__name__} has classes ({module.num_classes})")
    told: Any = spec and spec.to_dict() if not isinstance(spec, Mapping) else {m: s.to_dict() for m, s in spec.items()}
    arguments = cls.offline(module.hparams)
    return {
        "library": LIBRARY,
        "library_version": __version__,
        "format_version": FORMAT_VERSION,
        "requires_version": _FORMAT_SINCE,
        "module": cls.__module__,
        "class": cls.__name__,
        "num_classes": _json(module.num_classes, "num_classes"),
        "hyperparameters": {name: _json(value, f"argument {name}") for name, value in arguments.items()},
        "input_spec": told,
        "eval_sampling": module.eval_sampling and module.eval_sampling.to_dict(),
        "class_names": _json(module.class_names, "class_names"),
    }


def _json(value: Any, what: str) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, Mapping):
        return {str(k): _json(v, what) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_json(v, what) for v in value]
    raise ConfigError(f"{what} is {value!r}, which cannot be written as JSON; give numbers, strings, lists or dicts")


def _class(config: Mapping[str, Any], wanted: type[ActionRecognizer], folder: Path) -> type[ActionRecognizer]:
    home, name = str(config.get("module")), str(config.get("class"))
    if wanted.__name__ == name and wanted.__module__ == home:
        return wanted
    # A stranger's config may name any module: only the library's own are imported.
    if not home.startswith("lightning_har.modules."):
        raise WeightsError(
            f"{folder} was made by {home}.{name}, which is not a class of this library: use {name}.from_pretrained"
        )
    try:
        found = getattr(importlib.import_module(home), name, None)
    except ImportError:
        found = None
    if not (isinstance(found, type) and issubclass(found, ActionRecognizer)):
        raise WeightsError(f"{LIBRARY} {__version__} has no {name}, which {folder} needs; install a newer version")
    if not issubclass(found, wanted):
        raise WeightsError(
            f"{folder} is a {name}, not {wanted.__name__}: use {name}.from_pretrained or lightning_har.load"
        )
    return found


def _build(
    cls: type[ActionRecognizer], config: Mapping[str, Any], what: str, num_classes: NumClasses | None = None
) -> ActionRecognizer:
    try:
        arguments = cls.offline(config["hyperparameters"])  # also where config.json says nothing: a default could fetch
        return cls(**{**arguments, "num_classes": config["num_classes"] if num_classes is None else num_classes})
    except Exception as error:  # over a damaged argument a constructor can stumble in any way
        told = str(error) if isinstance(error, ConfigError) else f"{type(error).__name__}: {error}"
        raise WeightsError(
            f"{what} cannot be built as its {CONFIG} says: {told}. It was written by {LIBRARY} "
            f"{config.get('library_version')}, this is {__version__}; install that version, or fetch the file again"
        ) from error


def _fill(
    net: nn.Module,
    folder: Path,
    places: Mapping[str, Place],
    what: str,
    *,
    new: frozenset[str] = frozenset(),
    old: frozenset[str] = frozenset(),
) -> None:
    """Read every tensor but the ``new`` ones of the network and the ``old`` ones of the file."""
    own = net.state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in own.items() if name not in new}
    given = {name: place.shape for name, place in places.items() if name not in old}
    check_fit(expected, given, network=type(net).__name__, what=what)
    codes = [name for name in expected if places[name].dtype is torch.int8 and own[name].is_floating_point()]
    if bare := sorted(name for name in codes if places[name].scale is None):
        raise WeightsError(f"{what}: {', '.join(bare)}: in 8 bits, without {SCALE[1:]}. Fetch it again")
    read_into(folder / WEIGHTS, places, {name: own[name] for name in expected})
    # Copies nothing, every tensor being its own source; it runs the hooks of modules that prepare for new weights.
    net.load_state_dict(own)


def _with_new_head(
    cls: type[ActionRecognizer],
    config: Mapping[str, Any],
    folder: Path,
    places: Mapping[str, Place],
    num_classes: NumClasses,
    what: str,
) -> ActionRecognizer:
    """The head is what depends on the number of classes: found by building the network with one class more."""
    own = config["num_classes"]
    more = {head: k + 1 for head, k in own.items()} if isinstance(own, Mapping) else own + 1
    other = {n: tuple(t.shape) for n, t in _build(cls, config, what, more).net.state_dict().items()}
    old = frozenset(name for name, place in places.items() if other.get(name) != place.shape)
    module = _build(cls, config, what, num_classes)
    names = module.net.state_dict().keys()
    new = frozenset(name for name in names if name in old or name not in places)
    if not num_classes:  # features: whatever only served the head goes too
        old |= places.keys() - names
    _fill(module.net, folder, places, what, new=new, old=old)
    if new:
        _LOG.warning("%s: a new, untrained head for %s classes: %s", what, num_classes, ", ".join(sorted(new)))
    else:
        _LOG.warning("%s: without its head (%s); it gives features", what, ", ".join(sorted(old)))
    return module


def _introduce(module: ActionRecognizer, config: Mapping[str, Any], *, keep_names: bool, what: str) -> None:
    spec, sampling, class_names = (config.get(key) for key in ("input_spec", "eval_sampling", "class_names"))
    try:
        if isinstance(module.spec, Mapping) and spec is not None:
            module.spec = {modality: InputSpec.from_dict(values) for modality, values in spec.items()}
        elif spec is not None:
            module.spec = InputSpec.from_dict(spec)
        if sampling is not None:
            module.eval_sampling = Sampling.from_dict(sampling)
    except (ConfigError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{what}: {CONFIG} has a bad preprocessing or protocol: {error}") from error
    if keep_names and class_names is not None:
        if not _fits_classes(class_names, module.num_classes):
            raise WeightsError(f"{what}: {CONFIG} has bad class names; it needs one for each of {module.num_classes}")
        module.class_names = to_class_names(class_names)


def _fits_classes(names: Any, counts: NumClasses) -> bool:
    """Whether every class has a name: a list of strings, or one by head."""
    if isinstance(counts, Mapping):
        same = isinstance(names, Mapping) and names.keys() == counts.keys()
        return same and all(_fits_classes(names[head], count) for head, count in counts.items())
    whole = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return whole and len(names) == counts
