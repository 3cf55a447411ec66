"""What is counted of predictions, by head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

IGNORE = -1
"""The label of a sample whose class is unknown; it counts in no loss and no metric."""


class NumPredictedClasses(Metric):  # type: ignore[misc]
    """How many classes were ever predicted: a recogniser that collapsed onto a few shows here."""

    full_state_update = False

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.seen: Tensor
        self.add_state("seen", torch.zeros(num_classes), dist_reduce_fx="max")

    def update(self, logits: Tensor, label: Tensor) -> None:
        """Take (N, K) logits."""
        self.seen[logits[label != IGNORE].argmax(1)] = 1

    def compute(self) -> Tensor:
        """A count."""
        return self.seen.sum()


class JointTopK(Metric):  # type: ignore[misc]
    """Share of samples right in every head at once: EPIC-KITCHENS's action accuracy over verb and noun."""

    full_state_update = False

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.right: Tensor
        self.count: Tensor
        self.add_state("right", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, logits: Mapping[str, Tensor], label: Mapping[str, Tensor]) -> None:
        """Take logits and labels of every head."""
        known = torch.stack([y != IGNORE for y in label.values()]).all(0)
        hits = [(logits[h].topk(min(self.k, logits[h].shape[1])).indices == label[h][:, None]).any(1) for h in logits]
        self.right += (torch.stack(hits).all(0) & known).sum()
        self.count += known.sum()

    def compute(self) -> Tensor:
        """In [0, 1]."""
        return self.right / self.count


def metrics_by_head(heads: Mapping[str, int], topk: Sequence[int]) -> nn.ModuleDict:
    """New metrics of each head, and "joint" over several.

    Args:
        heads: Classes by head.
        topk: The k of top-k accuracy; those not smaller than a head's classes are left out.

    Returns:
        A ``MetricCollection`` for each head: top-k, precision, recall and F1 (macro), and the number of classes ever
        predicted. "joint" counts samples right in every head at once, at each k.
    """
    sets = nn.ModuleDict()
    for head, k in heads.items():
        common: dict[str, Any] = {"num_classes": k, "ignore_index": IGNORE, "validate_args": False}
        metrics: dict[str, Metric | MetricCollection] = {
            f"top{n}": MulticlassAccuracy(top_k=n, average="micro", **common) for n in topk if n == 1 or n < k
        }
        metrics["precision_macro"] = MulticlassPrecision(average="macro", **common)
        metrics["recall_macro"] = MulticlassRecall(average="macro", **common)
        metrics["f1_macro"] = MulticlassF1Score(average="macro", **common)
        metrics["num_predicted_classes"] = NumPredictedClasses(k)
        # compute_groups share state between metrics of equal state; ours are few, and plain is safer.
        sets[head] = MetricCollection(metrics, compute_groups=False)
    if len(heads) > 1:
        sets["joint"] = MetricCollection({f"top{n}": JointTopK(n) for n in topk}, compute_groups=False)
    return sets
