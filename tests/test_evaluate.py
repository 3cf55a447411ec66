"""Scoring a checkpoint on data."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_har import evaluate
from lightning_har._lightning import Trainer
from lightning_har.bench.report import read_report
from lightning_har.cli.main import main
from lightning_har.data.fake import write_fake_folder
from lightning_har.data.flow import cache_flow
from lightning_har.data.folder import VideoFolderDataModule
from lightning_har.data.hmdb51 import HMDB51DataModule
from lightning_har.data.kinetics import KineticsDataModule
from lightning_har.errors import ConfigError
from lightning_har.evaluate import score_checkpoint
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.modules.tsn import TSNModule


def checkpoint(folder: Path, class_names: tuple[str, ...]) -> Path:
    module = CNNRNNModule(2, backbone="mobilenetv2_035", temporal="avg", pretrained=False, num_frames=2, input_size=32)
    module.class_names = class_names
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(folder / "best.ckpt", weights_only=True)
    return folder / "best.ckpt"


def test_data_that_lists_its_classes_in_another_order(tmp_path: Path) -> None:
    """A folder's classes are in alphabetical order, this model's are not."""
    write_fake_folder(tmp_path / "clips", clips=3)
    path = checkpoint(tmp_path, ("wave", "clap"))
    report = score_checkpoint(path, str(tmp_path / "clips"), tmp_path / "out", num_workers=0)
    with open(tmp_path / "out" / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == report["files"]["scored"] > 0
    for row in rows:
        assert row["label"] == row["id"].split("/")[0]
    right = sum(row["label"] == row["predicted"] for row in rows) / len(rows)
    assert report["metrics"]["test"]["action"]["video"]["top1"] == pytest.approx(right)


def test_the_latency_is_that_of_the_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    under_autocast: list[bool] = []
    measure_latency = evaluate.measure_latency

    def watched(module: CNNRNNModule, *args: Any, **kwargs: Any) -> Any:
        module.register_forward_pre_hook(lambda *_: under_autocast.append(torch.is_autocast_enabled("cpu")))
        return measure_latency(module, *args, **kwargs | {"budget_s": 0.0})

    monkeypatch.setattr(evaluate, "measure_latency", watched)
    write_fake_folder(tmp_path / "clips", clips=3)
    path = checkpoint(tmp_path, ("clap", "wave"))
    trainer = {"accelerator": "cpu", "precision": "bf16-mixed"}
    report = score_checkpoint(path, str(tmp_path / "clips"), tmp_path / "out", num_workers=0, trainer=trainer)
    assert report["latency"] is not None
    told = report["protocol"]
    assert (told["batch_size"], told["precision"], told["num_workers"]) == (8, "bf16-mixed", 0)
    assert len(under_autocast) == 8, "two series of one pass to warm up and three timed"
    assert all(under_autocast)


def test_other_classes_are_refused(tmp_path: Path) -> None:
    write_fake_folder(tmp_path / "clips", clips=3)
    with pytest.raises(ConfigError, match=r"(?s)the classes differ.*jump.*clap"):
        score_checkpoint(checkpoint(tmp_path, ("wave", "jump")), str(tmp_path / "clips"), tmp_path / "out")


def test_the_fold_goes_by_the_name_that_the_data_has_for_it(tmp_path: Path) -> None:
    HMDB51DataModule.fake(tmp_path / "hmdb51")
    model = checkpoint(tmp_path, ("clap", "wave"))
    for fold, told in (("2", "the classes differ"), ("a", "split is 'a'")):
        with pytest.raises(ConfigError, match=told):
            score_checkpoint(model, f"hmdb51:{tmp_path / 'hmdb51'}", tmp_path / "out", fold=fold)
    KineticsDataModule.fake(tmp_path / "kinetics")
    with pytest.raises(ConfigError, match="no folds to choose from; leave out --fold"):
        score_checkpoint(model, f"kinetics:{tmp_path / 'kinetics'}", tmp_path / "out", fold="1")


def test_a_model_on_flow_is_scored_with_the_stored_flow_and_says_so_of_mere_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_fake_folder(tmp_path / "clips", clips=3)
    data = VideoFolderDataModule(tmp_path / "clips")
    for manifest in data.manifests.values():
        assert cache_flow(manifest, tmp_path / "flow", method="lucas_kanade", workers=0) == {}
    module = TSNModule(2, "test_resnet", modality="flow", pretrained=False, input_size=32, num_segments=2)
    module.class_names = data.class_names
    model = str(module.save_pretrained(tmp_path / "model"))
    arguments = ["test", model, "--data", str(tmp_path / "clips"), "--out", str(tmp_path / "out"), "--num-workers", "0"]
    assert main([*arguments, "--flow-root", str(tmp_path / "flow")]) == 0
    assert read_report(tmp_path / "out" / "report.json")["files"]["scored"] > 0
    capsys.readouterr()
    assert main(arguments) == 2
    assert "--flow-root DIR" in capsys.readouterr().err
    clip = str(next((tmp_path / "clips").rglob("*.mp4")))
    for command in (["predict", clip, "--model", model], ["show", "gradcam", clip, "--model", model]):
        assert main(command) == 2
        assert "lightning-har test MODEL --data DATA --flow-root DIR" in capsys.readouterr().err
