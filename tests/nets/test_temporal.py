"""Temporal parts: the published thing, frame by frame as well as whole."""

import pytest
import torch
from torch import nn

from lightning_har.errors import ConfigError
from lightning_har.nets import temporal as parts
from lightning_har.nets.backbones import build_backbone
from lightning_har.nets.cnn_rnn import CNNRNN

T, D, H = 9, 12, 7


@pytest.fixture
def features():
    return torch.randn(3, T, D, generator=torch.Generator().manual_seed(0))


def test_gru_equals_torch(features):
    ours, theirs = parts.GRU(D, H).double(), nn.GRU(D, H, batch_first=True).double()
    theirs.weight_ih_l0.data.copy_(ours.input.weight)
    theirs.weight_hh_l0.data.copy_(ours.recurrent.weight)
    for bias in (ours.input.bias, ours.recurrent.bias):
        bias.data.normal_()
    theirs.bias_ih_l0.data.copy_(ours.input.bias)
    theirs.bias_hh_l0.data.copy_(ours.recurrent.bias)
    torch.testing.assert_close(ours(features.double()), theirs(features.double())[0][:, -1], atol=1e-6, rtol=0)


def test_gru_equals_torch_at_study_es_size_in_float32():
    """1280 features, 256 units, 25 frames; weights as they begin, biases that are not zero."""
    torch.manual_seed(0)
    ours, theirs = parts.GRU(1280, 256), nn.GRU(1280, 256, batch_first=True)
    for bias in (ours.input.bias, ours.recurrent.bias):
        nn.init.normal_(bias, std=0.1)
    theirs.weight_ih_l0.data.copy_(ours.input.weight)
    theirs.weight_hh_l0.data.copy_(ours.recurrent.weight)
    theirs.bias_ih_l0.data.copy_(ours.input.bias)
    theirs.bias_hh_l0.data.copy_(ours.recurrent.bias)
    features = torch.rand(4, 25, 1280)  # what a ReLU6 and a mean over space give
    with torch.no_grad():
        given, expected = ours(features), theirs(features)[0][:, -1]
    assert expected.std() > 0.1
    torch.testing.assert_close(given, expected, atol=1e-6, rtol=0)


def test_lstm_equals_torch(features):
    ours, theirs = parts.LSTM(D, H), nn.LSTM(D, H, batch_first=True)
    theirs.weight_ih_l0.data.copy_(ours.input.weight)
    theirs.weight_hh_l0.data.copy_(ours.recurrent.weight)
    ours.input.bias.data.normal_()
    # Two biases that add up to our one.
    theirs.bias_hh_l0.data.normal_()
    theirs.bias_ih_l0.data.copy_(ours.input.bias - theirs.bias_hh_l0)
    torch.testing.assert_close(ours(features), theirs(features)[0][:, -1], atol=1e-6, rtol=0)


def test_gru_that_resets_before_follows_its_equations(features):
    gru = parts.GRU(D, H, reset="before")
    w = gru.input.weight.chunk(3)
    u_reset, u_update = gru.recurrent.weight.chunk(2)
    h = torch.zeros(3, H)
    for t in range(T):
        x = features[:, t]
        r = torch.sigmoid(x @ w[0].T + h @ u_reset.T)
        z = torch.sigmoid(x @ w[1].T + h @ u_update.T)
        n = torch.tanh(x @ w[2].T + (r * h) @ gru.candidate.weight.T)
        h = z * h + (1 - z) * n
    torch.testing.assert_close(gru(features), h, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "part",
    [
        parts.GRU(D, H),
        parts.GRU(D, H, reset="before"),
        parts.LSTM(D, H),
        parts.Average(D),
        parts.Max(D),
        parts.ConvNet1D(D, causal=True),
    ],
    ids=lambda p: type(p).__name__,
)
def test_steps_equal_the_clip(part, features):
    part.eval()
    state = part.initial_state(3)
    for t in range(T):
        y, state = part.step(features[:, t], state)
        torch.testing.assert_close(y, part(features[:, : t + 1]), atol=1e-5, rtol=0)


def test_an_unpadded_convnet_does_not_stream():
    with pytest.raises(ConfigError, match="causal=True"):
        parts.ConvNet1D(D).initial_state(1)


def test_a_clip_too_short_for_the_convnet(features):
    with pytest.raises(ConfigError, match="at least 20 frames, got 9"):
        parts.ConvNet1D(D)(features)


def test_convlstm_parameters_and_small_maps():
    part = parts.ConvLSTM(1280)
    norm = sum(p.numel() for p in part.norm.parameters())
    assert sum(p.numel() for p in part.parameters()) - norm == 659_488  # as study C's description gives
    assert part(torch.randn(2, 3, 1280, 8, 8)).shape == (2, 8)
    with pytest.raises(ConfigError, match="at least that large, got 3×3"):
        part(torch.randn(2, 3, 1280, 3, 3))


def test_moments_and_attention(features):
    mean, std = parts.Moments(D)(features).chunk(2, 1)
    torch.testing.assert_close(mean, features.mean(1))
    torch.testing.assert_close(std, features.std(1, correction=0), atol=1e-4, rtol=0)
    attention = parts.AttentionPool(D)
    nn.init.zeros_(attention.score[2].weight)  # all frames alike: the mean
    torch.testing.assert_close(attention(features), features.mean(1))


def test_single_frame_sees_the_middle(features):
    torch.testing.assert_close(parts.SingleFrame(D)(features), features[:, T // 2])


def test_single_frame_spends_nothing_on_the_others():
    """The backbone sees T // 2 alone, and the logits are those of all frames' features."""
    net = CNNRNN(build_backbone("mobilenetv2_050", pretrained=False), parts.SingleFrame(1280), 3, batch_norm=False)
    net.eval()
    video = torch.randn(2, 3, T, 32, 32)
    seen = []
    net.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        logits = net(video)
        torch.testing.assert_close(seen[0], video[:, :, T // 2])
        torch.testing.assert_close(logits, net(net.frame_features(video)), atol=1e-5, rtol=1e-5)
