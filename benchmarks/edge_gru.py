"""int8 MobileNetV2-GRU end to end, 25 frames from file to label: a bundle against PyTorch eager float.

Both decode the same clips with the same decoder. PyTorch runs in this process; the bundle's runner in its own, whose
high-water mark is its memory. The order alternates, clip by clip, so that a busy machine is busy for both. With a
checkpoint the agreement means something; without one the head is random and only the costs do.

    python benchmarks/edge_gru.py --videos clips/ [--checkpoint best.ckpt | --tflite mobilenet.tflite]
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from lightning_har.bench.report import commit, hardware
from lightning_har.data.folder import VideoFolderDataModule
from lightning_har.edge.bench import measure
from lightning_har.edge.bundle import bundle
from lightning_har.edge.runtime import Recognizer, load_bundle, read_clip
from lightning_har.modules import load_checkpoint
from lightning_har.modules.cnn_rnn import CNNRNNModule


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, required=True, help="a folder of clips per class, or a CSV")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--tflite", type=Path, help="weights of the backbone, where there is no checkpoint")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--csv", type=Path, default=Path(__file__).parent / "results" / "edge_gru.csv")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = VideoFolderDataModule(args.videos, batch_size=1, num_workers=0)
    if args.checkpoint:
        module = load_checkpoint(args.checkpoint)
    else:
        torch.manual_seed(0)
        pretrained = str(args.tflite) if args.tflite else False
        module = CNNRNNModule(data.num_classes, "mobilenetv2_100", "gru", 256, pretrained=pretrained, num_frames=25)
        module.class_names = data.class_names
    module.eval()
    manifest = data.manifests["val"]
    videos = [manifest.root / r.path for r in manifest][: args.rounds]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        reports = {
            "int8": bundle(module, Path(folder) / "int8", int8=True, calibration=data, name="int8"),
            "float": bundle(module, Path(folder) / "float", name="float"),
        }
        found = load_bundle(Path(folder) / "int8")
        runner = Recognizer.from_bundle(found, args.threads)
        times: dict[str, list[float]] = {"int8 bundle": [], "pytorch float eager": []}
        for k in range(args.rounds + 1):
            video = videos[k % len(videos)]
            begin = time.perf_counter()
            runner.clip(read_clip(video, found.spec, found.sampling))
            middle = time.perf_counter()
            frames = read_clip(video, found.spec, found.sampling)
            with torch.inference_mode():
                module(torch.from_numpy(frames).permute(3, 0, 1, 2)[None])
            end = time.perf_counter()
            if k:  # the first warms up
                times["int8 bundle"].append(1000 * (middle - begin))
                times["pytorch float eager"].append(1000 * (end - middle))
        cost = {n: measure(Path(folder) / n, videos[0], threads=(args.threads,), repeat=5)[0] for n in reports}
    eager = sum(p.numel() * p.element_size() for p in module.net.parameters()) + sum(
        b.numel() * b.element_size() for b in module.net.buffers()
    )
    median = {name: float(np.median(t)) for name, t in times.items()}
    ratio = median["int8 bundle"] / median["pytorch float eager"]
    rows = [
        {
            "path": "int8 bundle",
            "clip_p50_ms": round(median["int8 bundle"], 1),
            "size_mb": round(reports["int8"].size_bytes / 1e6, 2),
            "peak_rss_mb": cost["int8"]["peak_rss_mb"],
            "cold_start_s": cost["int8"]["cold_start_s"],
            "agreement": reports["int8"].agreement,
        },
        {
            "path": "float bundle",
            "clip_p50_ms": cost["float"]["clip_p50_ms"],
            "size_mb": round(reports["float"].size_bytes / 1e6, 2),
            "peak_rss_mb": cost["float"]["peak_rss_mb"],
            "cold_start_s": cost["float"]["cold_start_s"],
            "agreement": None,
        },
        {
            "path": "pytorch float eager",
            "clip_p50_ms": round(median["pytorch float eager"], 1),
            "size_mb": round(eager / 1e6, 2),
            "peak_rss_mb": None,
            "cold_start_s": None,
            "agreement": None,
        },
    ]
    for row in rows:
        print("  ".join(f"{k} {v}" for k, v in row.items() if v is not None))
    claims = [
        ("time / PyTorch eager", ratio, 0.5),
        ("size / float", reports["int8"].size_bytes / eager, 1 / 3.5),
        ("peak RSS in MB", cost["int8"]["peak_rss_mb"] or float("nan"), 250.0),
    ]
    for name, value, wanted in claims:
        print(f"{name}: {value:.3g}, wanted at most {wanted:.3g}: {'held' if value <= wanted else 'NOT held'}")
    args.csv.parent.mkdir(parents=True, exist_ok=True)
    with args.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "threads", "rounds", "trained", "cpu", "commit"])
        writer.writeheader()
        told = {"threads": args.threads, "rounds": args.rounds, "trained": bool(args.checkpoint)}
        writer.writerows({**row, **told, "cpu": hardware()["cpu"], "commit": commit()} for row in rows)
    print(f"wrote {args.csv}")


if __name__ == "__main__":
    main()
