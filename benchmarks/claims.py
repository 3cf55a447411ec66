"""The six claims that the five studies make together, tested on the synthetic actions.

Each claim is one or more comparisons; each comparison a number for every seed, such as a difference of test accuracies.
The interval is Student's, at 95 %, over seeds: it holds the spread of training, not that of the clips. A comparison
held if the whole interval lies above its threshold, did not hold if the whole of it lies below, and is undecided
otherwise. Three seeds decide only what is clear.

    python benchmarks/claims.py [--seeds 3] [--size tiny|small|full]

The threshold of "A beats B" is 0, that of "A keeps, matches, is at least B" is -0.02: two points less is called equal,
which was chosen before anything was run. A claim holds if all of its comparisons do, and does not if one does not; it
is undecided where its premise does not hold (no gap, nothing to narrow). Where the best network of a comparison is
within two standard errors of guessing, none has learnt, and it is undecided whatever the interval. What is counted or
exact (parameters, memory, inflation) has one number and no interval.

How it is done, alike for both sides of every comparison, and tuned for none:

- Networks are small and trained from scratch on clips of the frozen data set, with one optimizer, schedule and number
  of epochs for each kind (the image networks' are the quickstart's), and no augmentation but the choice of frames. The
  last epoch is scored. The sizes are set by the time that they take, and so that the mobile network learns something on
  the validation clips.
- Claim 1, and study E's half of claim 2: an image network, cut where it has shrunk a picture by 16, is trained as TSN
  is (8 of the frames, a consensus of their logits) and frozen. Its features are what study E's heads see, in 128 units:
  recurrent (a GRU that resets before the product), or a single frame, the middle one; then a dense layer, batch norm
  and dropout as in the study.
- Study C's half of claim 2: the same mobile network, its last stride turned into dilation, so that of 64 pixels it
  gives 8×8 maps, as large as those that the study's heads saw, by the same weights. The heads and the 20 frames are the
  study's own; parameters are counted on its own network.
- Claim 3: I3D and S3D-v1, the same GoogLeNet with full and with separable filters, on the same clips.
- Claim 4: the mobile TSN's accuracy by one crop and by ten; the memory is what ``view_memory.py`` last wrote.
- Claim 5: the mobile TSN on flow (DIS; study A's Lucas-Kanade takes ten times as long), its weight beside RGB chosen on
  the validation clips.
- Claim 6: an inflated network's middle frame and the 2D network on one repeated frame, long enough for padding in time
  to stay away.

"tiny" is for two CPU cores and half an hour, "small" for a night of them, "full" for a GPU. Conclusions about networks
of other sizes or real video do not follow. What a seed has found is kept in --work, so that a run that was stopped, or
that is given more seeds, goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import logging
import math
import os
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from claims_systems import PARTS, SIZES, STUDY_C, Bench, K, Size
from torch import Tensor, nn

from lightning_har import CNNRNNModule
from lightning_har.bench.report import commit, hardware
from lightning_har.bench.stats import half_interval
from lightning_har.nets.i3d import I3D
from lightning_har.nets.inflate import inflate
from lightning_har.nets.s3d import S3D

RESULTS = Path(__file__).parent / "results"
CACHE = Path(os.environ.get("LIGHTNING_HAR_CACHE") or Path("~/.cache/lightning_har").expanduser())
EQUAL = 0.02

CLAIMS = {
    1: "a recurrent head narrows the gap between a mobile and a large backbone",
    2: "GRU >= LSTM >= single frame; ConvNet1D > ConvLSTM > LSTM, ConvNet1D with the fewest parameters",
    3: "separable 3D convolutions match full ones with about 30 % fewer parameters",
    4: "one crop keeps accuracy at a tenth of the memory; ours keeps ten crops and the memory",
    5: "flow adds to RGB",
    6: "inflating 2D weights keeps the response to a still video",
}


# -- verdicts ----------------------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """A sum of accuracies less another, and what it must exceed."""

    claim: int
    name: str
    threshold: float
    plus: tuple[str, ...]
    minus: tuple[str, ...]
    premise: bool = False

    def values(self, scores: Sequence[dict[str, float]]) -> list[float]:
        """Of each seed."""
        return [sum(s[name] for name in self.plus) - sum(s[name] for name in self.minus) for s in scores]

    def best(self, scores: Sequence[dict[str, float]]) -> float:
        """The best mean accuracy of those compared."""
        return max(statistics.fmean(s[name] for s in scores) for name in (*self.plus, *self.minus))


COMPARISONS = (
    Comparison(1, "premise: large - mobile, single frame", 0.0, ("large single",), ("mobile single",), premise=True),
    Comparison(
        1,
        "gap on a single frame - gap with GRU",
        0.0,
        ("large single", "mobile GRU"),
        ("mobile single", "large GRU"),
    ),
    Comparison(2, "GRU - LSTM (study E)", -EQUAL, ("mobile GRU",), ("mobile LSTM",)),
    Comparison(2, "LSTM - single frame (study E)", -EQUAL, ("mobile LSTM",), ("mobile single",)),
    Comparison(2, "ConvNet1D - ConvLSTM (study C)", 0.0, ("C convnet1d",), ("C convlstm",)),
    Comparison(2, "ConvLSTM - LSTM (study C)", 0.0, ("C convlstm",), ("C lstm",)),
    Comparison(3, "S3D - I3D", -EQUAL, ("S3D",), ("I3D",)),
    Comparison(4, "one crop - ten crops", -EQUAL, ("RGB",), ("RGB, ten crops",)),
    Comparison(5, "RGB and flow - RGB", 0.0, ("RGB and flow",), ("RGB",)),
)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the mean."""
    mean, half = statistics.fmean(values), half_interval(values)
    return (-math.inf, math.inf) if half is None else (mean - half, mean + half)


def verdict(low: float, high: float, threshold: float) -> str:
    return "held" if low > threshold else "not held" if high < threshold else "undecided"


def guessing(clips: int) -> float:
    """Two standard errors above the accuracy of guesses."""
    return 1 / K + 2 * math.sqrt((1 - 1 / K) / K / clips)


def together(rows: Sequence[dict[str, Any]]) -> str:
    """Of a claim, from its comparisons."""
    if any(row["premise"] and row["verdict"] != "held" for row in rows):
        return "undecided"
    verdicts = {row["verdict"] for row in rows}
    return "not held" if "not held" in verdicts else "held" if verdicts == {"held"} else "undecided"


# -- what needs no training --------------------------------------------------------------------------------


@torch.no_grad()
def inflation_error(seed: int) -> float:
    """Greatest difference of features, as a share of the greatest feature, over families of networks."""
    import timm

    worst = 0.0
    # Frames: 1 + the sum of (kernel - 1) over the deepest path, so that the middle one is clear of the border.
    for name, frames in (("resnet18", 41), ("seresnet18", 41), ("mobilenetv2_100", 43), ("densenet121", 125)):
        torch.manual_seed(seed)
        net = timm.create_model(name, num_classes=0).eval()
        for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, 0, 0.1)
        frame = torch.randn(1, 3, 32, 32)
        expected = net.forward_features(frame)
        clip = frame[:, :, None].expand(-1, -1, frames, -1, -1)
        maps: Tensor = inflate(net).forward_features(clip)  # type: ignore[operator]
        worst = max(worst, ((maps[:, :, frames // 2] - expected).abs().max() / expected.abs().max()).item())
    return worst


def properties(view_memory: Path, seeds: int) -> Iterator[tuple[int, str, float, float]]:
    """What has no spread to speak of: (claim, comparison, threshold, value); NaN where it was not measured."""
    worst = max(inflation_error(seed) for seed in range(seeds))
    yield 6, "1e-5 - greatest relative difference of features, of all seeds", 0.0, 1e-5 - worst
    with torch.device("meta"):
        counts = {
            part: trainable(
                CNNRNNModule(13, temporal=part, hidden=hidden, backbone="mobilenetv2_100", pretrained=False,
                             num_frames=20, input_size=256)  # type: ignore[arg-type]
            )
            for part, hidden in STUDY_C.items()
        }  # fmt: skip
        full, separable = (sum(p.numel() for p in net.parameters()) for net in (I3D(), S3D("v1")))
    fewest = min(count for part, count in counts.items() if part != "convnet1d")
    yield 2, "study C's parameters: least of the others - ConvNet1D", 0.0, float(fewest - counts["convnet1d"])
    yield 3, "share of I3D's parameters that S3D-v1 saves, less 0.3", 0.0, 1 - separable / full - 0.3
    memory = {("TSN", "streamed"): math.nan}
    if view_memory.is_file():
        with view_memory.open(newline="") as file:
            rows = list(csv.DictReader(file))
        memory = {(r["backbone"], r["way"]): float(r["memory_over_one_shot"]) for r in rows if r["way"] != "one_shot"}
    # The study's own tenth is 1.77 of 17 GB.
    for (backbone, way), share in memory.items():
        most, what = (1.77 / 17, "one crop") if way == "one_crop" else (0.1, "ten crops, streamed")
        yield 4, f"memory of {backbone}: {most:.3g} of ten crops in one batch - {what}", 0.0, most - share


def trainable(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


# -- the table ---------------------------------------------------------------------------------------------


def table(
    scores: Sequence[dict[str, float]], exact: Sequence[tuple[int, str, float, float]], clips: int
) -> list[dict[str, Any]]:
    """A row for each comparison, by claim."""
    rows: list[dict[str, Any]] = []
    for c in COMPARISONS:
        values, best = c.values(scores), c.best(scores)
        low, high = interval(values)
        found = verdict(low, high, c.threshold) if best > guessing(clips) else "undecided"
        accuracies = {n: round(statistics.fmean(s[n] for s in scores), 4) for n in (*c.plus, *c.minus)}
        rows.append(
            {
                "claim": c.claim,
                "statement": CLAIMS[c.claim],
                "claim_verdict": "",
                "comparison": c.name,
                "premise": c.premise,
                "threshold": c.threshold,
                "verdict": found,
                "mean": f"{statistics.fmean(values):.6g}",
                "low": f"{low:.6g}",
                "high": f"{high:.6g}",
                "accuracies": json.dumps(accuracies),
                "values": json.dumps([float(f"{v:.6g}") for v in values]),
            }
        )
    for claim, name, threshold, value in exact:
        row = dict.fromkeys(rows[0], "") | {"claim": claim, "statement": CLAIMS[claim], "comparison": name}
        found = verdict(value, value, threshold)  # a NaN decides nothing
        rows.append(row | {"premise": False, "threshold": threshold, "verdict": found, "mean": f"{value:.6g}"})
    rows.sort(key=lambda row: row["claim"])
    for row in rows:
        row["claim_verdict"] = together([other for other in rows if other["claim"] == row["claim"]])
    return rows


class Notes:
    """What each part of each seed found, a line each in a file, so that nothing is trained twice.

    The file is named by the size and by what the scripts say: what another version of them found does not count.
    """

    def __init__(self, folder: Path, size: Size) -> None:
        said = b"".join(Path(__file__).with_name(name).read_bytes() for name in ("claims.py", "claims_systems.py"))
        digest = hashlib.sha256(said + repr(size).encode()).hexdigest()[:12]
        self.path = folder / f"{digest}.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        self.found = {(n["seed"], n["part"]): n for n in map(json.loads, lines)}

    def add(self, seed: int, part: str, scores: dict[str, float], minutes: float) -> None:
        """Keep, and write at once."""
        note = {"seed": seed, "part": part, "scores": scores, "minutes": minutes, "commit": commit()}
        self.found[seed, part] = note
        with self.path.open("a") as file:
            file.write(json.dumps(note) + "\n")

    def scores(self, seed: int) -> dict[str, float]:
        """Of all parts."""
        return {k: v for part in PARTS for k, v in self.found[seed, part]["scores"].items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", choices=[s for s in SIZES if s != "smoke"], default="tiny")
    parser.add_argument("--smoke", action="store_true", help="one clip and one epoch of everything: tests the script")
    parser.add_argument("--accelerator", default="cpu", help="of the Trainer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, default=CACHE / "claims", help="folder of flow and of what was found")
    parser.add_argument("--out", type=Path, default=RESULTS / "claims.csv")
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error(f"--seeds is {args.seeds}; at least 2")
    torch.set_num_threads(args.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    name = "smoke" if args.smoke else args.size
    size = SIZES[name]
    print(f"size {name}: {json.dumps(size._asdict())}", flush=True)

    bench, notes, start = Bench(size, args.accelerator, args.work, args.threads), Notes(args.work, size), time.time()
    for seed in range(args.seeds):
        for part, measure in PARTS.items():
            if (seed, part) in notes.found:
                continue
            before = time.time()
            notes.add(seed, part, measure(bench, seed), (time.time() - before) / 60)
            found = "  ".join(f"{k} {v:.3f}" for k, v in notes.found[seed, part]["scores"].items())
            print(f"{(time.time() - start) / 60:5.1f} min  seed {seed}  {part}: {found}", flush=True)
    clips = size.test * K
    rows = table(
        [notes.scores(seed) for seed in range(args.seeds)],
        list(properties(RESULTS / "view_memory.csv", args.seeds)),
        clips,
    )
    settings = {
        "seeds": args.seeds,
        "size": name,
        "settings": json.dumps(size._asdict()),
        "test_clips": clips,
        "minutes": round(sum(n["minutes"] for (seed, _), n in notes.found.items() if seed < args.seeds), 1),
        "torch": torch.__version__,
        "commit": commit(),
        **hardware(args.accelerator if args.accelerator == "cuda" else "cpu"),
    }
    for row in rows:
        span = f"[{float(row['low']):+.3f}, {float(row['high']):+.3f}]" if row["low"] else ""
        print(f"{row['claim']}  {row['verdict']:10s} {row['comparison']:66s} {float(row['mean']):+.4g} {span}")
    for claim, statement in CLAIMS.items():
        found = next(row["claim_verdict"] for row in rows if row["claim"] == claim)
        print(f"claim {claim}: {found}: {statement}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *settings])
        writer.writeheader()
        writer.writerows(row | settings for row in rows)


if __name__ == "__main__":
    main()
