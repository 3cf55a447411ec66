"""Records parted so that what belongs together stays together: by groups, and by folds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lightning_har.data.manifest import Manifest, Record, raise_if
from lightning_har.errors import DataError


def split_by_group(records: Sequence[Record], fraction: float, seed: int = 0) -> tuple[list[Record], list[Record]]:
    """Part records in two so that no group, and no file, is in both parts; stratified as far as groups allow.

    Groups go to the second part in a random order (fixed by the seed) as long as they fit, then those that bring
    its class counts nearest to ``fraction`` of all. The first part gets every class, the second those of two
    groups or more, as far as groups of several classes allow.

    Args:
        records: To be parted. A record without a group is one with the others of its file.
        fraction: Share of the second part, between 0 and 1.
        seed: Of the random order.

    Returns:
        (rest, taken), each in the order given.

    Raises:
        DataError: Fewer than two groups.
    """
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[f"group {record.group}" if record.group is not None else f"file {record.path}"].append(record)
    if len(groups) < 2:
        raise DataError(
            f"{len(records)} clips of {len(groups)} group cannot be split: a group never goes to two splits. "
            "Add clips of other groups, or give the splits yourself."
        )
    classes = {key: i for i, key in enumerate(sorted({_class_key(r) for r in records}))}
    # A group has few of the classes: these, and its records of each.
    kinds, counts = {}, {}
    for g, rs in groups.items():
        kinds[g], counts[g] = np.unique([classes[_class_key(r)] for r in rs], return_counts=True)
    order = sorted(groups)
    np.random.default_rng(seed).shuffle(order)
    groups_of: list[list[str]] = [[] for _ in classes]
    total = np.zeros(len(classes), np.int64)
    for g in order:
        total[kinds[g]] += counts[g]
        for c in kinds[g]:
            groups_of[c].append(g)
    # Distances are in shares of each class, so that rare classes count as much as common ones.
    wanted = fraction * total
    # A class of several groups shall be in both parts: groups of each class that are not taken.
    left = np.array([len(of_class) for of_class in groups_of])
    taken: set[str] = set()
    have = np.zeros(len(classes))

    def may_go(group: str) -> bool:
        return group not in taken and bool(np.all(left[kinds[group]] > 1))

    def gain(group: str) -> float:
        own = kinds[group]
        before, after = np.abs(wanted[own] - have[own]), np.abs(wanted[own] - have[own] - counts[group])
        shares = np.zeros(len(classes))  # a sum of these alone would be rounded otherwise, and change drawn splits
        shares[own] = (before - after) / total[own]
        return float(shares.sum())

    def take(group: str) -> None:
        taken.add(group)
        have[kinds[group]] += counts[group]
        left[kinds[group]] -= 1

    for g in order:
        own = kinds[g]
        if may_go(g) and np.all(have[own] + counts[g] <= wanted[own] + 0.5):
            take(g)
    while True:
        best = max(filter(may_go, order), key=gain, default=None)
        if best is None or gain(best) <= 1e-9:
            break
        take(best)
    for c, of_class in enumerate(groups_of):
        options = [g for g in of_class if may_go(g)] if have[c] == 0 else []
        if options:
            take(min(options, key=lambda g: len(groups[g])))
    if not taken:
        taken.add(min(order, key=lambda g: len(groups[g])))
    second = {id(r) for g in taken for r in groups[g]}
    return [r for r in records if id(r) not in second], [r for r in records if id(r) in second]


def split_by_fold(manifest: Manifest, fold: str, source: Path) -> dict[str, Manifest]:
    """One fold as "test", the others as "train"; the folds are read as splits.

    Args:
        manifest: ``Manifest.from_csv`` with ``split_column="fold"``.
        fold: To test on.
        source: What the manifest was read from, for messages.

    Raises:
        DataError: There is no such fold, or a clip has none.
    """
    parts = manifest.by_split()
    if fold not in parts:
        raise DataError(f"{source}: has no fold {fold}, only {', '.join(sorted(parts)) or 'none (no column fold)'}")
    missing = [r.path for r in manifest if r.split is None]
    raise_if(missing, f"{source}: {{count}} clips have no fold", "Give each its fold, or remove its row.")
    rest = [r for r in manifest if r.split != fold]
    return {"train": manifest.with_records(rest), "test": parts[fold]}


def _class_key(record: Record) -> str:
    if isinstance(record.label, Mapping):
        return repr(sorted(record.label.items()))
    return repr(record.label)
