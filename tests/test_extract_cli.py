"""``lightning-har extract``, as it is typed."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_har.cli.main import main
from lightning_har.data.fake import write_fake_folder
from lightning_har.data.features import FeatureDataModule
from lightning_har.data.folder import VideoFolderDataModule
from lightning_har.data.ucf101 import UCF101DataModule
from lightning_har.modules.cnn_rnn import CNNRNNModule

SMALL = ["--model", "mobilenetv2_050", "--weights", "none", "--frames", "3", "--size", "32", "--num-workers", "0"]


def test_a_folder_a_csv_with_folds_and_an_official_data_set(tmp_path, capsys):
    write_fake_folder(tmp_path / "clips", clips=4)
    assert main(["extract", *SMALL, "--data", str(tmp_path / "clips"), "--out", str(tmp_path / "a")]) == 0
    assert "8 clips extracted, 0 were there already" in capsys.readouterr().out
    assert np.load(tmp_path / "a" / "wave" / "wave_00.npy").shape == (3, 1280)

    rows = [f"{k}/{k}_0{i}.mp4,{k},{i}" for k in ("clap", "wave") for i in range(3)]
    (tmp_path / "clips" / "folds.csv").write_text("\n".join(["path,label,fold", *rows]))
    csv = str(tmp_path / "clips" / "folds.csv")
    assert main(["extract", *SMALL, "--data", csv, "--split-column", "fold", "--out", str(tmp_path / "b")]) == 0
    data = FeatureDataModule(tmp_path / "b" / "manifest.csv", fold=2)
    assert [r.id for r in data.manifests["test"]] == ["clap/clap_02", "wave/wave_02"]

    UCF101DataModule.fake(tmp_path / "ucf")
    arguments = [
        "--data",
        f"ucf101:{tmp_path / 'ucf'}",
        "--split",
        "2",
        "--dtype",
        "uint8",
        "--out",
        str(tmp_path / "c"),
    ]
    assert main(["extract", *SMALL, *arguments]) == 0
    data = FeatureDataModule(tmp_path / "c" / "manifest.csv")
    assert data.num_classes == 101
    assert {r.group[-3:] for r in data.manifests["test"]} == {"g08"}


def test_the_clips_held_out_are_those_that_the_recipe_would_hold_out(tmp_path):
    clips = tmp_path / "clips"
    write_fake_folder(clips, clips=6)
    whole = VideoFolderDataModule(clips, val_fraction=0.5).manifests
    assert len(whole["val"]) != len(VideoFolderDataModule(clips).manifests["val"]), "else this shows nothing"
    arguments = ["--data", str(clips), "--val-fraction", "0.5", "--out", str(tmp_path / "out")]
    assert main(["extract", *SMALL, *arguments]) == 0
    # The share that a recipe names is not looked at: the features have their validation split.
    found = FeatureDataModule(tmp_path / "out" / "manifest.csv", val_fraction=0.1).manifests
    assert {split: [r.id for r in found[split]] for split in found} == {
        split: [r.id for r in whole[split]] for split in whole
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "/tmp/x.csv", "--split-column", "fold", "--val-fraction", "0.2"], "leave out --val-fraction"),
        (["--data", "ucf102:/x"], "did you mean ucf101"),
        (["--data", "/nowhere"], "no data at /nowhere"),
        (["--data", "ucf101:/nowhere"], "crcv.ucf.edu"),
        (["--data", "/tmp", "--split", "2"], "official"),
    ],
)
def test_wrong_arguments_end_in_two_with_a_message(tmp_path, capsys, arguments, message):
    assert main(["extract", *SMALL, *arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_a_trained_model_by_its_folder_and_its_name_in_the_zoo(tmp_path, monkeypatch, capsys):
    write_fake_folder(tmp_path / "clips", clips=4)
    module = CNNRNNModule(2, backbone="mobilenetv2_050", temporal="avg", pretrained=False, num_frames=3, input_size=32)
    module.save_pretrained(tmp_path / "zoo" / "small")
    monkeypatch.setenv("LIGHTNING_HAR_ZOO", str(tmp_path / "zoo"))
    found = []
    for model in (str(tmp_path / "zoo" / "small"), "small"):
        out = tmp_path / f"of {len(found)}"
        call = ["extract", "--model", model, "--data", str(tmp_path / "clips"), "--num-workers", "0"]
        assert main([*call, "--out", str(out)]) == 0
        found.append(np.load(out / "wave" / "wave_00.npy"))
    assert found[0].shape == (3, 1280)
    assert np.array_equal(*found)
    assert main([*call, "--out", str(tmp_path / "no"), "--frames", "4"]) == 2
    assert "says its own" in capsys.readouterr().err


def test_an_unreadable_clip_is_reported_with_exit_code_one(tmp_path, capsys):
    write_fake_folder(tmp_path / "clips", clips=4)
    (tmp_path / "clips" / "wave" / "wave_03.mp4").write_bytes(b"")
    call = ["extract", *SMALL, "--data", str(tmp_path / "clips"), "--out", str(tmp_path / "out")]
    assert main(call) == 2
    assert main([*call, "--skip-errors"]) == 1
    captured = capsys.readouterr()
    assert "wave_03.mp4" in captured.err
    assert len((tmp_path / "out" / "manifest.csv").read_text().splitlines()) == 8
