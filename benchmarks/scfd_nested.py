"""The Surveillance Camera Fight Dataset by nested validation: what cheap systems on frozen features reach honestly.

Five fixed folds keep a source video together. For each test fold, every candidate is scored on the other four by
leave-one-fold-out; the candidate that scores best there, and the average of the best five (each on features of its
own), are then trained on all four and scored once on the test fold. The list of candidates was fixed before any of them
was scored; the test fold chooses nothing. A control sees no picture, only each file's rate, length, height, width and
bytes: what it gets, the videos' origin gives away. Not tried: TSM and 3D networks, frozen or fine-tuned. A
candidate's interval is Student's over the five folds that it was scored on.

    python benchmarks/scfd_nested.py FOLDS.csv WEIGHTS.tflite [--features DIR] [--seeds 3]

FOLDS.csv has the columns path, label, group, fold; WEIGHTS.tflite is the quantized MobileNetV2 1.0 at 224. Wants the
extras flow and dev (OpenCV, scikit-learn). Features of all clips take some 15 minutes of one core, and are kept.

scfd_features.py says what the features are.

Writes results/scfd_nested.csv (the outer scores), scfd_nested_candidates.csv (the inner scores of all that was tried).
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from scfd_features import Array, Clip, extract

from lightning_har.bench.report import commit, hardware
from lightning_har.bench.stats import half_interval
from lightning_har.nets.cnn_rnn import CNNRNN, temporal_part

RESULTS = Path(__file__).parent / "results"
STREAMS = ("rgb", "diff", "flow")
BEST = 5


# -- candidates --------------------------------------------------------------------------------------------


def pooled(clip: Clip, name: str) -> Array:
    """A clip's features as one vector: ``name`` is such as "diff_last:mean+std", parts joined by ","."""
    parts = []
    for part in name.split(","):
        of, _, ways = part.partition(":")
        x = clip[of]
        made = {
            "mean": lambda x=x: x.mean(0),
            "std": lambda x=x: x.std(0),
            "max": lambda x=x: x.max(0),
            "step": lambda x=x: np.abs(np.diff(x, axis=0)).mean(0),
        }
        parts += [made[way]() for way in ways.split("+")]
    return np.concatenate(parts)


@dataclass(frozen=True)
class Candidate:
    """Features and a classifier.

    Attributes:
        features: As ``pooled`` takes them; for a network the one sequence that it reads.
        classifier: "logistic", "svm" (radial), "trees", or "gru" or "attention", temporal parts of the library.
        strength: C of "logistic" and "svm"; unused elsewhere.
    """

    features: str
    classifier: str
    strength: float = 0.0

    @property
    def name(self) -> str:
        """What it is called in the tables."""
        return f"{self.features} {self.classifier}" + (f" C={self.strength:g}" if self.strength else "")


CONTROL = Candidate("file:mean", "trees")


def candidates() -> list[Candidate]:
    """All that is tried."""
    vectors = [f"{s}_last:{ways}" for s in STREAMS for ways in ("mean", "mean+std", "max", "step")]
    vectors += [f"{s}_mid:mean+std+max" for s in STREAMS]
    vectors += [
        "motion:mean+std+max",
        "rgb_last:mean,diff_last:mean+std",
        "diff_last:mean+std,flow_last:mean+std",
        "rgb_last:mean+std,diff_last:mean+std,flow_last:mean+std",
        "diff_mid:mean+std+max,flow_mid:mean+std+max,motion:mean+std+max",
        "rgb_last:mean,motion:mean+std+max",
    ]
    found = [Candidate(v, "logistic", c) for v in vectors for c in (1e-4, 1e-3, 1e-2, 1e-1)]
    found += [Candidate(v, "svm", c) for v in vectors for c in (0.3, 1.0, 3.0)]
    found += [Candidate(v, "trees") for v in vectors if "mid" in v or "motion" in v]
    found += [Candidate(f"{s}_last", part) for s in STREAMS for part in ("gru", "attention")]
    return found


def turned(x: Array, train: Array) -> Array:
    """Standardised by the training clips and turned into the space they span, (N, D) to (N, at most N).

    What a linear model or a kernel of distances makes of the training clips does not change by that, its time does;
    for other clips what lies outside that space is dropped, where a regularised linear model is blind anyway.
    """
    x = (x - x[train].mean(0)) / (x[train].std(0) + 1e-6)
    axes = np.linalg.svd(x[train], full_matrices=False)[2]
    return np.asarray(x @ axes.T)


def by_vector(candidate: Candidate, x: Array, labels: Array, train: Array, seed: int) -> Array:
    """The probability of class 1 of every clip, by a classifier of scikit-learn."""
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import SVC

    if candidate.classifier == "trees":
        trees = ExtraTreesClassifier(300, min_samples_leaf=3, random_state=seed, n_jobs=1).fit(x[train], labels[train])
        return np.asarray(trees.predict_proba(x)[:, 1])
    x = turned(x, train)
    if candidate.classifier == "logistic":
        line = LogisticRegression(C=candidate.strength, max_iter=2000).fit(x[train], labels[train])
        return np.asarray(line.predict_proba(x)[:, 1])
    machine = SVC(C=candidate.strength)
    # A margin, squashed, so that averages with probabilities make sense; 0.5 stays the border.
    return np.asarray(1 / (1 + np.exp(-2 * machine.fit(x[train], labels[train]).decision_function(x))))


EPOCHS, BATCH, HIDDEN = 30, 16, 128


def learn(
    net: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    clips: Array,
    labels: Array,
    draw: Callable[[Array], Array],
    rng: np.random.Generator,
) -> None:
    """Train under one cycle of the optimizer's rates; ``draw`` gives the inputs (B, ...) of some of the clips."""
    batches = math.ceil(len(clips) / BATCH)
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, epochs * batches)
    target = torch.from_numpy(labels)
    net.train()
    for _ in range(epochs):
        for batch in np.array_split(rng.permutation(clips), batches):
            said = net(torch.from_numpy(draw(batch)).float())
            loss = torch.nn.functional.cross_entropy(said, target[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    net.eval()


def by_network(candidate: Candidate, clips: Sequence[Array], labels: Array, train: Array, seed: int) -> Array:
    """Likewise by a temporal part of the library; random stretches of three quarters of a clip in training."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    every = np.concatenate([clips[i] for i in train])
    centre, scale = every.mean(0), every.std(0) + 1e-6
    shortest = min(map(len, clips))
    part = temporal_part(
        candidate.classifier, clips[0].shape[1], HIDDEN, num_frames=shortest, reset="after", causal=False
    )
    net = CNNRNN(None, part, 2, batch_norm=candidate.classifier == "gru", input_dropout=0.5, dropout=0.5)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=1e-2)
    length = shortest * 3 // 4

    def stretch(clip: Array, start: int, stop: int, length: int) -> Array:
        return (clip[np.linspace(start, stop - 1, length).round().astype(int)] - centre) / scale

    def draw(batch: Array) -> Array:
        starts = [int(rng.integers(0, len(clips[i]) - length + 1)) for i in batch]
        return np.stack([stretch(clips[i], at, at + length, length) for i, at in zip(batch, starts, strict=True)])

    learn(net, optimizer, EPOCHS, train, labels, draw, rng)
    with torch.inference_mode():
        whole = torch.from_numpy(np.stack([stretch(clip, 0, len(clip), shortest) for clip in clips]))
        return np.asarray(net(whole).softmax(1)[:, 1])


# -- nested validation -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """Clips with their labels, 0 or 1, and folds."""

    clips: Sequence[Clip]
    labels: Array
    folds: Array

    def inputs(self, candidate: Candidate) -> Any:
        """What its classifier reads: vectors, or a sequence of each clip."""
        if candidate.classifier in ("gru", "attention"):
            return [clip[candidate.features] for clip in self.clips]
        return np.stack([pooled(clip, candidate.features) for clip in self.clips])

    def predict(self, candidate: Candidate, inputs: Any, without: Sequence[str], seed: int) -> Array:
        """Trained without some folds, the probability of class 1 of every clip."""
        train = np.flatnonzero(~np.isin(self.folds, without))
        fit = by_network if candidate.classifier in ("gru", "attention") else by_vector
        return fit(candidate, inputs, self.labels, train, seed)

    def right(self, probabilities: Array, fold: str) -> float:
        """Top-1 on a fold."""
        here = self.folds == fold
        return float(((probabilities[here] > 0.5) == self.labels[here]).mean())


def inner_scores(data: Data, tried: Sequence[Candidate], kept: Path) -> dict[tuple[str, int], float]:
    """By test fold and candidate, the mean top-1 over the four other folds, each left out in turn.

    What is trained without two folds serves both: the one as the test fold's inner fold, and the other way round.
    The scores of a candidate are kept in a file, for whoever goes on after a stop.
    """
    folds = sorted(set(data.folds))
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.is_file() else []
    done = {one["candidate"]: one["pairs"] for one in map(json.loads, lines)}
    found: dict[tuple[str, int], list[float]] = {}
    for k, candidate in enumerate(tried):
        started = time.monotonic()
        if candidate.name not in done:
            inputs, pairs = data.inputs(candidate), []
            for one, other in combinations(folds, 2):
                said = data.predict(candidate, inputs, (one, other), seed=0)
                pairs.append([one, other, data.right(said, one), data.right(said, other)])
            done[candidate.name] = pairs
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"candidate": candidate.name, "pairs": pairs}) + "\n")
        for one, other, right_one, right_other in done[candidate.name]:
            found.setdefault((one, k), []).append(right_other)
            found.setdefault((other, k), []).append(right_one)
        shown = mean(mean(found[outer, k]) for outer in folds)
        print(f"{k + 1:3} of {len(tried)} inner {shown:.3f} {candidate.name} ({time.monotonic() - started:.0f} s)")
        sys.stdout.flush()
    return {key: mean(values) for key, values in found.items()}


def folds_scored(kept: Path) -> dict[str, list[float]]:
    """By candidate, its mean top-1 on each of the folds, of what ``inner_scores`` kept."""
    found = {}
    for line in kept.read_text(encoding="utf-8").splitlines():
        one, on = json.loads(line), dict[str, list[float]]()
        for fold, other, right, right_other in one["pairs"]:
            on.setdefault(fold, []).append(right)
            on.setdefault(other, []).append(right_other)
        found[one["candidate"]] = [mean(on[fold]) for fold in sorted(on)]
    return found


def ranked(inner: Mapping[tuple[str, int], float], outer: str, tried: Sequence[Candidate]) -> list[int]:
    """The best candidate of each kind of features, by inner scores; the earlier where equal."""
    order = sorted(range(len(tried)), key=lambda k: (-inner[outer, k], k))
    best = {}
    for k in order:
        best.setdefault(tried[k].features, k)
    return list(best.values())


def main() -> None:
    """Extract, select, score, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folds", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--features", type=Path, help="folder of features and inner scores; with it, a stop is no loss")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only-extract", action="store_true", help="compute the features, and stop")
    parser.add_argument("--smoke", action="store_true", help="a few candidates, one seed: does it run?")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", module="sklearn")
    folder = args.features or Path(tempfile.mkdtemp())
    made = extract(args.folds, args.weights, folder)
    if args.only_extract:
        return
    names = sorted({row["label"] for row, _ in made})
    data = Data(
        [clip for _, clip in made],
        np.array([names.index(row["label"]) for row, _ in made]),
        np.array([row["fold"] for row, _ in made]),
    )
    tried, seeds = candidates(), range(args.seeds)
    if args.smoke:
        kinds = dict.fromkeys(c.classifier for c in tried)
        tried, seeds = [next(c for c in tried if c.classifier == kind) for kind in kinds], range(1)
    inner = inner_scores(data, tried, folder / "inner.jsonl")
    folds = sorted(set(data.folds))
    outer_rows, chosen = [], {}
    for outer in folds:
        chosen[outer] = ranked(inner, outer, tried)[:BEST]
        for seed in seeds:
            got = [data.predict(tried[k], data.inputs(tried[k]), (outer,), seed) for k in chosen[outer]]
            got.append(data.predict(CONTROL, data.inputs(CONTROL), (outer,), seed))
            rules = ("best", f"average of best {len(got) - 1}", "control: files, no pictures")
            for rule, said in zip(rules, (got[0], np.mean(got[:-1], 0), got[-1]), strict=True):
                outer_rows.append((rule, outer, seed, data.right(said, outer)))
    write(args.out, tried, inner, folds_scored(folder / "inner.jsonl"), chosen, outer_rows, folds)


def write(
    out: Path,
    tried: Sequence[Candidate],
    inner: Mapping[tuple[str, int], float],
    by_fold: Mapping[str, Sequence[float]],
    chosen: Mapping[str, Sequence[int]],
    rows: Sequence[tuple[str, str, int, float]],
    folds: Sequence[str],
) -> None:
    """Both tables; the summary is printed too."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "scfd_nested_candidates.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        head = ["candidate", *(f"inner_top1_without_fold_{f}" for f in folds), "inner_top1_mean", "ci95_over_folds"]
        writer.writerow([*head, "best_for", "hardware", "commit"])
        order = sorted(range(len(tried)), key=lambda k: -mean(inner[f, k] for f in folds))
        for k in order:
            values = [inner[f, k] for f in folds]
            best_for = " ".join(f for f in folds if chosen[f][0] == k)
            numbers = [f"{v:.4f}" for v in (*values, mean(values), half_interval(by_fold[tried[k].name]))]
            writer.writerow([tried[k].name, *numbers, best_for, hardware()["cpu"], commit()])
    promised = mean(inner[f, chosen[f][0]] for f in folds)
    write_scores(out / "scfd_nested.csv", rows, folds, len(tried), {"best": f"{promised:.4f}"})


def write_scores(
    path: Path,
    rows: Sequence[tuple[str, str, int, float]],
    folds: Sequence[str],
    tried: int,
    inner_top1: Mapping[str, str],
) -> None:
    """A table of the scores (rule, fold, seed, top-1), a line a rule, with an interval over the folds; also printed."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        head = ["rule", *(f"fold_{f}" for f in folds), "top1_mean", "ci95_over_folds", "std_over_folds", "inner_top1"]
        writer.writerow([*head, "candidates", "seeds", "hardware", "commit"])
        for rule in dict.fromkeys(r[0] for r in rows):
            means = [mean(r[3] for r in rows if r[:2] == (rule, f)) for f in folds]
            half = half_interval(means)
            numbers = [f"{v:.4f}" for v in (*means, mean(means), half, stdev(means))]
            seeds = len({r[2] for r in rows})
            writer.writerow([rule, *numbers, inner_top1.get(rule, ""), tried, seeds, hardware()["cpu"], commit()])
            print(f"{rule}: {mean(means):.3f} ± {half:.3f} (95 %, t over {len(means)} folds), sd {stdev(means):.3f}")


if __name__ == "__main__":
    main()
