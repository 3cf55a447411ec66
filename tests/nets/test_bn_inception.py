import importlib.util

import pytest
import torch
from net_checks import export_difference, fill, parameters_without_gradient, wave

from lightning_har.errors import ConfigError, WeightsError
from lightning_har.nets.backbones import build_backbone
from lightning_har.nets.backbones.bn_inception import BNInception, bn_inception, from_published


@pytest.fixture(scope="module")
def net():
    return fill(BNInception(5))


def published_layout(net):
    """As the file has it: batch-norm tensors (1, C), no counters, the classifier called ``fc``."""
    out = {}
    for name, value in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        norm = name.rpartition(".")[0].endswith("_bn")
        out[name.replace("last_linear", "fc")] = value[None] if norm else value
    return out


def test_parameters_as_published():
    with torch.device("meta"):
        assert sum(p.numel() for p in BNInception(1000).parameters()) == 11_295_240


def test_logits_equal_the_public_conversion(net):
    spec = importlib.util.find_spec("pretrainedmodels")
    if spec is None:
        pytest.skip("pretrainedmodels is not installed")
    # its own __init__ imports data sets that need packages of their own: read the one file
    path = f"{next(iter(spec.submodule_search_locations))}/models/bninception.py"
    file = importlib.util.spec_from_file_location("bninception", path)
    module = importlib.util.module_from_spec(file)
    file.loader.exec_module(module)
    theirs = module.BNInception(5).eval()
    theirs.load_state_dict(net.state_dict())
    images = wave(2, 3, 224, 224)
    with torch.no_grad():
        assert (net(images) - theirs(images)).abs().max() < 1e-4


def test_golden(net):
    golden = torch.tensor(GOLDEN)  # pretrainedmodels' BNInception, the same weights, float64
    with torch.no_grad():
        torch.testing.assert_close(net(wave(1, 3, 224, 224))[0], golden, atol=1e-3, rtol=1e-3)


GOLDEN = [0.022597, -0.044186, -0.092786, -0.138602, -0.167367]


def test_published_names_and_shapes(net):
    state = published_layout(net)
    for name in (
        "conv1_7x7_s2.weight",
        "conv1_7x7_s2_bn.running_mean",
        "conv2_3x3_reduce.bias",
        "inception_3a_1x1.weight",
        "inception_3c_double_3x3_2_bn.weight",
        "inception_5b_pool_proj.weight",
        "fc.weight",
    ):
        assert name in state
    assert state["inception_3a_1x1_bn.weight"].shape == (1, 64)
    loaded = BNInception(5)
    loaded.load_state_dict(from_published(state))
    own = net.state_dict()
    assert all(torch.equal(v, own[k]) for k, v in loaded.state_dict().items() if "num_batches" not in k)
    with pytest.raises(RuntimeError, match=r"inception_9z\.weight"):
        BNInception(5).load_state_dict(from_published({**state, "inception_9z.weight": torch.zeros(1)}))


@pytest.mark.parametrize("channels", [3, 2])
def test_published_file_loads_by_path(net, tmp_path, channels):
    path = tmp_path / "bn_inception.pth"
    torch.save(published_layout(net), path)
    loaded = bn_inception(pretrained=str(path), in_channels=channels).eval()
    images = wave(1, 3, 64, 64)
    if channels == 3:
        with torch.no_grad():
            torch.testing.assert_close(loaded.forward_map(images), net.forward_features(images))
    first = loaded.net.conv1_7x7_s2.weight
    torch.testing.assert_close(first.sum(1), net.conv1_7x7_s2.weight.sum(1))


@pytest.mark.parametrize("channels", [3, 2])
def test_a_file_of_another_network(tmp_path, channels):
    path = tmp_path / "other.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=rf"{path} do not fit BNInception: \d+ missing: .* and \d+ more"):
        bn_inception(pretrained=str(path), in_channels=channels)


def test_as_a_backbone():
    backbone = build_backbone("bn_inception", pretrained=False, in_channels=10).eval()
    assert backbone.num_features == 1024
    assert (backbone.mean, backbone.std) == ((104.0, 117.0, 128.0), (1.0,))
    assert (backbone.value_range, backbone.channel_order, backbone.input_size) == ((0.0, 255.0), "bgr", (224, 224))
    with torch.no_grad():
        for size, side in (((64, 64), (2, 2)), ((96, 32), (3, 1))):
            images = torch.randn(2, 10, *size)
            assert backbone(images).shape == (2, 1024)
            assert backbone.forward_map(images).shape == (2, 1024, *side)


def test_every_parameter_gets_a_gradient(net):
    net = fill(BNInception(5)).train()
    assert parameters_without_gradient(net, net(torch.randn(2, 3, 64, 64)).square().sum()) == []


def test_exports_with_a_free_batch(net):
    assert export_difference(net, torch.randn(2, 3, 64, 64), torch.randn(3, 3, 64, 64)) < 1e-4


def test_bad_input(net):
    with pytest.raises(ConfigError, match="rank 4"):
        net(torch.zeros(3, 64, 64))
    with pytest.raises(ConfigError, match="built for 3 channels"):
        net(torch.zeros(1, 2, 64, 64))
    with pytest.raises(ConfigError, match="uint8"):
        net(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(ConfigError, match="multiples of 32; got 64×40"):
        net(torch.zeros(1, 3, 64, 40))
    with pytest.raises(WeightsError, match="9f5701afb96c8044"):
        bn_inception(pretrained=True)
