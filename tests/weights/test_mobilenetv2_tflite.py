from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from tflite_writer import Writer, mobilenetv2

from lightning_har.errors import WeightsError
from lightning_har.weights.matching import strict_load
from lightning_har.weights.mobilenetv2_tflite import (
    BN_EPS,
    NUM_CLASSES,
    TIMM_ARGUMENTS,
    convolutions,
    input_range,
    mobilenetv2_state_dict,
)
from lightning_har.weights.tflite import Options, read_tflite

SHARED = Path(__file__).parents[3] / "shared" / "data" / "mobilenet_v2"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data/mobilenet_v2")


def build(path):
    net = timm.create_model("mobilenetv2_100", num_classes=NUM_CLASSES, **TIMM_ARGUMENTS).eval()
    assert strict_load(net, mobilenetv2_state_dict(path)) == []
    return net


def litert(path):
    interpreter_module = pytest.importorskip("ai_edge_litert.interpreter", reason="needs ai-edge-litert")
    interpreter = interpreter_module.Interpreter(str(path), experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()

    def run(pixels):
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels[None])
        interpreter.invoke()
        pool = next(op for op in interpreter._get_ops_details() if op["op_name"] == "AVERAGE_POOL_2D")
        return interpreter.get_tensor(pool["outputs"][0]).ravel().astype(float)

    return run


def features_and_logits(net, path, pixels):
    low, high = input_range(path)
    frames = torch.tensor(pixels).permute(2, 0, 1)[None] / 255 * (high - low) + low
    with torch.no_grad():
        return net.forward_features(frames).mean((2, 3))[0].numpy(), net(frames)[0]


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def random_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.tflite"
    path.write_bytes(mobilenetv2(size=64))
    return path


def test_random_weights_give_the_features_of_litert(random_file):
    """The mapping itself, at a size whose 'SAME' padding is uneven at every stride of 2."""
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    features, _ = features_and_logits(build(random_file), random_file, pixels)
    assert cosine(features, litert(random_file)(pixels)) > 0.999


def test_batch_norm_only_adds_the_bias(random_file):
    net = build(random_file)
    assert net.bn1.eps == BN_EPS
    x = torch.randn(2, 32, 3, 3)
    expected = (x + net.bn1.bias[:, None, None]).clamp(0, 6)
    torch.testing.assert_close(net.bn1(x), expected, rtol=1e-6, atol=1e-6)


def test_another_network_is_named_as_such(tmp_path):
    writer = Writer()
    image = writer.tensor("image", (1, 4), "uint8", scale=1.0)
    out = writer.tensor("out", (1, 4), "uint8", scale=1.0)
    writer.operator("SOFTMAX", [image], [out], 9, {0: ("f", 1.0)})
    path = tmp_path / "other.tflite"
    path.write_bytes(writer.file([image], [out]))
    with pytest.raises(WeightsError, match=r"not a MobileNetV2 classifier: expected 66 operators.*SOFTMAX"):
        mobilenetv2_state_dict(path)


@needs_shared
@pytest.mark.shared
@pytest.mark.parametrize("picture", ["parrot.jpg", "cat.bmp", "owl.jpg"])
def test_published_weights_see_what_litert_sees(picture):
    image = pytest.importorskip("PIL.Image")
    path = SHARED / "mobilenet_v2_1.0_224_quant.tflite"
    pixels = np.asarray(image.open(SHARED / picture).convert("RGB").resize((224, 224), image.BILINEAR))
    features, logits = features_and_logits(build(path), path, pixels)
    expected = json.loads((SHARED / "expected.json").read_text())["top3"][picture][0]["index"]
    assert logits.argmax() == expected
    assert cosine(features, litert(path)(pixels)) >= 0.995


@needs_shared
@pytest.mark.shared
def test_published_input_range():
    low, high = input_range(SHARED / "mobilenet_v2_1.0_224_quant.tflite")
    assert (low, high) == (-1.0, 127 / 128)


def altered(model, kind, **changes):
    """The model with its last operator of a kind changed."""
    operators = list(model.operators)
    at = max(i for i, operator in enumerate(operators) if operator.kind == kind)
    operators[at] = dataclasses.replace(operators[at], **changes)
    return dataclasses.replace(model, operators=tuple(operators))


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("DEPTHWISE_CONV_2D", {"options": Options("same", (2, 2), activation="relu6")}, "blocks.6.0.conv_dw has str"),
        ("DEPTHWISE_CONV_2D", {"options": Options("same", (1, 1))}, "MobileNetV2 has stride 1.*'relu6'"),
        ("CONV_2D", {"options": Options("valid")}, "classifier has stride, dilation, padding"),
        ("ADD", {"inputs": (0, 1)}, "operator ADD is not wired as in MobileNetV2"),
        ("SOFTMAX", {"outputs": ()}, "operator SOFTMAX is not wired"),
        ("CONV_2D", {"inputs": (0, 1, 2)}, "operator CONV_2D is not wired"),
    ],
)
def test_a_near_miss_is_refused(random_file, kind, changes, message):
    model = read_tflite(random_file)
    assert len(convolutions(model)) == 53
    with pytest.raises(WeightsError, match=message):
        convolutions(altered(model, kind, **changes))
