from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_har.errors import WeightsError
from lightning_har.weights.matching import strict_load


def network(classes=3):
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, classes))


def test_loads_every_tensor_and_drops_none():
    source, target = network(), network()
    assert strict_load(target, source.state_dict()) == []
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor), name


def test_names_missing_extra_and_shapes():
    state = dict(network().state_dict())
    del state["0.bias"]
    state["0.scale"] = torch.zeros(1)
    state["2.weight"] = torch.zeros(7, 5)
    target = network()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        strict_load(target, state, what="weights of 'x.pt'")
    message = str(caught.value)
    assert "weights of 'x.pt' do not fit Sequential" in message
    assert "1 missing: 0.bias" in message
    assert "1 left over: 0.scale" in message
    assert "2.weight (expected (3, 5), given (7, 5))" in message
    assert all(torch.equal(target.state_dict()[name], before[name]) for name in before)


def test_head_goes_only_on_request():
    source, target = network(classes=9), network(classes=3)
    head = target[2].weight.clone()
    with pytest.raises(WeightsError, match="Only the head differs"):
        strict_load(target, source.state_dict(), head_prefixes=("2.",))
    dropped = strict_load(target, source.state_dict(), head_prefixes=("2.",), drop_head=True)
    assert dropped == ["2.bias", "2.weight"]
    assert torch.equal(target[2].weight, head)
    assert torch.equal(target[0].weight, source[0].weight)


def test_headless_network_takes_weights_with_a_head():
    source = network()
    body = nn.Sequential(*list(network())[:2])
    with pytest.raises(WeightsError, match=r"2 left over: 2\.bias, 2\.weight"):
        strict_load(body, source.state_dict())
    assert strict_load(body, source.state_dict(), head_prefixes=["2."], drop_head=True) == [
        "2.bias",
        "2.weight",
    ]


def test_dropping_the_head_still_needs_the_body():
    state = {name: tensor for name, tensor in network().state_dict().items() if not name.startswith("0.")}
    with pytest.raises(WeightsError, match=r"2 missing: 0\.bias, 0\.weight"):
        strict_load(network(), state, head_prefixes=("2.",), drop_head=True)
