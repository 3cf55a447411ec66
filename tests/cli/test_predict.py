import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lightning_har._lightning import Trainer
from lightning_har.cli.main import main
from lightning_har.cli.predict import load_model
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.spec import Sampling


def write_video(path: Path, frames: int = 6) -> Path:
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as writer:
        stream = writer.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(frames):
            writer.mux(stream.encode(av.VideoFrame.from_ndarray(rng.integers(0, 255, (48, 64, 3), np.uint8))))
        writer.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    module = CNNRNNModule(3, backbone="mobilenetv2_035", temporal="avg", pretrained=False, num_frames=2, input_size=32)
    module.class_names = ("sit", "stand", "wave")
    module.eval_sampling = Sampling("uniform", num_clips=2)
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(folder / "best.ckpt", weights_only=True)
    (folder / "clips").mkdir()
    write_video(folder / "clips" / "a.mp4")
    write_video(folder / "clips" / "b.mp4")
    (folder / "bad.mp4").write_bytes(b"no video")
    return folder


def entries(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_json_of_a_folder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(place / "clips"), "--model", str(place), "--json", "--top", "9"]) == 0
    found = entries(capsys)
    assert [entry["file"] for entry in found] == [str(place / "clips" / name) for name in ("a.mp4", "b.mp4")]
    for entry in found:
        assert set(entry) == {"file", "predictions"}
        assert {p["label"] for p in entry["predictions"]} == {"sit", "stand", "wave"}
        scores = [p["score"] for p in entry["predictions"]]
        assert scores == sorted(scores, reverse=True)
        assert sum(scores) == pytest.approx(1, abs=1e-4)


def test_an_unreadable_file_is_reported_and_not_replaced(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(place / "bad.mp4"), str(place / "clips" / "*.mp4")]
    assert (
        main(["predict", *files, "--model", str(place / "best.ckpt"), "--json", "--top", "1", "--batch-size", "3"]) == 1
    )
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert len(found) == 3
    assert set(found[0]) == {"file", "error"}
    assert "bad.mp4" in captured.err
    assert all(len(entry["predictions"]) == 1 for entry in found[1:])


def test_a_published_model_predicts_the_same(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load_model(str(place)).save_pretrained(tmp_path / "tiny")
    monkeypatch.setenv("LIGHTNING_HAR_ZOO", str(tmp_path))
    said = []
    for model in (str(place), str(tmp_path / "tiny"), "tiny"):
        assert main(["predict", str(place / "clips"), "--model", model, "--json"]) == 0
        said.append(entries(capsys))
    assert said[0] == said[1] == said[2]


def test_text_and_annotation(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = str(place / "clips" / "a.mp4")
    assert main(["predict", video, "--model", str(place), "--annotate", str(tmp_path / "out.mp4")]) == 0
    assert "%  " in capsys.readouterr().out
    with av.open(str(tmp_path / "out.mp4")) as reader:
        assert sum(1 for _ in reader.decode(video=0)) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.mp4", "--model", "."], "nothing.mp4 does not exist"),
        (["{place}/clips", "--model", "{place}/clips"], "has no best.ckpt"),
        (["{place}/clips", "--model", "some-zoo-id"], "no checkpoint 'some-zoo-id'"),
        (["{place}/clips", "--model", "runs/none/best.ckpt"], "no checkpoint at runs/none/best.ckpt"),
        (["{place}/clips", "--model", "{place}/bad.mp4"], "no checkpoint"),
        (["{place}/clips", "--model", "{place}", "--annotate", "x.mp4"], "writes one video"),
    ],
)
def test_wrong_arguments(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("LIGHTNING_HAR_ZOO", str(tmp_path))  # not the hub's: no test uses the network
    assert main(["predict", *(a.format(place=place) for a in arguments)]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
    assert len(shown.splitlines()) <= 3
