"""``lightning-har join``: a head that was trained on stored features becomes a model of clips."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tflite_writer import mobilenetv2

from lightning_har.cli.main import main
from lightning_har.data.fake import write_fake_folder
from lightning_har.edge.runtime import read_clip
from lightning_har.errors import ConfigError
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.modules.pretrained import load
from lightning_har.modules.tsn import TSNModule

FRAMES = 3


def head(**options):
    torch.manual_seed(1)
    options = {"feature_dim": 1280, "temporal": "gru", "hidden": 8, "head_width": 6, "lr": 3e-3} | options
    module = CNNRNNModule(2, backbone=None, pretrained=False, **options).eval()
    module.class_names = ("clap", "wave")
    return module


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Clips, an extractor of each kind, and the features that each computed; not to be changed."""
    folder = tmp_path_factory.mktemp("join")
    write_fake_folder(folder / "clips", clips=2)
    (folder / "random.tflite").write_bytes(mobilenetv2(size=64))
    torch.manual_seed(0)
    small = CNNRNNModule(2, "mobilenetv2_050", "avg", pretrained=False, num_frames=FRAMES, input_size=32)
    small.save_pretrained(folder / "trained")
    quantized = ["mobilenetv2_quant", "--weights", str(folder / "random.tflite"), "--frames", str(FRAMES)]
    for name, model in (("quantized", [*quantized, "--size", "64"]), ("of trained", [str(folder / "trained")])):
        call = ["extract", "--model", *model, "--data", str(folder / "clips"), "--num-workers", "0"]
        assert main([*call, "--out", str(folder / name)]) == 0
    return folder


def join(place, features, model, out, *more):
    return main(["join", "--model", str(model), "--features", str(place / features), "--out", str(out), *more])


@pytest.mark.parametrize("features", ["quantized", "of trained"])
def test_on_clips_it_says_what_the_head_says_of_their_features(place, features, tmp_path, capsys):
    trained = head()
    trained.save_pretrained(tmp_path / "head")
    assert join(place, features, tmp_path / "head", tmp_path / "joined") == 0
    assert "a model of clips" in capsys.readouterr().out
    joined = load(tmp_path / "joined")
    assert joined.class_names == ("clap", "wave")
    assert joined.hparams["lr"] == 3e-3
    assert not any(p.requires_grad for p in joined.net.backbone.parameters())
    for name in ("clap", "wave"):
        frames = read_clip(place / "clips" / name / f"{name}_00.mp4", joined.spec, joined.eval_sampling)
        assert len(frames) == FRAMES
        stored = torch.from_numpy(np.load(place / features / name / f"{name}_00.npy"))
        with torch.no_grad():
            given = joined(torch.from_numpy(frames).permute(3, 0, 1, 2)[None])
            torch.testing.assert_close(given, trained(stored[None]), rtol=1e-4, atol=1e-5)
    clip = place / "clips" / "wave" / "wave_00.mp4"
    assert main(["predict", str(clip), "--model", str(tmp_path / "joined")]) == 0
    assert "wave" in capsys.readouterr().out


def test_weights_that_were_moved_are_given_by_hand(place, tmp_path, capsys):
    moved = tmp_path / "features"
    moved.mkdir()
    settings = json.loads((place / "quantized" / "extract.json").read_text())
    (moved / "extract.json").write_text(json.dumps({**settings, "weights": "/nowhere.tflite"}))
    head().save_pretrained(tmp_path / "head")
    assert join(place, moved, tmp_path / "head", tmp_path / "joined") == 2
    assert "no weights at /nowhere.tflite" in capsys.readouterr().err
    assert join(place, moved, tmp_path / "head", tmp_path / "joined", "--weights", str(place / "random.tflite")) == 0
    (tmp_path / "other.tflite").write_bytes(mobilenetv2(size=64, seed=1))
    assert join(place, moved, tmp_path / "head", tmp_path / "other", "--weights", str(tmp_path / "other.tflite")) == 2
    assert "were not computed by what is now" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_trained_extractor_that_was_moved_or_trained_on(place, tmp_path, capsys, monkeypatch):
    moved = tmp_path / "features"
    moved.mkdir()
    settings = json.loads((place / "of trained" / "extract.json").read_text())
    (moved / "extract.json").write_text(json.dumps({**settings, "model": "/nowhere/trained"}))
    head().save_pretrained(tmp_path / "head")
    monkeypatch.chdir(tmp_path)  # extract.json does not depend on where it was called from
    assert join(place, place / "of trained", tmp_path / "head", tmp_path / "here") == 0
    assert join(place, moved, tmp_path / "head", tmp_path / "joined", "--weights", str(place / "trained")) == 0
    torch.manual_seed(5)
    other = CNNRNNModule(2, "mobilenetv2_050", "avg", pretrained=False, num_frames=FRAMES, input_size=32)
    other.save_pretrained(tmp_path / "other")
    capsys.readouterr()
    assert join(place, moved, tmp_path / "head", tmp_path / "wrong", "--weights", str(tmp_path / "other")) == 2
    assert "extract again" in capsys.readouterr().err


def test_it_takes_as_many_frames_as_the_head_was_trained_on(place):
    extractor = load(place / "trained")
    trained = head()
    trained.eval_sampling = replace(trained.eval_sampling, num_frames=2)
    joined = trained.with_backbone_of(extractor)
    assert (joined.spec.num_frames, joined.eval_sampling.num_frames) == (2, 2)
    clip = torch.randint(0, 256, (1, 3, 2, 32, 32), dtype=torch.uint8)
    assert joined(clip).shape == (1, 2)
    built_for_25 = head(temporal="convnet1d", num_frames=25)
    extractor.spec = replace(extractor.spec, num_frames=16)
    with pytest.raises(ConfigError, match="built for 25 frames, and its features are of 16"):
        built_for_25.with_backbone_of(extractor)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, "give the folder that `extract` wrote"),
        ("{", "is damaged"),
        ('{"spec": {}, "sampling": {}}', "CNNRNNModule.with_backbone_of"),
        ({"weights": "none"}, "random weights, which are gone; extract again"),
        ({"spec": None}, "is damaged"),
        ({"sampling": None}, "is damaged"),
        ({"model": None}, "does not say which network"),
    ],
)
def test_features_of_an_unknown_network_are_refused(place, tmp_path, capsys, settings, message):
    if isinstance(settings, dict):
        settings = json.dumps({**json.loads((place / "quantized" / "extract.json").read_text()), **settings})
    (tmp_path / "features").mkdir()
    if settings is not None:
        (tmp_path / "features" / "extract.json").write_text(settings)
    head().save_pretrained(tmp_path / "head")
    assert join(place, tmp_path / "features", tmp_path / "head", tmp_path / "joined") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "joined").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: head(feature_dim=16), "gives 1280 features of a frame, this module was trained on 16"),
        (lambda: CNNRNNModule(2, "mobilenetv2_050", "avg", pretrained=False), "only one of features is joined"),
        (lambda: TSNModule(2, "resnet10t", pretrained=False), "is a TSNModule; only a CNNRNNModule"),
    ],
    ids=["width", "clips", "tsn"],
)
def test_what_is_no_head_of_these_features_is_refused(place, tmp_path, capsys, model, message):
    model().save_pretrained(tmp_path / "model")
    assert join(place, "of trained", tmp_path / "model", tmp_path / "joined") == 2
    assert message in capsys.readouterr().err


def test_an_extractor_without_a_backbone_is_refused():
    with pytest.raises(ValueError, match="the extractor has no backbone"):
        head().with_backbone_of(head())
