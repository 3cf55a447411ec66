"""ExecuTorch: the file is written, then run by ExecuTorch's own runtime and compared with PyTorch."""

from __future__ import annotations

import pytest
import torch
from edge_models import clips, cnn_rnn, tsn
from torch import nn

from lightning_har.edge.bundle import bundle
from lightning_har.edge.export import export
from lightning_har.edge.graphs import Graph, Normalize, build_graphs
from lightning_har.edge.quantize_pt2e import quantize_pt2e
from lightning_har.edge.rounding import weight_scales
from lightning_har.edge.runtime import Recognizer, load_bundle, open_graph
from lightning_har.edge.writers import write_executorch
from lightning_har.errors import ConfigError
from lightning_har.spec import InputSpec

pytest.importorskip("executorch", reason="needs executorch: pip install 'lightning-har[executorch]'")
pytest.importorskip("torchao", reason="needs torchao: pip install 'lightning-har[executorch]'")
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("build", "kind"),
    [(cnn_rnn, "frames"), (cnn_rnn, "stream"), (tsn, "clip")],
    ids=["frames", "stream", "clip"],
)
def test_float_logits_are_pytorchs(tmp_path, build, kind):
    module = build()
    report = export(module, tmp_path, format="executorch", kind=kind)
    assert all(path.suffix == ".pte" for path in report.files.values())
    assert report.max_error < 1e-4
    if kind == "clip":  # once more by hand, not by what export compares with
        video = clips(1, seed=7)["video"]
        (given,) = open_graph(report.files["model"])([video.numpy()])
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(given), module(video), atol=1e-4, rtol=0)


def test_batch_and_time_stay_open(tmp_path):
    module = tsn()
    report = export(module, tmp_path, format="executorch", dynamic=("batch", "time"))
    run = open_graph(report.files["model"])
    for batch, frames in ((1, 6), (2, 4), (3, 9)):
        video = clips(batch, frames=frames)["video"]
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(run([video.numpy()])[0]), module(video), atol=1e-4, rtol=0)


def test_threads_are_executorchs_own(tmp_path):
    """PyTorch's number of threads is the whole process's: who opens a graph leaves it as it is."""
    from executorch.extension.pybindings.portable_lib import _threadpool_get_thread_count

    path = export(tsn(), tmp_path, format="executorch").files["model"]
    video = clips(1)["video"].numpy()
    before = torch.get_num_threads()
    logits = []
    for threads in (1, 2):
        run = open_graph(path, threads)
        assert _threadpool_get_thread_count() == threads
        assert torch.get_num_threads() == before
        logits.append(torch.from_numpy(run([video])[0]))
    torch.testing.assert_close(logits[0], logits[1])


def test_int8_is_small_and_agrees(tmp_path):
    module = tsn()
    floating = export(module, tmp_path / "float", format="executorch")
    calibration = [clips(4, seed=s) for s in range(2)]
    report = export(module, tmp_path / "int8", format="executorch", int8=True, calibration=calibration)
    assert report.size_bytes < floating.size_bytes / 3.5
    assert report.agreement >= 0.75
    video = clips(2, seed=7)["video"]
    run = open_graph(report.files["model"])
    with torch.no_grad():
        expected = module(video)
    given = torch.cat([torch.from_numpy(run([x.numpy()])[0]) for x in video.split(1)])
    assert (given - expected).square().mean() < 0.05 * (expected - expected.mean(0)).square().mean()
    assert not torch.equal(given, expected)


class Frame(nn.Module):
    """From a uint8 frame to a map, through a ReLU6 that cuts most off; weights on their int8 grids."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        spec = InputSpec(1, (16, 16), (0.0, 1.0), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        self.normalize = Normalize(spec, rank=4)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU6(inplace=True), nn.Conv2d(8, 8, 1))
        with torch.no_grad():
            self.layers[0].weight.copy_(torch.randint(-127, 128, (8, 3, 3, 3)) / 50)

    def forward(self, frame):
        return (self.layers(self.normalize(frame)),)


def test_eight_bits_are_spent_on_what_relu6_leaves_and_not_on_the_normalisation(tmp_path):
    net = Frame().eval().requires_grad_(False)
    frames = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    inputs = [(x,) for x in frames.split(1)]
    nodes = quantize_pt2e(torch.export.export(net, inputs[0]), inputs).graph.nodes
    quantized = [n for n in nodes if n.target is torch.ops.quantized_decomposed.quantize_per_tensor.default]
    by_source = {str(n.args[0].target).split(".")[1]: n.args[1] for n in quantized}
    # The normalised frame, what ReLU6 leaves, the result; and nothing of a layer's inside.
    assert set(by_source) == {"add", "hardtanh_", "conv2d"}
    assert len(quantized) == 3
    assert by_source["hardtanh_"] <= 6 / 255 + 1e-6
    preactivations = net.layers[0](net.normalize(frames))
    assert preactivations.max() - preactivations.min() > 10 * 6

    graph = Graph("frame", net, {"frame": inputs[0][0]}, ("map",), lambda clip: iter(()))
    write_executorch(graph, tmp_path / "frame.pte", None, inputs)
    run = open_graph(tmp_path / "frame.pte")
    for (frame,) in inputs:
        (given,) = run([frame.numpy()])
        assert (torch.from_numpy(given) - net(frame)[0]).abs().mean() < 0.02


@pytest.mark.parametrize("temporal", ["gru", "lstm"])
def test_the_matrix_products_of_a_recurrent_head_are_int8(temporal):
    frames = 2
    net = build_graphs(cnn_rnn(temporal, hidden=6, num_frames=frames), "frames")[1].net
    torch.manual_seed(0)
    inputs = [(torch.rand(1, frames, 512),) for _ in range(2)]
    graph = quantize_pt2e(torch.export.export(net, inputs[0]), inputs)
    aten, decomposed = torch.ops.aten, torch.ops.quantized_decomposed
    products = [n for n in graph.graph.nodes if n.target in (aten.linear.default, aten.conv2d.default)]
    assert len(products) == frames + 2  # a step each, the inputs of all steps together, the classifier
    seen = {}
    for node in products:
        weight = node.args[1]
        assert weight.target == decomposed.dequantize_per_channel.default
        codes, scales, _, axis, *_ = weight.args
        assert axis == 0
        seen[codes.target] = [getattr(graph, name.target) for name in (codes, scales)]
    weights = [p for p in net.parameters() if p.ndim == 2]
    assert len(seen) == len(weights) == 3
    for codes, scales in seen.values():
        (weight,) = [p for p in weights if p.shape == codes.shape]
        assert codes.dtype == torch.int8
        torch.testing.assert_close(scales, weight_scales(weight), check_dtype=False)
        torch.testing.assert_close(codes.float(), (weight / scales[:, None]).round().clamp(-127, 127))


def test_a_gru_in_int8(tmp_path):
    module = cnn_rnn()
    report = export(
        module,
        tmp_path,
        format="executorch",
        int8=True,
        calibration=[clips(2, seed=s) for s in range(2)],
        kind="frames",
    )
    assert report.max_error < 0.3
    assert report.files["head"].stat().st_size < 300_000  # (512 + 16) × 48 products in a byte each, and overhead


def test_a_bundle_of_ptes_runs(tmp_path):
    module = cnn_rnn()
    bundle(module, tmp_path / "b", format="executorch")
    assert "executorch" in (tmp_path / "b" / "requirements.txt").read_text()
    video = clips(1)["video"]
    logits = Recognizer.from_bundle(load_bundle(tmp_path / "b")).clip(video[0].permute(1, 2, 3, 0).numpy())
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits["logits"]), module(video)[0], atol=1e-4, rtol=0)


def test_from_the_command_line(tmp_path, capsys):
    import pytorch_lightning as pl
    from edge_models import write_video

    from lightning_har.cli.main import main

    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", max_epochs=0)
    trainer.strategy.connect(cnn_rnn("avg"))
    trainer.save_checkpoint(tmp_path / "m.ckpt")
    batch = clips(8, frames=8)
    for i, video in enumerate(batch["video"]):
        (tmp_path / "data" / "abcd"[i % 4]).mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / "data" / "abcd"[i % 4] / f"{i}.mp4", video.permute(1, 2, 3, 0).numpy())
    arguments = ["export", "--model", str(tmp_path / "m.ckpt"), "--out", str(tmp_path / "x"), "--format", "executorch"]
    assert main([*arguments, "--int8", "--calibration", str(tmp_path / "data")]) == 0
    assert "executorch int8" in capsys.readouterr().out
    assert (tmp_path / "x" / "model.pte").is_file()


def test_time_that_cannot_stay_open_is_told_in_int8_too(tmp_path):
    calibration = [clips(2, seed=s) for s in range(2)]
    with pytest.raises(ConfigError, match="fix the time, or export kind='stream'"):
        export(cnn_rnn(), tmp_path, format="executorch", int8=True, calibration=calibration, dynamic=("time",))


class Volume(nn.Module):
    """A convolution that XNNPACK has, and one in three dimensions, which it has not in int8."""

    def __init__(self):
        super().__init__()
        self.flat = nn.Conv2d(3, 4, 3)
        self.deep = nn.Conv3d(4, 4, 3)

    def forward(self, video):
        x = self.flat(video.transpose(1, 2).flatten(0, 1)).unflatten(0, (video.shape[0], -1)).transpose(1, 2)
        return self.deep(x).mean((2, 3, 4))


def test_a_layer_that_has_no_int8_kernel_is_named(tmp_path):
    module = tsn()
    module.net = Volume().eval()
    calibration = [clips(4, seed=s) for s in range(2)]
    with pytest.raises(ConfigError, match=r"executorch in int8 does not take .*net\.deep \(Conv3d") as caught:
        export(module, tmp_path, format="executorch", int8=True, calibration=calibration)
    assert "net.flat" not in str(caught.value)
    assert str(caught.value).endswith("format='onnx' does")


def test_a_whole_clip_through_a_gru_loads_in_int8(tmp_path):
    """What is dropped in training stands between reshapes; both sides of each must have the same codes."""
    calibration = [clips(4, seed=s) for s in range(2)]
    report = export(cnn_rnn(), tmp_path, format="executorch", int8=True, calibration=calibration, kind="clip")
    assert report.agreement >= 0.75
