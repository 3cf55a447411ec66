"""Every recipe runs on fake data; what it says of itself can be read without running it."""

import ast
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_har.bench.harness import read_reported
from lightning_har.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.py"))
QUICK = {"x3d_xs_ucf101", "tsm_mobilenetv2_ucf101"}
"""Run by the quick tests too; the others are as quick, but they are many."""
WANTED = [
    "i3d_ucf101",
    "i3d_flow_ucf101",
    "i3d_twostream_ucf101",
    "i3d_msr_daily",
    "i3d_twostream_msr_daily",
    "tsn_bninception_ucf101",
    "tsn_resnet_ucf101",
    "i3d_minikinetics",
    "s3d_v1_minikinetics",
    "s3d_v3_minikinetics",
    "s3d_v3_topheavy_minikinetics",
    "mobilenetv2_lstm_epic",
    "mobilenetv2_convlstm_epic",
    "mobilenetv2_convnet1d_epic",
    "tsn_vgg16_ucf101",
    "tsn_resnet50_hmdb51",
    "i3d_resnet50_ucf101",
    "i3d_resnet50_hmdb51",
    "mobilenetv2q_gru_ucf101",
    "mobilenetv2q_lstm_ucf101",
    "mobilenetv2q_single_ucf101",
    "inceptionv3_gru_ucf101",
    "inceptionv3_lstm_ucf101",
    "inceptionv3_single_ucf101",
    "quickstart",
    "folder",
    "x3d_xs_ucf101",
    "tsm_mobilenetv2_ucf101",
    "mobilenetv2q_gru_ucf101_qat",
]


def run(recipe, cwd, *arguments, timeout=600):
    command = [sys.executable, "-m", "lightning_har.cli.main", "run", str(recipe), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, env=environment)


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(p, id=p.stem, marks=() if p.stem in QUICK else pytest.mark.slow) for p in RECIPES],
)
def test_smoke(recipe, tmp_path):
    done = run(recipe, tmp_path, "--smoke", "--out", "out")
    assert done.returncode == 0, done.stderr
    reports = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("report.json")]
    assert reports
    for report in reports:
        assert report["files"]["scored"] > 0
        for level in report["metrics"]["test"].values():
            assert 0 <= level["video"]["top1"] <= 1
        assert math.isfinite(report["latency"]["p50_ms"])
        assert report["cost"]["checkpoint_bytes"]


def test_every_system_has_its_recipe():
    assert set(WANTED) <= {path.stem for path in RECIPES}


def lines_of(recipe):
    """The lines as they stand, without the docstring and the reported figures."""
    text = recipe.read_text()
    statements = ast.parse(text).body
    apart = [n for n in statements[1:] if isinstance(n, ast.Assign) and n.targets[0].id == "REPORTED"]
    left_out = {line for n in (statements[0], *apart) for line in range(n.lineno, n.end_lineno + 1)}
    lines = [line.strip() for number, line in enumerate(text.splitlines(), start=1) if number not in left_out]
    return [line for line in lines if line]


@pytest.mark.parametrize(
    ("one", "other", "differences"),
    [
        ("i3d_ucf101", "i3d_flow_ucf101", ["modality"]),
        ("tsn_bninception_ucf101", "tsn_resnet_ucf101", ["backbone"]),
        ("s3d_v1_minikinetics", "s3d_v3_minikinetics", ["variant"]),
        ("s3d_v3_minikinetics", "s3d_v3_topheavy_minikinetics", ["variant"]),
        ("mobilenetv2q_gru_ucf101", "mobilenetv2q_lstm_ucf101", ["temporal"]),
        ("inceptionv3_gru_ucf101", "inceptionv3_lstm_ucf101", ["temporal"]),
        ("mobilenetv2q_single_ucf101", "inceptionv3_single_ucf101", ["backbone"]),
        # What the study changes with the part or the backbone is a thing, and a line, of its own.
        ("mobilenetv2q_gru_ucf101", "inceptionv3_gru_ucf101", ["backbone", "hidden"]),
        ("mobilenetv2_lstm_epic", "mobilenetv2_convlstm_epic", ["temporal", "hidden"]),
        ("mobilenetv2_convlstm_epic", "mobilenetv2_convnet1d_epic", ["temporal", "hidden"]),
        # Other data is imported and named.
        ("i3d_resnet50_ucf101", "i3d_resnet50_hmdb51", ["from lightning_har.data", "data"]),
    ],
)
def test_recipes_that_differ_in_one_thing_differ_in_one_line(one, other, differences):
    a, b = (lines_of(ROOT / "recipes" / f"{name}.py") for name in (one, other))
    assert len(a) == len(b)
    different = [(x, y) for x, y in zip(a, b, strict=True) if x != y]
    assert len(different) == len(differences)
    for (x, y), start in zip(different, differences, strict=True):
        assert x.startswith(start)
        assert y.startswith(start)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_docstring_names_the_command_and_the_source(recipe):
    text = " ".join(ast.get_docstring(ast.parse(recipe.read_text())).split())
    assert f"recipes/{recipe.name}" in text
    reported = read_reported(recipe)
    if reported:
        assert text.split("Study ")[1][0] in "ABCDE"
        assert "Reported" in text
        assert "chosen here" in text or "Chosen here" in text
    for metric, figures in reported.items():
        if metric == "on":
            continue
        for where, value in figures.items():
            assert where
            assert value > 0
            if metric.endswith(("top1", "top3", "top5")):
                assert value < 1
                percent = f"{100 * value:.2f}".rstrip("0").rstrip(".")
                assert percent in text or f"{value:.2f}" in text or "points under" in text, (metric, value)


def test_both_figures_of_study_e_stand_side_by_side():
    for name, table, counted in (("mobilenetv2q", 0.7594, 0.731), ("inceptionv3", 0.7961, 0.770)):
        figures = read_reported(ROOT / "recipes" / f"{name}_gru_ucf101.py")["top1"]
        assert sorted(figures.values()) == sorted([table, counted])


OWN_DATA = {"quickstart", "synthetic"}
"""Recipes that render their clips."""


@pytest.mark.parametrize("recipe", [pytest.param(p, id=p.stem) for p in RECIPES if p.stem not in OWN_DATA])
@pytest.mark.parametrize("arguments", [["--data.root", "nowhere"], []], ids=["wrong", "none"])
def test_without_data_one_message_says_what_is_missing(recipe, arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(recipe), *arguments]) == 2
    said = capsys.readouterr().err
    name = re.search(r"data fake (\w+) DIR", said)[1]
    where, size = {
        "ucf101": ("crcv.ucf.edu", "6.5 GB"),
        "hmdb51": ("serre.lab.brown.edu", "2.1 GB"),
        "kinetics": ("github.com/cvdfoundation", "456 GB"),
        "msr_daily": ("msr-dailyactivity3d", "320 RGB clips"),
        "epic_kitchens": ("epic-kitchens.github.io", "320 GB"),
        "folder": ("your own clips", "a CSV with the columns path,label"),
    }[name]
    missing = f"{tmp_path / 'nowhere'} " if arguments else f"recipe {recipe.stem} needs --data.root\n"
    for part in (f"error: {missing}", where, size, "layout:\n    DIR/"):
        assert part in said
    assert list(tmp_path.iterdir()) == [], "a run that did not begin leaves nothing"
