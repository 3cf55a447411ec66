import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from lightning_har.bench.predictions import Predictions, write_classification_report, write_predictions
from lightning_har.bench.report import commit, results_table, write_report
from lightning_har.types import Failure


@pytest.fixture
def said() -> Predictions:
    logits = torch.tensor([[3.0, 1, 0], [0, 2, 1], [5, 0, 0], [0, 1, 9]])
    return Predictions(list("abcd"), [f"{i}.mp4" for i in "abcd"], logits, torch.tensor([0, 1, 1, -1]), ("x", "y", "z"))


def report(top1: float, seed: int) -> Any:
    one: dict[str, Any] = {
        "recipe": "r",
        "seed": seed,
        "files": {"scored": 3, "skipped": 1},
        "metrics": {"test": {"action": {"video": {"top1": top1, "extra_top1": 1 - top1}}}},
        "cost": {"parameters": 1_500_000, "trainable_parameters": 7, "macs": 2_000, "checkpoint_bytes": 1},
        "memory": {"train_peak_bytes": seed * 2**20, "test_peak_bytes": None},
        "latency": {"p50_ms": 1.5, "p95_ms": 2.0, "clips_per_s": 3.0},
    }
    return {**one, "runs": [one]}


def test_confusion_and_top1_within(said: Predictions) -> None:
    assert said.confusion().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert said.top1_within(["y"]) == 0.5
    assert said.top1_within(["x", "y"]) == pytest.approx(2 / 3)
    assert math.isnan(said.top1_within(["z"]))


def test_prediction_rows(said: Predictions, tmp_path: Path) -> None:
    write_predictions({"action": said}, [Failure("e", "e.mp4", "empty, file")], tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["id"], r["label"], r["predicted"], r["error"]) for r in rows] == [
        ("a", "x", "x", ""),
        ("b", "y", "y", ""),
        ("c", "y", "x", ""),
        ("d", "", "z", ""),
        ("e", "", "", "empty, file"),
    ]
    best = rows[0]["top5"].split("|")
    assert [one.split("=")[0] for one in best] == ["x", "y", "z"]
    assert sum(float(one.split("=")[1]) for one in best) == pytest.approx(1, abs=1e-5)
    assert float(rows[0]["score"]) == pytest.approx(math.exp(3) / (math.exp(3) + math.e + 1), abs=1e-5)


def test_classification_report_leaves_what_has_no_denominator_empty(said: Predictions, tmp_path: Path) -> None:
    write_classification_report({"action": said}, tmp_path / "c.csv")
    with (tmp_path / "c.csv").open(newline="") as file:
        rows = {r["class"]: r for r in csv.DictReader(file)}
    assert (float(rows["x"]["precision"]), float(rows["x"]["recall"])) == (0.5, 1.0)
    assert float(rows["y"]["f1"]) == pytest.approx(2 / 3, abs=1e-6)
    assert (rows["z"]["precision"], rows["z"]["recall"], rows["z"]["f1"], rows["z"]["support"]) == ("", "", "", "0")


def test_json_is_strict(tmp_path: Path) -> None:
    write_report(report(float("nan"), 0), tmp_path / "r.json")
    written = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    assert written["metrics"]["test"]["action"]["video"]["top1"] is None


def test_table_shows_scores_and_costs() -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(results_table({"gru": report(0.5, 3), "avg": report(0.25, 3)}))
    text = console.export_text()
    assert "0.250" in text
    assert "1.50 M" in text
    assert "extra_top1" in text
    assert "1.5 ms" in text


def test_commit_is_this_checkouts_or_none() -> None:
    found = commit()
    assert found is None or len(found.removesuffix("-dirty")) == 40
