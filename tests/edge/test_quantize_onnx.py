"""How a float ONNX graph is rewritten so that ONNX Runtime computes it in int8 throughout."""

import numpy as np
import pytest
import torch
from torch import nn

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from lightning_har.edge.quantize_onnx import quantize_onnx  # noqa: E402


class Mean(nn.Module):
    def __init__(self, axes, keepdim):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.axes, self.keepdim = axes, keepdim

    def forward(self, x):
        return self.conv(x).relu().mean(self.axes, keepdim=self.keepdim).flatten(1)


def run_as(path, folder):
    """The operators that the runtime makes of a file, and a function that runs it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    kinds = [n.op_type for n in onnx.load(folder / "optimized.onnx").graph.node]
    return kinds, lambda x: session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


@pytest.mark.parametrize(
    ("axes", "keepdim", "pooled"),
    [((2, 3), False, True), ((-1, -2), True, True), ((1,), True, False), ((3,), False, False)],
    ids=["map", "map kept", "channels", "columns"],
)
def test_the_mean_of_a_map_is_pooled_in_int8(tmp_path, capfd, axes, keepdim, pooled):
    torch.manual_seed(0)
    net = Mean(axes, keepdim).eval()
    clips = torch.rand(8, 3, 12, 14)
    program = torch.onnx.export(net, (clips[:1],), dynamo=True, verbose=False)
    program.save(tmp_path / "float.onnx")
    quantize_onnx(tmp_path / "float.onnx", tmp_path / "int8.onnx", [(x,) for x in clips.split(1)])
    assert "onnxruntime" not in capfd.readouterr().err, "the runtime warns of what was left behind"
    kinds, run = run_as(tmp_path / "int8.onnx", tmp_path)
    assert ("QLinearGlobalAveragePool" in kinds) == pooled
    assert ("ReduceMean" in kinds) != pooled
    with torch.no_grad():
        expected = net(clips[:1]).numpy()
    assert np.abs(run(clips[:1]) - expected).max() < 0.02 * np.ptp(expected) + 0.01
