"""Compared with PyTorch before it is believed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from edge_models import FRAMES, cnn_rnn, features, of_features

from lightning_har.edge import parity
from lightning_har.edge.calibration import Clips
from lightning_har.edge.export import export
from lightning_har.edge.graphs import build_graphs
from lightning_har.edge.parity import compare
from lightning_har.edge.runtime import open_graph
from lightning_har.edge.writers import write_onnx
from lightning_har.errors import ConfigError
from lightning_har.spec import Sampling


def answers(monkeypatch, change):
    """Exported graphs that answer as PyTorch does, but for what ``change(inputs, outputs, call)`` makes of it."""
    calls = []

    def opened(path, threads=1):
        run = open_graph(path, threads)

        def call(inputs):
            calls.append(inputs)
            return change(inputs, run(inputs), len(calls))

        return call

    monkeypatch.setattr(parity, "open_graph", opened)
    return calls


@pytest.mark.parametrize("number", [1, 2])
def test_nan_in_any_clip_is_no_success(tmp_path, monkeypatch, number):
    answers(monkeypatch, lambda inputs, out, call: [x * np.nan if call == number else x for x in out])
    with pytest.raises(ConfigError, match="NaN"):
        export(of_features(), tmp_path)


def test_the_clips_that_compare_are_several_and_not_the_traced_one(tmp_path, monkeypatch):
    calls = answers(monkeypatch, lambda inputs, out, call: out)
    module = of_features()
    report = export(module, tmp_path)
    (traced,) = build_graphs(module, "clip")[0].inputs.values()
    seen = {x.tobytes() for (x,) in calls} | {traced.numpy().tobytes()}
    assert report.clips == 2
    assert len(seen) == 3
    assert "allowed: 1e-04, times the greatest logit where that is over 1" in str(report)


@pytest.mark.parametrize("temporal", ["moments", "convnet1d"])
def test_features_are_as_many_as_the_module_takes(tmp_path, temporal):
    """Not as many as its first layer does: of "moments" there are more, of a convolution that layer tells others."""
    assert export(of_features(temporal=temporal, hidden=12), tmp_path).files


def test_a_module_of_ones_own_says_how_many_features_it_takes():
    module = of_features()
    del module.hparams["feature_dim"]
    with pytest.raises(ConfigError, match="CNNRNNModule takes features; give it an argument feature_dim"):
        build_graphs(module, "clip")


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("axis", [0, 1], ids=["batch", "time"])
def test_each_open_axis_is_tried_at_another_size(tmp_path, monkeypatch, axis, int8):
    """A graph that is right as it was traced, and wrong where the axis is longer."""
    traced = (1, 25)[axis]
    spoil = np.nan if int8 else 1.01
    answers(monkeypatch, lambda inputs, out, call: [x * (spoil if inputs[0].shape[axis] != traced else 1) for x in out])
    calibration = [features(seed=s) for s in range(2)] if int8 else None
    with pytest.raises(ConfigError, match="NaN" if int8 else "differ"):
        export(of_features(), tmp_path, int8=int8, calibration=calibration, dynamic=("batch", "time")[axis : axis + 1])


def test_an_axis_that_is_open_in_name_only_is_told(tmp_path, monkeypatch):
    def refuse(inputs, out, call):
        if len(inputs[0]) > 1:
            raise RuntimeError("Got invalid dimensions")
        return out

    answers(monkeypatch, refuse)
    with pytest.raises(ConfigError, match=r"does not take a batch of 3.*Got invalid dimensions"):
        export(of_features(), tmp_path, dynamic=("batch",))


@pytest.mark.slow
def test_frames_and_head_take_batches_where_these_are_open(tmp_path, monkeypatch):
    calls = answers(monkeypatch, lambda inputs, out, call: out)
    export(cnn_rnn("gru"), tmp_path, kind="frames", dynamic=("batch",))
    assert [inputs[0].shape[0] for inputs in calls[-FRAMES - 1 :]] == [3] * (FRAMES + 1)
    assert calls[-1][0].shape[1] == FRAMES


def test_agreement_counts_the_clips_with_the_same_label(tmp_path, monkeypatch):
    answers(monkeypatch, lambda inputs, out, call: [-x if call % 2 else x for x in out])
    module = of_features()
    write_onnx(*build_graphs(module, "clip"), tmp_path / "model.onnx")
    videos = [x[None] for x in features(8)["video"]]
    shown = Clips([], videos, held_out=True)
    found = compare(module, {"model": tmp_path / "model.onnx"}, "onnx", "clip", shown, [], ())
    assert found.agreement == 0.5
    assert found.clips == 8


@pytest.mark.parametrize("by", [2e-4, -2e-4, 0.01])
def test_a_graph_that_differs_is_not_reported_as_success(tmp_path, monkeypatch, by):
    answers(monkeypatch, lambda inputs, out, call: [x + np.float32(by) for x in out])
    with pytest.raises(ConfigError, match="differ from PyTorch's"):
        export(of_features(), tmp_path)


@pytest.mark.parametrize("by", [2e-5, -2e-5])
def test_a_difference_within_the_tolerance_is_reported_and_no_failure(tmp_path, monkeypatch, by):
    answers(monkeypatch, lambda inputs, out, call: [x + np.float32(by) for x in out])
    assert export(of_features(), tmp_path).max_error == pytest.approx(2e-5, rel=0.1)


@pytest.mark.parametrize(("by", "is_refused"), [(5e-4, False), (2e-3, True)])
def test_what_is_allowed_grows_with_logits_over_1(tmp_path, monkeypatch, by, is_refused):
    """To 1e-3 where the greatest is 10."""
    answers(monkeypatch, lambda inputs, out, call: [x + np.float32(by) for x in out])
    module = of_features(lambda x: 10 * x / x.abs().amax(1, True))
    if is_refused:
        with pytest.raises(ConfigError, match=r"differ from PyTorch's.*logits reach 10\.0"):
            export(module, tmp_path)
    else:
        export(module, tmp_path)


@pytest.mark.parametrize("training", [True, False])
def test_each_part_of_the_module_keeps_its_mode(tmp_path, training):
    module = of_features().train(training)
    module.net.head.train(not training)
    modes = [part.training for part in module.modules()]
    export(module, tmp_path)
    assert [part.training for part in module.modules()] == modes


def test_features_are_exported_for_clips_as_long_as_the_runs(tmp_path):
    module = of_features()
    example = build_graphs(module, "clip")[0].inputs["features"]
    assert example.shape[1] == 25, "study E's, where no run has noted another"
    module.eval_sampling = Sampling("uniform", num_frames=7, crop="full")
    report = export(module, tmp_path)
    x = example[:, :7]
    with torch.no_grad():
        expected = module(x).numpy()
    np.testing.assert_allclose(open_graph(report.files["model"])([x.numpy()])[0], expected, atol=1e-5)
