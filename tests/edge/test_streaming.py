from __future__ import annotations

import pytest
import torch
from edge_models import FRAMES, clips, cnn_rnn, tsn

from lightning_har.edge.streaming import StreamingRecognizer
from lightning_har.errors import ConfigError

STREAMABLE = {
    "gru": lambda: cnn_rnn("gru"),
    "gru-before": lambda: cnn_rnn("gru", reset="before", head_width=8),
    "lstm": lambda: cnn_rnn("lstm"),
    "avg": lambda: cnn_rnn("avg"),
    "max": lambda: cnn_rnn("max"),
    "moments": lambda: cnn_rnn("moments"),
    "attention": lambda: cnn_rnn("attention"),
    "convlstm": lambda: cnn_rnn("convlstm", cut_after="layer2"),
    "convnet1d": lambda: cnn_rnn("convnet1d", causal=True),
    "tsn": tsn,
    "tsn-max": lambda: tsn(consensus="max"),
    "tsm": lambda: tsn(temporal_shift="causal"),
}


@pytest.mark.parametrize("name", STREAMABLE)
def test_streamed_logits_equal_the_clips(name):
    module = STREAMABLE[name]()
    video = clips(2)["video"]
    stream = StreamingRecognizer(module)
    with torch.no_grad():
        expected = module(video)
        for t in range(FRAMES):
            streamed = stream.push(video[:, :, t])
            if t == 2 and name != "tsm":  # a shift is built for a number of segments
                torch.testing.assert_close(streamed, module(video[:, :, :3]), atol=1e-5, rtol=0)
    assert expected.std() > 1e-3
    torch.testing.assert_close(streamed, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", STREAMABLE)
def test_a_stream_is_of_its_modules_type(name):
    """As on another device: nothing is made in float32 on the CPU and left there."""
    module = STREAMABLE[name]().double()
    video = clips(1)["video"]
    stream = StreamingRecognizer(module)
    assert {s.dtype for s in stream.initial_state(1)} == {torch.float64}
    with torch.no_grad():
        for t in range(FRAMES):
            streamed = stream.push(video[:, :, t])
        torch.testing.assert_close(streamed, module(video), atol=1e-6, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("name", STREAMABLE)
def test_a_stream_is_on_its_modules_device(name):
    module = STREAMABLE[name]().to("cuda", torch.float64)
    video = clips(1)["video"].cuda()
    stream = StreamingRecognizer(module)
    with torch.no_grad():
        for t in range(FRAMES):
            streamed = stream.push(video[:, :, t])
        torch.testing.assert_close(streamed, module(video), atol=1e-6, rtol=0)


@pytest.mark.parametrize("temporal", ["gru", "lstm"])
def test_a_mobile_backbone_streams_exactly_in_double_precision(temporal):
    # In float32 the rounding of a deep untrained network, amplified by the norm behind the state, hides 1e-5.
    module = cnn_rnn(temporal, backbone="mobilenetv2_050").double()
    video = module._prepare(clips(1)["video"])
    stream = StreamingRecognizer(module)
    state = stream.initial_state(1)
    with torch.no_grad():
        for t in range(FRAMES):
            streamed, *state = stream(video[:, :, t], *state)
        torch.testing.assert_close(streamed, module(video), atol=1e-9, rtol=0)


def test_a_convlstms_state_has_the_shape_that_a_step_leaves():
    """As a graph's must, whose shapes are fixed."""
    stream = StreamingRecognizer(cnn_rnn("convlstm", cut_after="layer2"))
    state = stream.initial_state(2)
    assert [tuple(s.shape) for s in state] == [(2, 16, 2, 2)] * 2
    _, *after = stream(clips(2)["video"][:, :, 0], *state)
    assert [s.shape for s in after] == [s.shape for s in state]


def test_attention_does_not_overflow_where_scores_are_great():
    module = cnn_rnn("attention")
    with torch.no_grad():
        module.net.temporal.score[-1].weight.mul_(-1e4)
        video = clips(2)["video"]
        scores = module.net.temporal.score(module.net.frame_features(module._prepare(video)))
    assert scores.max() > 100, "whose exponential float32 cannot hold"
    stream = StreamingRecognizer(module)
    with torch.no_grad():
        for t in range(FRAMES):
            streamed = stream.push(video[:, :, t])
        torch.testing.assert_close(streamed, module(video), atol=1e-5, rtol=0)


def test_reset_forgets():
    stream = StreamingRecognizer(cnn_rnn())
    video = clips(1)["video"]
    first = stream.push(video[:, :, 0])
    second = stream.push(video[:, :, 0])
    assert not torch.equal(first, second)
    stream.reset()
    torch.testing.assert_close(stream.push(video[0, :, 0]), first)


def test_a_stream_is_not_changed_by_later_training():
    module = cnn_rnn("avg")
    stream = StreamingRecognizer(module)
    frame = clips(1)["video"][:, :, 0]
    before = stream.push(frame)
    with torch.no_grad():
        module.net.head.fc.weight.add_(1)
    stream.reset()
    torch.testing.assert_close(stream.push(frame), before)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: tsn(temporal_shift=True), "causal"),
        (lambda: tsn(consensus="weighted"), "avg"),
        (lambda: cnn_rnn("single"), "whole clip"),
        (lambda: cnn_rnn("convnet1d"), "causal=True"),
    ],
)
def test_what_needs_the_whole_clip_is_refused(build, words):
    with pytest.raises(ConfigError, match=words):
        StreamingRecognizer(build())


def test_heads_are_streamed_by_name():
    torch.manual_seed(0)
    from lightning_har.modules.tsn import TSNModule

    module = TSNModule({"verb": 3, "noun": 5}, "resnet10t", num_segments=3, pretrained=False, input_size=64).eval()
    video = clips(1, frames=3)["video"]
    stream = StreamingRecognizer(module)
    for t in range(3):
        out = stream.push(video[:, :, t])
    with torch.no_grad():
        torch.testing.assert_close(out, module(video), atol=1e-5, rtol=0)
