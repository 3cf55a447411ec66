"""TSN's consensus and snippets, TSM's shift."""

import pytest
import timm
import torch
from torch import nn

from lightning_har.errors import ConfigError
from lightning_har.nets.backbones import build_backbone
from lightning_har.nets.tsn import TSN, TemporalShift, add_temporal_shift


class Mean(nn.Module):
    """A stand-in backbone: the mean of each channel is its feature."""

    def __init__(self, channels=3):
        super().__init__()
        self.num_features = channels

    def forward(self, x):
        return x.mean((2, 3))


@pytest.fixture
def video():
    return torch.randn(2, 3, 6, 4, 4, generator=torch.Generator().manual_seed(0))


def test_a_causal_shift_takes_from_the_frame_before_alone():
    shift = TemporalShift(nn.Identity(), num_segments=3, causal=True)
    x = torch.arange(1, 25, dtype=torch.float32).view(3, 8, 1, 1)
    out = shift(x)[:, :, 0, 0]
    assert out[:, 0].tolist() == [0, 1, 9]
    assert torch.equal(out[:, 1:], x[:, 1:, 0, 0])


@pytest.mark.parametrize("consensus", ["avg", "max", "weighted"])
def test_consensus_is_over_logits(consensus, video):
    net = TSN(Mean(), 5, num_segments=6, consensus=consensus).eval()
    logits = torch.stack([net.head(video[:, :, t].mean((2, 3))) for t in range(6)], 1)
    expected = logits.amax(1) if consensus == "max" else logits.mean(1)
    torch.testing.assert_close(net(video), expected)


def test_weighted_consensus_with_other_segments(video):
    net = TSN(Mean(), 5, num_segments=2, consensus="weighted").eval()
    net.segment_weight.data = torch.tensor([0.0, 100.0])  # all weight on the second half
    late = torch.cat((torch.zeros_like(video[:, :, :3]), video[:, :, 3:]), 2)
    assert not torch.allclose(net(video), net(late), atol=1e-3)  # interpolation reaches over the middle
    early = video.clone()
    early[:, :, 0] = 7.0  # before the first segment's centre nothing but the first weight, which is 0
    torch.testing.assert_close(net(video), net(early))
    net.segment_weight.data = torch.zeros(2)
    torch.testing.assert_close(net(video), TSN._consensus(net, net.head(net.segment_features(video))))
    x = torch.ones(1, 6, 5)
    torch.testing.assert_close(net._consensus(x), x[:, 0])  # weights sum to 1


def test_snippets_stack_in_time_order():
    video = torch.arange(12.0).view(1, 1, 12, 1, 1).expand(1, 2, 12, 2, 2)
    net = TSN(Mean(6), 0, snippet_length=3)
    assert net.segment_features(video)[0].tolist() == [[s, s, s + 1, s + 1, s + 2, s + 2] for s in (0, 3, 6, 9)]
    difference = TSN(Mean(4), 0, snippet_length=3, difference=True)
    assert difference.segment_features(video).unique().tolist() == [1.0]
    with pytest.raises(ConfigError, match="7 frames are not a whole number of snippets of 3"):
        net(torch.zeros(1, 2, 7, 2, 2))


def test_shift_moves_an_eighth_each_way():
    shift = TemporalShift(nn.Identity(), num_segments=4)
    x = torch.arange(1.0, 5.0).view(4, 1, 1, 1).expand(4, 8, 1, 1)
    out = shift(x)[:, :, 0, 0]
    assert out[:, 0].tolist() == [2, 3, 4, 0]  # from the frame after
    assert out[:, 1].tolist() == [0, 1, 2, 3]  # from the frame before
    assert (out[:, 2:] == x[:, 2:, 0, 0]).all()
    with pytest.raises(ConfigError, match="over 4 segments got 6 frames"):
        shift(torch.zeros(6, 8, 1, 1))


@pytest.mark.parametrize(("name", "blocks"), [("resnet18", 8), ("resnet50", 16), ("mobilenetv2_100", 10)])
def test_shift_goes_into_every_residual_block(name, blocks):
    assert add_temporal_shift(timm.create_model(name), 8) == blocks


def test_no_residual_blocks_no_shift():
    with pytest.raises(ConfigError, match="no residual blocks"):
        add_temporal_shift(timm.create_model("vgg11"), 8)


def test_unknown_backbone_names_the_nearest():
    with pytest.raises(ConfigError, match=r"nearest: .*resnet50"):
        build_backbone("resnet5o", pretrained=False)


def test_first_layer_takes_other_channels():
    backbone = build_backbone("resnet18", pretrained=False, in_channels=10).eval()
    assert backbone(torch.zeros(1, 10, 32, 32)).shape == (1, 512)


def test_cross_modality_weights_come_from_a_file(tmp_path):
    rgb = timm.create_model("resnet18")
    torch.save(rgb.state_dict(), tmp_path / "rgb.pth")
    flow = build_backbone("resnet18", pretrained=str(tmp_path / "rgb.pth"), in_channels=10)
    first, mean = flow.net.conv1.weight, rgb.conv1.weight.mean(1)
    for channel in range(10):
        torch.testing.assert_close(first[:, channel], mean * 0.3)
    torch.testing.assert_close(flow.net.layer4[1].conv2.weight, rgb.layer4[1].conv2.weight)


def test_cut_backbone():
    whole = build_backbone("mobilenetv2_100", pretrained=False).eval()
    cut = build_backbone("mobilenetv2_100", pretrained=False, cut_after="blocks.3").eval()
    assert cut.num_features == 64
    cut.net.load_state_dict({k: v for k, v in whole.net.state_dict().items() if k in cut.net.state_dict()})
    x = torch.randn(1, 3, 64, 64)
    expected = whole.net.blocks[:4](whole.net.bn1(whole.net.conv_stem(x)))
    torch.testing.assert_close(cut.forward_map(x), expected)
    torch.testing.assert_close(cut(x), expected.mean((2, 3)))
    assert not [n for n, _ in cut.named_parameters() if "blocks.4" in n or "head" in n]  # nothing is left behind
    # Modes set on each module, as a Trainer restores them after validation, are what the network runs in.
    for module in cut.modules():
        module.training = True
    before = cut.net.bn1.running_mean.clone()
    cut(x + 1)
    assert not torch.equal(cut.net.bn1.running_mean, before)
    with pytest.raises(ConfigError, match="inside a block"):
        build_backbone("mobilenetv2_100", pretrained=False, cut_after="blocks.3.0.conv_pw")
    with pytest.raises(ConfigError, match=r"nearest: .*blocks"):
        build_backbone("mobilenetv2_100", pretrained=False, cut_after="block.3")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bn_inception", {"cut_after": "inception_4a"}, "bn_inception cannot be cut, but cut_after is 'inception_4a'"),
        ("mobilenetv2_quant", {"cut_after": "net.3"}, "mobilenetv2_quant cannot be cut"),
        ("mobilenetv2_quant", {"in_channels": 10}, "mobilenetv2_quant takes RGB, not 10 channels"),
    ],
)
def test_what_a_backbone_cannot_is_refused_and_not_passed_over(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_backbone(name, pretrained=False, **options)
