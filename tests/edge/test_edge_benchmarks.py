"""The edge's measuring scripts run from end to end, on as little as they take. What they print then means nothing."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from scripts import load_script
from videos import write_video

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SHARED = BENCHMARKS.parents[1] / "shared" / "data"


def rows_of(out, script, *argv, cache):
    env = {**os.environ, "LIGHTNING_HAR_CACHE": str(cache)}
    command = [sys.executable, str(BENCHMARKS / script), *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    with out.open(newline="") as file:
        return list(csv.DictReader(file)), done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1900)
def test_accuracy_on_rendered_actions(tmp_path):
    out = tmp_path / "a.csv"
    options = ("--smoke", "--threads", 1, "--out", out)
    (row,), said = rows_of(out, "edge_accuracy.py", "synthetic", *options, cache=tmp_path)
    assert all(0 <= float(row[name]) <= 1 for name in ("float", "int8", "float longer", "int8 trained"))
    assert "int8 - float" in said


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.timeout(1900)
@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
def test_accuracy_on_real_clips_with_a_pruned_backbone(tmp_path):
    out = tmp_path / "a.csv"
    data = (SHARED / "scfd" / "folds.csv", SHARED / "mobilenet_v2" / "mobilenet_v2_1.0_224_quant.tflite")
    options = ("--smoke", "--threads", 1, "--prune", 0.25, "--work", tmp_path, "--out", out)
    (row,), _ = rows_of(out, "edge_accuracy.py", "scfd", *data, *options, cache=tmp_path)
    assert 0.6 < float(row["multiply_adds"]) < 0.95
    assert float(row["features_snr_db"]) > 10


@pytest.mark.slow
@pytest.mark.timeout(1900)
@pytest.mark.parametrize("columns", [["onnx", "executorch"], ["inductor"]])
def test_a_row_of_the_support_matrix(columns, tmp_path):
    pytest.importorskip("executorch", reason="needs executorch: pip install 'lightning-har[executorch]'")
    page = tmp_path / "matrix.md"
    kept = "| gru | frames | a | b | c | d | e |"
    page.write_text(f"| model | cut as | 1 | 2 | 3 | 4 | 5 |\n{kept}\n")
    command = [sys.executable, str(BENCHMARKS / "support_matrix.py"), "--only", "single", "--columns", *columns]
    done = subprocess.run([*command, "--out", str(page)], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line for line in page.read_text().splitlines() if line.startswith("| ")][1:]
    assert rows[0] == kept
    cells = [cell.strip() for cell in rows[1].strip("|").split("|")]
    assert cells[:2] == ["single", "frames"]
    exported, compiled = [[cell[:4] for cell in part] for part in (cells[2:6], cells[6:])]
    assert exported == (["yes,"] * 4 if "onnx" in columns else ["not "] * 4)
    assert compiled == (["yes,"] if "inductor" in columns else ["not "])


@pytest.mark.slow
def test_a_row_that_needs_weights_says_so(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "support_matrix.py"), "--only", "mobilenetv2_quant gru"]
    done = subprocess.run([*command, "--out", str(tmp_path / "m.md")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "no mobilenetv2_quant gru; there are gru, lstm" in done.stderr
    assert "by --tflite" in done.stderr


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
def test_mobilenetv2_beside_litert(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")
    out = tmp_path / "m.csv"
    data = ("--tflite", SHARED / "mobilenet_v2" / "mobilenet_v2_1.0_224_quant.tflite", "--videos", SHARED / "scfd")
    rows, _ = rows_of(out, "edge_mobilenetv2.py", *data, "--frames", 16, "--blocks", 1, "--csv", out, cache=tmp_path)
    assert [row["engine"] for row in rows] == ["ort int8", "ort float", "executorch int8", "ort its integers", "litert"]
    agreement = {row["engine"]: float(row["top1_as_pytorch_float"]) for row in rows}
    assert agreement["ort float"] == 1
    assert agreement["ort int8"] >= 0.75
    assert agreement["executorch int8"] >= 0.75
    assert agreement["ort its integers"] == agreement["litert"]


@pytest.mark.slow
@pytest.mark.timeout(1900)
def test_int8_gru_beside_pytorch(class_folder, tmp_path):
    out = tmp_path / "g.csv"
    options = ("--videos", class_folder, "--threads", 1, "--rounds", 2, "--csv", out)
    rows, said = rows_of(out, "edge_gru.py", *options, cache=tmp_path)
    assert [row["path"] for row in rows] == ["int8 bundle", "float bundle", "pytorch float eager"]
    int8, full, eager = rows
    assert 3 * float(int8["size_mb"]) < float(full["size_mb"])
    assert float(full["size_mb"]) == pytest.approx(float(eager["size_mb"]), rel=0.1)
    assert all(float(row["clip_p50_ms"]) > 0 for row in rows)
    assert 0 <= float(int8["agreement"]) <= 1
    assert {(row["rounds"], row["trained"]) for row in rows} == {("2", "False")}
    assert [line.partition(":")[0] for line in said.splitlines() if "wanted at most" in line] == [
        "time / PyTorch eager",
        "size / float",
        "peak RSS in MB",
    ]


@pytest.mark.slow
@pytest.mark.timeout(1900)
def test_a_live_video_by_both_cuts(tmp_path):
    for i in range(4):
        for name in ("jump", "walk"):
            write_video(tmp_path / "clips" / name / f"{i}.mp4", num_frames=75, size=(48, 64), first=i)
    out = tmp_path / "s.csv"
    rows, _ = rows_of(out, "edge_stream.py", "--videos", tmp_path / "clips", "--csv", out, cache=tmp_path)
    assert [row["cut"] for row in rows] == ["stream", "frames"]
    for row in rows:
        assert 0 < int(row["live_frames"]) == 75 - int(row["dropped"])
        assert float(row["frames_per_s"]) > 0
        assert 0 < float(row["arrival_to_label_p50_ms"]) <= float(row["arrival_to_label_p95_ms"])


def test_clips_too_short_to_stream_are_refused_at_once(class_folder, tmp_path):
    command = [sys.executable, str(BENCHMARKS / "edge_stream.py"), "--videos", str(class_folder)]
    done = subprocess.run([*command, "--csv", str(tmp_path / "s.csv")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "validation clips has 25 frames; give longer --videos" in done.stderr
    assert "Traceback" not in done.stderr


def run_matrix(monkeypatch, page, *argv):
    script = load_script("support_matrix")
    monkeypatch.setattr(script, "exported", lambda *args: "tried anew")
    monkeypatch.setattr(sys, "argv", ["support_matrix.py", *argv, "--out", str(page)])
    return script


def test_a_partial_run_leaves_the_other_rows_and_columns_with_their_versions(tmp_path, monkeypatch):
    page = tmp_path / "matrix.md"
    script = run_matrix(monkeypatch, page, "--only", "gru, streaming", "gru", "i3d", "--columns", "onnx", "executorch")
    monkeypatch.setattr(script, "this_run", lambda: "old; quiet")
    script.main()
    script = run_matrix(monkeypatch, page, "--only", "gru", "--columns", "executorch")
    monkeypatch.setattr(script, "this_run", lambda: "new; beside other work")
    script.main()
    rows, runs = script.tables_of(page)
    assert [row[0] for row in rows] == ["gru", "gru, streaming", "i3d"]
    assert runs == [
        ["old; quiet", "gru; gru, streaming; i3d", "gru, streaming; i3d", ""],
        ["new; beside other work", "", "gru", ""],
    ]
    run_matrix(monkeypatch, page, "--only", "gru, streaming", "i3d", "--columns", "executorch")
    script.main()
    assert script.tables_of(page)[1][0] == ["old; quiet", "gru; gru, streaming; i3d", "", ""]


def test_other_work_at_the_start_is_told(monkeypatch):
    script = load_script("support_matrix")
    for load, busy in ((0.1, False), (1.9, True)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert script.this_run().endswith("; beside other work") == busy


def test_a_long_reason_keeps_what_the_other_format_does():
    shorten = load_script("support_matrix").shorten
    layers = ", ".join(f"net.blocks.{i} (Conv3d: aten.convolution)" for i in range(20))
    told = shorten(f"executorch does not take {layers}: no kernel. format='onnx' does", 240)
    assert told.endswith("(Conv3d: ... format='onnx' does")
    assert 200 < len(told) <= 240
    assert shorten("a | b\nc. It does", 240) == "a / b c. It does"
    assert shorten("word " * 100, 120).endswith("word ...")
