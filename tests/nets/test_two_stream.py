import math

import pytest
import torch
from net_checks import parameters_without_gradient
from torch import nn

from lightning_har.errors import ConfigError
from lightning_har.nets.two_stream import TwoStream


class Tiny(nn.Module):
    """The least network: mean pixel to classes."""

    def __init__(self, channels, classes, named=False):
        super().__init__()
        self.num_features = channels
        self.fc = nn.Linear(channels, classes)
        self.named = named

    def forward_features(self, video):
        return video.mean((2, 3, 4))

    def forward(self, video):
        logits = self.fc(self.forward_features(video))
        return {"verb": logits, "noun": 2 * logits} if self.named else logits


@pytest.fixture
def video():
    torch.manual_seed(0)
    return {"rgb": torch.randn(2, 3, 4, 8, 8), "flow": torch.randn(2, 2, 6, 8, 8)}


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_logits_are_averaged_by_weight(video, weight):
    net = TwoStream(Tiny(3, 5), Tiny(2, 5), weight)
    expected = (1 - weight) * net.rgb(video["rgb"]) + weight * net.flow(video["flow"])
    torch.testing.assert_close(net(video), expected)


def test_golden_probabilities():
    # by hand: softmax (3/4, 1/4) and (1/4, 3/4), a quarter of the second: (5/8, 3/8)
    net = TwoStream(Tiny(3, 2), Tiny(2, 2), 0.25, "probabilities")
    rgb, flow = torch.tensor([[math.log(3) + 7, 7.0]]), torch.tensor([[0.0, math.log(3)]])
    torch.testing.assert_close(net.fuse(rgb, flow), torch.tensor([[5 / 8, 3 / 8]]).log())


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_ends_are_one_stream_alone_with_finite_gradients(video, weight):
    net = TwoStream(Tiny(3, 5), Tiny(2, 5), weight, "probabilities")
    alone = net.flow(video["flow"]) if weight else net.rgb(video["rgb"])
    torch.testing.assert_close(net(video).softmax(-1), alone.softmax(-1))
    nn.functional.cross_entropy(net(video), torch.tensor([0, 1])).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_named_heads_features_and_gradients(video, average):
    net = TwoStream(Tiny(3, 5, named=True), Tiny(2, 5, named=True), average=average)
    logits = net(video)
    assert {k: tuple(v.shape) for k, v in logits.items()} == {"verb": (2, 5), "noun": (2, 5)}
    assert net.forward_features(video).shape == (2, net.num_features) == (2, 5)
    assert parameters_without_gradient(net, logits["verb"].square().sum()) == []


def test_a_chosen_weight_is_saved():
    net, other = TwoStream(Tiny(3, 5), Tiny(2, 5)), TwoStream(Tiny(3, 5), Tiny(2, 5))
    net.set_weight(0.7)
    other.load_state_dict(net.state_dict())
    assert other.weight.item() == pytest.approx(0.7)


def test_exports(video):
    net = TwoStream(Tiny(3, 5), Tiny(2, 5)).eval()
    program = torch.export.export(net, (video,))
    torch.testing.assert_close(program.module()(video), net(video))


def test_bad_input(video):
    net = TwoStream(Tiny(3, 5), Tiny(2, 5))
    with pytest.raises(ConfigError, match=r"'rgb' and 'flow'; got \['rgb'\]"):
        net({"rgb": video["rgb"]})
    with pytest.raises(ConfigError, match="got Tensor"):
        net(video["rgb"])
    with pytest.raises(ConfigError, match="between 0"):
        net.set_weight(1.5)
    with pytest.raises(ConfigError, match="'max'"):
        TwoStream(Tiny(3, 5), Tiny(2, 5), average="max")
    with pytest.raises(ConfigError, match="same classes"):
        TwoStream(Tiny(3, 5), Tiny(2, 4))(video)
    with pytest.raises(ConfigError, match="different heads"):
        TwoStream(Tiny(3, 5, named=True), Tiny(2, 5))(video)
