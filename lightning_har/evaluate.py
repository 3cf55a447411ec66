"""What is made of a test: scores by head, cost, latency, and the files of a run's folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_har._lightning import interruptible, make_trainer
from lightning_har.arguments import fold_keyword, split_partial
from lightning_har.bench.cost import Cost, count_macs, example_video, select
from lightning_har.bench.latency import Latency, measure_latency, measure_reading
from lightning_har.bench.memory import PeakMemory
from lightning_har.bench.predictions import Predictions, write_classification_report, write_predictions
from lightning_har.bench.report import SCHEMA_VERSION, Protocol, Report, commit, hardware, versions, write_report
from lightning_har.callbacks import CollectOutputs
from lightning_har.data.features import FeatureDataModule
from lightning_har.data.manifest import same_classes
from lightning_har.data.named import data_factory
from lightning_har.errors import ConfigError
from lightning_har.modules.base import ActionRecognizer
from lightning_har.modules.pretrained import load_model, weights_of
from lightning_har.nets.size import count_parameters
from lightning_har.progress import RunProgress
from lightning_har.types import ClassNames, listing
from lightning_har.viz.confusion import save_confusion_matrix
from lightning_har.viz.curves import save_curves
from lightning_har.weights.fetch import digests


def split_scores(
    values: Mapping[str, float], prefix: str, module: ActionRecognizer
) -> dict[str, dict[str, dict[str, float]]]:
    """Logged names to ``{head: {"clip" | "video": {name: value}}}``."""
    heads = list(module.num_classes) if isinstance(module.num_classes, Mapping) else []
    whole = heads[0] if len(heads) == 1 else "action"  # whose score it is where the name tells no head
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for key, value in values.items():
        if not key.startswith(prefix):
            continue
        name, level, head = key.removeprefix(prefix), "video", whole
        for one in ("clip", "video"):
            if prefix == "test_" and name.startswith(f"{one}_"):
                name, level = name.removeprefix(f"{one}_"), one
        for one in (*heads, whole):
            if name.startswith(f"{one}_"):
                name, head = name.removeprefix(f"{one}_"), one
        scores.setdefault(head, {}).setdefault(level, {})[name] = value
    return scores


def predictions_by_head(outputs: CollectOutputs, names: ClassNames | None) -> dict[str, Predictions]:
    """The collected logits and labels of each head, with its class names."""
    found = {}
    for head, logits in outputs.logits.items():
        of_head = names.get(head) if isinstance(names, dict) else names
        found[head] = Predictions(
            ids=outputs.ids,
            paths=outputs.paths,
            logits=logits,
            labels=outputs.labels[head],
            class_names=of_head or tuple(str(k) for k in range(logits.shape[1])),
        )
    return found


def protocol(datamodule: Any, module: ActionRecognizer, trainer: Any) -> Protocol:
    """On what, and how, the data module has the module tested, and under what its costs are measured."""
    sampling = datamodule.eval_sampling
    if isinstance(sampling, Mapping):
        one = next(iter(sampling.values()))
        told = {name: value.to_dict() for name, value in sampling.items()}
    else:
        spec = next(iter(module.spec.values())) if isinstance(module.spec, Mapping) else module.spec
        one = sampling if spec is None else sampling.with_defaults(spec)
        told = one.to_dict()
    test = datamodule.manifests.get("test")
    fold = getattr(datamodule, "fold", None)
    split = "none" if test is None else "test"
    loader = trainer.train_dataloader if trainer.train_dataloader is not None else trainer.test_dataloaders
    return {
        "data": type(datamodule).__name__,
        "split": split if fold is None else f"{split}, fold {fold}",
        "file_list_sha256": test.sha256() if test is not None else None,
        "sampling": told,
        "views": one.num_views,
        "crop": one.crop,
        "coverage": datamodule.coverage or None,
        "batch_size": datamodule.batch_size,
        "precision": str(trainer.precision),
        "num_workers": getattr(loader, "num_workers", 0),
    }


def measure(
    module: ActionRecognizer, outputs: CollectOutputs, trainer: Any, checkpoint: Path | None
) -> tuple[Cost, Latency | None]:
    """Sizes and speed, on the clips that the test began with; without a test, on a black one.

    Timed on the Trainer's device in its precision.
    """
    parameters, trainable = count_parameters(module)
    macs, latency = None, None
    if checkpoint is not None and not checkpoint.is_file():  # a Trainer that was told to write none
        checkpoint = None
    example = outputs.example
    if example is None and module.spec is not None:
        example = example_video(module.spec)
    if example is not None:
        module.to(trainer.strategy.root_device)
        clip = select(example, slice(1))
        macs = count_macs(module, clip)
        precision = trainer.precision_plugin.forward_context
        latency = measure_latency(module, clip, batch=example, budget_s=2.0, context=precision)
    cost: Cost = {
        "parameters": parameters,
        "trainable_parameters": trainable,
        "macs": macs,
        "checkpoint_bytes": checkpoint.stat().st_size if checkpoint else None,
        "checkpoint_sha256": digests(checkpoint).sha256 if checkpoint else None,
    }
    return cost, latency


def write_run(folder: Path, report: Report, heads: dict[str, Predictions], outputs: CollectOutputs) -> None:
    """The tables and pictures of a run's folder, and last the report: where that is, all is."""
    if (folder / "metrics.csv").is_file():
        save_curves(folder / "metrics.csv", folder / "curves.png")
    if heads or outputs.failures:
        write_predictions(heads, outputs.failures, folder / "predictions.csv")
        write_classification_report(heads, folder / "classification_report.csv")
    for head, predictions in heads.items():
        suffix = "" if len(heads) == 1 else f"_{head}"
        path = folder / f"confusion_matrix{suffix}.png"
        save_confusion_matrix(predictions.confusion(), predictions.class_names, path)
    write_report(report, folder / "report.json")


def score_checkpoint(
    checkpoint: str | Path,
    data: str,
    out: Path,
    *,
    fold: str | None = None,
    flow_root: str | Path | None = None,
    batch_size: int = 8,
    num_workers: int | None = None,
    trainer: Mapping[str, Any] | None = None,
) -> Report:
    """Score a trained model on the test clips of some data, and measure its cost. Nothing is trained.

    Args:
        checkpoint: A .ckpt, the folder of a run, or what ``lightning_har.load`` takes.
        data: See ``lightning_har.data.named``.
        out: Takes the files that a run's folder has, but for what training leaves.
        fold: To test on, of a CSV with folds; of an official data set its split.
        flow_root: Folder of stored flow, for a model that takes some.
        batch_size: Clips at a time.
        num_workers: Processes that read.
        trainer: Arguments of Lightning's Trainer.

    Raises:
        ConfigError: The data's classes are not the checkpoint's, it has no test clips or no such fold, or the Trainer
            refuses its arguments.
        WeightsError: There is no such checkpoint.
    """
    outputs = CollectOutputs()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "inference_mode": True}
    given = {k: v for k, v in (trainer or {}).items() if v is not None}
    callbacks = [outputs, RunProgress()] if sys.stderr.isatty() else [outputs]
    tester = make_trainer(**quiet, **given, default_root_dir=out, callbacks=callbacks)
    factory = data_factory(data)
    keywords: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers, "flow_root": flow_root}
    if fold is not None:
        keyword = fold_keyword(split_partial(factory, "data")[0])
        if keyword is None:
            raise ConfigError(f"{data} has no folds to choose from; leave out --fold")
        keywords[keyword] = int(fold) if keyword == "split" and fold.isdigit() else fold
    datamodule = factory(**keywords)
    module = load_model(checkpoint)
    if module.class_names is not None and same_classes(module.class_names, datamodule.class_names):
        # A CSV's classes are in alphabetical order, a data set's in its own.
        datamodule.order_classes(module.class_names)
    check_classes(module, datamodule.class_names, str(checkpoint))
    if "test" not in datamodule.manifests:
        raise ConfigError(f"{data} has no test clips")
    if module.spec is None and not isinstance(datamodule, FeatureDataModule):
        raise ConfigError(
            f"{checkpoint} takes stored features, not clips; give --data features:DIR, extracted as those that it was "
            "trained on (`lightning-har extract`), or put it behind their network (`lightning-har join`)"
        )
    datamodule.spec = module.spec
    if module.eval_sampling is not None:
        datamodule.eval_sampling = module.eval_sampling
    device = tester.strategy.root_device
    with PeakMemory(device) as memory, interruptible(tester):
        tester.test(module, datamodule=datamodule, verbose=False)
    measured = {key: float(value) for key, value in tester.callback_metrics.items()}
    heads = predictions_by_head(outputs, module.class_names)
    cost, latency = measure(module, outputs, tester, weights_of(checkpoint))
    report: Report = {
        "schema_version": SCHEMA_VERSION,
        "recipe": str(checkpoint),
        "commit": commit(),
        "versions": versions(),
        "hardware": hardware(device),
        "seed": None,
        "protocol": protocol(datamodule, module, tester),
        "files": {"scored": len(outputs.ids), "skipped": len(outputs.failures)},
        "metrics": {"test": split_scores(measured, "test_", module)},
        "cost": cost,
        "memory": {"train_peak_bytes": None, "test_peak_bytes": memory.peak_bytes},
        "latency": latency,
        "reading": measure_reading(datamodule.dataset("test")),
        "note": None,
        "runs": [],
    }
    report["runs"] = [{key: value for key, value in report.items() if key != "runs"}]
    out.mkdir(parents=True, exist_ok=True)
    write_run(out, report, heads, outputs)
    return report


def check_classes(module: ActionRecognizer, names: ClassNames | None, what: str) -> None:
    """Refuse data whose classes are not the model's, in the same order.

    Args:
        module: The model.
        names: The data's.
        what: The model's name, for the message.

    Raises:
        ConfigError: With both lists.
    """
    ours = module.class_names
    if names is None:
        raise ConfigError("the data has no labels to score against")
    if ours is None:
        counts = {h: len(n) for h, n in names.items()} if isinstance(names, dict) else len(names)
        expected = dict(module.num_classes) if isinstance(module.num_classes, Mapping) else module.num_classes
        if counts != expected:
            raise ConfigError(f"{what} has {expected} classes, without names; the data has {listing(names)}")
    elif ours != names:
        raise ConfigError(
            f"the classes differ; no score would mean anything.\n{what}: {listing(ours)}\nthe data: {listing(names)}"
        )
