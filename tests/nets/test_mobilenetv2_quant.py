from __future__ import annotations

import dataclasses
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tflite_writer import Writer, mobilenetv2
from torch.nn import functional as F

from lightning_har.errors import ConfigError, WeightsError
from lightning_har.nets.backbones import mobilenetv2_quant as mobilenetv2_quant_module
from lightning_har.nets.backbones.mobilenetv2_quant import (
    QuantizedAdd,
    QuantizedConv2d,
    QuantizedMobileNetV2,
    mobilenetv2_quant,
)
from lightning_har.weights.tflite import read_tflite

SHARED = Path(__file__).parents[3] / "shared" / "data" / "mobilenet_v2"


def litert(path):
    """LiteRT as it runs by default: with XNNPACK. Gives the feature map's codes and the real logits.

    ``experimental_preserve_all_tensors`` keeps the map to be read; the delegate runs all the same, which is asserted.
    Without it (``OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES``) LiteRT rounds in integers: of the published
    network's codes for owl.jpg 87 % then equal those of its own default, and 88 % are within one step.
    """
    module = pytest.importorskip("ai_edge_litert.interpreter", reason="needs ai-edge-litert")
    interpreter = module.Interpreter(str(path), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    steps = interpreter._get_ops_details()
    assert any(step["op_name"] == "DELEGATE" for step in steps), "LiteRT runs without XNNPACK here"
    pool = next(i for i, step in enumerate(steps) if step["op_name"] == "AVERAGE_POOL_2D")
    map_index, logits_index = steps[pool]["inputs"][0], steps[pool + 1]["outputs"][0]
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    scale, zero_point = details[logits_index]["quantization"]

    def run(pixels):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels[None])
        interpreter.invoke()
        codes = interpreter.get_tensor(map_index).transpose(0, 3, 1, 2)
        logits = (interpreter.get_tensor(logits_index).ravel().astype(np.float64) - zero_point) * scale
        return torch.from_numpy(codes.astype(np.float32)), torch.from_numpy(logits).float()

    return run


@pytest.fixture(scope="module")
def random_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.tflite"
    path.write_bytes(mobilenetv2(size=64))
    return path


@pytest.fixture(scope="module")
def net(random_file):
    return QuantizedMobileNetV2.from_tflite(random_file).eval()


def picture(seed=0, size=64):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)


def tensor(pixels):
    return torch.tensor(pixels).permute(2, 0, 1)[None]


def test_codes_equal_those_of_litert(net, random_file):
    pixels = picture()
    codes, logits = litert(random_file)(pixels)
    assert len(codes.unique()) > 50
    with torch.no_grad():
        assert torch.equal(net.forward_map(tensor(pixels)), codes)
        torch.testing.assert_close(net.logits(tensor(pixels))[0], logits, rtol=1e-5, atol=0)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data/mobilenet_v2")
@pytest.mark.parametrize(("name", "label"), [("parrot.jpg", 89), ("cat.bmp", 286), ("owl.jpg", 83)])
def test_published_network_within_one_step_of_litert(name, label):
    image = pytest.importorskip("PIL.Image")
    path = SHARED / "mobilenet_v2_1.0_224_quant.tflite"
    pixels = np.asarray(image.open(SHARED / name).convert("RGB").resize((224, 224), image.BILINEAR))
    codes, logits = litert(path)(pixels)
    net = QuantizedMobileNetV2.from_tflite(path)
    with torch.no_grad():
        ours = net.forward_map(tensor(pixels))
        assert ours.shape == (1, 1280, 7, 7)
        assert ((ours - codes).abs() <= 1).float().mean() >= 0.99
        assert net.logits(tensor(pixels)).argmax() == logits.argmax() == label


def test_features_are_study_es(net):
    pixels = tensor(picture())
    codes = net.forward_map(pixels)
    torch.testing.assert_close(net(pixels), codes.mean((2, 3)) / 255)
    assert net(pixels).shape == (1, net.num_features)


def test_dequantized_features_are_in_relu6s_range(net, random_file):
    pixels = tensor(picture())
    real = QuantizedMobileNetV2.from_tflite(random_file, dequantize=True)(pixels)
    torch.testing.assert_close(real, net(pixels) * 6, rtol=1e-5, atol=1e-6)


def test_normalised_float_and_uint8_are_the_same_input(net):
    from lightning_har.nets.preprocess import normalize
    from lightning_har.spec import InputSpec

    spec = InputSpec(1, (64, 64), net.value_range, net.mean, net.std)
    clip = tensor(picture())[:, :, None]
    normalised = normalize(clip, spec)[:, :, 0]
    assert torch.equal(net(normalised), net(clip[:, :, 0]))


@pytest.mark.parametrize("size", [32, 33, 50, 63])
def test_any_size_gives_a_map_of_a_32nd(net, size):
    assert net.forward_map(tensor(picture(size=size))).shape[2:] == (-(-size // 32),) * 2


def test_state_round_trips_and_starts_without_a_file(net):
    copy = mobilenetv2_quant(False)
    copy.load_state_dict(net.state_dict())
    pixels = tensor(picture(3))
    assert torch.equal(copy(pixels), net(pixels))
    assert torch.equal(pickle.loads(pickle.dumps(copy))(pixels), net(pixels))
    assert not list(net.parameters())


def test_lower_precision_leaves_the_integers_alone(net, random_file):
    pixels = tensor(picture(4))
    expected = net.forward_map(pixels)
    assert torch.equal(QuantizedMobileNetV2.from_tflite(random_file).bfloat16().forward_map(pixels), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net.forward_map(pixels), expected)


def test_convolution_sums_exactly_where_float32_would_not():
    """A layer whose sums pass 2^24: one more or less in the last place must still count."""
    layer = QuantizedConv2d(1280, 2)
    state = layer.state_dict()
    state["weight"] = torch.full((2, 1280, 1, 1), 255, dtype=torch.uint8)
    state["bias"] = torch.tensor([1, 0], dtype=torch.int32)
    state["multiplier_bits"] = torch.tensor(2.0**-19).view(torch.int32)
    layer.load_state_dict(state)
    assert layer.precision is torch.float64
    x = torch.full((1, 1280, 1, 1), 255.0)
    expected = torch.tensor(255 * 255 * 1280 / 2**19).round()
    assert torch.equal(layer(x).flatten(), expected.expand(2))
    state["weight"] = torch.full((2, 1280, 1, 1), 3, dtype=torch.uint8)
    layer.load_state_dict(state)
    assert layer.precision is torch.float32


def test_add_is_the_rounded_sum_of_real_values():
    layer = QuantizedAdd()
    ratios, zero_points = (0.75, 0.3), (10, 20, 5)
    layer.load_state_dict(
        {
            "factors": torch.tensor([round(r * 2**21) for r in ratios], dtype=torch.int32),
            "zero_points": torch.tensor(zero_points, dtype=torch.int32),
            "shift": torch.tensor(21, dtype=torch.int32),
        }
    )
    a = torch.arange(256.0).repeat(256).reshape(1, 1, 256, 256)
    b = a.transpose(2, 3)
    exact = (a.double() - 10) * 0.75 + (b.double() - 20) * 0.3 + 5
    assert ((layer(a, b) - exact.clamp(0, 255)).abs() <= 0.5 + 1e-3).all()


def test_same_padding_is_tensorflows():
    layer = QuantizedConv2d(1, 1, kernel=3, stride=2, depthwise=True)
    state = layer.state_dict()
    state["weight"] = torch.arange(9, dtype=torch.uint8).reshape(1, 1, 3, 3)
    state["multiplier_bits"] = torch.tensor(1.0).view(torch.int32)
    layer.load_state_dict(state)
    x = torch.randint(0, 3, (1, 1, 6, 7)).float()
    # Even sides get their one padded pixel at the end, odd sides one at each end.
    padded = F.pad(x, (1, 1, 0, 1))
    assert torch.equal(layer(x), F.conv2d(padded, state["weight"].float(), stride=2))


def test_bad_input_is_named(net, tmp_path):
    with pytest.raises(ConfigError, match=r"expected pixels \(N, 3, H, W\), got \(1, 2, 8, 8\)"):
        net(torch.zeros(1, 2, 8, 8))
    with pytest.raises(WeightsError, match=r"absent\.tflite cannot be read"):
        mobilenetv2_quant(tmp_path / "absent.tflite")
    path = tmp_path / "empty.tflite"
    path.write_bytes(Writer().file([], []))
    with pytest.raises(WeightsError, match="not a MobileNetV2 classifier"):
        mobilenetv2_quant(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": np.int8}, "is int8; expected uint8 codes with one scale. Use backbone='mobilenetv2_100'"),
        ({"quantization": None}, "is uint8; expected uint8 codes with one scale"),
        ({"scale": [0.1, 0.2]}, "is uint8 with a scale per channel"),
        ({"scale": [0.0]}, "has scale 0.0; it must be > 0"),
    ],
)
def test_another_quantization_is_refused(random_file, monkeypatch, change, message):
    model = read_tflite(random_file)
    index = model.operators[0].inputs[1]
    tensors = list(model.tensors)
    if "scale" in change:
        scale = np.float32(change["scale"])
        zero_point = np.zeros(len(scale), np.int64)
        change = {"quantization": dataclasses.replace(tensors[index].quantization, scale=scale, zero_point=zero_point)}
    tensors[index] = dataclasses.replace(tensors[index], **change)
    model = dataclasses.replace(model, tensors=tuple(tensors))
    monkeypatch.setattr(mobilenetv2_quant_module, "read_tflite", lambda path: model)
    with pytest.raises(WeightsError, match=re.escape(message)):
        QuantizedMobileNetV2.from_tflite(random_file)
