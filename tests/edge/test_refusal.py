"""A refusal names the layer, and says whether the other format takes it."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch
from edge_models import features, of_features
from torch import nn

from lightning_har.edge import export as export_file
from lightning_har.edge import writers
from lightning_har.edge.export import export
from lightning_har.edge.refusal import Unsupported
from lightning_har.errors import ConfigError


def pairwise(x):
    return nn.functional.pdist(x.T)[None, :4]


def singular(x):
    return torch.linalg.svdvals(x.view(-1, 2, 2))


def distinct(x):
    return torch.unique(x).sum()[None, None]


LACKS = {
    "onnx: one of the network's own": (pairwise, "onnx", "aten.pdist"),
    "onnx: one that others were decomposed to": (singular, "onnx", "aten._linalg_svd"),
    "executorch: no kernel": (torch.special.bessel_j0, "executorch", "aten.special_bessel_j0"),
    "executorch: no kernel for one decomposed to": (singular, "executorch", "aten._linalg_svd"),
    "executorch: no kernel, of open shape": (distinct, "executorch", "aten._unique2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", LACKS)
def test_an_operation_the_format_lacks_is_named_with_its_layer(tmp_path, case):
    if "executorch" in case:
        pytest.importorskip("executorch", reason="needs executorch: pip install 'lightning-har[executorch]'")
    tail, format, operator = LACKS[case]
    with pytest.raises(ConfigError, match=rf"{format} does not take net\.head\.1 \(Tail: {operator}\)") as caught:
        export(of_features(tail), tmp_path, format=format)
    assert not list(tmp_path.glob("*.pte"))
    if tail is pairwise and importlib.util.find_spec("executorch"):
        assert str(caught.value).endswith("format='executorch' does")
    if tail is singular:
        assert str(caught.value).endswith("does not take it either")


def test_the_other_format_is_tried_as_it_was_asked_for(tmp_path, monkeypatch):
    asked = []
    write = export_file.write

    def see(graph, path, format, inputs, dynamic):
        asked.append((format, inputs is not None, dynamic))
        if format == "executorch":
            raise Unsupported("no")
        write(graph, path, format, inputs, dynamic)

    monkeypatch.setattr(export_file, "write", see)
    calibration = [features(seed=s) for s in range(2)]
    with pytest.raises(ConfigError, match=r"no\. format='onnx' does"):
        export(
            of_features(), tmp_path, format="executorch", int8=True, calibration=calibration, dynamic=("batch", "time")
        )
    assert asked == [("executorch", True, ("batch", "time")), ("onnx", True, ("batch", "time"))]


@pytest.mark.slow
def test_a_format_that_is_not_installed_was_not_tried(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "executorch.runtime", None)
    with pytest.raises(ConfigError, match=r"Whether executorch does was not tried: .*pip install"):
        export(of_features(pairwise), tmp_path)


def test_what_cannot_be_traced_is_named_with_its_layer(tmp_path):
    def odd(x):
        return x * 2 if x.sum() > 0 else x

    with pytest.raises(ConfigError, match=r"cannot trace net\.head\.1 \(Tail\).*Both formats"):
        export(of_features(odd), tmp_path)


def test_a_quantizers_own_error_names_the_part(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise ValueError("no scale for aten::addmm")

    monkeypatch.setattr(writers, "quantize_onnx", refuse)
    monkeypatch.setattr(export_file, "_verdict", lambda *args: "verdict")
    calibration = [features(seed=s) for s in range(2)]
    with pytest.raises(ConfigError, match=r"onnx in int8 does not take part 'model': no scale .*verdict"):
        export(of_features(), tmp_path, int8=True, calibration=calibration)
