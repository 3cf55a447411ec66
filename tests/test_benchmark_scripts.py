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
def test_view_memory(tmp_path):
    rows = rows_of("view_memory.py", tmp_path / "memory.csv", "--segments", "5", "--size", "64", "--turns", "1")
    assert [(row["backbone"], row["way"]) for row in rows] == [
        (backbone, way) for backbone in ("resnet50", "bn_inception") for way in ("one_shot", "streamed")
    ]
    assert all(float(row["max_abs_logit_difference"]) < 1e-5 for row in rows)
