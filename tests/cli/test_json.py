"""Where a program may read it: --json prints one JSON document on stdout, and nothing else."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cli_leaves import all_leaves

from lightning_har._lightning import Trainer
from lightning_har.cli.main import main
from lightning_har.data.fake import write_fake_folder
from lightning_har.modules.cnn_rnn import CNNRNNModule

WITHOUT = {
    "run": "its results are in the run's folder, report.json first",
    "show": "draws a picture",
    "demo": "a page",
    "init": "writes files",
    "join": "writes a model",
    "completion": "a script",
    "data download": "fetches files, and says what comes next",
    "data prepare": "writes files",
    "data split": "writes a CSV",
    "data flow": "writes files",
    "data fake": "writes files",
}
"""Commands that have nothing for a program to read, and why."""


def test_every_command_has_it_or_a_reason_not_to() -> None:
    having = {name for name, parser in all_leaves().items() if "--json" in parser._option_string_actions}
    without = set(all_leaves()) - having
    reasons = {name for name in without if name in WITHOUT or name.startswith("data shards")}
    assert without == reasons
    assert not having & set(WITHOUT)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, ``run``, and clips of its classes, ``clips``."""
    folder = tmp_path_factory.mktemp("json")
    write_fake_folder(folder / "clips", clips=5)
    module = CNNRNNModule(2, backbone="mobilenetv2_035", temporal="avg", pretrained=False, num_frames=2, input_size=32)
    module.class_names = ("clap", "wave")
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    (folder / "run").mkdir()
    trainer.save_checkpoint(folder / "run" / "best.ckpt", weights_only=True)
    return folder


def ask(place: Path, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """What a command prints, read as JSON."""
    monkeypatch.chdir(place)
    assert main(line.split()) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_data(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown = ask(place, "data show clips --json --model run --picture fed.png", monkeypatch, capsys)
    assert shown["splits"]["train"]["clips"] == 6
    assert shown["classes"] == {"classes": ["clap", "wave"]}
    assert (place / shown["picture"]).stat().st_size > 5000
    assert ask(place, "data show ucf101 --json", monkeypatch, capsys)["title"] == "UCF101"
    checked = ask(place, "data check clips --json --workers 0 --min-frames 20", monkeypatch, capsys)
    assert checked["files"] == len(checked["found"]) == 10
    assert {row["status"] for row in checked["found"]} == {"short"}
    stats = ask(place, "data stats clips --json --workers 0", monkeypatch, capsys)
    assert stats["clips"]["train"] == {"clap": 3, "wave": 3}
    assert {info["frames"] for info in stats["infos"]} == {16}


def test_data_show_draws_what_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "clips" / name / f"{i}.mp4").write_bytes(b"no video")
    assert main(["data", "show", "clips", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["picture"] is None
    assert "no picture: " in captured.err
    assert not (tmp_path / "samples.png").exists()


def test_show_samples_and_data_show_draw_the_same(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert main(["data", "show", "clips", "--model", "run", "--picture", "a.png"]) == 0
    assert main(["show", "samples", "clips", "--model", "run", "--out", "b.png"]) == 0
    assert (place / "a.png").read_bytes() == (place / "b.png").read_bytes()
    assert main(["data", "show", "clips", "--picture", "c.png"]) == 0
    assert (place / "a.png").read_bytes() != (place / "c.png").read_bytes()


@pytest.mark.slow
def test_scores(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    report = ask(place, "test run --data clips --out scored --json", monkeypatch, capsys)
    assert report["files"]["scored"] == 2
    (place / "other").mkdir()
    shutil.copy(place / "run" / "best.ckpt", place / "other")
    bench = ask(place, "benchmark run other --data clips --out bench --accelerator cpu --json", monkeypatch, capsys)
    assert [row["name"] for row in bench["models"]] == ["run", "other"]
    found = ask(place, "compare bench:run bench:other --out versus --json", monkeypatch, capsys)
    assert found["metrics"]["top1"]


@pytest.mark.slow
def test_features_and_the_edge(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ask(place, "extract --model run --data clips --out features --json", monkeypatch, capsys)
    assert (told["extracted"], told["failures"]) == (10, [])
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    exported = ask(place, "export --model run --out exported --json", monkeypatch, capsys)
    assert exported["max_error"] < 1e-3
    bundled = ask(place, "bundle --model run --out bundle --json", monkeypatch, capsys)
    assert (place / bundled["folder"] / "run.py").is_file()
    rows = ask(place, "edge-bench bundle --repeat 1 --json", monkeypatch, capsys)
    assert [row["threads"] for row in rows] == [1, 2]
