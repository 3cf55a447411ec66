"""Study E's quantized MobileNetV2 as a file: ONNX Runtime's integers against PyTorch's."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from edge_models import clips
from tflite_writer import mobilenetv2

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from lightning_har.edge.export import export  # noqa: E402
from lightning_har.edge.integers import integer_operators  # noqa: E402
from lightning_har.edge.runtime import open_graph  # noqa: E402
from lightning_har.errors import ConfigError  # noqa: E402
from lightning_har.modules.cnn_rnn import CNNRNNModule  # noqa: E402

FRAMES = 2
SHARED = Path(__file__).parents[3] / "shared" / "data" / "mobilenet_v2" / "mobilenet_v2_1.0_224_quant.tflite"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.tflite"
    path.write_bytes(mobilenetv2(size=64))
    return path


def recogniser(weights, size=64, **options):
    torch.manual_seed(0)
    options = {"temporal": "gru", "hidden": 16, "num_frames": FRAMES, "input_size": size} | options
    return CNNRNNModule(4, "mobilenetv2_quant", pretrained=str(weights), **options).eval()


def batches(size=64):
    return [clips(4, seed=seed, frames=FRAMES, size=size) for seed in range(2)]


def operators(path):
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def features(module, frame):
    with torch.no_grad():
        return module.net.backbone(torch.from_numpy(frame)).numpy()


@pytest.mark.parametrize(("size", "int8"), [(50, False), (64, True)])  # TensorFlow pads odd sides differently
def test_an_engine_computes_the_very_codes(weights, tmp_path, size, int8):
    module = recogniser(weights, size)
    report = export(module, tmp_path, kind="frames", int8=int8, calibration=batches(size) if int8 else None)
    found = operators(report.files["frame"])
    assert (found["QLinearConv"], found["Conv"]) == (52, 0)
    graph = open_graph(report.files["frame"])
    for seed in range(3):
        frame = np.random.default_rng(seed).integers(0, 256, (1, 3, size, size), np.uint8)
        expected = features(module, frame)
        assert expected.std() > 0.01
        np.testing.assert_allclose(graph([frame])[0], expected, rtol=0, atol=1e-6)
    assert report.size_bytes < 3e6, "2.2 million weights, a byte each"
    assert (operators(report.files["head"])["QuantizeLinear"] > 0) == int8


@pytest.mark.parametrize("kind", [pytest.param("clip", marks=pytest.mark.slow), "stream"])
def test_in_one_file_with_an_int8_head_the_backbone_keeps_its_integers(weights, tmp_path, kind):
    module = recogniser(weights)
    plain = export(module, tmp_path / "float", kind=kind)
    int8 = export(module, tmp_path / "int8", kind=kind, int8=True, calibration=batches())
    assert plain.max_error < 1e-5
    assert int8.agreement == 1.0
    (before,), (after,) = ([operators(p) for p in r.files.values()] for r in (plain, int8))
    assert before["QLinearConv"] == after["QLinearConv"] == 52
    (path,) = int8.files.values()
    graph = onnx.load(path).graph
    makers = {x: node.op_type for node in graph.node for x in node.output}
    sums = [n for n in graph.node if n.op_type == "Add" and {makers.get(x) for x in n.input} == {"DequantizeLinear"}]
    read = {x for n in sums for x in n.output}
    # Each of the ten skip connections: two codes in, one code out, and nothing rounded in between.
    assert len(sums) == 10
    assert sum(n.op_type == "QuantizeLinear" and n.input[0] in read for n in graph.node) == 10


def test_the_network_itself_is_left_alone_and_others_are_not_copied(weights):
    module = recogniser(weights)
    frame = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), np.uint8)
    expected = features(module, frame)
    integer_operators(module.net)
    assert np.array_equal(features(module, frame), expected)
    other = torch.nn.Linear(2, 2)
    assert integer_operators(other) is other


def test_a_torch_without_onnx_operators_is_named(weights, tmp_path, monkeypatch):
    monkeypatch.delattr(torch.onnx, "ops")
    with pytest.raises(ConfigError, match=r"torch .* cannot export 'mobilenetv2_quant' to ONNX; torch 2.8 can"):
        export(recogniser(weights), tmp_path)


def test_codes_that_end_early_are_refused(weights):
    module = recogniser(weights)
    module.net.backbone.net[0].limits[1] = 200
    with pytest.raises(ConfigError, match=r"codes of \[0, 200\] alone"):
        integer_operators(module.net)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data/mobilenet_v2")
def test_the_published_network_too(tmp_path):
    module = recogniser(SHARED, 224, temporal="avg")
    report = export(module, tmp_path, kind="frames")
    graph = open_graph(report.files["frame"])
    frame = clips(1, frames=1, size=224)["video"][:, :, 0].numpy()
    np.testing.assert_allclose(graph([frame])[0], features(module, frame), rtol=0, atol=1e-6)
