"""Which model goes into which format at which precision: tried, not claimed. Writes docs/support-matrix.md.

Each cell is an export of a small, untrained model that was written, loaded, run and compared with PyTorch. A refusal is
quoted. The last column quantizes with PT2E for x86, compiles the quantized graph with Inductor and runs that.

    python benchmarks/support_matrix.py [--only gru i3d] [--columns onnx executorch] [--out docs/support-matrix.md]

With --only the other models' rows stay as they are, with --columns the other columns of a row; a cell that was never
tried says so. The page's second table keeps which cells are of which versions, and whether the machine was busy then.
Compiling with Inductor takes most of the time. --tflite gives study E's own MobileNetV2, whose row is left out without
it: it has no random weights.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import tempfile
import textwrap
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lightning_har.bench.report import hardware
from lightning_har.edge.calibration import collect, inputs_of
from lightning_har.edge.export import export
from lightning_har.edge.graphs import build_graphs, example_video
from lightning_har.edge.quantize_pt2e import quantize_pt2e
from lightning_har.edge.rounding import round_and_correct_bias
from lightning_har.edge.runtime import open_graph
from lightning_har.errors import HarError
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.modules.tsn import TSNModule


def cnn_rnn(temporal: Any, **kwargs: Any) -> Callable[[], Any]:
    options = {"backbone": "mobilenetv2_100", "hidden": 32, "num_frames": 8, "input_size": 96, "pretrained": False}
    return lambda: CNNRNNModule(4, temporal=temporal, **options | kwargs)


def tsn(**kwargs: Any) -> Callable[[], Any]:
    return lambda: TSNModule(4, num_segments=4, pretrained=False, input_size=96, **{"backbone": "resnet18"} | kwargs)


def lively(module: Any) -> Any:
    """With weights that keep the size of what passes: as these networks begin, any clip gets the same logits.

    Or features of some 1e10, as from Inception-v3, whose errors then look absurd.
    """
    for layer in module.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.Linear)):
            torch.nn.init.kaiming_normal_(layer.weight)
    return module


def x3d() -> Any:
    from lightning_har.modules.pytorchvideo import PyTorchVideoModule

    return lively(PyTorchVideoModule(4, "x3d_xs", input_size=96))


def inception() -> Any:
    return lively(cnn_rnn("gru", backbone="inception_v3", input_size=128)())


def two_stream() -> Any:
    from lightning_har.modules.two_stream import TwoStreamModule

    return TwoStreamModule(4, "tsn", {"backbone": "resnet18", "num_segments": 3, "pretrained": False, "input_size": 96})


def i3d() -> Any:
    from lightning_har.modules.i3d import I3DModule

    return lively(I3DModule(4, pretrained=False, num_frames=16, input_size=112))


def s3d() -> Any:
    from lightning_har.modules.s3d import S3DModule

    return lively(S3DModule(4, num_frames=16, input_size=112))


THREADS = 2
PAGE = """\
# What exports

Made by `python benchmarks/support_matrix.py`, which writes, loads, runs and compares each of these. The models are
small and untrained: the size is theirs; ± is the greatest difference of a logit from PyTorch's float (of an int8
network with random weights it says little; agreement is measured on trained ones), in PT2E's column of any output of a
part, features too; the time is the least of the calls of two seconds, at least ten, of each part with two threads. The
parts of "frames" are one frame and the head over a clip's features, of "stream" one step, of "clip" the whole clip. A
refusal is quoted. "4 of 9 layers" says how many convolutions and linear layers hold their weights in int8 after PT2E
for x86; the rest stay float.

{table}

## Which run a cell is of

Times that were taken beside other work are up to several times too long.

{runs}

## 3D convolutions in int8

ONNX Runtime is the way to a file of a quarter of the size: it runs them as QLinearConv in three dimensions, channels
last. Whether that saves time too, the table tells for its processor. PT2E's quantizer for x86 has no pattern for them
and leaves them in float, and XNNPACK takes none in int8; ExecuTorch also lacks kernels for 3D max and average pooling,
without which I3D is refused.
"""

MODELS: dict[str, tuple[Callable[[], Any], str]] = {
    "gru": (cnn_rnn("gru"), "frames"),
    "lstm": (cnn_rnn("lstm"), "frames"),
    "avg": (cnn_rnn("avg"), "frames"),
    "convnet1d": (cnn_rnn("convnet1d"), "frames"),
    "convlstm": (cnn_rnn("convlstm", input_size=128), "frames"),
    "attention": (cnn_rnn("attention"), "frames"),
    "max": (cnn_rnn("max"), "frames"),
    "moments": (cnn_rnn("moments"), "frames"),
    "single": (cnn_rnn("single"), "frames"),
    "inception_v3 gru": (inception, "frames"),
    "gru, streaming": (cnn_rnn("gru"), "stream"),
    "tsn resnet18": (tsn(), "frames"),
    "tsn resnet18, whole clip": (tsn(), "clip"),
    "tsm resnet18": (tsn(temporal_shift=True), "clip"),
    "tsm resnet18, streaming": (tsn(temporal_shift="causal"), "stream"),
    "tsn bn_inception": (tsn(backbone="bn_inception"), "frames"),
    "two-stream tsn resnet18": (two_stream, "clip"),
    "i3d": (i3d, "clip"),
    "s3d": (s3d, "clip"),
    "x3d_xs": (x3d, "clip"),
}

COLUMNS = {
    "onnx": ("ONNX float32", "ONNX int8"),
    "executorch": ("ExecuTorch float32", "ExecuTorch int8"),
    "inductor": ("PT2E x86 int8",),
}


NAMES = {"onnx": "ONNX", "executorch": "ExecuTorch", "inductor": "PT2E"}


def batches(module: Any) -> list[dict[str, Any]]:
    return [
        {
            "video": example_video(module, seed=i),
            "label": torch.tensor([i % 4]),
            "id": [str(i)],
            "path": [str(i)],
            "failures": [],
        }
        for i in range(4)
    ]


def attempt(work: Callable[[], str]) -> str:
    try:
        return work()
    except HarError as error:
        return "no: " + shorten(re.sub(r"\S*/(\w+\.(?:onnx|pte))", r"\1", str(error)), 240)
    except Exception as error:  # an engine's own error is an answer too; its type says that we did not expect it
        return f"no ({type(error).__name__}): " + shorten(str(error), 120)


def shorten(reason: str, most: int) -> str:
    """A reason in one line, cut at a word; its last sentence stays, which says what the other format does."""
    reason = " ".join(reason.split()).replace("|", "/")
    head, _, end = reason.rpartition(". ")
    if len(reason) <= most:
        return reason
    if not head or len(end) > most // 2:
        return textwrap.shorten(reason, most, placeholder=" ...")
    return textwrap.shorten(head, most - len(end) - 1, placeholder=" ...") + f" {end}"


def exported(build: Callable[[], Any], kind: Any, format: Any, int8: bool) -> str:
    module = build().eval()
    with tempfile.TemporaryDirectory() as folder:
        report = export(
            module, folder, format=format, int8=int8, calibration=batches(module) if int8 else None, kind=kind
        )
        graphs = {part: open_graph(path, THREADS) for part, path in report.files.items()}
        inputs = {
            graph.name: [x.numpy() for x in next(iter(graph.feed(example_video(module))))]
            for graph in build_graphs(module, kind)
        }
        times = {part: least(partial(run, inputs[part])) for part, run in graphs.items()}
    shown = " + ".join(f"{t:.1f}" for t in times.values())
    return f"yes, {report.size_bytes / 1e6:.1f} MB, ±{report.max_error:.0e}, {shown} ms"


def inductor(build: Callable[[], Any], kind: Any) -> str:
    module = build().eval()
    clips = collect(module, batches(module))
    worst, times, coded, layers = 0.0, [], 0, 0
    for graph in build_graphs(module, kind):
        example = tuple(graph.inputs.values())
        inputs = list(inputs_of(graph, clips.fit))
        with torch.no_grad():
            expected = graph.net(*example)
            round_and_correct_bias(graph.net, inputs)
            converted = quantize_pt2e(torch.export.export(graph.net, example), inputs, "x86")
            found = weights_in_int8(converted)
            coded, layers = coded + sum(found), layers + len(found)
            quantized = torch.compile(converted)
            given = quantized(*example)
            times.append(least(partial(quantized, *example)))
        worst = max(worst, *(float((x - y).abs().max()) for x, y in zip(given, expected, strict=True)))
    if not coded:
        return f"no: it leaves all {layers} convolutions and linear layers in float"
    return f"yes, {coded} of {layers} layers, ±{worst:.0e}, {' + '.join(f'{t:.1f}' for t in times)} ms"


def weights_in_int8(graph: Any) -> list[bool]:
    """Of each convolution and linear layer of a quantized graph, whether its weight is stored in int8."""
    kinds = ("conv1d", "conv2d", "conv3d", "convolution", "linear")
    # What runs without autocast, as the quantized MobileNetV2's integers do, has a graph of its own inside.
    graphs = [module.graph for module in graph.modules() if isinstance(module, torch.fx.GraphModule)]
    nodes = [node for inner in graphs for node in inner.nodes if node.op == "call_function"]
    layers = [node for node in nodes if str(node.target).partition(".")[2].partition(".")[0] in kinds]
    return ["dequantize" in str(node.args[1].target) for node in layers]


def least(run: Callable[[], Any], count: int = 10, seconds: float = 2.0) -> float:
    """Milliseconds of the quickest of the calls of some seconds, but for one that warms up; ``count`` of them at least.

    The first ten alone may all fall into another process's time.
    """
    run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < count or time.perf_counter() < end:
        begin = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - begin))
    return min(times)


def tables_of(page: Path) -> list[list[list[str]]]:
    """The cells of each table's rows, without its title row."""
    if not page.is_file():
        return []
    tables = [re.findall(r"^\| .*", part, re.MULTILINE) for part in page.read_text().split("\n\n")]
    return [[[x.strip() for x in line.strip("|").split("|")] for line in lines[1:]] for lines in tables if lines]


def table(titles: list[str], rows: list[list[str]]) -> str:
    first, *rest = [f"| {' | '.join(row)} |" for row in [titles, *rows]]
    return "\n".join([first, "|---" * len(titles) + "|", *rest])


def this_run() -> str:
    """Versions and machine in words; called before the first model, whose own work would look like another's."""
    packages = ("torch", "torchao", "executorch", "onnxruntime", "onnxscript")
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)
    return f"{versions}; {hardware()['cpu']}" + "; beside other work" * (os.getloadavg()[0] > 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="models to try (default: all)")
    parser.add_argument("--columns", nargs="+", choices=list(COLUMNS), default=list(COLUMNS), help="(default: all)")
    parser.add_argument("--tflite", type=Path, help="weights of mobilenetv2_quant; without them its row is left out")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "docs" / "support-matrix.md")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    titles = [title for titles in COLUMNS.values() for title in titles]
    cells, told = [*tables_of(args.out), [], []][:2]
    rows = {name: rest for name, *rest in cells}
    run = this_run()
    run_of = {(m, c): r for r, *models in told for c, of in zip(COLUMNS, models, strict=True) for m in of.split("; ")}
    models = dict(MODELS)
    if args.tflite is not None:  # study E's, in its own integers
        options = {"backbone": "mobilenetv2_quant", "pretrained": str(args.tflite), "input_size": None}
        models["mobilenetv2_quant gru"] = (cnn_rnn("gru", **options), "frames")
    if unknown := set(args.only or ()) - set(models):
        parser.error(f"no {', '.join(sorted(unknown))}; there are {', '.join(models)} (mobilenetv2_quant by --tflite)")
    for name in args.only or models:
        build, kind = models[name]
        tried: dict[str, Callable[[], str]] = {}
        for format in ("onnx", "executorch"):
            for title, int8 in zip(COLUMNS[format], (False, True), strict=True):
                tried[title] = partial(exported, build, kind, format, int8)
        tried[COLUMNS["inductor"][0]] = partial(inductor, build, kind)
        wanted = {title for column in args.columns for title in COLUMNS[column]}
        old = rows.get(name, [kind, *["not tried"] * len(titles)])[1:]
        now = [attempt(tried[title]) if title in wanted else cell for title, cell in zip(titles, old, strict=True)]
        rows[name] = [kind, *now]
        run_of.update({(name, column): run for column in args.columns})
        print(name, rows[name], flush=True)
        shown = [m for m in [*MODELS, "mobilenetv2_quant gru"] if m in rows]
        runs = [
            [r, *("; ".join(m for m in shown if run_of.get((m, column)) == r) for column in COLUMNS)]
            for r in dict.fromkeys([*(r for r, *_ in told), run])
        ]
        page = PAGE.format(
            table=table(["model", "cut as", *titles], [[m, *rows[m]] for m in shown]),
            runs=table(["run", *NAMES.values()], [row for row in runs if any(row[1:])]),
        )
        args.out.write_text(page)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
