from __future__ import annotations

import numpy as np
import pytest
from tflite_writer import Writer, mobilenetv2

from lightning_har.errors import WeightsError
from lightning_har.weights.tflite import read_tflite


@pytest.fixture(scope="module")
def small_file():
    """A per-tensor 3×3 convolution and a per-channel depthwise one, the second with a multiplier of 2."""
    writer = Writer()
    image = writer.tensor("image", (1, 8, 9, 3), "uint8", scale=0.5, zero_point=7)
    codes = np.arange(4 * 3 * 3 * 3).reshape(4, 3, 3, 3)
    weight = writer.tensor("w", (4, 3, 3, 3), "uint8", codes, 0.25, 100)
    bias = writer.tensor("b", (4,), "int32", [1, -2, 3, -4], 0.125)
    hidden = writer.tensor("hidden", (1, 4, 3, 4), "uint8", scale=1.0)
    stride = {0: ("b", 0), 1: ("i", 3), 2: ("i", 2), 3: ("b", 3), 4: ("i", 1), 5: ("i", 1)}
    writer.operator("CONV_2D", [image, weight, bias], [hidden], 1, stride)
    channels = np.arange(8).reshape(1, 1, 1, 8) + 1
    scales = [1, 2, 3, 4, 5, 6, 7, 8]
    depthwise = writer.tensor("dw", (1, 1, 1, 8), "int8", channels, scales, np.arange(8), axis=3)
    out = writer.tensor("out", (1, 4, 3, 8), "uint8", scale=1.0)
    options = {0: ("b", 1), 1: ("i", 1), 2: ("i", 1), 3: ("i", 2), 4: ("b", 0)}
    writer.operator("DEPTHWISE_CONV_2D", [hidden, depthwise, -1], [out], 2, options)
    return writer.file([image], [out])


def write(tmp_path, data):
    path = tmp_path / "model.tflite"
    path.write_bytes(data)
    return path


def test_reads_tensors_operators_and_options(tmp_path, small_file):
    model = read_tflite(write(tmp_path, small_file))
    assert [tensor.name for tensor in model.tensors] == ["image", "w", "b", "hidden", "dw", "out"]
    assert [operator.kind for operator in model.operators] == ["CONV_2D", "DEPTHWISE_CONV_2D"]
    assert (model.inputs, model.outputs) == ((0,), (5,))
    image, weight, bias = (model.input_of(model.operators[0], i) for i in range(3))
    assert image.data is None
    assert image.shape == (1, 8, 9, 3)
    assert (image.quantization.scale.item(), image.quantization.zero_point.item()) == (0.5, 7)
    assert not image.quantization.per_channel
    assert weight.dtype is np.uint8
    np.testing.assert_array_equal(weight.dequantized().ravel(), (np.arange(108) - 100) * 0.25)
    np.testing.assert_array_equal(bias.dequantized(), [0.125, -0.25, 0.375, -0.5])
    first, second = (operator.options for operator in model.operators)
    assert (first.padding, first.stride, first.activation, first.dilation) == (
        "same",
        (2, 3),
        "relu6",
        (1, 1),
    )
    assert (second.padding, second.depth_multiplier, second.activation) == ("valid", 2, "none")


def test_per_channel_scales_apply_along_their_axis(tmp_path, small_file):
    model = read_tflite(write(tmp_path, small_file))
    tensor = model.input_of(model.operators[1], 1)
    assert tensor.quantization.per_channel
    # Every code is one above its zero point, so the real values are the scales.
    np.testing.assert_array_equal(tensor.dequantized().ravel(), [1, 2, 3, 4, 5, 6, 7, 8])


def test_left_out_input_is_an_error_when_asked_for(tmp_path, small_file):
    model = read_tflite(write(tmp_path, small_file))
    with pytest.raises(WeightsError, match="DEPTHWISE_CONV_2D has no input 2"):
        model.input_of(model.operators[1], 2)
    with pytest.raises(WeightsError, match="'image' is computed"):
        model.tensors[0].dequantized()


@pytest.mark.parametrize("large", [False, True])
def test_cut_anywhere_is_a_clear_error(tmp_path, small_file, large):
    data = mobilenetv2(size=32) if large else small_file
    for cut in np.linspace(0, len(data) - 16, 20).astype(int):
        path = write(tmp_path, data[:cut])
        with pytest.raises(WeightsError, match=r"model\.tflite"):
            read_tflite(path)


def test_flipped_bytes_never_escape_as_another_error(tmp_path, small_file):
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(600):
        data = bytearray(small_file)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            data[at] ^= 1 << int(rng.integers(8))
        try:
            model = read_tflite(write(tmp_path, bytes(data)))
        except WeightsError:
            refused += 1
        else:
            for tensor in model.tensors:
                if tensor.data is not None:
                    assert tensor.dequantized().shape == tensor.shape
    assert refused > 50


def test_missing_file_and_wrong_kind(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read: No such file"):
        read_tflite(tmp_path / "absent.tflite")
    with pytest.raises(WeightsError, match="is not a TensorFlow Lite file"):
        read_tflite(write(tmp_path, b"PK\x03\x04 this is a zip file"))
