from __future__ import annotations

import csv
import io
import json

import pytest
import pytorch_lightning as pl
from edge_models import clips, cnn_rnn, write_video
from rich.console import Console

from lightning_har.cli.main import main
from lightning_har.edge import bench
from lightning_har.edge.bench import Row, pareto, plot, write_csv


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "small.ckpt"
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", max_epochs=0)
    trainer.strategy.connect(cnn_rnn("avg"))
    trainer.save_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    batch = clips(20, frames=8)
    for i, video in enumerate(batch["video"]):
        folder = root / "abcd"[i % 4]
        folder.mkdir(exist_ok=True)
        write_video(folder / f"{i}.mp4", video.permute(1, 2, 3, 0).numpy())
    return root


def test_export_int8_from_the_command_line(checkpoint, data, tmp_path, capsys):
    arguments = ["--model", str(checkpoint), "--out", str(tmp_path / "x")]
    assert main(["export", *arguments, "--int8", "--calibration", str(data)]) == 0
    said = capsys.readouterr().out
    assert "int8" in said
    assert "held-out clips" in said
    assert (tmp_path / "x" / "model.onnx").is_file()


def test_int8_without_data_is_a_message(checkpoint, tmp_path, capsys):
    assert main(["export", "--model", str(checkpoint), "--out", str(tmp_path), "--int8"]) == 2
    assert "calibration" in capsys.readouterr().err


def test_bundle_and_edge_bench(checkpoint, data, tmp_path, capsys):
    out = tmp_path / "b"
    assert main(["bundle", "--model", str(checkpoint), "--out", str(out)]) == 0
    video = next(data.rglob("*.mp4"))
    table = tmp_path / "t.csv"
    arguments = [str(out), "--video", str(video), "--repeat", "3", "--csv", str(table)]
    assert main(["edge-bench", *arguments, "--plot", str(tmp_path / "p.png")]) == 0
    rows = list(csv.DictReader(table.open()))
    assert [r["threads"] for r in rows] == ["1", "2"]
    for row in rows:
        assert 0 < float(row["frame_p50_ms"]) <= float(row["clip_p50_ms"])
        assert float(row["cold_start_s"]) > 0
        assert float(row["peak_rss_mb"]) > 20
        graphs = json.loads((out / "bundle.json").read_text())["graphs"].values()
        assert float(row["size_mb"]) == pytest.approx(sum((out / g).stat().st_size for g in graphs) / 1e6, abs=1e-3)
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_energy_is_told_where_the_machine_counts_it(checkpoint, tmp_path, monkeypatch):
    """A counter of microjoules, as Linux shows the processor's; each recognised clip adds 3 J."""
    assert main(["bundle", "--model", str(checkpoint), "--out", str(tmp_path / "b")]) == 0
    counter = tmp_path / "energy_uj"
    counter.write_text("1000000")
    clip = {"p50_ms": 8.0, "p95_ms": 9.0}
    told = {"frames_per_clip": 4, "peak_memory_mb": 50.0, "network": clip, "clip": clip}

    def run(folder, video, threads, repeat):
        counter.write_text(str(int(counter.read_text()) + 3_000_000 * repeat))
        return told

    monkeypatch.setattr(bench, "_run", run)
    monkeypatch.setattr(bench, "_ENERGY", counter)
    assert [row["joule_per_clip"] for row in bench.measure(tmp_path / "b", "clip.mp4", repeat=5)] == [3.0, 3.0]
    monkeypatch.setattr(bench, "_ENERGY", tmp_path / "none")
    assert bench.measure(tmp_path / "b", "clip.mp4", threads=(1,))[0]["joule_per_clip"] is None


def test_pareto_keeps_what_nothing_beats():
    assert pareto([(1, 0.5), (2, 0.9), (3, 0.8), (1, 0.4), (4, 0.95), (2, 0.9)]) == [(1, 0.5), (2, 0.9), (4, 0.95)]


@pytest.mark.parametrize("joule", [None, 12.345])
def test_the_table_is_whole_on_a_narrow_terminal(joule):
    row: Row = {
        "bundle": "bundle-int8",
        "model": "m",
        "format": "onnx",
        "kind": "frames",
        "int8": True,
        "threads": 2,
        "size_mb": 12.345,
        "peak_rss_mb": 234.5,
        "cold_start_s": 12.345,
        "frame_p50_ms": 12.345,
        "frame_p95_ms": 123.45,
        "clip_p50_ms": 1234.5,
        "clip_p95_ms": 2345.6,
        "agreement": 0.9688,
        "joule_per_clip": joule,
    }  # type: ignore[typeddict-item]
    text = io.StringIO()
    Console(file=text, width=80).print(bench.table([row]))
    said = text.getvalue()
    assert "…" not in said
    for value in ("12.3, 123", "1234, 2346", "0.969", "234"):
        assert value in said
    assert (said.count("12.3") == 4) == (joule is not None)  # size, cold start, frame; and energy


def test_plot_and_csv_of_given_rows(tmp_path):
    row: Row = dict.fromkeys(Row.__annotations__, 1.0) | {"model": "m", "threads": 1, "agreement": None}
    plot([row], tmp_path / "p.png")
    write_csv([row], tmp_path / "t.csv")
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 2
