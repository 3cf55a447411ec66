"""What a load costs, by the benchmark's own script. Times are measured on a quiet machine, and held to nothing here."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "zoo_load.py"
RESULTS = SCRIPT.parent / "results" / "zoo_load.csv"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc"),
]


def rows(tmp_path, *arguments):
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "x.csv"), *arguments]
    subprocess.run(command, check=True, capture_output=True)
    with (tmp_path / "x.csv").open() as file:
        return list(csv.DictReader(file))


def test_smoke(tmp_path):
    before = RESULTS.stat().st_mtime_ns if RESULTS.exists() else None
    model, listing = rows(tmp_path, "--smoke")
    assert (model["what"], listing["what"]) == ("small", "zoo list")
    assert all(float(model[key]) > 0 for key in ("weights_bytes", "baseline_s", "load_s", "time_ratio"))
    assert float(listing["load_s"]) > 0
    assert (RESULTS.stat().st_mtime_ns if RESULTS.exists() else None) == before


def test_loading_takes_the_memory_of_one_network(tmp_path):
    model, _ = rows(tmp_path, "--models", "i3d", "--repeats", "1")
    assert 0.5 < float(model["memory_ratio"]) <= 1.2  # less would mean that nothing was measured
