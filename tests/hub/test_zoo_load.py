"""What a load may cost: the benchmark's own measures, on one model."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "zoo_load.py"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
def test_loading_costs_little_more_than_building(tmp_path):
    command = [sys.executable, str(SCRIPT), "--models", "i3d", "--repeats", "9", "--out", str(tmp_path / "x.csv")]
    subprocess.run(command, check=True, capture_output=True)
    with (tmp_path / "x.csv").open() as file:
        model, listing = csv.DictReader(file)
    assert 0.5 < float(model["memory_ratio"]) <= 1.2  # less would mean that nothing was measured
    assert float(model["time_ratio"]) <= 1.3
    assert float(listing["load_s"]) < 0.5
