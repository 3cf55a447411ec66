"""What a model said of every video, and the tables made from it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lightning_har.types import Failure

TOP = 5
"""Guesses per video in predictions.csv."""


@dataclass(frozen=True)
class Predictions:
    """One head's verdicts on the videos of a split.

    Attributes:
        ids: N ids.
        paths: N files.
        logits: (N, K) float.
        labels: (N,) int64; -1 where unknown.
        class_names: K names, in label order.
    """

    ids: list[str]
    paths: list[str]
    logits: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    @property
    def predicted(self) -> Tensor:
        """(N,) int64, the class with the highest logit."""
        return self.logits.argmax(dim=1)

    def top1_within(self, names: Sequence[str]) -> float:
        """Top-1, over all classes, on the videos whose true class is one of ``names``; NaN without any."""
        wanted = torch.tensor([self.class_names.index(name) for name in names])
        chosen = torch.isin(self.labels, wanted)
        return float((self.predicted == self.labels)[chosen].double().mean())

    def confusion(self) -> Tensor:
        """(K, K) int64 counts of labelled videos: rows true classes, columns predicted ones."""
        k, known = len(self.class_names), self.labels >= 0
        cells = self.labels[known] * k + self.predicted[known]
        return torch.bincount(cells, minlength=k * k).reshape(k, k)


def write_predictions(heads: dict[str, Predictions], failures: Sequence[Failure], path: Path) -> None:
    """``predictions.csv``: a row per video and head, and a row with ``error`` for a video that was not read.

    Columns: ``id, path, head, label, predicted, score, top5, error``; ``score`` is the softmax probability of
    ``predicted``; ``top5`` is ``name=score`` of the five best, separated by ``|``.
    """
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "path", "head", "label", "predicted", "score", f"top{TOP}", "error"])
        for head, said in heads.items():
            scores, classes = said.logits.float().softmax(dim=1).topk(min(TOP, len(said.class_names)), dim=1)
            for i, (id_, video) in enumerate(zip(said.ids, said.paths, strict=True)):
                label = int(said.labels[i])
                best = [said.class_names[k] for k in classes[i].tolist()]
                values = [f"{score:.6f}" for score in scores[i].tolist()]
                top = "|".join(f"{name}={value}" for name, value in zip(best, values, strict=True))
                true = said.class_names[label] if label >= 0 else ""
                rows.writerow([id_, video, head, true, best[0], values[0], top, ""])
        for failure in failures:
            rows.writerow([failure.id, failure.path, "", "", "", "", "", failure.reason])


def write_classification_report(heads: dict[str, Predictions], path: Path) -> None:
    """``classification_report.csv``: precision, recall, F1, support and predictions of every class and head.

    A ratio with nothing in its denominator is left empty rather than called 0; F1 is 0 where the class
    occurs or is predicted, but never rightly.
    """
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["head", "class", "precision", "recall", "f1", "support", "predicted"])
        for head, said in heads.items():
            table = said.confusion()
            for k, name in enumerate(said.class_names):
                right, support, predicted = (int(n) for n in (table[k, k], table[k].sum(), table[:, k].sum()))
                rows.writerow(
                    [
                        head,
                        name,
                        _ratio(right, predicted),
                        _ratio(right, support),
                        _ratio(2 * right, support + predicted),
                        support,
                        predicted,
                    ]
                )


def _ratio(part: int, whole: int) -> str:
    return f"{part / whole:.6f}" if whole else ""
