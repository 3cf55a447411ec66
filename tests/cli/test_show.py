from pathlib import Path

import pytest
from PIL import Image

from lightning_har.cli.main import main
from lightning_har.cli.show import read_counts
from lightning_har.data.fake import write_fake_video
from lightning_har.modules.tsn import TSNModule

CSV = """id,path,head,label,predicted,score,top5,error
a,a.mp4,action,walk,walk,0.9,,
b,b.mp4,action,walk,run,0.6,,
c,c.mp4,action,run,run,0.7,,
d,d.mp4,,,,,,broken
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "predictions.csv").write_text(CSV)
    (tmp_path / "metrics.csv").write_text("epoch,train_loss,val_loss,val_top1\n0,1.0,1.2,0.1\n1,0.5,0.9,0.4\n")
    return tmp_path


def test_counts_of_a_run(run: Path) -> None:
    counts, names = read_counts(run)
    assert names == ["run", "walk"]
    assert counts.tolist() == [[1, 0], [1, 1]]


@pytest.mark.parametrize("kind", ["confusion", "bars", "confused", "curves"])
def test_pictures_of_a_run(kind: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / f"{kind}.png"
    assert main(["show", kind, str(run), "--out", str(out)]) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    with Image.open(out) as picture:
        assert picture.width > 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bars", "{run}/gone"], "no run's folder"),
        (["bars", "{run}/predictions.cs"], "did you mean predictions.csv"),
        (["bars", "{run}/folder"], "give the folder that `lightning-har run` wrote"),
        (["curves", "{run}/.."], "there is {run}/../"),
        (["confusion", "{run}", "--classes", "fly"], "no class fly"),
        (["confusion", "{run}", "--head", "verb"], "of head 'verb'"),
        (["curves", "{run}/predictions.csv"], "no run's folder"),
        (["gradcam", "{run}/x.mp4"], "--model"),
        (["gradcam", "{run}/x.mp4", "--model", "{run}"], "no clip at"),
        (["gradcam", "{run}/metrics.cvs", "--model", "{run}"], "did you mean metrics.csv"),
        (["gradcam", "{run}/folder", "--model", "{run}"], "give one of its files"),
        (["gradcam", "{run}/none/x.mp4", "--model", "{run}"], "there is no folder {run}/none"),
        (["features", "mobilenet_v99", "--weights", "none"], "no backbone"),
        (["bars", "{run}", "--out", "{run}"], "no picture by its suffix"),
        (["bars", "{run}", "--out", "{run}/gone/x.png"], "cannot be written"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "folder").mkdir()
    tail = [] if "--out" in arguments else ["--out", str(tmp_path / "x.png")]
    assert main(["show", *(a.format(run=run) for a in arguments), *tail]) == 2
    shown = capsys.readouterr().err
    assert message.format(run=run) in shown
    assert len(shown.splitlines()) <= 3


def test_the_heads_are_listed_where_there_is_no_such_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = TSNModule({"verb": 2, "noun": 3}, "test_resnet", pretrained=False, num_segments=2, input_size=32)
    module.class_names = {"verb": ("cut", "wash"), "noun": ("egg", "pan", "tap")}
    module.save_pretrained(tmp_path / "model")
    write_fake_video(tmp_path / "clip.mp4", 0)
    line = ["show", "gradcam", str(tmp_path / "clip.mp4"), "--model", str(tmp_path / "model")]
    line += ["--out", str(tmp_path / "cam.png"), "--head"]
    for rest in (["vreb"], ["vreb", "--class", "cut"]):
        assert main([*line, *rest]) == 2
        assert "no head 'vreb'; the model has verb, noun" in capsys.readouterr().err
    assert main([*line, "noun", "--class", "pan"]) == 0


def test_a_run_that_was_stopped_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "last.ckpt").touch()
    assert main(["show", "bars", str(tmp_path)]) == 2
    assert f"go on with --resume {tmp_path}" in capsys.readouterr().err
