"""What runs measured, as rows: one per run, and one per model with means over its seeds and folds."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_har.bench.harness import Job, Reported
from lightning_har.bench.report import Report, read_report
from lightning_har.bench.stats import MIN_CLIPS, half_interval, spread, wilson
from lightning_har.errors import DataError

Row = dict[str, Any]
"""Plain JSON. Of a run: ``name, recipe, seed, fold, folder, error, note, values, clips, skipped, per_class, identity,
arguments``; ``values`` maps a metric or cost to its number, None where it was not measured; in results.json the folder
is relative to it. Of a model: see ``summarize``."""

SCORES = ("top1", "top5", "precision_macro", "recall_macro", "f1_macro", "num_predicted_classes")
COSTS = {
    "parameters": "parameters",
    "trainable_parameters": "trainable parameters",
    "macs": "multiply-adds of a clip",
    "checkpoint_bytes": "checkpoint, bytes",
    "train_peak_bytes": "peak memory of training, bytes",
    "test_peak_bytes": "peak memory of testing, bytes",
    "p50_ms": "latency of a clip, median ms",
    "p95_ms": "latency of a clip, 95th percentile ms",
    "clips_per_s": "throughput of the network, clips/s",
    "reading_p50_ms": "reading a clip, median ms",
    "reading_p95_ms": "reading a clip, 95th percentile ms",
    "reading_clips_per_s": "reading by one process, clips/s",
    "epoch_s": "an epoch, median s",
    "data_wait_share": "share of training spent waiting for data",
    "epochs": "epochs trained",
}
"""Every cost with its meaning, in the order of the tables."""


def rows_of(jobs: Sequence[Job]) -> list[Row]:
    """A row per run: several for a recipe with variants, one with ``error`` for a run that failed."""
    rows = []
    for job in jobs:
        if job.error is not None:
            row = _row(job.name, job.target.name, job.seed, job.fold, job.folder, error=job.error)
            rows.append({**row, "arguments": list(job.arguments)})
            continue
        for path in sorted(job.folder.rglob("report.json")):
            variant = path.parent.relative_to(job.folder).as_posix()
            name = job.target.name if variant == "." else f"{job.target.name}/{variant}"
            row = read_row(path, name, job.target.name, job.seed, job.fold, job.note)
            rows.append({**row, "arguments": list(job.arguments)})
    return rows


def read_row(
    path: Path, name: str, recipe: str, seed: int | None = None, fold: str | None = None, note: str | None = None
) -> Row:
    """The row of a run's folder.

    Args:
        path: Its report.json.
        name: Of the model.
        recipe: Its recipe or checkpoint.
        seed: None takes the report's.
        fold: None takes the report's.
        note: Beside the report's own.

    Raises:
        DataError: No such file, or no report.
    """
    try:
        report = read_report(path)
        split = report["protocol"]["split"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no report of a run: {error}") from error
    found = re.search(r"fold (.+)$", split)
    row = _row(
        name,
        recipe,
        report["seed"] if seed is None else seed,
        fold if fold is not None else found[1] if found else None,
        path.parent,
        note="; ".join(filter(None, (report.get("note"), note))) or None,
    )
    row["values"] = _values(report, path.parent)
    row["clips"], row["skipped"] = report["files"]["scored"], report["files"]["skipped"]
    row["per_class"] = _per_class(path.parent / "classification_report.csv")
    row["identity"] = {k: report[k] for k in ("commit", "versions", "hardware", "protocol")}  # type: ignore[literal-required]
    return row


def _row(
    name: str,
    recipe: str,
    seed: int | None,
    fold: str | None,
    folder: Path,
    *,
    error: str | None = None,
    note: str | None = None,
) -> Row:
    told = {"name": name, "recipe": recipe, "seed": seed, "fold": fold, "folder": str(folder)}
    empty = {"values": {}, "clips": 0, "skipped": 0, "per_class": [], "identity": None, "arguments": []}
    return {**told, "error": error, "note": note, **empty}


def _values(report: Report, folder: Path) -> dict[str, float | None]:
    heads = report["metrics"].get("test", {})
    values: dict[str, float | None] = {}
    for head, levels in heads.items():
        for name, value in (levels.get("video") or {}).items():
            if name == "loss" or name.endswith("_loss"):
                continue
            values[name if head == "action" or len(heads) == 1 else f"{head}_{name}"] = value
    if len(heads) > 1:  # what recipes report of several heads is named in full
        values |= {f"action_{k}": values[k] for k in ("top1", "top3", "top5") if k in values}
    latency: Mapping[str, Any] = report["latency"] or {}
    reading: Mapping[str, Any] = report.get("reading") or {}
    counted: Mapping[str, Any] = {**report["cost"], **report["memory"]}
    values |= {k: v for k, v in counted.items() if not isinstance(v, str)}  # a digest is no cost
    values |= {k: latency.get(k) for k in ("p50_ms", "p95_ms", "clips_per_s")}
    values |= {f"reading_{k}": reading.get(k) for k in ("p50_ms", "p95_ms", "clips_per_s")}
    return values | _of_training(folder / "metrics.csv")


def _of_training(path: Path) -> dict[str, float | None]:
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    values: dict[str, float | None] = {"epochs": len(rows)}
    # The first epoch starts the workers, and compiles and tunes what is compiled and tuned.
    timed = rows[1:] or rows
    for column, name in (("seconds", "epoch_s"), ("data_wait_share", "data_wait_share")):
        numbers = sorted(float(row[column]) for row in timed if row.get(column))
        values[name] = numbers[len(numbers) // 2] if numbers else None
    # Of the only head, which may have a name; of several, that all are right.
    names = [name for name in (rows[-1] if rows else {}) if name.startswith("train_") and name.endswith("top1")]
    named = "train_action_top1" if len(names) > 1 else next(iter(names), "")
    last = rows[-1].get(named) if rows else None
    return values | ({"train_top1": float(last)} if last else {})


def _per_class(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [
            {
                "head": row["head"],
                "class": row["class"],
                **{k: float(row[k]) if row[k] else None for k in ("precision", "recall", "f1")},
                **{k: int(row[k]) for k in ("support", "predicted")},
            }
            for row in csv.DictReader(file)
        ]


def summarize(rows: Sequence[Row], reported: Mapping[str, Reported]) -> list[Row]:
    """A row per model: means over its runs, their spread, an interval, and what its study reports.

    A mean over folds weighs each by its clips. ``std`` is the sample standard deviation over runs. The interval is
    Wilson's 95 %, over the clips that were scored, each counted once however many seeds scored it.

    Args:
        rows: Of runs, from ``rows_of``.
        reported: By recipe.

    Returns:
        Plain JSON: ``name, recipe, runs, failed, errors, notes, clips, values, std, top1_interval, interval_note,
        top1_over_folds, reported``; see ``over_folds``.
    """
    summaries = []
    for name in dict.fromkeys(row["name"] for row in rows):
        mine = [row for row in rows if row["name"] == name]
        good = [row for row in mine if row["error"] is None]
        names = dict.fromkeys(k for row in good for k in row["values"])
        values, std = {}, {}
        for key in names:
            known = [(row["values"].get(key), row["clips"]) for row in good]
            pairs = [(v, n) for v, n in known if v is not None]
            total = sum(n for _, n in pairs)
            is_score = key not in COSTS
            values[key] = (
                None
                if not pairs
                else sum(v * n for v, n in pairs) / total
                if is_score and total
                else sum(v for v, _ in pairs) / len(pairs)
            )
            std[key] = spread([v for v, _ in pairs])
        # One seed covers each clip of every fold once.
        clips = sum(row["clips"] for row in good if row["seed"] == good[0]["seed"])
        recipe = mine[0]["recipe"]
        top1 = values.get("top1")
        interval = wilson(top1, clips) if top1 is not None else None
        few = f"{clips} clips: too few for a confidence interval (at least {MIN_CLIPS})"
        summaries.append(
            {
                "name": name,
                "recipe": recipe,
                "runs": len(good),
                "failed": len(mine) - len(good),
                "errors": list(dict.fromkeys(row["error"] for row in mine if row["error"])),
                "notes": list(dict.fromkeys(row["note"] for row in mine if row["note"])),
                "clips": clips,
                "values": values,
                "std": std,
                "top1_interval": interval,
                "interval_note": few if top1 is not None and interval is None else None,
                "top1_over_folds": over_folds(good),
                "reported": reported_for(name, recipe, reported.get(recipe, {})),
            }
        )
    return summaries


def over_folds(rows: Sequence[Row]) -> dict[str, float] | None:
    """Top-1 where each fold counts once, by the mean over its seeds: clips of a fold, and seeds, are not independent.

    Nor are folds quite, which share training clips: no interval of a cross-validation is exact.

    Args:
        rows: A model's runs that succeeded.

    Returns:
        ``folds`` (how many), ``mean``, ``std`` (over folds) and ``half``, of Student's 95 % interval; None for fewer
        than two folds.
    """
    by_fold: dict[str, list[float]] = {}
    for row in rows:
        if row["fold"] is not None and row["values"].get("top1") is not None:
            by_fold.setdefault(row["fold"], []).append(row["values"]["top1"])
    means = [sum(values) / len(values) for values in by_fold.values()]
    std, half = spread(means), half_interval(means)
    if std is None or half is None:
        return None
    return {"folds": len(means), "mean": sum(means) / len(means), "std": std, "half": half}


def reported_for(name: str, recipe: str, reported: Reported) -> dict[str, Any]:
    """Of a recipe's ``REPORTED`` what speaks of this model: ``{"on": data, metric: {where: figure}}``."""
    variant = name.removeprefix(recipe).lstrip("/")
    found = {}
    for key, figures in reported.items():
        of, slash, metric = key.partition("/")
        if not slash:
            found[key] = figures
        elif of == variant:
            found[metric] = figures
    return found


# -- files -------------------------------------------------------------------------------------------------


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """A line per run: what it is, how it was run and on what machine, and every number."""
    names = list(dict.fromkeys([*SCORES, *COSTS, *(k for row in rows for k in row["values"])]))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        fixed = ["name", "seed", "fold", "error", "note", "clips", "skipped"]
        how = ["batch_size", "precision", "num_workers"]  # of which older reports do not speak
        identity = ["data", "split", "views", "crop", *how, "sampling", "file_list_sha256"]
        identity += ["accelerator", "cpu", "threads"]
        writer.writerow([*fixed, *names, *identity, "versions", "commit"])
        for row in rows:
            told = row["identity"]
            who: list[Any] = [""] * (len(identity) + 2)
            if told is not None:
                protocol, machine = told["protocol"], told["hardware"]
                who = [protocol[k] for k in ("data", "split", "views", "crop")] + [protocol.get(k) for k in how]
                who += [json.dumps(protocol["sampling"], sort_keys=True), protocol["file_list_sha256"]]
                who += [machine[k] for k in ("accelerator", "cpu", "threads")]
                who += ["; ".join(f"{k} {v}" for k, v in told["versions"].items()), told["commit"]]
            cells = [row["values"].get(name) for name in names]
            writer.writerow([*(_blank(row[k]) for k in fixed), *map(_blank, cells), *map(_blank, who)])


def _blank(value: Any) -> Any:
    return "" if value is None else value
