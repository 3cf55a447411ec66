import json
import signal
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from videos import write_no_frames

from lightning_har._lightning import Trainer
from lightning_har.cli.main import main
from lightning_har.data.decode_pyav import PyAVVideo
from lightning_har.errors import ConfigError
from lightning_har.modules import pretrained
from lightning_har.modules.base import ActionRecognizer
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.modules.pretrained import load_model
from lightning_har.predict import predict, predict_windows
from lightning_har.spec import InputSpec, Sampling


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
    (folder / "empty").mkdir()
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
        (["{place}/clips/aa.mp4", "--model", "."], "did you mean a.mp4"),
        (["{place}/empty", "--model", "."], "by their suffix: .3gp, "),
        (["{place}/clips", "--model", "{place}/clips"], "has no best.ckpt"),
        (["{place}/clips", "--model", "some-zoo-id"], "no checkpoint 'some-zoo-id'"),
        (["{place}/clips", "--model", "runs/none/best.ckpt"], "no checkpoint at runs/none/best.ckpt"),
        (["{place}/clips", "--model", "{place}/bad.mp4"], "bad.mp4 is no PyTorch file"),
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


class Brightness(nn.Module):
    """Class 1 where a clip is brighter than grey."""

    def __init__(self, heads: bool) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(8.0))
        self.heads = heads

    def forward(self, video: Tensor) -> Any:
        light = self.slope * video.mean((1, 2, 3, 4))
        logits = torch.stack([-light, light], 1)
        return {"sky": logits, "ground": -logits} if self.heads else logits


def brightness(heads: bool = False) -> ActionRecognizer:
    spec = InputSpec(4, (16, 16), mean=(0.5,), std=(0.25,))
    module = ActionRecognizer(Brightness(heads), spec, {"sky": 2, "ground": 2} if heads else 2)
    names = ("night", "day")
    module.class_names = {"sky": names, "ground": names} if heads else names
    module.eval_sampling = Sampling("uniform", num_clips=10, crop="three")  # a window is one clip, of three crops
    return module


def night_and_day(path: Path, make_video: Any, frames: int = 80, **options: Any) -> Path:
    """At 10 frames a second, dark for the first half and bright for the second."""
    import videos

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            videos, "numbered_frame", lambda i, h, w: np.full((h, w, 3), 20 if i < frames // 2 else 235, np.uint8)
        )
        return Path(make_video(path, frames, fps=10, **options))


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(pretrained, "load_model", lambda name: brightness())
    return "bright"


def test_windows_find_where_one_action_ends(
    tmp_path: Path, make_video: Any, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    film = str(night_and_day(tmp_path / "film.mp4", make_video))
    call = ["predict", film, "--model", model, "--windows", "2", "--stride", "1", "--batch-size", "3"]
    assert main([*call, "--json", "--top", "1"]) == 0
    (found,) = entries(capsys)
    assert set(found) == {"file", "seconds", "windows", "segments"}
    assert found["seconds"] == 8
    assert [(w["start"], w["stop"]) for w in found["windows"]] == [(i, i + 2) for i in range(7)]
    best = [w["predictions"][0]["label"] for w in found["windows"]]
    assert (best[:3], best[4:]) == (["night"] * 3, ["day"] * 3)
    assert all(len(w["predictions"]) == 1 for w in found["windows"])
    assert [(s["start"], s["stop"], s["label"]) for s in found["segments"]] == [(0, 4, "night"), (4, 8, "day")]
    assert all(0.8 < s["score"] <= 1 for s in found["segments"])

    assert main(call) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == film
    assert [line.split() for line in lines[1:]] == [
        ["0:00.0", "-", "0:04.0", lines[1].split()[3], "night"],
        ["0:04.0", "-", "0:08.0", lines[2].split()[3], "day"],
    ]
    # 3 to 5 s is half and half: of what is surer than that, nothing is left there.
    assert main([*call, "--threshold", "0.9", "--json"]) == 0
    (found,) = entries(capsys)
    assert [(s["start"], s["stop"], s["label"]) for s in found["segments"]] == [(0, 3, "night"), (5, 8, "day")]


def test_windows_of_one_clip_say_what_predict_says_of_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = load_model(str(place))
    module.eval_sampling = Sampling("uniform")
    clip = place / "clips" / "a.mp4"
    (whole,) = predict(module, [clip])
    (found,) = predict_windows(module, [clip], 60)
    assert found["windows"] == [{"start": 0, "stop": 0.6, "predictions": whole["predictions"]}]
    (segment,) = found["segments"]
    assert (segment["start"], segment["stop"]) == (0, 0.6)
    assert {"label": segment["label"], "score": segment["score"]} == whole["predictions"][0]


def test_a_long_file_is_opened_once_and_read_a_few_windows_at_a_time(
    tmp_path: Path, make_video: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = night_and_day(tmp_path / "film.mp4", make_video, 400)
    opened, read = [], []
    start, real = PyAVVideo.__init__, PyAVVideo.read

    def opens(self: PyAVVideo, *args: Any, **kwargs: Any) -> None:
        opened.append(args)
        start(self, *args, **kwargs)

    def reads(self: PyAVVideo, indices: Any, size: Any = None) -> Any:
        frames = real(self, indices, size)
        read.append(len(frames))
        return frames

    monkeypatch.setattr(PyAVVideo, "__init__", opens)
    monkeypatch.setattr(PyAVVideo, "read", reads)
    (found,) = predict_windows(brightness(), [film], 2, batch_size=2)
    assert len(opened) == 1
    assert len(found["windows"]) == 39
    assert max(read) == 2 * 4
    assert [s["label"] for s in found["segments"]] == ["night", "day"]


def test_times_are_the_files_own_where_its_frame_rate_varies(tmp_path: Path, make_video: Any) -> None:
    pts = [i if i < 40 else 40 + 3 * (i - 40) for i in range(80)]  # the second half is shown three times as long
    film = night_and_day(tmp_path / "film.mkv", make_video, pts=pts)
    (found,) = predict_windows(brightness(), [film], 1.5)
    assert [s["label"] for s in found["segments"]] == ["night", "day"]
    assert found["segments"][0]["stop"] == pytest.approx(4, abs=0.5)
    assert found["segments"][1]["stop"] == found["seconds"] == pytest.approx(16, abs=0.2)


def test_windows_of_several_heads(tmp_path: Path, make_video: Any, capsys: pytest.CaptureFixture[str]) -> None:
    film = night_and_day(tmp_path / "film.mp4", make_video)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "load_model", lambda name: brightness(heads=True))
        call = ["predict", str(film), "--model", "m", "--windows", "2", "--stride", "1"]
        assert main([*call, "--json"]) == 0
        (found,) = entries(capsys)
        assert main(call) == 0
    labels = {head: [s["label"] for s in segments] for head, segments in found["segments"].items()}
    assert labels == {"sky": ["night", "day"], "ground": ["day", "night"]}
    assert set(found["windows"][0]["predictions"]) == {"sky", "ground"}
    text = capsys.readouterr().out
    assert [line.split()[-2:] for line in text.splitlines()[1:]] == [
        ["sky:", "night"], ["ground:", "day"], ["sky:", "day"], ["ground:", "night"]]  # fmt: skip


def test_bad_files_among_the_windows(
    tmp_path: Path, make_video: Any, model: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = night_and_day(tmp_path / "short.mp4", make_video, 6)
    cut = night_and_day(tmp_path / "cut.mp4", make_video)
    cut.write_bytes(cut.read_bytes()[:-200])
    one = night_and_day(tmp_path / "one.mp4", make_video, 1)
    files = [short, cut, place / "bad.mp4", one, write_no_frames(tmp_path / "empty.avi")]
    assert main(["predict", *map(str, files), "--model", model, "--windows", "--json"]) == 1
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert [entry["file"] for entry in found] == [str(file) for file in files]
    assert [(w["start"], w["stop"]) for w in found[0]["windows"]] == [(0, 0.6)]
    assert [set(entry) for entry in found[1:3]] == [{"file", "error"}] * 2
    assert "cut.mp4" in captured.err
    assert "bad.mp4" in captured.err
    assert [(s["start"], s["stop"], s["label"]) for s in found[3]["segments"]] == [(0, 0.1, "day")]
    assert found[4] == {"file": str(files[4]), "error": f"{files[4]}: has no frames"}


def test_segments_are_written_onto_their_frames(
    tmp_path: Path, make_video: Any, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    film, out = night_and_day(tmp_path / "film.mp4", make_video), tmp_path / "out.mp4"
    call = ["predict", str(film), "--model", model, "--windows", "2", "--stride", "1", "--threshold", "0.9"]
    assert main([*call, "--annotate", str(out)]) == 0
    with av.open(str(out)) as reader:
        frames = [frame.to_ndarray(format="gray") for frame in reader.decode(video=0)]
    assert len(frames) == 80
    # The bar and the text stand in the upper left corner, where there is a segment: to 3 s, and from 5 s on.
    has_plate = [bool(np.ptp(frame[:24, :60].astype(int)) > 60) for frame in frames]
    assert has_plate == [i < 30 or i >= 50 for i in range(80)]


def test_windows_need_a_model_of_frames(place: Path) -> None:
    module = CNNRNNModule(3, backbone=None, feature_dim=8, temporal="avg")
    with pytest.raises(ConfigError, match="takes stored features"):
        predict_windows(module, [place / "clips" / "a.mp4"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--windows", "2", "--stride", "3"], "would leave gaps"),
        (["--stride", "3"], "which is not given"),
        (["--threshold", "0.5"], "which is not given"),
        (["--windows", "0"], "is no number above 0"),
        (["--windows", "nan"], "is no number above 0"),
        (["--windows", "clip.mp4"], "'clip.mp4' is no number above 0"),
        (["--windows", "--threshold", "2"], "not between 0 and 1"),
    ],
)
def test_wrong_windows(
    place: Path, model: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    try:
        code = main(["predict", str(place / "clips" / "a.mp4"), "--model", model, *arguments])
    except SystemExit as end:
        code = int(end.code or 0)
    shown = capsys.readouterr().err
    assert code == 2
    assert message in shown
    assert len(shown.splitlines()) <= 3


@pytest.mark.parametrize("arguments", [[], ["--windows"]])
def test_ctrl_c_is_exit_code_130(
    place: Path, model: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ActionRecognizer, "predict_step", stop)
    handler = signal.getsignal(signal.SIGINT)
    assert main(["predict", str(place / "clips"), "--model", model, *arguments]) == 130
    assert signal.getsignal(signal.SIGINT) is handler, "a second Ctrl-C is answered too"
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
