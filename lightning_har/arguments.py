"""The arguments of a recipe: what its partials say, a replayed config.yaml, and the command line, in that order."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning_har._lightning import Trainer
from lightning_har.data.datamodule import ActionDataModule
from lightning_har.data.features import FeatureDataModule, open_features
from lightning_har.data.manifest import read_rows
from lightning_har.data.named import HELP, data_factory
from lightning_har.errors import ConfigError

_OURS = ("callbacks", "logger")
"""Trainer arguments that are objects: a recipe may pass them, the command line cannot."""

SMOKE_TRAINER = {
    "max_epochs": 1,
    "limit_train_batches": 2,
    "limit_val_batches": 2,
    "limit_test_batches": 2,
    "num_sanity_val_steps": 0,
}


@dataclass(frozen=True)
class Arguments:
    """What one run is called with.

    Attributes:
        out: Folder of the run; None for the default.
        smoke: Run on tiny fake data.
        seed: Of weights, shuffling and augmentation.
        resume: Run folder or checkpoint to continue from.
        variant: The one variant to run, of a recipe that has several.
        replaced: Other data than the recipe's was asked for.
        refit_all: Train on all data, test on none.
        module_class: The module's class.
        module: Its keyword arguments, without num_classes where the data gives it.
        data_class: The data module's class.
        data: Its keyword arguments.
        trainer: Keyword arguments of the Trainer.
        yaml: All that repeats the run, as config.yaml.
    """

    out: Path | None
    smoke: bool
    seed: int
    resume: Path | None
    variant: str | None
    replaced: bool
    refit_all: bool
    module_class: type
    module: dict[str, Any]
    data_class: type
    data: dict[str, Any]
    trainer: dict[str, Any]
    yaml: str


def split_partial(factory: Callable[..., Any], what: str) -> tuple[type, dict[str, Any]]:
    """A class and the keyword arguments that a recipe gives it.

    Args:
        factory: A class, or ``functools.partial(SomeClass, key=value, ...)``.
        what: "module" or "data", for the message.

    Raises:
        ConfigError: Neither, or a partial with positional arguments or with a keyword the class does not
            take.
    """
    keywords: dict[str, Any] = {}
    if isinstance(factory, partial):
        if factory.args:
            raise ConfigError(f"{what}=partial(...) has positional arguments; name them all, as in key=value")
        keywords, factory = dict(factory.keywords), factory.func
    if not inspect.isclass(factory):
        raise ConfigError(f"{what} is {factory!r}; give a class, or functools.partial(Class, key=value)")
    return factory, keywords


def parse(
    module: Callable[..., Any],
    data: Callable[..., Any],
    trainer: Mapping[str, Any],
    argv: Sequence[str],
    *,
    recipe: str,
    variants: Sequence[str] = (),
    variant: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    smoke: Mapping[str, Any] | None = None,
    smoke_folder: Path | None = None,
) -> Arguments:
    """Read the command line of a recipe against the signatures of its classes.

    Args:
        module: Class or partial of the module.
        data: Class or partial of the data module.
        trainer: Arguments of the Trainer.
        argv: The command line.
        recipe: Name in the help text.
        variants: Names that ``--variant`` accepts.
        variant: The one at hand.
        overrides: Its dotted defaults, such as ``{"module.temporal": "gru"}``.
        smoke: Dotted defaults of ``--smoke``.
        smoke_folder: Where fake data is written, if ``--smoke`` is given.

    Raises:
        ConfigError: An argument that nothing takes, or a value of the wrong type.
    """
    from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser

    argv = _with_config_of_resumed(list(argv), variant)
    replayed_config = _replayed_config(argv)  # read ahead: the parser is built for the data that it names
    on: str | None = _value(argv, "--on") or replayed_config.get("on")
    smoking = "--smoke" in argv or bool(replayed_config.get("smoke"))
    module_class, module_keywords = split_partial(module, "module")
    data_class, data_keywords = split_partial(data, "data")
    overrides = dict(overrides or {})
    if on is not None:
        data_class, data_keywords = _replace(on, data_keywords)
        accepted = _parameters(data_class)
        overrides = {k: v for k, v in overrides.items() if not k.startswith("data.") or k.split(".")[1] in accepted}
    if fold_keyword(data_class) == "split":
        argv = [re.sub(r"^--data\.fold(?==|$)", "--data.split", argument) for argument in argv]
    fixed = {name: module_keywords.pop(name) for name in ("num_classes",) if name in module_keywords}
    objects = {name: trainer[name] for name in _OURS if name in trainer}

    parser = ArgumentParser(
        prog=f"lightning run {recipe}.py", exit_on_error=False, allow_abbrev=False, description=f"Recipe {recipe}."
    )
    parser.add_argument("--config", action=ActionConfigFile, help="repeat a run from its config.yaml")
    parser.add_argument("--out", type=str, metavar="DIR", help="folder of the run (default: runs/RECIPE/TIME)")
    parser.add_argument("--smoke", action="store_true", help="a couple of steps on tiny fake data, in seconds")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the run (default: 0)")
    parser.add_argument("--resume", type=str, metavar="DIR|CKPT", help="continue a run that was stopped")
    parser.add_argument("--on", type=str, metavar="DATA", help=f"other data than the recipe's: {HELP}")
    parser.add_argument("--epochs", type=int, metavar="N", help="short for --trainer.max_epochs N")
    parser.add_argument(
        "--refit-all", action="store_true", help="train on all data for deployment, --epochs N; no score is left"
    )
    if variants:
        parser.add_argument("--variant", type=str, help=f"run only one of {', '.join(variants)}")
    parser.add_class_arguments(module_class, "module", skip={"num_classes"}, fail_untyped=False)
    parser.add_class_arguments(data_class, "data", skip={"spec"}, fail_untyped=False)
    parser.add_class_arguments(Trainer, "trainer", skip=set(_OURS), fail_untyped=False)

    defaults = {f"module.{k}": v for k, v in module_keywords.items()}
    defaults |= {f"data.{k}": v for k, v in data_keywords.items() if k != "spec"}
    defaults |= {f"trainer.{k}": v for k, v in trainer.items() if k not in _OURS}
    defaults |= overrides
    temporary: dict[str, Any] = {}
    if smoke_folder is not None and smoking and not {"-h", "--help"} & set(argv):
        defaults |= _smoke_defaults(module_class, data_class, smoke_folder) | dict(smoke or {})
        temporary = {k: v for k, v in defaults.items() if str(v).startswith(str(smoke_folder))}
    on_features = issubclass(data_class, FeatureDataModule) and "feature_dim" in _parameters(module_class)
    manifest = _value(argv, "--data.manifest") or defaults.get("data.manifest")  # a fake one by --smoke
    if on_features and manifest and not {"-h", "--help"} & set(argv):
        defaults |= {"module.backbone": None, "module.feature_dim": _width(Path(manifest))}
    for name in defaults:
        if not any(name == a.dest or name.startswith(f"{a.dest}.") for a in parser._actions if "." in a.dest):
            group = name.split(".")[0]
            taken = [a.dest for a in parser._actions if a.dest.startswith(f"{group}.")]
            raise ConfigError(f"recipe {recipe}: {name} is taken by nothing{_nearest(name, taken)}")
    parser.set_defaults(defaults)
    try:
        parsed = parser.parse_args(argv)
        built = parser.instantiate_classes(parsed, instantiate_groups=False)
    except ArgumentError as error:
        raise ConfigError(_readable(str(error), parser, recipe, data_class)) from error
    if variants and parsed.variant is not None and parsed.variant not in variants:
        raise ConfigError(f"no variant {parsed.variant!r}; this recipe has {', '.join(variants)}")
    if parsed.refit_all and parsed.epochs is None:
        raise ConfigError("--refit-all leaves no validation to stop by; say how long to train with --epochs N")
    replayed = parsed.clone()
    # Fake data is removed with the run that made it, and made anew by the run that repeats it.
    gone = [name for name, value in temporary.items() if str(parsed[name]) == str(value)]
    for name in ("config", "out", "resume", *gone, *(() if parsed.smoke else ("smoke",))):
        replayed.pop(name, None)
    if variant is not None:
        replayed.variant = variant
    trainer_keywords = dict(vars(built.trainer)) | objects
    if parsed.epochs is not None:
        trainer_keywords["max_epochs"] = parsed.epochs
    return Arguments(
        out=Path(parsed.out) if parsed.out else None,
        smoke=parsed.smoke,
        seed=parsed.seed,
        resume=Path(parsed.resume) if parsed.resume else None,
        variant=parsed.variant if variants else None,
        replaced=on is not None,
        refit_all=parsed.refit_all,
        module_class=module_class,
        module=dict(vars(built.module)) | fixed,
        data_class=data_class,
        data=dict(vars(built.data)) | {k: v for k, v in data_keywords.items() if k == "spec"},
        trainer=trainer_keywords,
        yaml=parser.dump(replayed, skip_validation=True),
    )


def _replayed_config(argv: Sequence[str]) -> dict[str, Any]:
    """The config.yaml that ``--config`` names; empty without one, and where it cannot be read."""
    config = _value(argv, "--config")
    if config is None or not Path(config).is_file():
        return {}
    import yaml

    try:
        found = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"{config} is no config.yaml of a run, or is damaged: {why}") from error
    return found if isinstance(found, dict) else {}


def _value(argv: Sequence[str], name: str) -> str | None:
    found = None
    for argument, following in zip(argv, [*argv, ""][1:], strict=True):
        if argument == name:
            found = following
        elif argument.startswith(f"{name}="):
            found = argument.removeprefix(f"{name}=")
    return found


def _replace(on: str, keywords: Mapping[str, Any]) -> tuple[type, dict[str, Any]]:
    """The data that ``--on`` names, with as much of the recipe's settings as any data module takes."""
    data_class, given = split_partial(data_factory(on), "data")
    common = set(inspect.signature(ActionDataModule.__init__).parameters) - {"self", "spec"}
    return data_class, {k: v for k, v in keywords.items() if k in common} | given


def fold_keyword(data_class: type) -> str | None:
    """The argument of a data module that chooses its fold: official data calls its folds splits. None without folds."""
    taken = _parameters(data_class)
    return next((name for name in ("fold", "split") if name in taken), None)


def _parameters(cls: type) -> set[str]:
    """Names of the constructor's parameters, those of its bases included."""
    return {name for base in cls.__mro__ if "__init__" in vars(base) for name in inspect.signature(base).parameters}


def _width(manifest: Path) -> int:
    """Features of a frame, in the first file that the CSV names."""
    first = read_rows(manifest, ["path"])[0]
    width: int = open_features(manifest.parent / first["path"]).shape[1]
    return width


def _smoke_defaults(module_class: type, data_class: type, folder: Path) -> dict[str, Any]:
    if not hasattr(data_class, "smoke_arguments"):
        raise ConfigError(f"{data_class.__name__} has no smoke_arguments(folder): --smoke has no data to run on")
    values = {f"data.{k}": v for k, v in data_class.smoke_arguments(folder).items()}
    values |= {f"trainer.{k}": v for k, v in SMOKE_TRAINER.items()}
    if "pretrained" in inspect.signature(module_class).parameters:
        values["module.pretrained"] = False
    return values


def _with_config_of_resumed(argv: list[str], variant: str | None) -> list[str]:
    """A resumed run keeps its arguments: its config.yaml is read first, unless another is given."""
    if any(a == "--config" or a.startswith("--config=") for a in argv):
        return argv
    resumed = _value(argv, "--resume")
    if resumed is None:
        return argv
    folder = Path(resumed) if Path(resumed).is_dir() else Path(resumed).parent
    for config in (folder / (variant or "") / "config.yaml", folder / "config.yaml"):
        if config.is_file():
            return ["--config", str(config), *argv]
    return argv


def _readable(message: str, parser: Any, recipe: str, data_class: type) -> str:
    known = [s for action in parser._actions for s in action.option_strings]
    unrecognized = re.match(r"[Uu]nrecognized arguments: (.*)", message)
    if unrecognized:
        name = unrecognized[1].split()[0].split("=")[0]
        return f"recipe {recipe} takes no {name}{_nearest(name, known)}; `--help` lists what it takes"
    # In the words of older and of newer releases of jsonargparse.
    required = re.search(r'"([\w.]+)" is required', message) or re.search(r"are required: ([\w.]+)", message)
    if required:
        needs = f"recipe {recipe} needs --{required[1]}"
        source = getattr(data_class, "source", None)
        return str(source.absent(needs)) if source is not None and required[1] == "data.root" else needs
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(lines[:3])


def _nearest(name: str, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(matches)}?" if matches else ""
