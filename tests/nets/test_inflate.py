import pytest
import timm
import torch
from net_checks import export_difference, fill, parameters_without_gradient, wave
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_har.errors import ConfigError, WeightsError
from lightning_har.nets.inflate import I3DResNet, InflatedNet, PerFrame, from_mmaction2, inflate, inflate_weight

# Name, layers that grow, and frames enough that the middle one is clear of the zeros beyond both ends:
# 1 + the sum of (kernel - 1) over the deepest path.
STILL = [
    ("resnet18", None, 41),
    ("resnet50", None, 41),
    ("densenet121", ["*denseblock4*"], 33),
    ("seresnet18", None, 41),
    ("mobilenetv2_100", None, 43),
    *(
        pytest.param(*values, marks=pytest.mark.slow)
        for values in [
            ("densenet121", None, 125),
            ("seresnet50", None, 41),
            ("legacy_seresnet18", None, 41),
            ("resnet50d", None, 45),  # average pools on its shortcuts, a deep stem
            ("tf_efficientnet_lite0", None, 61),  # TensorFlow's padding
        ]
    ),
]


def randomised(name):
    """A 2D network whose norms are not the identity, nor zero at the end of a residual branch as timm's are."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return net


@pytest.mark.parametrize(("name", "grow", "frames"), STILL)
def test_a_still_clip_gives_the_2d_networks_features(name, grow, frames):
    """Claim 6."""
    net2d = randomised(name)
    net3d = inflate(net2d, grow=grow)
    frame = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = net2d.forward_features(frame)
        maps = net3d.forward_features(frame.unsqueeze(2).expand(-1, -1, frames, -1, -1))
    assert maps.shape == (*expected.shape[:2], frames, *expected.shape[2:])
    scale = expected.abs().max()
    assert (maps[:, :, frames // 2] - expected).abs().max() < 1e-5 * scale
    assert (maps[:, :, 0] - expected).abs().max() > 1e-2 * scale  # the border does differ


def test_the_2d_network_is_left_alone():
    net2d = randomised("resnet18")
    before = {k: v.clone() for k, v in net2d.state_dict().items()}
    net3d = inflate(net2d)
    net3d.train()(torch.randn(2, 3, 2, 32, 32)).sum().backward()
    assert isinstance(net2d.conv1, nn.Conv2d)
    assert all(torch.equal(v, before[k]) for k, v in net2d.state_dict().items())
    assert net3d.state_dict().keys() == before.keys()


def test_one_frame_and_no_growth_is_the_2d_network():
    net2d = randomised("mobilenetv2_100")
    net3d = inflate(net2d, grow=())
    x = torch.randn(2, 3, 48, 32)
    with torch.no_grad():
        torch.testing.assert_close(net3d(x.unsqueeze(2)), net2d(x), atol=1e-5, rtol=1e-4)


def test_inflate_weight():
    weight = torch.arange(16.0).reshape(2, 2, 2, 2)
    grown = inflate_weight(weight, 3)
    assert grown.shape == (2, 2, 3, 2, 2)
    torch.testing.assert_close(grown.sum(2), weight)
    torch.testing.assert_close(grown[:, :, 0], weight / 3)
    with pytest.raises(ConfigError, match="rank 4"):
        inflate_weight(grown, 3)


def sizes(net):
    return {n: m.kernel_size for n, m in net.named_modules() if isinstance(m, nn.Conv3d)}


def test_which_layers_grow():
    net2d = timm.create_model("resnet18", num_classes=0)
    every = sizes(inflate(net2d))
    assert every["conv1"] == (7, 7, 7)
    assert every["layer1.0.conv1"] == (3, 3, 3)
    assert every["layer2.0.downsample.0"] == (1, 1, 1)
    some = sizes(inflate(net2d, grow=["layer4.*"], time_kernel=5))
    assert {n for n, k in some.items() if k[0] == 5} == {n for n in some if n.startswith("layer4.")}
    called = sizes(inflate(net2d, grow=lambda name: name == "conv1"))
    assert [n for n, k in called.items() if k[0] > 1] == ["conv1"]
    named = sizes(inflate(net2d, time_kernel={"conv1": 5, "layer?.0.conv1": 3}))
    assert {n: k[0] for n, k in named.items() if k[0] > 1} == {"conv1": 5} | {
        f"layer{i}.0.conv1": 3 for i in range(1, 5)
    }


def test_strides_in_time():
    net = inflate(timm.create_model("resnet18", num_classes=0), time_stride={"conv1": 2, "maxpool": 2})
    with torch.no_grad():
        assert net.eval().forward_features(torch.randn(1, 3, 8, 32, 32)).shape == (1, 512, 2, 1, 1)


def test_squeeze_and_excitation_looks_at_one_frame():
    net = inflate(timm.create_model("seresnet18", num_classes=0))
    assert sum(isinstance(m, PerFrame) for m in net.modules()) == 8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"time_kernel": 2}, ["conv1", "2", "odd"]),
        ({"grow": ["layer9.*"]}, ["layer9.*", "conv1"]),
        ({"time_stride": {"pool": 2}}, ["'pool'", "maxpool"]),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ConfigError) as error:
        inflate(timm.create_model("resnet18", num_classes=0), **arguments)
    assert [w for w in words if w not in str(error.value)] == []


@pytest.mark.parametrize(
    "backbone",
    ["resnet18", "seresnet18", "mobilenetv2_100", pytest.param("densenet121", marks=pytest.mark.slow)],
)
def test_inflated_net(backbone):
    torch.manual_seed(0)
    net = fill(InflatedNet(backbone, {"verb": 3, "noun": 2}, in_channels=2)).train()
    logits = net(torch.randn(2, 2, 3, 32, 32))
    assert {k: v.shape[1] for k, v in logits.items()} == {"verb": 3, "noun": 2}
    assert parameters_without_gradient(net, sum(x.square().sum() for x in logits.values())) == []
    bare = InflatedNet(backbone, 0, in_channels=2).eval()
    bare.net.load_state_dict(net.net.state_dict())
    with torch.no_grad():
        features = bare(torch.randn(1, 2, 4, 32, 48))
    assert features.shape == (1, net.num_features)


def test_unknown_backbone():
    with pytest.raises(ConfigError, match=r"no backbone 'resnet51'; nearest: .*resnet50"):
        InflatedNet("resnet51")
    with pytest.raises(ConfigError, match="'bn_inception' cannot be inflated"):
        InflatedNet("bn_inception", pretrained=True)


def test_i3d_resnet50_has_the_published_cost():
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        net = I3DResNet().eval()
        maps = net.forward_map(torch.empty(1, 3, 32, 256, 256))
        net.head(maps.mean((2, 3, 4)))
    assert sum(p.numel() for p in net.parameters()) == 28_043_472  # mmaction2: 28.0 M
    assert tuple(maps.shape) == (1, 2048, 4, 8, 8)
    assert abs(counter.get_total_flops() / 2e9 / 43.5 - 1) < 0.01  # mmaction2: 43.5 G with norms and activations


def test_i3d_resnet_sizes_and_gradients():
    torch.manual_seed(0)
    net = fill(I3DResNet(50, 5)).train()  # as built, timm's residual branches end in a scale of zero
    assert parameters_without_gradient(net, net(torch.randn(2, 3, 8, 64, 64)).square().sum()) == []
    with torch.no_grad():
        assert net.eval()(torch.randn(1, 3, 8, 32, 40)).shape == (1, 5)
        assert net.forward_features(torch.randn(1, 3, 17, 64, 33)).shape == (1, 2048)
    with pytest.raises(ConfigError, match="at least 8 frames"):
        net(torch.zeros(1, 3, 7, 32, 32))
    with pytest.raises(ConfigError, match="depth is 18"):
        I3DResNet(18)


def test_golden():
    # resnet18 in 2D, the same filters, on the repeated frame: independent of inflation
    net2d = fill(timm.create_model("resnet18", num_classes=0))
    frame = wave(1, 3, 32, 32)
    with torch.no_grad():
        maps = inflate(net2d).forward_features(frame.unsqueeze(2).repeat(1, 1, 41, 1, 1))
    torch.testing.assert_close(maps[0, :5, 20, 0, 0], torch.tensor(GOLDEN), atol=1e-3, rtol=1e-3)


GOLDEN = [0.331800, 0.101945, 0.275030, 0.0, 0.596939]


def test_inflated_resnet_exports_with_a_free_batch():
    net = InflatedNet("resnet18", 3)
    assert export_difference(net, torch.randn(2, 3, 4, 32, 32), torch.randn(3, 3, 4, 32, 32)) < 1e-4


def mmaction2_names(net):
    """The names of mmaction2's ConvModules, written from timm's."""
    out = {}
    for name, value in net.state_dict().items():
        if name.startswith("head.fc."):
            out[name.replace("head.fc", "cls_head.fc_cls")] = value
            continue
        *parents, unit, leaf = name.removeprefix("net.").split(".")
        if "downsample" in parents:
            kind = {"0": "conv", "1": "bn"}[unit]
            out[".".join(["backbone", *parents, kind, leaf])] = value
        else:
            kind = unit.rstrip("0123456789")
            out[".".join(["backbone", *parents, f"conv{unit[-1]}", kind, leaf])] = value
    return out


def test_mmaction2s_checkpoint_fits():
    net = fill(I3DResNet(50, 4))
    state = mmaction2_names(net)
    shapes = {k: tuple(v.shape) for k, v in state.items()}
    # as its config says: the stem 5×7×7; 3×1×1 in all, every other, every other and the middle block
    assert shapes["backbone.conv1.conv.weight"] == (64, 3, 5, 7, 7)
    for stage, grown in enumerate([(1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0)], 1):
        for block, three in enumerate(grown):
            shape = shapes[f"backbone.layer{stage}.{block}.conv1.conv.weight"]
            assert shape[2:] == ((3 if three else 1), 1, 1)
    assert shapes["backbone.layer3.0.downsample.bn.running_var"] == (1024,)
    with torch.device("meta"):
        loaded = I3DResNet(50, 4)
    extra = {"data_preprocessor.mean": torch.zeros(3, 1, 1, 1)}
    loaded.load_state_dict(from_mmaction2({**state, **extra}), assign=True)
    own = net.state_dict()
    assert all(torch.equal(v, own[k]) for k, v in loaded.state_dict().items())
    with pytest.raises(WeightsError, match=r"layer1\.9"):
        from_mmaction2({**state, "backbone.layer1.9.conv1.conv.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="neck"):
        from_mmaction2({**state, "neck.weight": torch.zeros(1)})
    del state["backbone.layer2.1.conv3.bn.bias"]
    with pytest.raises(WeightsError, match=r"layer2\.1\.bn3\.bias"):
        from_mmaction2(state)
