"""What is given to a command and is wrong, each with what is said of it; beside it, nothing is written."""

from pathlib import Path

import pytest
import torch
from cli_runs import check, save_checkpoint, save_run

from lightning_har.data.fake import write_fake_folder
from lightning_har.data.features import FeatureDataModule
from lightning_har.modules.cnn_rnn import CNNRNNModule


@pytest.mark.parametrize(
    "line",
    [
        "predict folder --model folder",
        "predict empty.mp4 --model bad.ckpt",
        "predict text.mp4 --model folder",
        "predict text.mp4 --model /no/such/place",
        "predict text.mp4 --model no-such-model",
        "test --model bad.ckpt --data folder",
        "test bad.ckpt --data folder",
        "extract --model mobilenetv2_999 --data folder --out out",
        "extract --model bad.ckpt --data folder --out out",
        "extract --model folder --data bad.csv --out out",
        "data show nothing",
        "data show folder",
        "data check folder",
        "data check bad.csv",
        "data stats /no/such/place",
        "data split bad.csv --out out.csv",
        "data download ucf1011 here",
        "data fake ucf1011 here",
        "data flow folder --out flow --method no-such-method",
        "zoo info no-such-checkpoint",
        "zoo verify folder",
        "zoo build no-such-card --out out",
        "zoo publish folder --zoo folder",
        "export --model bad.ckpt --out out",
        "export --model folder --out out",
        "bundle --model /no/such/place --out out",
        "edge-bench folder --video empty.mp4",
        "compare folder folder",
        "benchmark no_such_recipe --data folder --out out",
        "show confusion folder",
        "show samples folder --model bad.ckpt",
        "show gradcam text.mp4 --model bad.ckpt",
        "show features mobilenetv2_999 --weights none",
        "demo --model /no/such/place",
        "demo --model bad.ckpt --port 0x",
        "run recipes/quikstart.py",
        "run folder",
        "run text.mp4",
        "init recipe 9lives",
        "completion tcsh",
    ],
)
def test_wrong_values(line: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(line.split(), capsys)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything is right: clips, a run, features, and a run on such."""
    folder = tmp_path_factory.mktemp("good")
    write_fake_folder(folder / "clips", clips=3)
    (folder / "run").mkdir()
    save_run(folder / "run")
    FeatureDataModule.fake(folder / "features")
    (folder / "text.ckpt").write_text("no checkpoint")
    heads = CNNRNNModule(2, backbone=None, feature_dim=16, temporal="avg")
    heads.class_names = ("clap", "wave")
    save_checkpoint(heads, folder / "heads.ckpt")
    best = folder / "run" / "best.ckpt"
    (folder / "cut.ckpt").write_bytes(best.read_bytes()[:-1000])
    checkpoint = torch.load(best, weights_only=True)
    torch.save({**checkpoint, "optimizer_states": []}, folder / "last.ckpt")
    checkpoint["hyper_parameters"]["backbone"] = "mobilenetv2_050"
    torch.save(checkpoint, folder / "other.ckpt")
    return folder


CLIP = "clips/wave/wave_00.mp4"
EXTRACT = "extract --model mobilenetv2_035 --weights none --size 32 --data clips --out out"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("data check clips --workers -1", "'-1' is no whole number"),
        ("data check clips --time-limit -1", "no number above 0"),
        ("data stats clips --workers -1", "'-1' is no whole number"),
        ("data shards clips --out out --workers -1", "'-1' is no whole number"),
        ("data shards clips --out out --size nan", "no number above 0"),
        ("data flow clips --out out --workers -1", "'-1' is no whole number"),
        ("data flow clips --out out --bound 0", "no number above 0"),
        ("data prepare folder clips --reencode out --workers -1", "'-1' is no whole number"),
        ("data prepare folder clips --reencode out --short-side 0", "'0' is no positive"),
        ("data split clips --out out.csv --seed -1", "'-1' is no whole number"),
        (f"{EXTRACT} --num-workers -1", "'-1' is no whole number"),
        (f"{EXTRACT} --frames 0", "'0' is no positive"),
        ("test run --data clips --out out --num-workers -1", "'-1' is no whole number"),
        ("run RECIPE --data.root clips --data.num_workers -1 --out TMP/out", "num_workers is -1"),
        (f"predict {CLIP} --model run --top many", "'many' is no positive"),
        ("edge-bench run --repeat 0", "'0' is no positive"),
        (f"{EXTRACT} --device gpuu", "--device gpuu cannot be used"),
        ("data flow clips --out out --method raft --device gpuu", "--device gpuu cannot be used"),
        ("demo --model run --device gpuu", "--device gpuu cannot be used"),
        ("test run --data clips --out out --trainer.accelerator gpuu", "Trainer refuses"),
        ("run RECIPE --data.root clips --trainer.accelerator gpuu --out out", "Trainer refuses"),
        (f"predict {CLIP} --model run --annotate out", "no video by its suffix"),
        (f"predict {CLIP} --model run --annotate out.txt", "no video by its suffix"),
        (f"predict {CLIP} --model run --annotate out.gif", "no video by its suffix"),
        (f"predict {CLIP} --model run --annotate gone/out.mp4", "in a folder that exists"),
        (f"predict {CLIP} --model run --annotate {CLIP}", "would replace the video"),
        ("data show clips --picture out.txt", "no picture by its suffix"),
        ("data show clips --picture out", "no picture by its suffix"),
        ("data stats clips --picture out.txt", "no picture by its suffix"),
        ("edge-bench run --plot out.abc", "no picture by its suffix"),
        ("edge-bench run --csv gone/out.csv", "in a folder that exists"),
        ("data check features:features", "give the clips"),
        ("data stats features:features", "give the clips"),
        ("data flow features:features --out out", "give the clips"),
        ("data shards features:features --out out", "give the clips"),
        (f"predict {CLIP} --model heads.ckpt", "takes stored features"),
        (f"predict {CLIP} --model heads.ckpt --windows", "takes stored features"),
        (f"show gradcam {CLIP} --model heads.ckpt --out out.png", "takes stored features"),
        ("test heads.ckpt --data clips --out out", "--data features:DIR"),
        ("test cut.ckpt --data clips --out out", "cut.ckpt is damaged or cut short"),
        (f"predict {CLIP} --model cut.ckpt", "cut.ckpt is damaged or cut short"),
        ("test other.ckpt --data clips --out out", "other.ckpt: the weights do not fit"),
        (f"predict {CLIP} --model other.ckpt", "other.ckpt: the weights do not fit"),
        ("export --model other.ckpt --out out", "other.ckpt: the weights do not fit"),
        ("run RECIPE --data.root clips --resume cut.ckpt", "cut.ckpt is damaged or cut short"),
        ("run RECIPE --data.root clips --resume text.ckpt", "text.ckpt is no PyTorch file"),
        ("run RECIPE --data.root clips --resume last.ckpt", "last.ckpt do not fit CNNRNNModule"),
    ],
)
def test_wrong_values_for_what_is_right(
    line: str,
    words: str,
    good: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each is refused with its remedy, and writes nothing beside what is there."""
    monkeypatch.chdir(good)
    before = {path: path.stat().st_mtime_ns for path in good.rglob("*") if path.is_file()}
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "folder.py"
    line = line.replace("RECIPE", str(recipe)).replace("TMP", str(tmp_path))
    said = check(line.split(), capsys)
    assert words in said
    if ".ckpt" in words:
        assert len(said.splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in good.rglob("*") if path.is_file()} == before
    assert not (good / "out").exists()


def test_a_device_without_its_driver(
    good: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("CUDA is here")
    monkeypatch.chdir(good)
    said = check([*EXTRACT.split(), "--device", "cuda"], capsys)
    assert "--device cuda cannot be used here" in said
    assert "give cpu" in said
