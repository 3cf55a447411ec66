"""What a run refuses, with which words, and that nothing is left of it."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SMALL, contents

from lightning_har._lightning import Callback
from lightning_har.cli import lightning, main
from lightning_har.data.folder import VideoFolderDataModule
from lightning_har.data.synthetic import SyntheticActionsDataModule
from lightning_har.errors import ConfigError, HarError, WeightsError
from lightning_har.evaluate import score_checkpoint
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.run import run


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_accelerator_that_is_not_there_is_said_before_anything_is_read(tmp_path: Path) -> None:
    class Untouched(VideoFolderDataModule):
        def load_manifests(self) -> Any:
            raise AssertionError("read")

    arguments = ["--trainer.accelerator", "gpu", "--out", str(tmp_path / "run")]
    with pytest.raises(ConfigError, match="gpu"):
        run(partial(CNNRNNModule, **SMALL), partial(Untouched, root="x"), name="tiny", argv=arguments)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="gpu"):
        score_checkpoint("nothing.ckpt", "/no/such/data", tmp_path / "scored", trainer={"accelerator": "gpu"})
    with pytest.raises(ConfigError, match="precision"):
        score_checkpoint("nothing.ckpt", "/no/such/data", tmp_path / "scored", trainer={"precision": "bf17"})


class Unfinished(CNNRNNModule):
    """A network of somebody's own, with a mistake in it."""

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        int("a mistake")


def test_an_error_of_ones_own_network_keeps_its_traceback(clips: Path, tmp_path: Path) -> None:
    data = partial(VideoFolderDataModule, root=str(clips), num_workers=0)
    with pytest.raises(ValueError, match="a mistake") as error:
        run(partial(Unfinished, **SMALL), data, name="tiny", argv=["--out", str(tmp_path / "run")])
    assert error.traceback[-1].name == "__init__"


def test_nan_stops_the_run_and_names_the_files(call: Any, tmp_path: Path) -> None:
    with pytest.raises(HarError, match=r"the loss is (nan|inf).*\.mp4") as error:
        call("--module.optimizer", "sgd", "--module.lr", "1e30")
    assert str(error.value).count(".mp4") == 6
    assert not (tmp_path / "run" / "report.json").exists()


@pytest.mark.parametrize("where", ["disk", "hub"])
def test_weights_fail_before_data_is_touched(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # where nothing answers
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    weights = {"backbone": "mobilenetv2_050", "pretrained": where == "hub" or str(tmp_path / "none.safetensors")}
    module = partial(CNNRNNModule, **(SMALL | weights))
    data = partial(SyntheticActionsDataModule, root=str(tmp_path / "data"))
    with pytest.raises(WeightsError) as error:
        run(module, data, name="tiny", argv=["--out", str(tmp_path / "run")])
    told = str(error.value)
    which, source = (
        ("'mobilenetv2_050'", "timm/mobilenetv2_050") if where == "hub" else ("none.safetensors", str(tmp_path))
    )
    for part in (which, source, "pretrained=", "False", "file"):
        assert part in told
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--module.tempral", "gru"], "did you mean --module.temporal"),
        (["--module.lr", "fast"], "module.lr"),
        (["--trainer.max_epoch", "1"], "did you mean --trainer.max_epochs"),
        (["--config", "/not/there.yaml"], "there.yaml"),
    ],
)
def test_wrong_arguments_are_named(call: Any, argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        call(*argv)
    assert len(str(error.value).splitlines()) <= 3


def test_a_recipe_that_names_an_unknown_argument(clips: Path) -> None:
    data = partial(VideoFolderDataModule, root=str(clips))
    with pytest.raises(ConfigError, match=r"hiden.*module\.hidden"):
        run(partial(CNNRNNModule, hiden=3), data, name="tiny", argv=[])
    with pytest.raises(ConfigError, match="positional"):
        run(partial(CNNRNNModule, 12), data, name="tiny", argv=[])


def test_help_names_what_every_recipe_takes(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (lightning.main, main.main):
        with pytest.raises(SystemExit) as left:
            command(["run", "--help"])
        assert left.value.code == 0
        said = capsys.readouterr().out
        for option in ("--on", "--refit-all", "--epochs", "--smoke", "--resume", "--config", "--variant", "--seed"):
            assert f"\n  {option} " in said
        for option in ("--data.root", "--trainer.precision", "--module.temporal", "--refit-all --epochs"):
            assert option in said.partition("examples:")[2]


def test_a_run_is_not_written_over(call: Any, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.json").write_text("{}")
    with pytest.raises(ConfigError, match="already holds a run"):
        call()
    assert (tmp_path / "run" / "report.json").read_text() == "{}"


def test_a_new_run_that_is_refused_leaves_no_folder(call: Any, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for out in ("new/run", "mine/run"):
        with pytest.raises(ConfigError, match="num_workers is -1"):
            call("--data.num_workers", "-1", out=out)
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}
    assert not any((tmp_path / "mine").iterdir())
    with pytest.raises(ConfigError, match="num_workers is -1"):
        call("--data.num_workers", "-1", out="mine")
    assert (tmp_path / "mine").is_dir()


class Fail(Callback):  # type: ignore[misc]
    """Runs out of memory in the first batch of all."""

    def on_validation_batch_start(self, *args: Any) -> None:
        raise RuntimeError("out of memory")


def test_what_fails_in_its_first_batch_says_how_it_was_called(call: Any, tmp_path: Path) -> None:
    """The benchmark, which then looks for a smaller batch, reads there how large it was."""
    with pytest.raises(RuntimeError, match="out of memory"):
        call(trainer={"max_epochs": 1, "num_sanity_val_steps": 1, "callbacks": [Fail()]})
    assert set(contents(tmp_path / "run")) == {"config.yaml"}
