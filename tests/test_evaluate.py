"""Scoring a checkpoint on data."""

import csv
from pathlib import Path

import pytest

from lightning_har._lightning import Trainer
from lightning_har.data.fake import write_fake_folder
from lightning_har.errors import ConfigError
from lightning_har.evaluate import score_checkpoint
from lightning_har.modules.cnn_rnn import CNNRNNModule


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


def test_other_classes_are_refused(tmp_path: Path) -> None:
    write_fake_folder(tmp_path / "clips", clips=3)
    with pytest.raises(ConfigError, match=r"(?s)the classes differ.*jump.*clap"):
        score_checkpoint(checkpoint(tmp_path, ("wave", "jump")), str(tmp_path / "clips"), tmp_path / "out")
