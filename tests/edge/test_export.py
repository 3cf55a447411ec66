"""A module to files: what goes in and comes out of them, and which axes stay open."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from edge_models import FRAMES, batches, clips, cnn_rnn, tsn

from lightning_har.edge.export import export
from lightning_har.edge.runtime import open_graph
from lightning_har.edge.streaming import StreamingRecognizer
from lightning_har.errors import ConfigError


def test_float_logits_are_pytorchs(tmp_path):
    module = cnn_rnn().train()
    report = export(module, tmp_path, dynamic=("batch",))
    assert module.training
    assert report.max_error < 1e-4
    assert report.size_bytes == (tmp_path / "model.onnx").stat().st_size
    video = clips(3)["video"]
    session = ort.InferenceSession(str(tmp_path / "model.onnx"))
    with torch.no_grad():
        expected = module.eval()(video).numpy()
    (given,) = session.run(["logits"], {"video": video.numpy()})
    np.testing.assert_allclose(given, expected, atol=1e-4)


def test_time_stays_open_where_the_network_lets_it(tmp_path):
    module = tsn()
    export(module, tmp_path, dynamic=("batch", "time"))
    run = open_graph(tmp_path / "model.onnx")
    video = clips(2, frames=4)["video"]
    with torch.no_grad():
        np.testing.assert_allclose(run([video.numpy()])[0], module(video).numpy(), atol=1e-4)


def test_a_recurrent_parts_time_is_fixed_and_the_message_says_what_else(tmp_path):
    with pytest.raises(ConfigError, match="stream"):
        export(cnn_rnn(), tmp_path, dynamic=("time",))


def test_cut_graphs_give_the_clips_logits(tmp_path):
    report = export(cnn_rnn("lstm"), tmp_path, kind="frames")
    assert report.max_error < 1e-4
    assert set(report.files) == {"frame", "head"}


@pytest.mark.parametrize(
    "build",
    [
        lambda: cnn_rnn("gru"),
        lambda: cnn_rnn("lstm"),
        lambda: cnn_rnn("convnet1d", causal=True),
        tsn,
        lambda: tsn(temporal_shift="causal"),
    ],
    ids=["gru", "lstm", "convnet1d", "tsn", "tsm"],
)
def test_a_step_over_a_clips_frames_gives_its_logits(tmp_path, build):
    module = build()
    report = export(module, tmp_path, kind="stream")
    assert set(report.files) == {"step"}
    run = open_graph(tmp_path / "step.onnx")
    video = clips(1, seed=7)["video"]
    state = [x.numpy() for x in StreamingRecognizer(module).initial_state(1)]
    with torch.no_grad():
        expected = module(video).numpy()
    for t in range(FRAMES):
        given, *state = run([video[:, :, t].numpy(), *state])
    np.testing.assert_allclose(given, expected, atol=1e-4)


def test_the_step_is_a_function_of_frame_and_state(tmp_path):
    module = tsn(temporal_shift="causal")
    export(module, tmp_path, kind="stream")
    graph = onnx.load(tmp_path / "step.onnx").graph
    inputs, outputs = [i.name for i in graph.input], [o.name for o in graph.output]
    assert inputs[0] == "frame"
    assert outputs[0] == "logits"
    assert [f"next_{n}" for n in inputs[1:]] == outputs[1:]


def test_clip_only_networks_are_not_cut(tmp_path):
    with pytest.raises(ConfigError, match="kind='clip'"):
        export(tsn(temporal_shift=True), tmp_path, kind="frames")


def test_heads_are_outputs_by_name(tmp_path):
    from lightning_har.modules.tsn import TSNModule

    module = TSNModule({"verb": 3, "noun": 5}, "resnet10t", pretrained=False, input_size=64).eval()
    export(module, tmp_path)
    assert [o.name for o in onnx.load(tmp_path / "model.onnx").graph.output] == ["verb", "noun"]


def test_unknown_format_and_axis(tmp_path):
    with pytest.raises(ConfigError, match="'onnx' or 'executorch'"):
        export(cnn_rnn("avg"), tmp_path, format="tflite")
    with pytest.raises(ConfigError, match="height"):
        export(cnn_rnn("avg"), tmp_path, dynamic=("height",))
    with pytest.raises(ConfigError, match="keeps no batch or time open"):
        export(cnn_rnn("avg"), tmp_path, dynamic=("batch", "time"), kind="stream")


def test_calibration_without_int8_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="calibration is for int8"):
        export(cnn_rnn("avg"), tmp_path, calibration=batches())


def test_channels_in_another_order_are_turned_inside_the_graph(tmp_path):
    """What is fed is RGB; a network trained on BGR finds its own order, and not the other."""
    from dataclasses import replace

    module = cnn_rnn("avg")
    video = clips(1)["video"]
    with torch.no_grad():
        rgb = module(video).numpy()
    module.spec = replace(module.spec, channel_order="bgr")
    export(module, tmp_path)
    with torch.no_grad():
        expected = module(video).numpy()
    assert np.abs(expected - rgb).max() > 1e-3
    np.testing.assert_allclose(open_graph(tmp_path / "model.onnx")([video.numpy()])[0], expected, atol=1e-4)
