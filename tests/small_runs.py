"""What the tests of `run` share: a module of the smallest size, what a run writes, a Ctrl-C."""

import csv
import os
import signal
from pathlib import Path
from typing import Any

from lightning_har._lightning import Callback

WRITTEN = {
    "config.yaml",
    "metrics.csv",
    "best.ckpt",
    "last.ckpt",
    "report.json",
    "predictions.csv",
    "confusion_matrix.png",
    "curves.png",
    "classification_report.csv",
}
SMALL = {"backbone": "mobilenetv2_035", "pretrained": False, "num_frames": 2, "input_size": 32, "hidden": 8}


def rows(path: Path) -> list[dict[str, str]]:
    """Of a CSV."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    """Of a folder's files, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Interrupt(Callback):  # type: ignore[misc]
    """Presses Ctrl-C, or stops the process as a scheduler does."""

    def __init__(self, step: int, how: signal.Signals = signal.SIGINT) -> None:
        self.step = step
        self.how = how

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.how)


class InterruptTest(Callback):  # type: ignore[misc]
    """Presses Ctrl-C in the test."""

    def on_test_batch_end(self, *args: Any) -> None:
        raise KeyboardInterrupt
