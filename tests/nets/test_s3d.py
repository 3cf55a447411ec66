import pytest
import torch
from net_checks import export_difference, fill, parameters_without_gradient, wave
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_har.errors import ConfigError
from lightning_har.nets.i3d import I3D
from lightning_har.nets.s3d import S3D

V3 = [
    {"variant": "v3"},
    {"variant": "v3", "conv1x7": "inflated"},
    {"variant": "v3_top_heavy"},
    {"variant": "v3_top_heavy", "conv1x7": "inflated"},
]
ALL = [{"variant": "v1"}, V3[0], *(pytest.param(o, marks=pytest.mark.slow) for o in V3[1:])]


def ids(options):
    return "-".join(str(v) for v in options.values())


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.fixture(scope="module")
def v1():
    return fill(S3D("v1", 5))


def test_v1_is_torchvisions_s3d(v1):
    from torchvision.models.video import s3d

    theirs = s3d(num_classes=5).eval()
    theirs.load_state_dict(v1.state_dict())  # strict: every name and shape
    clip = wave(1, 3, 14, 209, 209)  # the least that torchvision's pool takes
    with torch.no_grad():
        assert (v1(clip) - theirs(clip)).abs().max() < 1e-4


def test_v1_golden(v1):
    golden = torch.tensor(GOLDEN)  # torchvision's s3d, the same weights, float64
    with torch.no_grad():
        torch.testing.assert_close(v1(wave(1, 3, 14, 209, 209))[0], golden, atol=1e-3, rtol=1e-3)


GOLDEN = [-0.124400, -0.193383, -0.106812, -0.129771, 0.060986]


def test_v3_trunk_has_the_shapes_of_table_1():
    # (T, H, W, C) going into each row, as printed; the last block's input is left out: the table gives 2048 channels
    # where Inception-v3's reduction leaves 1280
    table = {
        "Conv3d_1a": (64, 224, 224, 3),
        "Conv3d_2a": (32, 112, 112, 32),
        "Conv3d_2b": (32, 112, 112, 32),
        "MaxPool3d_3a": (32, 112, 112, 64),
        "Conv3d_3b": (16, 56, 56, 64),
        "Conv3d_4a": (16, 56, 56, 80),
        "MaxPool3d_5a": (16, 56, 56, 192),
        "Mixed_5b": (8, 28, 28, 192),
        "Mixed_6b": (3, 13, 13, 768),
        "Mixed_7b": (1, 6, 6, 1280),
    }
    for options in V3:
        seen = {}
        with torch.device("meta"):
            net = S3D(**options).eval()
            for name, layer in net.features.named_children():
                layer.register_forward_pre_hook(
                    lambda m, x, name=name, seen=seen: seen.update({name: tuple(x[0].shape)})
                )
            maps = net.forward_map(torch.empty(1, 3, 64, 224, 224))
        rows = {name: (*seen[name][2:], seen[name][1]) for name in table}
        assert rows == table, options
        assert tuple(maps.shape) == (1, 2048, 1, 6, 6)


def test_v3_blocks_have_inception_v3s_channels():
    """Every block's branches are as wide as torchvision's, conv by conv in 2D."""
    from torchvision.models import inception_v3

    theirs = inception_v3(weights=None, aux_logits=False, init_weights=False)
    ours = S3D("v3", aux_logits=False)
    for name in [n for n, _ in ours.features.named_children() if n.startswith("Mixed")]:
        flat = [m for m in ours.features.get_submodule(name).modules() if isinstance(m, nn.Conv3d)]
        spatial = sorted((m.in_channels, m.out_channels, *m.kernel_size[1:]) for m in flat if m.kernel_size[0] == 1)
        block = [m for m in theirs.get_submodule(name).modules() if isinstance(m, nn.Conv2d)]
        assert spatial == sorted((m.in_channels, m.out_channels, *m.kernel_size) for m in block), name


def kernels(net):
    return {m.kernel_size for m in net.modules() if isinstance(m, nn.Conv3d)}


def test_1x7_factored_or_inflated():
    with torch.device("meta"):
        factored = kernels(S3D("v3", aux_logits=False))
        inflated = kernels(S3D("v3", aux_logits=False, conv1x7="inflated"))
    assert {(1, 1, 7), (1, 7, 1), (7, 1, 1)} <= factored
    assert {(7, 1, 7), (7, 7, 1)} & factored == set()
    assert {(7, 1, 7), (7, 7, 1)} <= inflated
    assert {(1, 1, 7), (1, 7, 1)} & inflated == set()


def test_top_heavy_grows_in_time_only_after_layer_9():
    with torch.device("meta"):
        layers = list(S3D("v3_top_heavy").features.children())
    assert len(layers) == 18
    grown = [i for i, layer in enumerate(layers, 1) if any(k[0] > 1 for k in kernels(layer))]
    assert grown == list(range(10, 19))


def test_parameters():
    """Counts, so that they cannot drift; torchvision publishes the first."""
    with torch.device("meta"):
        assert count(S3D("v1")) == 8_320_048
        assert count(S3D("v3", aux_logits=False)) == 31_370_992
        assert count(S3D("v3", aux_logits=False, conv1x7="inflated")) == 62_811_248
        assert count(S3D("v3_top_heavy", aux_logits=False)) == 31_088_752


def test_v1_saves_about_30_percent_of_i3d():
    """Claim 3's parameters, and the multiply-adds at 64×224×224."""
    costs = {}
    with torch.device("meta"):
        clip = torch.empty(1, 3, 64, 224, 224)
        for name, net in {"i3d": I3D(), "s3d": S3D("v1")}.items():
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                net.eval()(clip)
            costs[name] = (count(net), counter.get_total_flops())
    for i3d, s3d in zip(costs["i3d"], costs["s3d"], strict=True):
        assert 0.6 < s3d / i3d < 0.7


@pytest.mark.parametrize("options", ALL, ids=ids)
def test_sizes_features_and_heads(options):
    least = (8, 32, 40) if options["variant"] == "v1" else (49, 49, 49)
    more = (17, 48, 32) if options["variant"] == "v1" else (50, 49, 57)
    net = S3D(**options, num_classes=5).eval()
    bare = S3D(**options, num_classes=0).eval()
    bare.load_state_dict({k: v for k, v in net.state_dict().items() if k.startswith("features.")})
    with torch.no_grad():
        for shape in (least, more):
            clip = torch.randn(1, 3, *shape)
            assert net(clip).shape == (1, 5)
            features = net.forward_features(clip)
            assert features.shape == (1, net.num_features)
            torch.testing.assert_close(bare(clip), features)


@pytest.mark.parametrize("options", ALL, ids=ids)
def test_every_parameter_gets_a_gradient(options):
    torch.manual_seed(0)
    net = S3D(**options, num_classes={"verb": 3, "noun": 2}).train()
    shape = (8, 64, 64) if options["variant"] == "v1" else (49, 49, 49)
    clip = torch.randn(2, 3, *shape)
    outputs = [net(clip)] if net.aux is None else net.forward_with_aux(clip)
    assert all(set(o) == {"verb", "noun"} for o in outputs)
    loss = sum(x.square().sum() for o in outputs for x in o.values())
    assert parameters_without_gradient(net, loss) == []


def test_auxiliary_logits_come_with_the_same_logits():
    net = S3D("v3", 5).eval()
    clip = torch.randn(1, 3, 49, 49, 49)
    with torch.no_grad():
        logits, aux = net.forward_with_aux(clip)
        torch.testing.assert_close(logits, net(clip))
    assert aux.shape == (1, 5)
    with pytest.raises(ConfigError, match="aux_logits=True"):
        S3D("v3", 5, aux_logits=False).forward_with_aux(clip)


def test_v1_exports_with_a_free_batch(v1):
    assert export_difference(v1, torch.randn(2, 3, 8, 32, 32), torch.randn(3, 3, 8, 32, 32)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("options", V3[:3], ids=ids)
def test_v3_exports_with_a_free_batch(options):
    net = S3D(**options, num_classes=5)
    assert export_difference(net, torch.randn(2, 3, 49, 49, 49), torch.randn(3, 3, 49, 49, 49)) < 1e-4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"variant": "v2"}, ["'v2'", "v3_top_heavy"]),
        ({"variant": "v3", "conv1x7": "split"}, ["conv1x7", "'inflated'"]),
        ({"variant": "v1", "aux_logits": True}, ["aux_logits", "'v3'"]),
        ({"variant": "v3", "aux_logits": True, "num_classes": 0}, ["num_classes is 0"]),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ConfigError) as error:
        S3D(**arguments)
    assert [w for w in words if w not in str(error.value)] == []


@pytest.mark.parametrize(
    ("variant", "shape", "words"),
    [
        ("v1", (1, 3, 7, 32, 32), ["at least 8 frames", "has 7"]),
        ("v1", (1, 2, 8, 32, 32), ["3 channels", "has 2"]),
        ("v3", (1, 3, 48, 64, 64), ["at least 49 frames", "has 48"]),
        ("v3", (3, 64, 64, 64), ["rank 5", "rank 4"]),
        ("v3", (1, 3, 49, 48, 64), ["49×49", "48×64"]),
    ],
)
def test_bad_clips_are_refused_in_words(variant, shape, words):
    with pytest.raises(ConfigError) as error:
        S3D(variant, 2)(torch.zeros(shape))
    assert [w for w in ["S3D", *words] if w not in str(error.value)] == []
