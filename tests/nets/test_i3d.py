import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bundle_writer import write_data_for_index
from hypothesis import given, settings
from hypothesis import strategies as st
from net_checks import export_difference, fill, parameters_without_gradient, wave

from lightning_har.errors import ConfigError, WeightsError
from lightning_har.nets.i3d import (
    I3D,
    SameMaxPool3d,
    Unit3D,
    from_googlenet,
    from_port_names,
    from_tf_names,
    same_padding,
)
from lightning_har.weights.tf_bundle import read_bundle, read_index

ROOT = Path(__file__).parents[2]
CHECKPOINTS = ROOT.parent / "shared/data/annotations/kinetics/i3d_checkpoints"


def plain_i3d():
    path = ROOT / "benchmarks/reference/i3d_explicit_pad.py"
    spec = importlib.util.spec_from_file_location("i3d_explicit_pad", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ExplicitPadI3D


@pytest.fixture(scope="module")
def net():
    return fill(I3D(5))


def test_parameters_as_published():
    with torch.device("meta"):
        assert sum(p.numel() for p in I3D().parameters()) == 12_697_264


@given(size=st.integers(1, 60), kernel=st.sampled_from([1, 2, 3, 7]), stride=st.sampled_from([1, 2]))
def test_same_padding_is_tensorflows(size, kernel, stride):
    outputs = -(-size // stride)
    total = max((outputs - 1) * stride + kernel - size, 0)
    front, back = same_padding(size, kernel, stride)
    assert (front, back) == (total // 2, total - total // 2)


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(3, 9), st.integers(3, 9)),
    shape=st.sampled_from(
        [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((3,) * 3, (1,) * 3)]
    ),
)
def test_max_pool_pads_same_and_padding_never_wins(sizes, shape):
    kernel, stride = shape
    x = -1 - torch.rand(1, 2, *sizes)  # negative: zeros would win
    pads = [p for s, k, n in zip(sizes, kernel, stride, strict=True) for p in [same_padding(s, k, n)]]
    padded = F.pad(x, [p for pair in reversed(pads) for p in pair], value=-torch.inf)
    expected = F.max_pool3d(padded, kernel, stride)
    assert torch.equal(SameMaxPool3d(kernel, stride)(x), expected)


@pytest.mark.parametrize("sizes", [(8, 8, 8), (7, 9, 8), (9, 7, 7)])
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (1, 1)])
def test_unit_pads_same(sizes, kernel, stride):
    unit = fill(Unit3D(2, 3, kernel, stride))
    x = wave(1, 2, *sizes)
    pads = [p for size in reversed(sizes) for p in same_padding(size, kernel, stride)]
    conv = F.conv3d(F.pad(x, pads), unit.conv3d.weight, stride=stride)
    torch.testing.assert_close(unit(x), F.relu(unit.bn(conv)))


def test_logits_equal_a_plain_implementation(net):
    plain = plain_i3d()(5).eval()
    plain.load_state_dict(net.state_dict())
    clip = wave(1, 3, 9, 193, 200)  # odd and even sizes; the least that the plain one's 2×7×7 pool takes
    with torch.no_grad():
        torch.testing.assert_close(net(clip), plain(clip), atol=1e-4, rtol=1e-4)


def test_golden(net):
    # from ExplicitPadI3D with the same weights
    golden = torch.tensor(GOLDEN)
    with torch.no_grad():
        torch.testing.assert_close(net(wave(1, 3, 9, 193, 200))[0], golden, atol=1e-3, rtol=1e-3)


GOLDEN = [-0.386894, -0.393891, -0.315396, -0.165654, -0.184206]


@pytest.mark.parametrize("shape", [(2, 3, 8, 32, 32), (1, 3, 17, 48, 80)])
def test_sizes_features_and_heads(net, shape):
    clip = torch.randn(shape)
    with torch.no_grad():
        assert net(clip).shape == (shape[0], 5)
        features = net.forward_features(clip)
        assert features.shape == (shape[0], net.num_features)
        head = net.logits["conv3d"]
        torch.testing.assert_close(net(clip), F.linear(features, head.weight.flatten(1), head.bias))
        trunk = I3D(0).eval()
        trunk.load_state_dict({k: v for k, v in net.state_dict().items() if not k.startswith("logits.")})
        torch.testing.assert_close(trunk(clip), features)


def test_named_heads_on_flow():
    net = I3D({"verb": 4, "noun": 7}, in_channels=2).eval()
    with torch.no_grad():
        logits = net(torch.randn(1, 2, 8, 32, 32))
    assert {name: tuple(x.shape) for name, x in logits.items()} == {"verb": (1, 4), "noun": (1, 7)}


def test_every_parameter_gets_a_gradient():
    torch.manual_seed(0)
    net = I3D(5).train()
    assert parameters_without_gradient(net, net(torch.randn(2, 3, 8, 64, 64)).square().sum()) == []


def test_exports_with_a_free_batch(net):
    assert export_difference(net, torch.randn(2, 3, 8, 32, 32), torch.randn(3, 3, 8, 32, 32)) < 1e-4


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        (torch.zeros(3, 8, 32, 32), ["rank 5", "rank 4"]),
        (torch.zeros(1, 2, 8, 32, 32), ["3 channels", "has 2", "axis 1"]),
        (torch.zeros(1, 3, 7, 32, 32), ["at least 8 frames", "has 7"]),
        (torch.zeros(1, 3, 8, 31, 40), ["32×32", "31×40"]),
        (torch.zeros(1, 3, 8, 32, 32, dtype=torch.uint8), ["uint8", "InputSpec"]),
    ],
)
def test_bad_clips_are_refused_in_words(net, clip, words):
    with pytest.raises(ConfigError) as error:
        net(clip)
    assert [w for w in ["I3D", *words] if w not in str(error.value)] == []


@pytest.mark.shared
@pytest.mark.skipif(not CHECKPOINTS.is_dir(), reason="needs ../shared")
@pytest.mark.parametrize(
    ("checkpoint", "channels", "classes", "scope"),
    [
        ("rgb_imagenet", 3, 400, "RGB/inception_i3d/"),
        ("flow_imagenet", 2, 400, "Flow/inception_i3d/"),
        ("rgb_scratch_kin600", 3, 600, ""),
    ],
)
def test_the_authors_checkpoints_fit(tmp_path, checkpoint, channels, classes, scope):
    index = CHECKPOINTS / checkpoint / "model.ckpt.index"
    written = write_data_for_index(index, tmp_path / "model.ckpt")
    state = from_tf_names(read_bundle(tmp_path / "model.ckpt", verify=False))
    net = I3D(classes, channels)
    net.load_state_dict(state)
    # every tensor of the checkpoint but the optimizer's lies in one place, and each place is the one that its name says
    own = {k: v.numpy() for k, v in net.state_dict().items() if "num_batches" not in k}
    scales = {k for k in own if k.endswith("bn.weight")}
    assert all((own[k] == 1).all() for k in scales)
    tensors = {name: array for name, array in written.items() if not name.endswith("/Momentum")}
    assert len(tensors) == len(read_index(index)) - sum(n.endswith("/Momentum") for n in written)
    assert len(tensors) == len(own) - len(scales)
    for name, place in {
        "Conv3d_1a_7x7/conv_3d/w": "Conv3d_1a_7x7.conv3d.weight",
        "Conv3d_2c_3x3/batch_norm/beta": "Conv3d_2c_3x3.bn.bias",
        "Mixed_3b/Branch_0/Conv3d_0a_1x1/batch_norm/moving_mean": "Mixed_3b.b0.bn.running_mean",
        "Mixed_4d/Branch_1/Conv3d_0a_1x1/batch_norm/moving_variance": "Mixed_4d.b1a.bn.running_var",
        "Mixed_4d/Branch_1/Conv3d_0b_3x3/conv_3d/w": "Mixed_4d.b1b.conv3d.weight",
        "Mixed_5b/Branch_2/Conv3d_0a_1x1/conv_3d/w": "Mixed_5b.b2a.conv3d.weight",
        "Mixed_5b/Branch_2/Conv3d_0a_3x3/conv_3d/w": "Mixed_5b.b2b.conv3d.weight",
        "Mixed_5c/Branch_2/Conv3d_0b_3x3/conv_3d/w": "Mixed_5c.b2b.conv3d.weight",
        "Mixed_5c/Branch_3/Conv3d_0b_1x1/conv_3d/w": "Mixed_5c.b3b.conv3d.weight",
        "Logits/Conv3d_0c_1x1/conv_3d/w": "logits.conv3d.weight",
        "Logits/Conv3d_0c_1x1/conv_3d/b": "logits.conv3d.bias",
    }.items():
        array = tensors[scope + name]
        expected = np.transpose(array, (4, 3, 0, 1, 2)) if name.endswith("/w") else array.ravel()
        np.testing.assert_array_equal(own[place], expected, err_msg=name)
    sums = sorted(float(np.sum(a, dtype=np.float64)) for a in tensors.values())
    ours = sorted(float(np.sum(a, dtype=np.float64)) for k, a in own.items() if k not in scales)
    np.testing.assert_allclose(sums, ours, rtol=1e-9, atol=1e-9)


def tf_tensors(classes=2):
    """The original's names written out by hand, as a checkpoint with one value per tensor."""
    tensors = {}

    def unit(name, kernel, cin, cout):
        tensors[f"RGB/inception_i3d/{name}/conv_3d/w"] = np.random.rand(kernel, kernel, kernel, cin, cout).astype("f4")
        for leaf in ("beta", "moving_mean", "moving_variance"):
            tensors[f"RGB/inception_i3d/{name}/batch_norm/{leaf}"] = np.random.rand(cout).astype("f4")

    unit("Conv3d_1a_7x7", 7, 3, 64)
    unit("Conv3d_2b_1x1", 1, 64, 64)
    unit("Conv3d_2c_3x3", 3, 64, 192)
    for block, cin, c in [
        ("3b", 192, (64, 96, 128, 16, 32, 32)),
        ("3c", 256, (128, 128, 192, 32, 96, 64)),
        ("4b", 480, (192, 96, 208, 16, 48, 64)),
        ("4c", 512, (160, 112, 224, 24, 64, 64)),
        ("4d", 512, (128, 128, 256, 24, 64, 64)),
        ("4e", 512, (112, 144, 288, 32, 64, 64)),
        ("4f", 528, (256, 160, 320, 32, 128, 128)),
        ("5b", 832, (256, 160, 320, 32, 128, 128)),
        ("5c", 832, (384, 192, 384, 48, 128, 128)),
    ]:
        unit(f"Mixed_{block}/Branch_0/Conv3d_0a_1x1", 1, cin, c[0])
        unit(f"Mixed_{block}/Branch_1/Conv3d_0a_1x1", 1, cin, c[1])
        unit(f"Mixed_{block}/Branch_1/Conv3d_0b_3x3", 3, c[1], c[2])
        unit(f"Mixed_{block}/Branch_2/Conv3d_0a_1x1", 1, cin, c[3])
        odd = "0a" if block == "5b" else "0b"
        unit(f"Mixed_{block}/Branch_2/Conv3d_{odd}_3x3", 3, c[3], c[4])
        unit(f"Mixed_{block}/Branch_3/Conv3d_0b_1x1", 1, cin, c[5])
    tensors["RGB/inception_i3d/Logits/Conv3d_0c_1x1/conv_3d/w"] = np.random.rand(1, 1, 1, 1024, classes).astype("f4")
    tensors["RGB/inception_i3d/Logits/Conv3d_0c_1x1/conv_3d/b"] = np.random.rand(classes).astype("f4")
    return tensors


def test_tensorflow_names_all_find_their_place():
    tensors = tf_tensors()
    net = I3D(2)
    net.load_state_dict(from_tf_names(tensors))
    odd = tensors["RGB/inception_i3d/Mixed_5b/Branch_2/Conv3d_0a_3x3/conv_3d/w"]
    torch.testing.assert_close(net.Mixed_5b.b2b.conv3d.weight[3, 5, 0, 1, 2].item(), float(odd[0, 1, 2, 5, 3]))


def test_tensorflow_tensors_left_over_or_missing_are_named():
    tensors = tf_tensors()
    for name, words in {
        "RGB/inception_i3d/Mixed_3b/Branch_0/Conv3d_9z_1x1/conv_3d/w": "Conv3d_9z_1x1",
        "global_step": "global_step",
    }.items():
        with pytest.raises(WeightsError, match=words):
            from_tf_names({**tensors, name: np.zeros((1, 1, 1, 1, 1), "f4")})
    name = "RGB/inception_i3d/Mixed_4c/Branch_1/Conv3d_0b_3x3/conv_3d/w"
    with pytest.raises(WeightsError, match=r"missing \['Mixed_4c\.b1b\.conv3d\.weight'\]"):
        from_tf_names({k: v for k, v in tensors.items() if k != name})
    with pytest.raises(WeightsError, match=r"Mixed_4c\.b1b\.conv3d\.weight has shape"):
        from_tf_names({**tensors, name: tensors[name][:2]})


def test_the_ports_layout_loads_as_it_is(net):
    state = net.state_dict()
    for name in ("Conv3d_1a_7x7.conv3d.weight", "Mixed_3b.b1a.bn.running_mean", "logits.conv3d.weight"):
        assert name in state
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    loaded = I3D(5)
    loaded.load_state_dict(from_port_names(old))
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in old.items())
    with pytest.raises(WeightsError, match=r"Mixed_3b\.b0\.extra"):
        from_port_names({**old, "Mixed_3b.b0.extra": torch.zeros(1)})
    with pytest.raises(WeightsError, match="not an Inception-v1 I3D"):
        from_port_names({"fc.weight": torch.zeros(1)})


def test_inflated_googlenet_on_a_still_clip_gives_googlenets_features():
    """Claim 6 against torchvision, which pads its first layer evenly where 'SAME' does not: see below."""
    from torchvision.models import googlenet

    net2d = fill(googlenet(num_classes=10, aux_logits=False, init_weights=False))
    state = from_googlenet({**net2d.state_dict(), "aux1.conv.conv.weight": torch.zeros(1)})
    net3d = I3D(10).eval()
    net3d.load_state_dict(state)
    # With a zero first row and column, 'SAME' (2 before, 3 after) on the image equals 3 and 3 on the image without
    # them, so both networks see the same.
    image = wave(1, 3, 32, 32)
    image[:, :, 0], image[:, :, :, 0] = 0, 0
    maps = {}
    net2d.inception5b.register_forward_hook(lambda *args: maps.update(out=args[2]))
    with torch.no_grad():
        net2d(image[:, :, 1:, 1:])
        clip = image.unsqueeze(2).expand(-1, -1, 112, -1, -1)
        maps3d = net3d.forward_map(clip)  # 99 frames meet in one position, so the middle is clear of the border
    scale = maps["out"].abs().max()
    assert (maps3d[:, :, 7] - maps["out"]).abs().max() < 1e-4 * scale
    assert (maps3d[:, :, 0] - maps["out"]).abs().max() > 1e-2 * scale  # the border does differ


def test_googlenet_tensors_left_over_are_named():
    from torchvision.models import googlenet

    state = googlenet(num_classes=10, aux_logits=False, init_weights=False).state_dict()
    with pytest.raises(WeightsError, match=r"inception3a\.branch9"):
        from_googlenet({**state, "inception3a.branch9.conv.weight": torch.zeros(1, 1, 1, 1)})
