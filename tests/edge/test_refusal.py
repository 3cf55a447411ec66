"""A refusal names the layer, and says whether the other format takes it."""

from __future__ import annotations

import importlib.util
import sys

import onnx
import pytest
import torch
from edge_models import features, of_features
from torch import nn

from lightning_har.edge import export as export_file
from lightning_har.edge import runtime, writers
from lightning_har.edge.export import export
from lightning_har.edge.refusal import Unsupported
from lightning_har.errors import ConfigError, WeightsError


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
            raise Unsupported(format, graph.name, "no", "a layer")
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


@pytest.mark.slow
@pytest.mark.parametrize("depth", [0, 1], ids=["of one layer", "of layers that fail only together"])
def test_where_the_exporter_names_no_operator_the_smallest_layer_that_fails_alone_is_named(
    tmp_path, monkeypatch, depth
):
    quantize = writers.quantize_onnx

    def refuse(source, path, inputs):
        if [node.op_type for node in onnx.load(source).graph.node].count("Tanh") > depth:
            raise ValueError("no scale for aten::addmm")
        quantize(source, path, inputs)

    monkeypatch.setattr(writers, "quantize_onnx", refuse)
    monkeypatch.setattr(export_file, "_verdict", lambda *args: "verdict")
    calibration = [features(seed=s) for s in range(2)]
    module = of_features(torch.tanh)
    module.net.head = nn.Sequential(module.net.head, nn.Sequential(nn.Tanh(), nn.Tanh()))
    where = [r"net\.head\.0\.1 \(Tail\)", r"net\.head\.1 \(Sequential\)"][depth]
    with pytest.raises(ConfigError, match=rf"onnx in int8 does not take {where}: no scale .*verdict"):
        export(module, tmp_path, int8=True, calibration=calibration)


@pytest.mark.slow
@pytest.mark.parametrize("other", ["does", "does not take it either"])
def test_what_is_written_but_not_loaded_is_refused_with_its_layer_and_the_other_format_tried(
    tmp_path, monkeypatch, other
):
    """As if onnxruntime did not know Tanh."""
    opened = writers.open_graph

    def refuse(path, threads=1):
        if path.suffix == ".onnx" and any(node.op_type == "Tanh" for node in onnx.load(path).graph.node):
            raise WeightsError(f"{path}: cannot load it: error 14")
        return opened(path, threads)

    def write_executorch(graph, path, shapes, inputs):
        if other != "does":
            raise Unsupported("executorch", graph.name, "no", "a layer")
        path.write_bytes(b"")

    monkeypatch.setattr(writers, "open_graph", refuse)
    monkeypatch.setattr(writers, "write_executorch", write_executorch)
    monkeypatch.setattr(runtime, "_open_executorch", lambda path, threads: lambda inputs: [])
    with pytest.raises(ConfigError, match=rf"onnx does not take net\.head\.1 \(Tail\): .*error 14.*{other}$"):
        export(of_features(torch.tanh), tmp_path)
    assert not list(tmp_path.iterdir())


def test_layers_of_which_none_fails_alone_leave_the_part(tmp_path, monkeypatch):
    def refuse(source, path, inputs):
        raise ValueError("no scale")

    monkeypatch.setattr(writers, "quantize_onnx", refuse)
    monkeypatch.setattr(export_file, "smallest_layer", lambda *args: "")
    monkeypatch.setattr(export_file, "_verdict", lambda *args: "verdict")
    with pytest.raises(ConfigError, match=r"onnx in int8 does not take part 'model': no scale\. verdict"):
        export(of_features(), tmp_path, int8=True, calibration=[features(seed=s) for s in range(2)])
