import importlib

import pytest
import torch
from net_checks import export_difference, fill, parameters_without_gradient, wave

from lightning_har.errors import ConfigError, WeightsError
from lightning_har.nets.pytorchvideo import MODELS, PyTorchVideoNet, build_pytorchvideo, from_published

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # pytorchvideo still calls torch.jit.script
QUICK = ("x3d_xs", "efficient_x3d_xs")
NAMES = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MODELS]


def theirs(name, **options):
    builder = getattr(importlib.import_module(f"pytorchvideo.models.hub.{MODELS[name].home}"), name)
    return fill(builder(pretrained=False, **options))


def without_softmax(net):
    if hasattr(net, "blocks"):
        net.blocks[-1].activation = None
    return net


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_pytorchvideos(name):
    other = without_softmax(theirs(name))
    net = PyTorchVideoNet(name, 400).eval()
    net.load_state_dict(from_published(other.state_dict()))  # strict: every name and shape
    own = MODELS[name]
    with torch.no_grad():
        for shape in [(own.frames, own.size, own.size), (own.frames, own.size + 32, own.size + 40)]:
            clip = wave(1, 3, *shape)
            expected = other(clip)
            # deep networks filled by formula give logits in the hundreds: 1e-4 of the largest
            assert (net(clip) - expected).abs().max() < 1e-4 * max(1, expected.abs().max())


def test_golden():
    # pytorchvideo's x3d_xs without its softmax, the same weights, float64
    golden = torch.tensor([-0.127021, -0.126267, -0.030594, -0.131668, -0.036034])
    net = PyTorchVideoNet("x3d_xs", 5).eval()
    net.load_state_dict(from_published(theirs("x3d_xs", model_num_class=5).state_dict()))
    with torch.no_grad():
        torch.testing.assert_close(net(wave(1, 3, 4, 160, 160))[0], golden, atol=1e-3, rtol=1e-3)


def test_x3d_xs_as_published():
    net = PyTorchVideoNet("x3d_xs")
    assert sum(p.numel() for p in net.parameters()) == 3_794_274
    assert MODELS["x3d_xs"][1:4] == (4, 160, 12)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_heads(name):
    net = PyTorchVideoNet(name, {"verb": 3, "noun": 2}).eval()
    least = MODELS[name].min_frames
    with torch.no_grad():
        for shape in [(max(least, 2), 32, 40), (max(least, 5), 64, 48)]:
            clip = torch.randn(1, 3, *shape)
            assert {k: tuple(v.shape) for k, v in net(clip).items()} == {"verb": (1, 3), "noun": (1, 2)}
            assert net.forward_features(clip).shape == (1, net.num_features)
    bare = PyTorchVideoNet(name, 0).eval()
    bare.net.load_state_dict(net.net.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(bare(clip), net.forward_features(clip))


@pytest.mark.parametrize("name", NAMES)
def test_logits_not_probabilities_in_training_and_evaluation(name):
    net = fill(PyTorchVideoNet(name, 5))
    clip = torch.randn(1, 3, max(MODELS[name].min_frames, 4), 32, 32)
    with torch.no_grad():
        logits = net(clip)
    assert logits.min() < 0 or (logits.sum() - 1).abs() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name):
    torch.manual_seed(0)
    net = fill(PyTorchVideoNet(name, 5)).train()  # as built, some norms end a residual branch with a scale of zero
    clip = torch.randn(2, 3, max(MODELS[name].min_frames, 2), 64, 64)
    assert parameters_without_gradient(net, net(clip).square().sum()) == []


@pytest.mark.parametrize("name", NAMES)
def test_exports_with_a_free_batch(name):
    frames = max(MODELS[name].min_frames, 2)
    net = PyTorchVideoNet(name, 5)
    assert export_difference(net, torch.randn(2, 3, frames, 64, 64), torch.randn(3, 3, frames, 64, 64)) < 1e-4


def test_flow_has_two_channels():
    with torch.no_grad():
        assert PyTorchVideoNet("x3d_xs", 5, in_channels=2).eval()(torch.randn(1, 2, 4, 32, 32)).shape == (1, 5)
    with pytest.raises(ConfigError, match="3 channels only"):
        PyTorchVideoNet("efficient_x3d_xs", 5, in_channels=2)


def test_bad_input():
    with pytest.raises(ConfigError, match="nearest: x3d_xs"):
        build_pytorchvideo("x3d_xxs")
    with pytest.raises(WeightsError, match=r"X3D_XS\.pyth"):
        build_pytorchvideo("x3d_xs", pretrained=True)
    net = PyTorchVideoNet("r2plus1d_r50", 2)
    with pytest.raises(ConfigError, match="at least 4 frames"):
        net(torch.zeros(1, 3, 3, 32, 32))
    with pytest.raises(ConfigError, match="built for 3 channels"):
        net(torch.zeros(1, 2, 4, 32, 32))
    with pytest.raises(ConfigError, match="rank 5"):
        net(torch.zeros(3, 4, 32, 32))
