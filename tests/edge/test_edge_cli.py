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


def test_a_broken_bundle_is_refused_before_another_is_measured(checkpoint, data, tmp_path, capsys, monkeypatch):
    for name in ("good", "bad"):
        assert main(["bundle", "--model", str(checkpoint), "--out", str(tmp_path / name)]) == 0
    (tmp_path / "bad" / "captions.npz").unlink()
    monkeypatch.setattr(bench, "measure", lambda *args, **kwargs: pytest.fail("measured"))
    assert main(["edge-bench", str(tmp_path / "good"), str(tmp_path / "bad")]) == 2
    assert "captions.npz is missing" in capsys.readouterr().err


def test_energy_and_frames_are_the_runners_own(checkpoint, tmp_path, monkeypatch):
    """Without the start of Python; a network that sees no frame alone has its clip's time by its frames."""
    assert main(["bundle", "--model", str(checkpoint), "--out", str(tmp_path / "b")]) == 0
    clip = {"p50_ms": 8.0, "p95_ms": 10.0}
    told = {"frames_per_clip": 4, "peak_memory_mb": 50.0, "network": clip, "clip": clip}
    told |= {"frame": {}, "joule_per_clip": None}
    monkeypatch.setattr(bench, "_run", lambda *args: told)
    (row,) = bench.measure(tmp_path / "b", "clip.mp4", threads=(1,))
    assert (row["frame_p50_ms"], row["frame_p95_ms"], row["joule_per_clip"]) == (2.0, 2.5, None)
    told |= {"frame": {"p50_ms": 1.0, "p95_ms": 7.0}, "joule_per_clip": 3.0}
    (row,) = bench.measure(tmp_path / "b", "clip.mp4", threads=(1,))
    assert (row["frame_p50_ms"], row["frame_p95_ms"], row["joule_per_clip"]) == (1.0, 7.0, 3.0)


@pytest.mark.parametrize("kind", ["clip", "frames", "stream"])
def test_the_runner_times_each_frame_and_reads_the_counter_around_its_clips(kind, tmp_path, monkeypatch, capsys):
    """A counter of microjoules, as Linux shows the processor's; each clip that is read adds 3 J."""
    from lightning_har.edge import live, runtime
    from lightning_har.edge.bundle import bundle

    bundle(cnn_rnn("avg"), tmp_path / "b", kind=kind)
    counter = tmp_path / "energy_uj"
    counter.write_text("1000000")
    read = live.read_clip

    def clip(*args):
        counter.write_text(str(int(counter.read_text()) + 3_000_000))
        return read(*args)

    monkeypatch.setattr(live, "read_clip", clip)
    monkeypatch.setattr(runtime, "ENERGY", counter)
    video = bench.write_clip(tmp_path / "clip.mp4", frames=8, size=(64, 64))
    capsys.readouterr()
    assert live.main([str(video), "--json", "--repeat", "3"], tmp_path / "b") == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["joule_per_clip"] == 3.0
    assert bool(told["frame"]) == (kind != "clip")
    if kind != "clip":
        assert 0 < told["frame"]["p50_ms"] <= told["frame"]["p95_ms"] <= told["network"]["p95_ms"]
    monkeypatch.setattr(runtime, "ENERGY", tmp_path / "none")
    assert live.main([str(video), "--json"], tmp_path / "b") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["joule_per_clip"] is None


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


def test_plot_and_csv_of_given_rows(tmp_path, monkeypatch):
    """A model's bundles, of one name, are told apart by their folders."""
    from matplotlib.figure import Figure

    row: Row = dict.fromkeys(Row.__annotations__, 1.0) | {"model": "m", "threads": 1, "agreement": None}
    rows = [
        {**row, "bundle": "out/mine-float", "clip_p50_ms": 5.0, "size_mb": 40.0},
        {**row, "bundle": "out/mine-int8/", "clip_p50_ms": 2.0, "size_mb": 10.0, "agreement": 0.9},
    ]
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kwargs: (figures.append(self), save(self, *args)))
    plot(rows, tmp_path / "p.svg")
    time, size = figures[0].axes
    assert time.get_ylabel() == "top-1 agreement with PyTorch float"
    for axes, label, points in (
        (time, "ms from file to label, 1 thread", {"mine-float": (5.0, 1.0), "mine-int8": (2.0, 0.9)}),
        (size, "MB of graphs", {"mine-float": (40.0, 1.0), "mine-int8": (10.0, 0.9)}),
    ):
        assert axes.get_xlabel() == label
        assert {text.get_text(): text.xy for text in axes.texts} == points
        drawn = [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "o"]
        assert drawn == list(points.values())
    picture = (tmp_path / "p.svg").read_text()
    assert "<!-- mine-float -->" in picture
    assert "<!-- mine-int8 -->" in picture
    write_csv(rows, tmp_path / "t.csv")
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 3
