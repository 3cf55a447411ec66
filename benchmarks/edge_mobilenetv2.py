"""One frame through MobileNetV2 1.0 at 224: our int8 export in ONNX Runtime against LiteRT and our own float export.

The weights are study E's quantized ImageNet .tflite. LiteRT runs that file as it is; ours are its weights, made
float, exported, and quantized again per channel, as ``edge.export`` does, calibrated on frames of real clips; for
ExecuTorch, too, from the same rounded weights. "ort its integers" is the file's own arithmetic, code for code, as a
model with the backbone "mobilenetv2_quant" is exported. All run in this process, in turn: after a pause a block of
100 calls each, the order reversed every time, so that a busy machine is busy for all; and not call by call, where the
threads of one engine still spin for their next call while the other computes. Times fall in the first 25 calls of a
block, which pay for cold caches and a clock that fell in the pause: the times are of the other 75, one call after the
other, and those of the 6th to the 25th call stand beside them, as "early". Agreement is of ImageNet's top-1 with
PyTorch's float, on frames that did not calibrate. LiteRT runs as by default, with XNNPACK.

    python benchmarks/edge_mobilenetv2.py --tflite mobilenet_v2_1.0_224_quant.tflite --videos clips/
"""

from __future__ import annotations

import argparse
import copy
import csv
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lightning_har.bench.report import commit, hardware
from lightning_har.data.decode import open_video
from lightning_har.edge.graphs import Graph, Normalize
from lightning_har.edge.quantize_onnx import quantize_onnx
from lightning_har.edge.rounding import round_and_correct_bias
from lightning_har.edge.runtime import open_graph
from lightning_har.edge.writers import write_executorch, write_onnx
from lightning_har.nets.backbones.mobilenetv2_quant import QuantizedMobileNetV2
from lightning_har.spec import InputSpec
from lightning_har.weights.mobilenetv2_tflite import NUM_CLASSES, TIMM_ARGUMENTS, input_range, mobilenetv2_state_dict

BLOCK, EARLY, SETTLED = 100, 5, 25
"""Calls by an engine in a row, and which are the first of those that count as early and as settled."""


class Classifier(nn.Module):
    """uint8 frame to ImageNet logits."""

    def __init__(self, tflite: Path) -> None:
        import timm

        super().__init__()
        low, high = input_range(tflite)
        self.normalize = Normalize(InputSpec(1, (224, 224), (low, high), (0.0,), (1.0,)), rank=4)
        self.net = timm.create_model("mobilenetv2_100", num_classes=NUM_CLASSES, **TIMM_ARGUMENTS)
        self.net.load_state_dict(mobilenetv2_state_dict(tflite))

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        """(1, 3, 224, 224) uint8 to logits (1, 1001)."""
        return (self.net(self.normalize(frame)),)


class Integers(nn.Module):
    """uint8 frame to the codes of ImageNet's logits, in the file's own integers."""

    def __init__(self, tflite: Path) -> None:
        super().__init__()
        self.net = QuantizedMobileNetV2.from_tflite(tflite)

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        """(1, 3, 224, 224) uint8 to (1, 1001)."""
        means = self.net.forward_map(frame).mean((2, 3), keepdim=True)
        return (self.net.classifier((means + 0.5).floor()).float().flatten(1),)


def frames_of(folder: Path, count: int) -> np.ndarray:
    """(N, 3, 224, 224) uint8, the middle frame of every n-th clip."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".mp4", ".avi", ".mkv", ".webm"))
    if not paths:
        raise SystemExit(f"no videos in {folder}")
    images = []
    for path in paths[:: max(len(paths) // count, 1)][:count]:
        video = open_video(path)
        images.append(video.read([video.num_frames // 2], (224, 224))[0].transpose(2, 0, 1))
        video.close()
    return np.ascontiguousarray(images)


def instruction_sets() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    flags = next((line.split(":")[1].split() for line in lines if line.startswith(("flags", "Features"))), [])
    wanted = ("avx", "fma", "amx", "asimd", "neon", "i8mm", "sve")
    return " ".join(f for f in flags if f.startswith(wanted)) or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tflite", type=Path, required=True)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=30, help=f"of {BLOCK} calls by each engine")
    parser.add_argument("--frames", type=int, default=128, help="half calibrate, half are compared")
    parser.add_argument("--csv", type=Path, default=Path(__file__).parent / "results" / "edge_mobilenetv2.csv")
    args = parser.parse_args()
    from ai_edge_litert.interpreter import Interpreter

    images = frames_of(args.videos, args.frames)
    fit, check = images[::2], images[1::2]
    net = Classifier(args.tflite).eval().requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        names = {
            "ort int8": "int8.onnx",
            "ort float": "float.onnx",
            "executorch int8": "int8.pte",
            "ort its integers": "own.onnx",
        }
        files = {name: Path(folder) / file for name, file in names.items()}
        example = torch.from_numpy(fit[:1])
        write_onnx(Graph("frame", net, {"frame": example}, ("logits",), lambda clip: iter(())), files["ort float"])
        rounded, inputs = copy.deepcopy(net), [(torch.from_numpy(x[None]),) for x in fit]
        round_and_correct_bias(rounded, inputs)
        source = Path(folder) / "rounded.onnx"
        graph = Graph("frame", rounded, {"frame": example}, ("logits",), lambda clip: iter(()))
        write_onnx(graph, source)
        quantize_onnx(source, files["ort int8"], inputs)
        write_executorch(graph, files["executorch int8"], None, inputs)
        own = Integers(args.tflite).eval()
        write_onnx(
            Graph("frame", own, {"frame": example}, ("logits",), lambda clip: iter(())), files["ort its integers"]
        )
        sizes = {name: file.stat().st_size for name, file in files.items()}
        graphs = {name: open_graph(file, args.threads) for name, file in files.items()}
    sizes["litert"] = args.tflite.stat().st_size
    interpreter = Interpreter(str(args.tflite), num_threads=args.threads)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def litert(nhwc: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source, nhwc)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    # Each engine is given the layout it takes; neither pays for a transposition.
    planes = [np.ascontiguousarray(x[None]) for x in check]
    pixels = [np.ascontiguousarray(x[None].transpose(0, 2, 3, 1)) for x in check]
    engines: dict[str, Callable[[int], np.ndarray]] = {
        **{name: lambda i, graph=graph: graph([planes[i]])[0] for name, graph in graphs.items()},
        "litert": lambda i: litert(pixels[i]),
    }
    answers = {name: np.concatenate([run(i) for i in range(len(check))]).argmax(1) for name, run in engines.items()}
    with torch.no_grad():
        reference = torch.cat([net(torch.from_numpy(x))[0] for x in planes]).argmax(1).numpy()
    times: dict[str, list[float]] = {name: [] for name in engines}
    early: dict[str, list[float]] = {name: [] for name in engines}
    for k in range(args.blocks):
        for name in list(engines)[:: 1 if k % 2 else -1]:
            time.sleep(0.02)  # the last engine's threads go to sleep
            for i in range(BLOCK):
                begin = time.perf_counter()
                engines[name](i % len(check))
                if i >= EARLY:
                    (times if i >= SETTLED else early)[name].append(1000 * (time.perf_counter() - begin))
    median = {name: float(np.median(t)) for name, t in times.items()}
    median_early = {name: float(np.median(t)) for name, t in early.items()}
    rows = [
        {
            "engine": name,
            "threads": args.threads,
            "p50_ms": round(median[name], 3),
            "p95_ms": round(float(np.percentile(times[name], 95)), 3),
            "least_ms": round(float(np.min(times[name])), 3),
            "int8_over_this": round(median["ort int8"] / median[name], 3),
            "early_p50_ms": round(median_early[name], 3),
            "early_int8_over_this": round(median_early["ort int8"] / median_early[name], 3),
            "top1_as_pytorch_float": round(float((answers[name] == reference).mean()), 3),
            "top1_as_litert": round(float((answers[name] == answers["litert"]).mean()), 3),
            "frames_compared": len(check),
            "size_mb": round(sizes[name] / 1e6, 2),
            "cpu": hardware()["cpu"],
            "instruction_sets": instruction_sets(),
            "commit": commit(),
        }
        for name in engines
    ]
    print(f"{hardware()['cpu']}: {instruction_sets()}")
    for row in rows:
        print("  ".join(f"{k} {v}" for k, v in row.items() if k not in ("cpu", "instruction_sets", "commit")))
    for name, wanted in (("litert", 0.55), ("ort float", 0.6)):
        ratio = median["ort int8"] / median[name]
        first = median_early["ort int8"] / median_early[name]
        verdict = "held" if ratio <= wanted else "NOT held"
        print(f"int8 / {name}: {ratio:.2f} (early {first:.2f}), wanted at most {wanted}: {verdict}")
    args.csv.parent.mkdir(parents=True, exist_ok=True)
    with args.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"wrote {args.csv}")


if __name__ == "__main__":
    main()
