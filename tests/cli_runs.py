"""What the tests of the command line share: a command called as by a user, a run's folder made by hand."""

from pathlib import Path

import pytest

from lightning_har._lightning import Trainer
from lightning_har.cli.main import main
from lightning_har.modules.cnn_rnn import CNNRNNModule


def call(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and stderr. Any exception but argparse's exit is what a user would see as a traceback."""
    code = main_code(arguments)
    return code, capsys.readouterr().err


def main_code(arguments: list[str]) -> int:
    """The exit code, however the command ends."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def check(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    code, said = call(arguments, capsys)
    assert code in (1, 2), f"{arguments}: exit code {code}"
    assert said.strip(), f"{arguments}: no message"
    assert "Traceback" not in said
    message = [line for line in said.splitlines() if line.strip() and not line.startswith((" ", "usage:"))]
    assert len(message) <= 3, said
    return said


def save_run(folder: Path) -> CNNRNNModule:
    """A run's folder: a checkpoint, predictions and curves."""
    module = CNNRNNModule(2, backbone="mobilenetv2_035", temporal="avg", pretrained=False, num_frames=2, input_size=32)
    module.class_names = ("clap", "wave")
    save_checkpoint(module, folder / "best.ckpt")
    row = "{0},{0}.mp4,action,clap,{1},0.9,,\n"
    head = "id,path,head,label,predicted,score,top5,error\n"
    (folder / "predictions.csv").write_text(head + row.format("a", "clap") + row.format("b", "wave"))
    (folder / "metrics.csv").write_text("epoch,train_loss,val_loss,val_top1\n0,1.0,1.2,0.1\n1,0.5,0.9,0.4\n")
    return module


def save_checkpoint(module: CNNRNNModule, path: Path) -> None:
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path, weights_only=True)
