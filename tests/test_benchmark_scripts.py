"""The benchmarks' scripts run from end to end, on as little as they take. What they print then means nothing."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def rows_of(script, out, *argv):
    command = [sys.executable, str(BENCHMARKS / script), "--threads", "1", "--out", str(out), *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_claims(tmp_path):
    rows = rows_of("claims.py", tmp_path / "claims.csv", "--smoke", "--seeds", "2", "--work", str(tmp_path / "work"))
    assert {row["claim"] for row in rows} == set("123456")
    assert {row["verdict"] for row in rows} <= {"held", "not held", "undecided"}
    # One clip of each class teaches nobody: what needs training must not be called decided.
    assert {row["verdict"] for row in rows if row["accuracies"]} == {"undecided"}


@pytest.mark.slow
def test_temporal_cost(tmp_path):
    rows = rows_of("temporal_cost.py", tmp_path / "cost.csv", "--smoke")
    parts = ("lstm", "gru", "convlstm", "convnet1d")
    assert [(row["part"], row["frames"]) for row in rows] == [(part, n) for part in parts for n in ("5", "20")]
    for row in rows:
        assert row["error"] == ""
        assert float(row["training_ms"]) > 0
        assert float(row["training_mib"]) >= 0
    counts = {row["part"]: int(row["parameters"]) for row in rows}
    gates, units, inputs = 4, 8, 1280
    assert counts["lstm"] == gates * units * (inputs + units + 1)  # one bias a gate
    assert counts["gru"] == (gates - 1) * units * (inputs + units + 2)  # PyTorch's two biases
    assert (tmp_path / "cost.png").stat().st_size > 1000


@pytest.mark.slow
def test_view_memory(tmp_path):
    rows = rows_of("view_memory.py", tmp_path / "memory.csv", "--segments", "5", "--size", "64", "--turns", "1")
    assert [(row["backbone"], row["way"]) for row in rows] == [
        (backbone, way) for backbone in ("resnet50", "bn_inception") for way in ("one_shot", "streamed", "one_crop")
    ]
    assert [row["crops"] for row in rows] == ["10", "10", "1"] * 2
    assert all(float(row["max_abs_logit_difference"]) < 1e-5 for row in rows if row["way"] != "one_crop")
