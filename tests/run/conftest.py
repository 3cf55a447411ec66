"""A recipe of a few clips, and how it is called."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from small_runs import SMALL

from lightning_har.data.folder import VideoFolderDataModule
from lightning_har.data.synthetic import generate
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.run import run


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24, 12 and 12 clips of 12 classes: to train on, validate on and test on."""
    return generate(tmp_path_factory.mktemp("clips"), clips_per_class=(2, 1, 1), size=32)


@pytest.fixture
def call(clips: Path, tmp_path: Path) -> Any:
    """The recipe, called with a command line; "" for ``out`` leaves ``--out`` out."""
    module = partial(CNNRNNModule, **SMALL)
    data = partial(VideoFolderDataModule, root=str(clips), batch_size=6, num_workers=0)

    def call(*argv: str, out: str = "run", **kwargs: Any) -> Any:
        arguments: dict[str, Any] = {"trainer": {"max_epochs": 2, "num_sanity_val_steps": 0}, **kwargs}
        place = [] if out == "" else ["--out", str(tmp_path / out)]
        return run(module, data, name="tiny", argv=[*place, *argv], **arguments)

    return call
