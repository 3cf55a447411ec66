"""Frozen ImageNet features on real clips: recurrent heads against the average and a single frame.

Runs the Surveillance Camera Fight Dataset (300 clips, two classes) over five fixed folds that keep a source video
together, with several seeds, on features of a frozen MobileNetV2 (25 uniform frames). Nothing is chosen: the settings
below were fixed before the first run, every model trains for the same number of epochs, and the last one is scored.

    python benchmarks/scfd.py FOLDS.csv WEIGHTS.tflite --out benchmarks/results

FOLDS.csv has the columns path, label, group, fold; WEIGHTS.tflite is the quantized MobileNetV2 1.0 at 224.

``tsn`` is TSN on a frozen backbone: in training one random frame of each of 3 segments, at test all 25, consensus by
average. Its classifier is linear, so that the average of the frames' logits is the logits of their average, which is
what is computed; what it shares with ``avg`` is the test, what differs is the training.
"""

from __future__ import annotations

import argparse
import csv
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import torch

from lightning_har import CNNRNNModule, VideoFolderDataModule
from lightning_har._lightning import Trainer, pl
from lightning_har.bench.report import commit, hardware
from lightning_har.data.features import FeatureDataModule, extract_features
from lightning_har.nets.preprocess import normalize
from lightning_har.spec import Sampling

REPORTED = """The data set's paper (Aktı et al., IPTA 2019): 72 % on a random split, in which clips of one source video
may lie on both sides; no figure of it is on these folds."""
MODELS = ("gru", "lstm", "avg", "single", "tsn")
SEGMENTS = 3
SETTINGS = {"hidden": 256, "dropout": 0.5, "optimizer": "adam", "lr": 1e-3, "weight_decay": 1e-4, "topk": (1,)}
EPOCHS, BATCH = 30, 16
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Two-sided 95 % points of Student's t for the mean of n values (n - 1 degrees of freedom)."""


def extract(folds: Path, weights: Path, out: Path) -> Path:
    """The features of every clip, once."""
    module = CNNRNNModule(2, backbone="mobilenetv2_100", pretrained=str(weights), temporal="avg", num_frames=25).eval()
    data = VideoFolderDataModule(folds, spec=module.spec, eval_sampling=module.eval_sampling, batch_size=4)

    def frames(video: torch.Tensor) -> torch.Tensor:
        return module.net.frame_features(normalize(video, module.spec))

    with torch.no_grad():
        done = extract_features(frames, data, out, settings={"weights": weights.name})
    return Path(done.manifest)


def score(features: Path, folds: dict[str, str], test_fold: str, model: str, seed: int) -> float:
    """Top-1 on the fold, trained on the other four."""
    with features.open() as f:
        rows = list(csv.DictReader(f))
    for row in rows:
        row["split"] = "test" if folds[row["path"].removesuffix(".npy")] == test_fold else "train"
    manifest = features.with_name(f"fold-{test_fold}.csv")
    with manifest.open("w", newline="") as f:
        writer = csv.DictWriter(f, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    pl.seed_everything(seed, verbose=False)
    part = "avg" if model == "tsn" else model
    module = CNNRNNModule(2, backbone=None, feature_dim=1280, temporal=part, pretrained=False, **SETTINGS)
    data = FeatureDataModule(manifest, batch_size=BATCH, num_workers=0, seed=seed)
    drawn = Sampling("segments", random=True)
    few = FeatureDataModule(
        manifest, num_frames=SEGMENTS, train_sampling=drawn, batch_size=BATCH, num_workers=0, seed=seed
    )
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(module, few if model == "tsn" else data)
    return float(trainer.test(module, data, verbose=False)[0]["test_video_top1"])


def main() -> None:
    """Extract, run, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folds", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--features", type=Path, help="folder of the features, kept from run to run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, help="the others' rows stay")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    features = extract(arguments.folds, arguments.weights, arguments.features or Path(tempfile.mkdtemp()))
    with arguments.folds.open() as f:
        folds = {Path(r["path"]).with_suffix("").as_posix(): r["fold"] for r in csv.DictReader(f)}
    by_id = {k: v for key, v in folds.items() for k in (key, key.replace("/", "-"), key.replace("/", "__"))}
    runs = []
    for model in arguments.models:
        for fold in sorted(set(folds.values())):
            for seed in range(arguments.seeds):
                runs.append((model, fold, seed, score(features, by_id, fold, model, seed)))
                print(*runs[-1], flush=True)
    summary = []
    for model in arguments.models:
        means = [mean(r[3] for r in runs if r[:2] == (model, fold)) for fold in sorted(set(folds.values()))]
        half = T_95[len(means)] * stdev(means) / math.sqrt(len(means))
        row = [model, f"{mean(means):.4f}", f"{half:.4f}", f"{stdev(means):.4f}", len(means), arguments.seeds]
        summary.append([*row, hardware()["cpu"], commit()])
        print(f"{model:8} {mean(means):.3f} ± {half:.3f} (95 %, t over {len(means)} folds), sd {stdev(means):.3f}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    told = [(*run, hardware()["cpu"], commit()) for run in runs]
    update(arguments.out / "scfd_runs.csv", ["model", "fold", "seed", "top1", "hardware", "commit"], told)
    head = ["model", "top1_mean", "ci95_over_folds", "std_over_folds", "folds", "seeds", "hardware", "commit"]
    update(arguments.out / "scfd.csv", head, summary)


def update(path: Path, head: list[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table; rows of models that were not run now stay as they are, with the commit that they came from."""
    old: list[dict[str, str]] = []
    if path.is_file():
        with path.open(newline="") as f:
            old = list(csv.DictReader(f))
    new = {row[0] for row in rows}
    with path.open("w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(head)
        writer.writerows([row.get(key, "") for key in head] for row in old if row[head[0]] not in new)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
