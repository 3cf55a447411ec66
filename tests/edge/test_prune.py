from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from lightning_har.edge.prune import prune
from lightning_har.errors import ConfigError


@pytest.fixture
def net():
    torch.manual_seed(0)
    built = timm.create_model("mobilenetv2_050", pretrained=False, num_classes=0)
    for m in built.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.1)
            m.running_var.uniform_(0.5, 1.5)
            nn.init.normal_(m.bias, 0, 0.3)
    return built.eval()


def images(count=2):
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def products(net):
    """Multiply-adds of every convolution on one image, by name."""
    counts = {}
    handles = [
        m.register_forward_hook(lambda m, x, y, name=name: counts.__setitem__(name, m.weight[0].numel() * y[0].numel()))
        for name, m in net.named_modules()
        if isinstance(m, nn.Conv2d)
    ]
    with torch.no_grad():
        net(images(1))
    for handle in handles:
        handle.remove()
    return counts


def blocks(net):
    return [m for m in net.modules() if hasattr(m, "conv_pwl")]


def test_channels_that_add_nothing_go_without_a_trace(net):
    """Every second hidden channel is projected with zeros; those are the ones to go."""
    with torch.no_grad():
        for block in blocks(net):
            block.conv_pwl.weight[:, ::2] = 0
        expected = net(images())
        widths = [block.conv_dw.out_channels for block in blocks(net)]
        smaller = prune(net, 0.5, [images()])
        assert torch.allclose(smaller(images()), expected, atol=1e-5)
    assert [block.conv_dw.out_channels for block in blocks(smaller)] == [w // 2 // 8 * 8 or 8 for w in widths]
    assert [block.conv_dw.out_channels for block in blocks(net)] == widths  # the given one is left as it was


def test_the_products_fall_as_the_channels_do(net):
    before, after = products(net), products(prune(net, 0.5, [images()]))
    for name, block in net.named_modules():
        if hasattr(block, "conv_pwl"):
            part = round(block.conv_dw.out_channels / 2 / 8) * 8 / block.conv_dw.out_channels
            for layer in ("conv_pw", "conv_dw", "conv_pwl"):
                assert after[f"{name}.{layer}"] == pytest.approx(part * before[f"{name}.{layer}"])
    assert after["conv_stem"] == before["conv_stem"]
    assert sum(after.values()) < 0.75 * sum(before.values())


def test_the_mean_of_what_goes_is_kept(net):
    """A hidden channel that is the same everywhere is a bias: without it the output is what it was."""
    block = blocks(net)[0]
    maps = torch.randn(4, block.conv_pw.in_channels, 16, 16)
    gone = torch.arange(block.conv_dw.out_channels) % 2 == 0
    with torch.no_grad():
        block.bn2.weight[gone], block.bn2.bias[gone] = 0, 0.05
        block.bn2.bias[~gone] += 4  # so that none of these adds less
        smaller = prune(block, 0.5, [maps[:2], maps[2:]])
        torch.testing.assert_close(smaller(maps), block(maps), atol=1e-5, rtol=1e-5)


def test_it_trains_as_a_network_of_that_size(net):
    smaller = prune(net.train(), 0.5, [images()])
    assert smaller.training
    out = smaller(images())
    assert out.shape == (2, net.num_features)
    out.sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in smaller.parameters())


def test_bad_input_is_named(net):
    with pytest.raises(ConfigError, match="share is 1"):
        prune(net, 1.0, [images()])
    with pytest.raises(ConfigError, match="there are none"):
        prune(net, 0.5, [])
    with pytest.raises(ConfigError, match="no inverted residuals"):
        prune(nn.Sequential(nn.Conv2d(3, 8, 3)), 0.5, [images()])
