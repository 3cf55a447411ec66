"""benchmarks/smoke_runs.py on recipes that write a report at once, or do not."""

import csv
import os
from types import SimpleNamespace

import pytest
from harness_runs import write_recipe
from scripts import load_script


@pytest.fixture
def script():
    return load_script("smoke_runs")


def test_every_recipe_is_a_row_with_its_time_or_its_error(script, tmp_path, monkeypatch):
    recipes = [
        write_recipe(tmp_path / "good.py"),
        write_recipe(tmp_path / "bad.py", body="sys.exit('no such thing')"),
        write_recipe(tmp_path / "mute.py", body="sys.exit()"),
    ]
    wait = os.wait4

    def wait4(pid, options):
        return *wait(pid, options)[:2], SimpleNamespace(ru_utime=2.0, ru_stime=0.5)

    monkeypatch.setattr("os.wait4", wait4)
    monkeypatch.setattr(
        "sys.argv", ["smoke_runs.py", *map(str, recipes), "--threads", "1", "--out", f"{tmp_path}/t.csv"]
    )
    assert script.main() == 1
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["error"] for row in rows] == ["", "exit code 1: no such thing", "no report"]
    assert [row["recipe"] for row in rows] == ["good", "bad", "mute"]
    assert float(rows[0]["seconds"]) > 0
    assert [row["cpu_seconds"] for row in rows] == ["2.5"] * 3  # of the program and of the kernel for it
    assert {row["threads"] for row in rows} == {"1"}
    assert rows[0]["cpu"]
