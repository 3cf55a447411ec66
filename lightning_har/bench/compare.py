"""Two models, paired: by seed and fold, by clip, by class."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_har.bench.rows import COSTS, SCORES, Row, read_row
from lightning_har.bench.stats import mcnemar, paired_permutation, spread
from lightning_har.errors import ConfigError, DataError

Comparison = dict[str, Any]
"""Plain JSON: ``a, b, pairs, unit, metrics, clips, classes, remarks``; see ``compare``."""

_ALPHA = 0.05


def read_rows(place: str | Path) -> list[Row]:
    """The rows of a run's folder, of a folder of runs, or of what ``benchmark`` wrote (results.json).

    Raises:
        DataError: There is no report in it.
    """
    place = Path(place)
    results = place / "results.json" if place.is_dir() else place
    if results.name.endswith(".json") and results.is_file() and results.name != "report.json":
        rows: list[Row] = json.loads(results.read_text())["runs"]
        return [{**row, "folder": str(_found(results.parent, row["folder"]))} for row in rows]
    reports = [place] if place.name == "report.json" else sorted(place.rglob("report.json"))
    if not reports:
        raise DataError(f"{place} has no report.json of a run, nor results.json of a benchmark")
    return [read_row(path, place.name, place.name) for path in reports]


def _found(place: Path, folder: str) -> Path:
    """A run's folder: beside the results.json that names it; of older ones, from where the benchmark was called."""
    return place / folder if (place / folder).is_dir() else Path(folder)


def compare(a: Sequence[Row], b: Sequence[Row], name_a: str, name_b: str) -> Comparison:
    """Compare run by run where seed and fold agree.

    The paired test flips signs of differences (``paired_permutation``): of folds, each the mean over its seeds, where
    there are several folds, since seeds on the same clips are no new evidence about clips; else of seeds.

    Args:
        a: Rows of the one.
        b: Of the other.
        name_a: What they are called.
        name_b: Likewise.

    Returns:
        ``metrics`` maps each metric and cost to ``a``, ``b`` (means), ``a_std``, ``b_std`` (over runs), ``difference``
        (mean of a - b), ``difference_std`` and ``p``; ``clips`` tests the videos on which they disagree, which of
        several heads must all be right; ``classes`` counts where a wins, b wins, or they tie, see ``_classes``.

    Raises:
        ConfigError: No run of the one has its pair in the other; the two were scored on other clips or classes.
    """
    by_key_a, by_key_b = _by_key(a, name_a), _by_key(b, name_b)
    keys = [k for k in by_key_a if k in by_key_b]
    if not keys:
        raise ConfigError(
            f"no run of {name_a} (seed, fold: {_shown(by_key_a)}) has its pair in {name_b} ({_shown(by_key_b)})"
        )
    pairs = [(by_key_a[k], by_key_b[k]) for k in keys]
    _check_pairs(pairs, name_a, name_b)
    folds = dict.fromkeys(fold for _, fold in keys)
    remarks = [
        f"{name}: {len(rows) - len(keys)} runs without a pair are left out"
        for name, rows in ((name_a, by_key_a), (name_b, by_key_b))
        if len(rows) > len(keys)
    ]
    hardware = {json.dumps(r["identity"]["hardware"], sort_keys=True) for pair in pairs for r in pair if r["identity"]}
    if len(hardware) > 1:
        remarks.append("the runs were not all on one machine: times and memory do not compare")
    if unlike := _unlike(pairs):
        remarks.append(
            f"{name_a} and {name_b} were not run alike ({unlike}): times and memory do not compare, and scores may "
            "differ for that alone"
        )
    found = dict.fromkeys(k for pair in pairs for row in pair for k in row["values"])
    ordered = [k for k in (*SCORES, *COSTS) if k in found] + [k for k in found if k not in (*SCORES, *COSTS)]
    metrics = {}
    for metric in ordered:
        known = [
            (p[0]["values"].get(metric), p[1]["values"].get(metric), key) for p, key in zip(pairs, keys, strict=True)
        ]
        numbers = [(x, y, key) for x, y, key in known if x is not None and y is not None]
        if numbers:
            metrics[metric] = _metric(numbers, len(folds) > 1, metric in COSTS)
    return {
        "a": name_a,
        "b": name_b,
        "pairs": [{"seed": seed, "fold": fold} for seed, fold in keys],
        "unit": "fold" if len(folds) > 1 else "seed",
        "metrics": metrics,
        "clips": _clips(pairs),
        "classes": _classes(pairs),
        "remarks": remarks,
    }


_Key = tuple[Any, Any]


def _by_key(rows: Sequence[Row], name: str) -> dict[_Key, Row]:
    found: dict[_Key, Row] = {}
    for row in rows:
        if row["error"] is not None:
            continue
        key = (row["seed"], row["fold"])
        if key in found:
            raise ConfigError(
                f"{name} has two runs of seed {key[0]}"
                + (f" and fold {key[1]}" if key[1] is not None else "")
                + f": {found[key]['folder']} and {row['folder']}; name the model, as in DIR:NAME"
            )
        found[key] = row
    return found


def _shown(rows: Mapping[_Key, Row]) -> str:
    return ", ".join(f"{seed}, {fold or '–'}" for seed, fold in rows) or "none that succeeded"


def _check_pairs(pairs: Sequence[tuple[Row, Row]], name_a: str, name_b: str) -> None:
    for x, y in pairs:
        if x["identity"] is None or y["identity"] is None:
            continue
        lists = [row["identity"]["protocol"]["file_list_sha256"] for row in (x, y)]
        if lists[0] != lists[1]:
            raise ConfigError(f"{name_a} and {name_b} were scored on other clips: {x['folder']}, {y['folder']}")
        classes = [[(c["head"], c["class"]) for c in row["per_class"]] for row in (x, y)]
        if classes[0] != classes[1] and all(classes):
            told = [", ".join(name for _, name in one) for one in classes]
            raise ConfigError(f"the classes differ.\n{name_a}: {told[0]}\n{name_b}: {told[1]}")


def _unlike(pairs: Sequence[tuple[Row, Row]]) -> str:
    """Settings of a run, no matter of the model, in which a pair differs: "batch size 8 against 4"; "" for none."""
    names = {"batch_size": "batch size", "precision": "precision", "num_workers": "worker processes"}
    found: dict[str, None] = {}
    for pair in pairs:
        protocols = [row["identity"]["protocol"] if row["identity"] else {} for row in pair]
        for key, name in names.items():
            x, y = (protocol.get(key) for protocol in protocols)  # of which older reports do not speak
            if x is not None and y is not None and x != y:
                found[f"{name} {x} against {y}"] = None
    return ", ".join(found)


def _metric(numbers: Sequence[tuple[float, float, _Key]], by_fold: bool, is_cost: bool) -> dict[str, float | None]:
    differences = [x - y for x, y, _ in numbers]
    units: dict[Any, list[float]] = {}
    for difference, (_, _, key) in zip(differences, numbers, strict=True):
        units.setdefault(key[1] if by_fold else key, []).append(difference)
    means = [sum(d) / len(d) for d in units.values()]
    # Parameters are the same in every run, and need no test; scores that always differ by as much do.
    is_counted = is_cost and all(d == means[0] for d in means)
    n = len(numbers)
    return {
        "a": sum(x for x, _, _ in numbers) / n,
        "b": sum(y for _, y, _ in numbers) / n,
        "a_std": spread([x for x, _, _ in numbers]),
        "b_std": spread([y for _, y, _ in numbers]),
        "difference": sum(differences) / n,
        "difference_std": spread(means),
        "p": None if len(means) < 2 or is_counted else paired_permutation(means),
    }


# -- clips and classes -------------------------------------------------------------------------------------


def _right(row: Row) -> dict[str, bool]:
    """Whether each test video was named rightly, by id: by every head, of several."""
    path = Path(row["folder"]) / "predictions.csv"
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if not r["error"]]
    right: dict[str, bool] = {}
    for row in rows:
        right[row["id"]] = right.get(row["id"], True) and row["label"] == row["predicted"]
    unknown = {row["id"] for row in rows if not row["label"]}
    return {name: hit for name, hit in right.items() if name not in unknown}


def _clips(pairs: Sequence[tuple[Row, Row]]) -> dict[str, Any] | None:
    """McNemar's test for a run each; for several, the same question asked of each clip's mean over runs."""
    sums: dict[str, list[float]] = {}
    for x, y in pairs:
        right_x, right_y = _right(x), _right(y)
        for name in right_x.keys() & right_y.keys():
            sums.setdefault(name, []).append(float(right_x[name]) - float(right_y[name]))
    if not sums:
        return None
    means = [sum(d) / len(d) for _, d in sorted(sums.items())]
    only_a, only_b = sum(m > 0 for m in means), sum(m < 0 for m in means)
    single = all(len(d) == 1 for d in sums.values())
    p = mcnemar(only_a, only_b) if single else paired_permutation(means)
    test = "McNemar, exact" if single else "sign flips of each clip's mean difference over seeds"
    heads = list(dict.fromkeys(c["head"] for pair in pairs for row in pair for c in row["per_class"]))
    return {"clips": len(sums), "a_better": only_a, "b_better": only_b, "heads": heads, "test": test, "p": p}


def _classes(pairs: Sequence[tuple[Row, Row]]) -> dict[str, dict[str, int]]:
    """Where a's mean over runs is higher, b's is, or neither's, counted as study E does.

    Returns:
        ``precision``, ``recall``, ``f1``: in how many classes ``a``, ``b``, ``ties``; ``undefined`` where not both have
        one. ``all``: the same over the three metrics of all classes together. ``by_class``: classes in which at least
        one metric is higher for one side (``a_any``, ``b_any``), all are higher or equal (``a_all_or_equal``, ...), all
        are higher (``a_all``, ...), all are ``equal``; of how many ``classes`` that have all three metrics on both
        sides. Empty without classes.
    """
    counts: dict[str, dict[str, int]] = {}
    signs: dict[tuple[str, str], list[int]] = {}
    for metric in ("precision", "recall", "f1"):
        totals: dict[tuple[str, str], list[list[float]]] = {}
        for pair in pairs:
            for side, row in enumerate(pair):
                for one in row["per_class"]:
                    sides = totals.setdefault((one["head"], one["class"]), [[], []])
                    if one[metric] is not None:
                        sides[side].append(one[metric])
        tally = {"a": 0, "b": 0, "ties": 0, "undefined": 0}
        for name, (x, y) in totals.items():
            if not x or not y:
                tally["undefined"] += 1
                continue
            difference = sum(x) / len(x) - sum(y) / len(y)
            sign = 0 if abs(difference) < 1e-9 else 1 if difference > 0 else -1
            tally[("ties", "a", "b")[sign]] += 1
            signs.setdefault(name, []).append(sign)
        if totals:
            counts[metric] = tally
    if not counts:
        return {}
    counts["all"] = {key: sum(tally[key] for tally in counts.values()) for key in ("a", "b", "ties", "undefined")}
    whole = [found for found in signs.values() if len(found) == 3]
    by_class = {"classes": len(whole), "equal": sum(not any(found) for found in whole)}
    for which, higher in (("a", 1), ("b", -1)):
        by_class[f"{which}_any"] = sum(higher in found for found in whole)
        by_class[f"{which}_all_or_equal"] = sum(-higher not in found for found in whole)
        by_class[f"{which}_all"] = sum(found == [higher] * 3 for found in whole)
    counts["by_class"] = by_class
    return counts


# -- text --------------------------------------------------------------------------------------------------


def to_markdown(found: Comparison) -> str:
    """The comparison as Markdown."""
    a, b = found["a"], found["b"]
    several = len(found["pairs"]) > 1
    lines = [f"# {a} against {b}", ""]
    lines.append(f"{len(found['pairs'])} paired runs; ± is the standard deviation over runs.")
    lines += ["", f"| metric | {a} | {b} | difference | p |", "| --- | --- | --- | --- | --- |"]
    for name, m in found["metrics"].items():
        cells = [
            _number(m["a"], m["a_std"]),
            _number(m["b"], m["b_std"]),
            _number(m["difference"], m["difference_std"]),
        ]
        p = "–" if m["p"] is None else f"{m['p']:.3f}"
        lines.append(f"| {COSTS.get(name, name)} | {' | '.join(cells)} | {p} |")
    lines += ["", _verdict(found), ""]
    if several:
        units = len({p["fold"] for p in found["pairs"]}) if found["unit"] == "fold" else len(found["pairs"])
        lines.append(
            f"p: paired test, the signs of {units} differences flipped, one per {found['unit']}; "
            f"it cannot fall below {2 / 2**units:.3g}."
        )
    else:
        lines.append("One pair of runs: no test over seeds; give several with --seeds.")
    if found["classes"]:
        lines += ["", f"| per class | {a} wins | {b} wins | ties | undefined |", "| --- | --- | --- | --- | --- |"]
        lines += [
            f"| {'all three' if k == 'all' else k} | {v['a']} | {v['b']} | {v['ties']} | {v['undefined']} |"
            for k, v in found["classes"].items()
            if k != "by_class"
        ]
        n = found["classes"]["by_class"]
        lines += ["", f"| of {n['classes']} classes with all three defined | {a} | {b} |", "| --- | --- | --- |"]
        for key, told in (("any", "at least one"), ("all_or_equal", "each higher or equal,"), ("all", "each")):
            lines.append(f"| {told} of the three higher | {n[f'a_{key}']} | {n[f'b_{key}']} |")
        lines += ["", f"All three are equal in {n['equal']} of them."]
    lines += ["", *(f"- {remark}" for remark in found["remarks"])]
    return "\n".join(lines).rstrip() + "\n"


def _verdict(found: Comparison) -> str:
    clips = found["clips"]
    if clips is None:
        return "Clips: no predictions to pair."
    heads = f" (right: {' and '.join(clips['heads'])} are)" if len(clips["heads"]) > 1 else ""
    told = (
        f"Clips{heads}: of {clips['clips']}, {found['a']} is better on {clips['a_better']}, {found['b']} on "
        f"{clips['b_better']} (p = {clips['p']:.3g}; {clips['test']})"
    )
    if clips["p"] >= _ALPHA:
        return f"{told}: undecided at {_ALPHA}."
    return f"{told}: {found['a'] if clips['a_better'] > clips['b_better'] else found['b']} is better on these clips."


def _number(value: float, std: float | None) -> str:
    size = max(abs(value), abs(std or 0.0))
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else 4
    return f"{value:,.{digits}f}" + (f" ± {std:,.{digits}f}" if std is not None else "")
