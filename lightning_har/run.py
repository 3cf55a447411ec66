"""What a recipe calls: train, test on the best checkpoint, write the run's folder, print the table."""

from __future__ import annotations

import copy
import inspect
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_har._lightning import make_trainer, pl, quiet_lightning
from lightning_har.arguments import Arguments, parse
from lightning_har.bench.latency import measure_reading
from lightning_har.bench.memory import PeakMemory, give_back
from lightning_har.bench.predictions import Predictions
from lightning_har.bench.report import (
    SCHEMA_VERSION,
    Report,
    commit,
    hardware,
    read_report,
    results_table,
    versions,
)
from lightning_har.callbacks import (
    CollectOutputs,
    CountUnread,
    DataClock,
    EarlyStopping,
    EpochLog,
    ModelCheckpoint,
    SaveOnInterrupt,
    StayStopped,
    StepSeed,
    StopOnNaN,
)
from lightning_har.data.features import FeatureDataModule
from lightning_har.errors import ConfigError, HarError
from lightning_har.evaluate import measure, predictions_by_head, protocol, split_scores, write_run
from lightning_har.modules.base import ActionRecognizer
from lightning_har.progress import RunProgress
from lightning_har.run_folder import (
    BEST,
    CONFIG,
    LAST,
    REPORT,
    Notes,
    default_folder,
    find_place,
    is_done,
    is_first_process,
    made,
    resumable,
)
from lightning_har.spec import Sampling
from lightning_har.types import ClassNames
from lightning_har.weights.matching import strict_load
from lightning_har.weights.torch_io import read_torch

ExtraMetrics = Callable[[Predictions], Mapping[str, float]]
"""Further scores of a head's predictions on the test videos, by name."""


def run(
    module: Callable[..., ActionRecognizer],
    data: Callable[..., Any],
    *,
    trainer: Mapping[str, Any] | None = None,
    name: str | None = None,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    monitor: str | None = "val_top1",
    extra_metrics: ExtraMetrics | None = None,
    smoke: Mapping[str, Any] | None = None,
    argv: Sequence[str] | None = None,
) -> dict[str, Report]:
    """Train, test and report, as the command line says.

    Writes into the run's folder (with variants: one folder each within it): ``config.yaml``, ``metrics.csv``,
    ``best.ckpt`` (weights), ``last.ckpt`` (to resume from), ``report.json``, ``predictions.csv``,
    ``confusion_matrix.png``, ``curves.png``, ``classification_report.csv``; with several heads, one confusion
    matrix each, ``confusion_matrix_<head>.png``.

    Args:
        module: The module's class, or ``functools.partial(Class, key=value)``. The number of classes
            comes from the data unless it is among the keywords.
        data: The data module's class or such a partial; its spec comes from the module.
        trainer: Arguments of Lightning's Trainer.
        name: The recipe's name; None takes the script's.
        variants: Models to train in turn: by name, the dotted arguments in which each differs, such as
            ``{"gru": {"module.temporal": "gru"}}``.
        monitor: Validation metric of the best checkpoint; lower is better if it ends in "loss". With
            several heads, "val_top1" is "val_action_top1"; with one by name, such as verb, "val_verb_top1". None
            chooses nothing: the last epoch is tested.
        extra_metrics: Adds scores to the test videos' metrics.
        smoke: Dotted arguments that ``--smoke`` sets besides fake data, few steps and random weights, such as
            ``{"module.num_frames": 4}``.
        argv: The command line; None takes ``sys.argv``.

    Returns:
        The report of each variant, by name; of the only model, by the recipe's name.

    Raises:
        HarError: A wrong argument, data set or weight, before training; a NaN loss.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after a checkpoint is written; the message says how to resume.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv == ["--variants"]:  # asked by the benchmark, which gives each a process of its own
        for one in variants or ():
            _say(one)
        return {}
    name = name or Path(sys.argv[0]).stem or "run"
    default = default_folder(name)
    planned: list[tuple[str, Arguments, Path, Path | None]] = []
    reports: dict[str, Report] = {}
    with tempfile.TemporaryDirectory(prefix="lightning-har-smoke-") as smoke_folder, quiet_lightning():
        for variant, overrides in (variants or {"": {}}).items():
            args = parse(
                module,
                data,
                trainer or {},
                argv,
                recipe=name,
                variants=list(variants or ()),
                variant=variant or None,
                overrides=overrides,
                smoke=smoke,
                smoke_folder=Path(smoke_folder),
            )
            if args.variant in (None, "", variant):
                place, checkpoint = find_place(args, default, variant)
                if is_done(args, place):
                    reports[variant or name] = read_report(place / REPORT)
                    if is_first_process():
                        _say(f"{place}: done before; `lightning-har test` scores it again")
                elif args.resume is None or checkpoint or (place / CONFIG).is_file():
                    _check_trainer(args)
                    planned.append((variant, args, place, checkpoint))
        if not planned and not reports:
            told = f"neither has the folder of a variant in it ({', '.join(variants or ())})"
            raise ConfigError(f"nothing to resume: {args.resume} has no {LAST}, {told}")
        notes = Notes((place, args.yaml) for _, args, place, _ in planned)
        with made([place for _, _, place, _ in planned] if is_first_process() else []):
            reports |= {
                variant or name: _run_one(
                    args,
                    place,
                    checkpoint,
                    recipe=f"{name}/{variant}" if variant else name,
                    monitor=monitor,
                    extra_metrics=None if args.replaced else extra_metrics,  # theirs are the names of the recipe's data
                    whole=place.parent if variant else place,
                    notes=notes,
                )
                for variant, args, place, checkpoint in planned
            }
    if is_first_process():
        _print_results(reports)
    return reports


def _run_one(
    args: Arguments,
    folder: Path,
    resume_from: Path | None,
    *,
    recipe: str,
    monitor: str | None,
    extra_metrics: ExtraMetrics | None,
    whole: Path,
    notes: Notes,
) -> Report:
    pl.seed_everything(args.seed, workers=True, verbose=False)
    datamodule = args.data_class(**args.data)
    # Weights are fetched here, before any video is rendered, downloaded or read. A checkpoint has its own.
    module = _build_module(args, datamodule, fetch=resume_from is None)
    _introduce(module, datamodule, args)
    if args.smoke:
        _fake_flow(module, datamodule)
    if args.refit_all:
        _all_for_training(datamodule, module)
    if is_first_process():
        _say(f"{recipe}: writing to {folder}")

    clock, unread, outputs = DataClock(), CountUnread(), CollectOutputs()
    interactive = sys.stdout.isatty() and args.trainer.get("enable_progress_bar") is not False
    log = EpochLog(folder / "metrics.csv", clock, unread, echo=not interactive)
    best, last = _checkpointing(folder, module, None if args.refit_all else monitor)
    # The log before the checkpoint: a process killed between the two goes on with every epoch's row.
    callbacks: list[Any] = [notes, log, best, last, StepSeed(args.seed), clock, unread, outputs]
    callbacks += [StopOnNaN(), StayStopped(), SaveOnInterrupt(folder / LAST)]
    callbacks += [RunProgress(clock)] if interactive else []
    trainer = _build_trainer(args, folder, callbacks)
    device = trainer.strategy.root_device

    with PeakMemory(device) as log.memory, resumable(trainer, folder, whole, notes):
        trainer.fit(module, datamodule=datamodule, ckpt_path=resume_from and str(resume_from))
        notes.write()  # where nothing was left to train
    scores: dict[str, Any] = {}
    if best.best_model_path:
        state = read_torch(best.best_model_path)
        strict_load(module, state["state_dict"], what=best.best_model_path)
        scores = {"val": split_scores(log.row_of(state["epoch"]), "val_", module)} if not args.refit_all else {}
        del state
    elif trainer.max_epochs == 0:  # checkpoints that are only put together
        trainer.save_checkpoint(folder / BEST, weights_only=True)
    _forget_training(trainer)
    with PeakMemory(device) as test_memory:
        if "test" in datamodule.manifests:
            with resumable(trainer, folder, whole, notes):
                trainer.test(module, datamodule=datamodule, verbose=False)
    if outputs.ids:
        measured = {key: float(value) for key, value in trainer.callback_metrics.items()}
        scores["test"] = split_scores(measured, "test_", module)
    heads = predictions_by_head(outputs, module.class_names)
    if extra_metrics is not None:
        for head, predictions in heads.items():
            scores["test"][head].setdefault("video", {}).update(extra_metrics(predictions))
    if outputs.failures and is_first_process():
        shown = "; ".join(f"{f.path}: {f.reason}" for f in outputs.failures[:3])
        shown += "; ..." if len(outputs.failures) > 3 else ""
        covered = f"the scores cover the other {len(outputs.ids)}"
        _say(f"{len(outputs.failures)} test videos could not be read, {covered}: {shown}")

    cost, latency = measure(module, outputs, trainer, folder / BEST)
    reading = measure_reading(datamodule.dataset("test")) if outputs.ids else None
    report: Report = {
        "schema_version": SCHEMA_VERSION,
        "recipe": recipe,
        "commit": commit(),
        "versions": versions(),
        "hardware": hardware(device),
        "seed": args.seed,
        "protocol": protocol(datamodule, module, trainer),
        "files": {"scored": len(outputs.ids), "skipped": len(outputs.failures)},
        "metrics": scores,
        "cost": cost,
        "memory": {"train_peak_bytes": log.peak_bytes(), "test_peak_bytes": test_memory.peak_bytes},
        "latency": latency,
        "reading": reading,
        "note": REFITTED if args.refit_all else None,
        "runs": [],
    }
    report["runs"] = [{key: value for key, value in report.items() if key != "runs"}]
    if trainer.is_global_zero:
        write_run(folder, report, heads, outputs)
    return report


# -- before training ---------------------------------------------------------------------------------------


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def _build_module(args: Arguments, datamodule: Any, *, fetch: bool) -> ActionRecognizer:
    keywords = dict(args.module)
    if "num_classes" not in keywords:
        if datamodule.num_classes is None:
            raise ConfigError("the data has no labels, so the module cannot know its number of classes")
        keywords["num_classes"] = datamodule.num_classes
    if not fetch and "pretrained" in inspect.signature(args.module_class).parameters:
        keywords["pretrained"] = False
    try:
        module: ActionRecognizer = args.module_class(**keywords)
    except HarError:
        raise
    except ValueError as error:  # a layer's own, such as a dropout of 7
        if not args.module_class.__module__.startswith("lightning_har."):
            raise  # somebody's own network is mended where the traceback says
        raise ConfigError(f"{args.module_class.__name__} cannot be built as told: {error}; see --help") from error
    return module


def _introduce(module: ActionRecognizer, datamodule: Any, args: Arguments) -> None:
    """The data learns what the network takes, the module what its classes are called."""
    datamodule.spec = module.spec
    datamodule.run_seed = args.seed
    for which in ("train_sampling", "eval_sampling"):
        published = getattr(module, which)
        if args.data.get(which) is None and published is not None:
            setattr(datamodule, which, published)
    if isinstance(datamodule.eval_sampling, Sampling):
        module.eval_sampling = datamodule.eval_sampling
        if isinstance(datamodule, FeatureDataModule) and datamodule.num_frames is not None:
            module.eval_sampling = replace(module.eval_sampling, num_frames=datamodule.num_frames)
    names, counts = datamodule.class_names, module.num_classes
    if names is not None:
        found = {h: len(n) for h, n in names.items()} if isinstance(names, dict) else len(names)
        if found != (dict(counts) if isinstance(counts, Mapping) else counts):
            raise ConfigError(f"the module has {counts} classes, the data {found}: {_shown(names)}")
    module.class_names = names


REFITTED = "trained on all data, test clips included: no held-out score exists"


def _all_for_training(datamodule: Any, module: ActionRecognizer) -> None:
    if module.options["schedule"] == "plateau":
        raise ConfigError("schedule='plateau' watches the validation, and --refit-all leaves none; take another")
    found = datamodule.manifests
    merged = found["train"].with_records(r for split in ("train", "val", "test") for r in found.get(split, ()))
    found.clear()
    found["train"] = merged


def _fake_flow(module: ActionRecognizer, datamodule: Any) -> None:
    """Fake data comes without flow; compute it where the network takes some."""
    specs = module.spec.values() if isinstance(module.spec, Mapping) else [module.spec]
    if any(spec is not None and spec.modality == "flow" for spec in specs):
        from lightning_har.data.flow import cache_flow

        datamodule.flow_root = Path(datamodule.root) / "flow"
        for manifest in datamodule.manifests.values():
            cache_flow(manifest, datamodule.flow_root, method="lucas_kanade", workers=0)


def _shown(names: ClassNames) -> str:
    flat = [f"{h}: {n[0]}, ..." for h, n in names.items()] if isinstance(names, dict) else list(names[:5])
    return ", ".join(flat) + (", ..." if not isinstance(names, dict) and len(names) > 5 else "")


def _checkpointing(folder: Path, module: ActionRecognizer, monitor: str | None) -> tuple[Any, Any]:
    if monitor is not None and monitor.startswith("val_top"):
        monitor = monitor.replace("val_", f"val_{module.score_prefix}", 1)
    best = ModelCheckpoint(
        dirpath=folder,
        filename=Path(BEST).stem,
        monitor=monitor,
        # Without a metric a mode means nothing, but tells this callback's state from that of the next.
        mode="min" if monitor is not None and monitor.endswith("loss") else "max",
        save_weights_only=True,
        # Of every epoch, those without validation too; with a metric, after validation, as Lightning chooses.
        save_on_train_epoch_end=True if monitor is None else None,
        enable_version_counter=False,
    )
    last = ModelCheckpoint(
        dirpath=folder,
        filename=Path(LAST).stem,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
    return best, last


def _build_trainer(args: Arguments, folder: Path, callbacks: list[Any]) -> Any:
    theirs = copy.deepcopy(_listed(args.trainer.get("callbacks")))
    unwatched: dict[str, Any] = {}
    if args.refit_all:
        unwatched = {"limit_val_batches": 0, "num_sanity_val_steps": 0}
        theirs = [c for c in theirs if not isinstance(c, EarlyStopping)]
    keywords = {
        "logger": False,
        **args.trainer,
        **unwatched,
        "enable_progress_bar": False,  # ours shows the run, not the epoch
        "enable_model_summary": args.trainer.get("enable_model_summary") or False,
        "default_root_dir": folder,
        # A callback has state, and a recipe with variants trains several models.
        "callbacks": [*callbacks, *theirs],
    }
    return make_trainer(**keywords)


def _check_trainer(args: Arguments) -> None:
    """Refuse what the Trainer would refuse before anything is written, fetched or read."""
    # Not its objects, such as a strategy, which belong to one Trainer.
    plain = {k: v for k, v in args.trainer.items() if v is None or isinstance(v, str | int | float)}
    make_trainer(**{**plain, "logger": False})


def _listed(callbacks: Any) -> list[Any]:
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks] if callbacks else []


# -- training and testing ----------------------------------------------------------------------------------


def _forget_training(trainer: Any) -> None:
    """So that the peak of testing does not begin with what training has left."""
    trainer.strategy.optimizers = []
    trainer.strategy.lr_scheduler_configs = []
    trainer.lightning_module.zero_grad()
    give_back()


# -- after ------------------------------------------------------------------------------------------------


def _print_results(reports: Mapping[str, Report]) -> None:
    from rich.console import Console

    if reports:
        console = Console()
        console = console if console.is_terminal else Console(width=120)  # a pipe is no narrower than a file
        console.print(results_table(reports))
        for name, report in reports.items():
            if report["note"]:
                console.print(f"{name}: {report['note']}")
