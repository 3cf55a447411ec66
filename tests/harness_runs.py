"""Reports as runs leave them, and recipes that write such reports at once instead of training."""

import csv
import json

NAMES = ("clap", "wave", "jump")

RECIPE = """
import argparse, os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from harness_runs import write_run

parser = argparse.ArgumentParser()
parser.add_argument("--out", type=Path)
parser.add_argument("--resume", type=Path)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--data.batch_size", dest="batch", type=int, default=8)
parser.add_argument("--trainer.accelerator", dest="accelerator", default="cpu")
args, _ = parser.parse_known_args()
REPORTED = {{"on": "Elsewhere", "top1": {{"table 1": 0.75}}}}
folder = args.out or args.resume
folder.mkdir(parents=True, exist_ok=True)
(folder / "config.yaml").write_text("data:\\n  batch_size: " + str(args.batch) + "\\n")
print("resumed" if args.resume else "fresh", args.seed, args.batch)
{body}
write_run(folder, args.seed, right={right}, accelerator=args.accelerator)
"""


def write_recipe(path, *, body="", right="12"):
    """A file that behaves like a recipe on the command line."""
    from pathlib import Path

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(RECIPE.format(tests=str(Path(__file__).parent), body=body, right=right))
    return path


def write_run(
    folder,
    seed=0,
    *,
    right=12,
    clips=24,
    fold=None,
    names=NAMES,
    macs=1000,
    digest="d",
    protocol=None,
    accelerator="cpu",
):
    """A run's folder: the first ``right`` of ``clips`` videos are named rightly, the rest one class on."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = [i % len(names) for i in range(clips)]
    said = [k if i < right else (k + 1) % len(names) for i, k in enumerate(labels)]
    with (folder / "predictions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "path", "head", "label", "predicted", "score", "top5", "error"])
        for i, (label, guess) in enumerate(zip(labels, said, strict=True)):
            rows.writerow([f"{fold}-{i}", f"{i}.mp4", "action", names[label], names[guess], 0.5, "", ""])
    with (folder / "classification_report.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["head", "class", "precision", "recall", "f1", "support", "predicted"])
        for k, name in enumerate(names):
            hits = sum(a == b == k for a, b in zip(labels, said, strict=True))
            guessed, there = said.count(k), labels.count(k)
            precision = hits / guessed if guessed else ""
            rows.writerow(["action", name, precision, hits / there, 2 * hits / (there + guessed), there, guessed])
    (folder / "metrics.csv").write_text(
        "epoch,seconds,data_wait_share,train_top1\n0,9.0,0.9,0.1\n1,2.0,0.2,0.5\n2,3.0,0.4,0.6\n"
    )
    (folder / "confusion_matrix.png").write_bytes(b"not a picture")
    speed = {"p50_ms": 10.0 + seed, "p95_ms": 12.0, "clips_per_s": 90.0}
    report = {
        "schema_version": 1,
        "recipe": "fake",
        "commit": "abc",
        "versions": {"python": "3", "torch": "2"},
        "hardware": {"machine": "m", "cpu": "c", "cores": 2, "threads": 1, "accelerator": accelerator},
        "seed": seed,
        "protocol": {
            "data": "Fake",
            "split": "test" if fold is None else f"test, fold {fold}",
            "file_list_sha256": digest,
            "sampling": {"scheme": "uniform", "num_frames": 4},
            "views": 1,
            "crop": "full",
            **(protocol or {}),
        },
        "files": {"scored": clips, "skipped": 0},
        "metrics": {"test": {"action": {"video": {"top1": right / clips, "loss": 1.0}}}},
        "cost": {"parameters": 7, "trainable_parameters": 7, "macs": macs, "checkpoint_bytes": 28},
        "memory": {"train_peak_bytes": 2**21, "test_peak_bytes": 2**20},
        "latency": speed,
        "reading": speed,
        "note": None,
        "runs": [],
    }
    (folder / "report.json").write_text(json.dumps(report))
    return folder
