from __future__ import annotations

import importlib.util
import sys

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from edge_models import FRAMES, clips, cnn_rnn, tsn
from torch import nn

from lightning_har.edge import export as export_file
from lightning_har.edge import quantize_onnx as onnx_file
from lightning_har.edge.calibration import Clips
from lightning_har.edge.export import export
from lightning_har.edge.graphs import Graph, build_graphs
from lightning_har.edge.quantize_onnx import quantize_onnx
from lightning_har.edge.rounding import round_and_correct_bias, weight_scales
from lightning_har.edge.runtime import open_graph
from lightning_har.errors import ConfigError
from lightning_har.modules.cnn_rnn import CNNRNNModule


def batches():
    return [clips(4, seed=s) for s in range(3)]


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


@pytest.mark.parametrize("kind", ["frames", "stream"])
def test_cut_graphs_give_the_clips_logits(tmp_path, kind):
    report = export(cnn_rnn("lstm"), tmp_path, kind=kind)
    assert report.max_error < 1e-4
    assert set(report.files) == ({"frame", "head"} if kind == "frames" else {"step"})


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


class Tail(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def of_features(tail=None, temporal="avg", **kwargs):
    """A network that is traced in no time, with something behind its head."""
    torch.manual_seed(0)
    module = CNNRNNModule(4, backbone=None, feature_dim=8, temporal=temporal, hidden=8, **kwargs).eval()
    if tail is not None:
        module.net.head = nn.Sequential(module.net.head, Tail(tail))
    return module


def features(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    video = torch.randn(count, 25, 8, generator=generator)
    return {"video": video, "label": torch.arange(count) % 4, "id": list(map(str, range(count)))}


def pairwise(x):
    return nn.functional.pdist(x.T)[None, :4]


def singular(x):
    return torch.linalg.svdvals(x.view(-1, 2, 2))


def distinct(x):
    return torch.unique(x).sum()[None, None]


LACKS = {
    "onnx: one of the network's own": (pairwise, "onnx", "aten.pdist"),
    "onnx: one that others were decomposed to": (singular, "onnx", "aten._linalg_svd"),
    "executorch: no kernel": (torch.special.bessel_j0, "executorch", "aten.special_bessel_j0"),
    "executorch: no kernel for one decomposed to": (singular, "executorch", "aten._linalg_svd"),
    "executorch: no kernel, of open shape": (distinct, "executorch", "aten._unique2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", LACKS)
def test_an_operation_the_format_lacks_is_named_with_its_layer(tmp_path, case):
    if "executorch" in case:
        pytest.importorskip("executorch", reason="needs executorch: pip install 'lightning-har[executorch]'")
    tail, format, operator = LACKS[case]
    with pytest.raises(ConfigError, match=rf"{format} does not take net\.head\.1 \(Tail: {operator}\)") as caught:
        export(of_features(tail), tmp_path, format=format)
    assert not list(tmp_path.glob("*.pte"))
    if tail is pairwise and importlib.util.find_spec("executorch"):
        assert str(caught.value).endswith("format='executorch' does")
    if tail is singular:
        assert str(caught.value).endswith("does not take it either")


def test_the_other_format_is_tried_as_it_was_asked_for(tmp_path, monkeypatch):
    asked = []
    write = export_file._write

    def see(graph, path, format, inputs, dynamic):
        asked.append((format, inputs is not None, dynamic))
        if format == "executorch":
            raise export_file._Unsupported("no")
        write(graph, path, format, inputs, dynamic)

    monkeypatch.setattr(export_file, "_write", see)
    calibration = [features(seed=s) for s in range(2)]
    with pytest.raises(ConfigError, match=r"no\. format='onnx' does"):
        export(
            of_features(), tmp_path, format="executorch", int8=True, calibration=calibration, dynamic=("batch", "time")
        )
    assert asked == [("executorch", True, ("batch", "time")), ("onnx", True, ("batch", "time"))]


@pytest.mark.slow
def test_a_format_that_is_not_installed_was_not_tried(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "executorch.runtime", None)
    with pytest.raises(ConfigError, match=r"Whether executorch does was not tried: .*pip install"):
        export(of_features(pairwise), tmp_path)


def test_what_cannot_be_traced_is_named_with_its_layer(tmp_path):
    def odd(x):
        return x * 2 if x.sum() > 0 else x

    with pytest.raises(ConfigError, match=r"cannot trace net\.head\.1 \(Tail\).*Both formats"):
        export(of_features(odd), tmp_path)


def test_a_quantizers_own_error_names_the_part(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise ValueError("no scale for aten::addmm")

    monkeypatch.setattr(export_file, "quantize_onnx", refuse)
    monkeypatch.setattr(export_file, "_verdict", lambda *args: "verdict")
    calibration = [features(seed=s) for s in range(2)]
    with pytest.raises(ConfigError, match=r"onnx in int8 does not take part 'model': no scale .*verdict"):
        export(of_features(), tmp_path, int8=True, calibration=calibration)


# -- compared before it is believed ----------------------------------------------------------------------------


def answers(monkeypatch, change):
    """Exported graphs that answer as PyTorch does, but for what ``change(inputs, outputs, call)`` makes of it."""
    calls = []

    def opened(path, threads=1):
        run = open_graph(path, threads)

        def call(inputs):
            calls.append(inputs)
            return change(inputs, run(inputs), len(calls))

        return call

    monkeypatch.setattr(export_file, "open_graph", opened)
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
    export_file._write_onnx(*build_graphs(module, "clip"), tmp_path / "model.onnx", None)
    videos = [x[None] for x in features(8)["video"]]
    shown = Clips([], videos, held_out=True)
    report = export_file._compare(module, {"model": tmp_path / "model.onnx"}, "onnx", "clip", shown, [], ())
    assert report.agreement == 0.5
    assert report.clips == 8


def test_a_graph_that_differs_is_not_reported_as_success(tmp_path, monkeypatch):
    def shifted(path, threads=1):
        run = open_graph(path, threads)
        return lambda inputs: [x + 0.01 for x in run(inputs)]

    monkeypatch.setattr(export_file, "open_graph", shifted)
    with pytest.raises(ConfigError, match="differ from PyTorch"):
        export(cnn_rnn("avg"), tmp_path)


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


# -- int8 ------------------------------------------------------------------------------------------------------


def test_int8_is_small_and_agrees(tmp_path):
    module = tsn()
    floating = export(module, tmp_path / "float")
    report = export(module, tmp_path / "int8", int8=True, calibration=batches())
    assert report.size_bytes < floating.size_bytes / 3.5
    assert report.agreement >= 0.9
    assert 0 < report.max_error < 1


@pytest.mark.slow
def test_files_hold_the_network_and_no_more(tmp_path):
    """No lines of Python with this machine's paths, no zero points of biases, which are 0."""
    export(cnn_rnn("gru"), tmp_path / "float")
    assert b".py" not in (tmp_path / "float" / "model.onnx").read_bytes()
    export(cnn_rnn("gru"), tmp_path / "int8", int8=True, calibration=batches())
    assert b".py" not in (tmp_path / "int8" / "model.onnx").read_bytes()
    graph = onnx.load(tmp_path / "int8" / "model.onnx").graph
    whole = {i.name for i in graph.initializer if i.data_type == onnx.TensorProto.INT32}
    biases = [n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in whole]
    assert len(biases) > FRAMES
    assert {len(n.input) for n in biases} == {2}
    assert whole == {n.input[0] for n in biases}


def per_channel(graph):
    """The products with weights in int8, each of which has a step for each of its output channels."""
    values = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    by_output = {n.output[0]: n for n in graph.node}
    products = [n for n in graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    for node in products:
        weight, scale, *_ = by_output[node.input[1]].input
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        axis = 0 if node.op_type == "Conv" or transposed else 1
        assert values[weight].dtype == np.int8
        assert values[scale].size == values[weight].shape[axis], node.name
    return products


@pytest.mark.slow
@pytest.mark.parametrize("temporal", ["gru", "lstm"])
def test_the_matrix_products_of_a_recurrent_head_are_int8(tmp_path, temporal):
    export(cnn_rnn(temporal), tmp_path, int8=True, calibration=batches(), kind="frames")
    graph = onnx.load(tmp_path / "head.onnx").graph
    stored = {i.name: i.data_type for i in graph.initializer}
    by_output = {n.output[0]: n for n in graph.node}
    products = [n for n in graph.node if n.op_type in ("Gemm", "MatMul")]
    assert len(products) == FRAMES + 2  # a step each, the inputs of all steps together, the classifier
    for node in products:
        weight = by_output[node.input[1]]
        assert weight.op_type == "DequantizeLinear"
        assert stored[weight.input[0]] == onnx.TensorProto.INT8
    assert len(per_channel(graph)) == len(products)


@pytest.mark.slow
def test_relu6_is_folded_into_the_range(tmp_path):
    export(cnn_rnn("avg", backbone="mobilenetv2_050"), tmp_path, int8=True, calibration=batches(), kind="frames")
    graph = onnx.load(tmp_path / "frame.onnx").graph
    kinds = [n.op_type for n in graph.node]
    assert "Conv" in kinds
    assert "Clip" not in kinds
    assert len(per_channel(graph)) == 52  # all convolutions of MobileNetV2


@pytest.mark.slow
def test_an_input_of_one_scale_and_whole_zero_point_is_its_own_code(tmp_path):
    from dataclasses import replace

    module = cnn_rnn("avg")
    module.spec = replace(module.spec, value_range=(-1.0, 127 / 128), mean=(0.0,), std=(1.0,))
    report = export(module, tmp_path, int8=True, calibration=batches(), kind="frames")
    graph = onnx.load(tmp_path / "frame.onnx").graph
    assert not {"Cast", "Mul"} & {n.op_type for n in graph.node}
    name = "frame"
    while (reader := next(n for n in graph.node if name in n.input)).op_type in ("Transpose", "Reshape"):
        name = reader.output[0]
    assert reader.op_type == "DequantizeLinear"
    assert report.max_error < 0.5


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        (None, "calibration data"),
        ([], "no clips"),
        ([clips(4, classes=1)], "one class"),
        ([{**clips(4), "video": clips(4)["video"].float() * float("nan")}], "NaN"),
        ([{k: v for k, v in clips(4).items() if k != "label"}], "labels"),
    ],
    ids=["none", "empty", "one class", "nan", "unlabelled"],
)
def test_unfit_calibration_is_refused(tmp_path, calibration, words):
    with pytest.raises(ConfigError, match=words):
        export(cnn_rnn("avg"), tmp_path, int8=True, calibration=calibration)
    assert not list(tmp_path.iterdir())


def test_a_network_with_nan_is_refused(tmp_path):
    module = cnn_rnn("avg")
    with torch.no_grad():
        module.net.backbone.net.conv1[0].weight[0] = torch.nan
    with pytest.raises(ConfigError, match="NaN"):
        export(module, tmp_path, int8=True, calibration=batches())


def test_clips_that_check_are_not_those_that_calibrate(tmp_path):
    from lightning_har.edge.calibration import collect

    taken = collect(cnn_rnn("avg"), [clips(4, seed=s) for s in range(3)], max_clips=4)
    assert taken.held_out
    fit = {x.numpy().tobytes() for x in taken.fit}
    assert not fit & {x.numpy().tobytes() for x in taken.check}


def test_labels_that_alternate_are_parted_within_each_class():
    """Every second clip of all would be one class of two, or half the classes of many."""
    from lightning_har.edge.calibration import collect

    def numbered(labels):
        video = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1, 1).expand(-1, 3, 1, 2, 2)
        return [{"video": video, "label": torch.tensor(labels), "id": list(map(str, labels))}]

    def numbers(clips):
        return [int(x.flatten()[0]) for x in clips]

    two = collect(cnn_rnn("avg"), numbered([0, 1, 0, 1, 0, 1, 0, 1]), max_clips=4)
    assert numbers(two.fit) == [0, 1, 4, 5]
    assert numbers(two.check) == [2, 3, 6, 7]
    many = collect(cnn_rnn("avg"), numbered([0, 1, 2, 3] * 2), max_clips=4)
    assert numbers(many.fit) == [0, 1, 2, 3]
    assert numbers(many.check) == [4, 5, 6, 7]
    once = collect(cnn_rnn("avg"), numbered(list(range(6))), max_clips=4)
    assert numbers(once.fit) == list(range(6))
    assert not once.held_out


def test_clips_that_check_are_of_all_classes_though_the_data_is_sorted():
    from lightning_har.edge.calibration import collect

    class Clips(torch.utils.data.Dataset):
        def __len__(self):
            return 40

        def __getitem__(self, i):
            return {"video": torch.full((3, 1, 2, 2), i // 10, dtype=torch.uint8), "label": i // 10, "id": str(i)}

    class Sorted:
        def prepare_data(self):
            pass

        def setup(self, stage):
            pass

        def train_dataloader(self):
            return torch.utils.data.DataLoader(Clips(), 4, shuffle=True)

        def val_dataloader(self):
            return torch.utils.data.DataLoader(Clips(), 4)

    taken = collect(cnn_rnn("avg"), Sorted(), max_clips=8)
    assert [int(x.flatten()[0]) for x in taken.check] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_calibration_samples_as_the_bundle_will(tmp_path):
    from dataclasses import replace

    from edge_models import write_video

    from lightning_har.data.folder import VideoFolderDataModule
    from lightning_har.edge.calibration import collect
    from lightning_har.spec import Sampling

    batch = clips(8)
    for i, video in enumerate(batch["video"]):
        (tmp_path / "abcd"[i % 4]).mkdir(exist_ok=True)
        write_video(tmp_path / "abcd"[i % 4] / f"{i}.mp4", video.permute(1, 2, 3, 0).numpy())
    module = tsn()
    module.eval_sampling = replace(module.eval_sampling, num_clips=10, crop="three")  # the runner takes one view
    data = VideoFolderDataModule(tmp_path, batch_size=1, num_workers=0)
    collect(module, data)
    assert data.train_sampling == module.train_sampling
    assert data.eval_sampling == replace(module.eval_sampling, num_clips=1, crop="center")
    own = Sampling("dense", crop="full")
    given = VideoFolderDataModule(tmp_path, train_sampling=own, eval_sampling=own, batch_size=1, num_workers=0)
    collect(module, given)
    assert given.train_sampling == given.eval_sampling == own


# -- weights and graphs of int8 --------------------------------------------------------------------------------


def test_weights_on_a_grid_keep_it():
    torch.manual_seed(0)
    codes = torch.randint(-90, 91, (32, 3, 3, 3))
    codes[:, 0, 0, 0] = 90  # so that the greatest over 127 is another grid
    steps = torch.rand(32) * 0.1 + 0.01
    weight = codes * steps.view(-1, 1, 1, 1)
    scales = weight_scales(weight)
    assert torch.allclose((weight / scales.view(-1, 1, 1, 1)).round() * scales.view(-1, 1, 1, 1), weight, atol=1e-6)


def test_no_other_step_loses_less_by_much():
    torch.manual_seed(0)
    weight = torch.randn(16, 9)

    def lost(step):
        return ((weight / step[:, None]).round().clamp(-127, 127) * step[:, None] - weight).square().sum(1)

    usual = weight.abs().amax(1) / 127
    assert (lost(weight_scales(weight)) <= lost(usual) + 1e-9).all()
    assert lost(weight_scales(weight)).sum() < 0.8 * lost(usual).sum()


def test_a_dead_channel_has_a_step():
    weight = torch.randn(4, 9)
    weight[2] = 0
    assert (weight_scales(weight) > 1e-6).all()
    assert (weight_scales(torch.zeros(4, 9)) > 0).all()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 3, groups=8, bias=False),
        nn.Conv2d(8, 12, 3, groups=4),
        nn.Conv1d(8, 5, 3),
        nn.Conv3d(8, 4, 2),
        nn.Linear(8, 6, bias=False),
    ],
    ids=lambda layer: str(layer).split(",")[0] + f" g{getattr(layer, 'groups', 1)}",
)
def test_rounding_does_not_move_a_channels_mean(layer):
    torch.manual_seed(0)
    shape = {nn.Linear: (4, 7, 8), nn.Conv1d: (4, 8, 16), nn.Conv2d: (4, 8, 9, 9), nn.Conv3d: (4, 8, 5, 5, 5)}
    # Every position of a kernel sees the same values where these are constant over space.
    x = (1 + torch.rand(4, 8)).view(4, 8, *[1] * (len(shape[type(layer)]) - 2)).expand(
        shape[type(layer)]
    ) if not isinstance(layer, nn.Linear) else 1 + torch.rand(shape[nn.Linear])  # fmt: skip
    net = nn.Sequential(layer).eval()
    with torch.no_grad():
        expected = net(x)
        round_and_correct_bias(net, [(x[:2],), (x[2:],)])
        given = net(x)
    assert not torch.equal(given, expected)
    axes = [0, *range(2, x.ndim)] if not isinstance(layer, nn.Linear) else [0, 1]
    torch.testing.assert_close(given.mean(axes), expected.mean(axes), atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_the_exported_weights_are_the_rounded_ones(tmp_path):
    """What onnxruntime's quantizer stores, times its steps, is what the network was given: no second rounding."""
    module = cnn_rnn("avg")
    (frame, _) = build_graphs(module, "frames")
    inputs = [(x,) for x in clips(4)["video"].transpose(1, 2).flatten(0, 1).split(1)]
    round_and_correct_bias(frame.net, inputs)
    export_file._write_onnx(frame, tmp_path / "float.onnx", None)
    quantize_onnx(tmp_path / "float.onnx", tmp_path / "int8.onnx", inputs)
    floats = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(tmp_path / "float.onnx").graph.initializer}
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    compared = 0
    for name, codes in stored.items():
        if codes.dtype == np.int8 and codes.ndim == 4 and floats[name.removesuffix("_quantized")].shape == codes.shape:
            weight = floats[name.removesuffix("_quantized")]
            step = stored[name.removesuffix("_quantized") + "_scale"].reshape(-1, 1, 1, 1)
            np.testing.assert_allclose(codes * step, weight, atol=0.02 * float(step.max()))
            compared += 1
    assert compared > 5


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (3, (0, 1, 0, 1)), (7, 3), (5, 2)])
def test_the_first_convolution_by_pairs_gives_the_same_integers(tmp_path, monkeypatch, kernel, padding):
    torch.manual_seed(0)
    pad = nn.ZeroPad2d(padding) if isinstance(padding, tuple) else nn.Identity()
    net = nn.Sequential(
        pad,
        nn.Conv2d(3, 8, kernel, 2, padding if isinstance(padding, int) else 0),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ).eval()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x):
            return (self.net(x.float() * (1 / 128) - 1.0),)

    images = torch.randint(0, 256, (6, 3, 36, 40), dtype=torch.uint8)
    graph = Graph("frame", Net().eval(), {"frame": images[:1]}, ("features",), lambda clip: iter(()))
    export_file._write_onnx(graph, tmp_path / "float.onnx", None)
    inputs = [(x,) for x in images.split(1)]
    quantize_onnx(tmp_path / "float.onnx", tmp_path / "paired.onnx", inputs)
    monkeypatch.setattr(onnx_file, "_pair_columns", lambda path: None)
    quantize_onnx(tmp_path / "float.onnx", tmp_path / "plain.onnx", inputs)
    paired = onnx.load(tmp_path / "paired.onnx").graph
    first = next(n for n in paired.node if n.op_type == "Conv")
    assert next(a.ints[0] for a in first.attribute if a.name == "kernel_shape") == kernel
    widths = [i.dims[1] for i in paired.initializer if len(i.dims) == 4]
    assert 12 in widths
    runs = [open_graph(tmp_path / f"{name}.onnx") for name in ("paired", "plain")]
    for (x,) in inputs:
        np.testing.assert_array_equal(*(run([x.numpy()])[0] for run in runs))
