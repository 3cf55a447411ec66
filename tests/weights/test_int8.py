"""Weights in 8 bits: exact to read, never changed twice, a quarter of the size."""

import pytest
import torch
from hub_models import clip, tiny
from torch import nn

import lightning_har as har
from lightning_har.errors import WeightsError
from lightning_har.modules.pretrained import save
from lightning_har.weights.fetch import digests
from lightning_har.weights.hub import WEIGHTS
from lightning_har.weights.in_place import read_places
from lightning_har.weights.int8 import dequantize, matrices, quantize, round_weights, stored
from lightning_har.weights.safetensors_io import save_safetensors


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_HAR_CACHE", str(tmp_path / "har"))


def weights(*shape):
    generator = torch.Generator().manual_seed(0)
    sizes = 10.0 ** torch.randint(-6, 4, (shape[0], *(1,) * (len(shape) - 1)), generator=generator)
    return torch.randn(shape, generator=generator) * sizes


@pytest.mark.parametrize("shape", [(400, 30), (60, 4, 3, 3), (7, 1)])
def test_each_row_is_rounded_to_its_own_steps(shape):
    weight = weights(*shape)
    weight[3] = 0
    codes, scale = quantize(weight)
    assert (codes.dtype, codes.shape, scale.shape) == (torch.int8, weight.shape, weight.shape[:1])
    error = (dequantize(codes, scale) - weight).abs().flatten(1).amax(1)
    assert bool((error <= scale * 0.5001).all())
    steps = weight.abs().flatten(1).amax(1) / 127
    busy = steps > 0
    assert bool((scale[busy] / steps[busy] < 1.0001).all()), "no coarser than the row's range needs"
    assert bool((codes[3] == 0).all())


def test_rounded_weights_are_exact_and_stay():
    codes, scale = quantize(weights(2000, 17))
    rounded = dequantize(codes, scale)
    assert torch.equal(rounded.double(), codes.double() * scale.double()[:, None]), "the product needs no rounding"
    again, same = quantize(rounded)
    assert torch.equal(again, codes)
    assert torch.equal(same, scale)


def test_values_that_are_not_finite_are_refused():
    weight = weights(3, 3)
    weight[1, 1] = float("nan")
    with pytest.raises(WeightsError, match="NaN"):
        quantize(weight)
    with pytest.raises(WeightsError, match="no float matrices"):
        round_weights(nn.BatchNorm2d(3))


@pytest.fixture
def rounded():
    module = har.CNNRNNModule(4, backbone="test_resnet", pretrained=False, input_size=32, num_frames=3, hidden=64)
    module.class_names = ("run", "jump", "wave", "sit")
    round_weights(module.eval().net)
    return module


def test_a_checkpoint_in_8_bits_loads_to_the_bit(rounded, tmp_path):
    small = save(rounded, tmp_path / "int8", int8=True)
    large = save(rounded, tmp_path / "float")
    places = read_places(small / WEIGHTS)
    names = matrices(rounded.net)
    assert {"temporal.input.weight", "temporal.recurrent.weight", "head.fc.weight"} <= set(names)
    assert all(places[name].dtype is torch.int8 for name in names)
    assert (small / WEIGHTS).stat().st_size < 0.4 * (large / WEIGHTS).stat().st_size
    loaded = har.load(small)
    assert loaded.net.state_dict().keys() == rounded.net.state_dict().keys()
    for name, tensor in loaded.net.state_dict().items():
        assert torch.equal(tensor, rounded.net.state_dict()[name])
    assert torch.equal(loaded(clip()), rounded(clip()))
    assert digests(save(loaded, tmp_path / "again", int8=True) / WEIGHTS) == digests(small / WEIGHTS)


def test_a_new_head_on_8_bits(rounded, tmp_path):
    folder = save(rounded, tmp_path / "int8", int8=True)
    new = har.load(folder, num_classes=2)
    assert new.net.head.fc.out_features == 2
    assert torch.equal(new.net.temporal.input.weight, rounded.net.temporal.input.weight)
    features = har.load(folder, num_classes=0)
    assert torch.equal(features.net.temporal.input.weight, rounded.net.temporal.input.weight)


@pytest.mark.parametrize(
    ("scale", "told"),
    [(None, r"head\.fc\.weight: in 8 bits, without scale"), (torch.ones(3), r"head\.fc\.weight\.scale is .*\(3,\)"),
     (torch.ones(4).double(), "float64")],
)  # fmt: skip
def test_scales_that_are_missing_or_do_not_fit(tmp_path, monkeypatch, scale, told):
    module = tiny()
    state = stored(module.net)
    if scale is None:
        del state["head.fc.weight.scale"]
    else:
        state["head.fc.weight.scale"] = scale

    def write(tensors, path, metadata=None):
        save_safetensors(state, path, metadata)

    monkeypatch.setattr("lightning_har.modules.pretrained.save_safetensors", write)
    folder = save(module, tmp_path / "x")
    with pytest.raises(WeightsError, match=told):
        har.load(folder)
