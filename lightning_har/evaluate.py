"""What is made of a test: scores by head, cost, latency, and the files of a run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_har.bench.cost import Cost, count_macs, count_parameters, select
from lightning_har.bench.latency import Latency, measure_latency
from lightning_har.bench.predictions import Predictions, write_classification_report, write_predictions
from lightning_har.bench.report import Protocol, Report, write_report
from lightning_har.callbacks import CollectOutputs
from lightning_har.modules.base import ActionRecognizer
from lightning_har.types import ClassNames
from lightning_har.viz.confusion import save_confusion_matrix
from lightning_har.viz.curves import save_curves


def split_scores(
    values: Mapping[str, float], prefix: str, module: ActionRecognizer
) -> dict[str, dict[str, dict[str, float]]]:
    """Logged names to ``{head: {"clip" | "video": {name: value}}}``."""
    heads = [*module.num_classes, "action"] if isinstance(module.num_classes, Mapping) else []
    scores: dict[str, dict[str, dict[str, float]]] = {}
    for key, value in values.items():
        if not key.startswith(prefix):
            continue
        name, level, head = key.removeprefix(prefix), "video", "action"
        for one in ("clip", "video"):
            if prefix == "test_" and name.startswith(f"{one}_"):
                name, level = name.removeprefix(f"{one}_"), one
        for one in heads:
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


def protocol(datamodule: Any, module: ActionRecognizer) -> Protocol:
    """On what, and how, the data module has the module tested."""
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
    return {
        "data": type(datamodule).__name__,
        "split": "test" if fold is None else f"test, fold {fold}",
        "file_list_sha256": test.sha256() if test is not None else None,
        "sampling": told,
        "views": one.num_views,
        "crop": one.crop,
    }


def measure(
    module: ActionRecognizer, outputs: CollectOutputs, device: torch.device, checkpoint: Path
) -> tuple[Cost, Latency | None]:
    """Sizes and speed, on the clips that the test began with."""
    parameters, trainable = count_parameters(module)
    macs, latency = None, None
    if outputs.example is not None:
        module.to(device)
        clip = select(outputs.example, slice(1))
        macs = count_macs(module, clip)
        latency = measure_latency(module, clip, batch=outputs.example, budget_s=2.0)
    cost: Cost = {
        "parameters": parameters,
        "trainable_parameters": trainable,
        "macs": macs,
        "checkpoint_bytes": checkpoint.stat().st_size if checkpoint.is_file() else None,
    }
    return cost, latency


def write_run(folder: Path, report: Report, heads: dict[str, Predictions], outputs: CollectOutputs) -> None:
    """The report, tables and pictures of a run's folder."""
    write_report(report, folder / "report.json")
    if (folder / "metrics.csv").is_file():
        save_curves(folder / "metrics.csv", folder / "curves.png")
    if not heads and not outputs.failures:
        return
    write_predictions(heads, outputs.failures, folder / "predictions.csv")
    write_classification_report(heads, folder / "classification_report.csv")
    for head, predictions in heads.items():
        suffix = "" if len(heads) == 1 else f"_{head}"
        path = folder / f"confusion_matrix{suffix}.png"
        save_confusion_matrix(predictions.confusion(), predictions.class_names, path)
