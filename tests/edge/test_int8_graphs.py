"""Eight bits in ONNX files: weights on their grids, and what of the graph is int8."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from edge_models import FRAMES, batches, clips, cnn_rnn, tsn
from torch import nn

from lightning_har.edge import quantize_onnx as onnx_file
from lightning_har.edge.export import export
from lightning_har.edge.graphs import Graph, build_graphs
from lightning_har.edge.quantize_onnx import quantize_onnx
from lightning_har.edge.rounding import round_and_correct_bias, weight_scales
from lightning_har.edge.runtime import open_graph
from lightning_har.edge.writers import write_onnx


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
    write_onnx(frame, tmp_path / "float.onnx")
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
    write_onnx(graph, tmp_path / "float.onnx")
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
