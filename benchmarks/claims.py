"""The six claims that the five studies make together, tested on the synthetic actions.

    python benchmarks/claims.py [--seeds 3] [--size tiny|small|full] [--quick]

Each claim is one or more comparisons; each comparison a number for every seed, such as a difference of test accuracies.
The interval is Student's, at 95 %, over seeds: it holds the spread of training, not that of the clips. A comparison

- held, if the whole interval lies above its threshold,
- did not hold, if the whole interval lies below it,
- is undecided otherwise. Three seeds decide only what is clear.

The threshold of "A beats B" is 0, that of "A keeps, matches, is at least B" is -0.02: two points less is called equal,
which was chosen before anything was run. A claim holds if all of its comparisons do, and does not if one does not.
Where the best network of a comparison is within two standard errors of guessing, none has learnt, and it is undecided
whatever the interval. What is counted or exact (parameters, memory, inflation) has one number and no interval.

How it is done, alike for both sides of every comparison, and tuned for none:

- Networks are small and trained from scratch on a fixed number of clips of the frozen data set, with one optimizer,
  learning rate and number of epochs for each kind, and no augmentation but the choice of frames.
- An image network is trained as TSN is (3 of the frames, a consensus of their logits), frozen, and its features are
  what the recurrent and single-frame heads see, as in study E, all heads with 128 units. For study C's heads the
  network is cut where maps are 8×8, the size that study C's ConvLSTM saw.
- Claim 4's memory is what ``view_memory.py`` last wrote. Claim 6 compares an inflated network's middle frame with the
  2D network on one repeated frame, long enough for padding in time to stay away.

The sizes are meant for machines, not for truth: "tiny" for two CPU cores and minutes, "small" for a night of them,
"full" for a GPU. Conclusions about networks of other sizes or real video do not follow.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import logging
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_har import CNNRNNModule, I3DModule, S3DModule, TSNModule
from lightning_har.bench.report import commit, hardware
from lightning_har.data.flow import cache_flow
from lightning_har.data.synthetic import ACTIONS, SyntheticActionsDataModule
from lightning_har.modules.base import ActionRecognizer
from lightning_har.nets.i3d import I3D
from lightning_har.nets.inflate import inflate
from lightning_har.nets.s3d import S3D
from lightning_har.spec import InputSpec, Sampling

RESULTS = Path(__file__).parent / "results"
K = len(ACTIONS)
EQUAL = 0.02
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t, two-sided 95 %, of 1 to 9 degrees of freedom."""

CLAIMS = {
    1: "a recurrent head narrows the gap between a mobile and a large backbone",
    2: "GRU >= LSTM >= single frame; ConvNet1D > ConvLSTM > LSTM, ConvNet1D with the fewest parameters",
    3: "separable 3D convolutions match full ones with about 30 % fewer parameters",
    4: "one crop keeps accuracy at a tenth of the memory; ours keeps ten crops and the memory",
    5: "flow adds to RGB",
    6: "inflating 2D weights keeps the response to a still video",
}


class Size(NamedTuple):
    """How much is trained: clips of each class, pixels and frames, epochs of each kind of network."""

    train: int
    val: int
    test: int
    pixels: int
    frames: int
    image_epochs: int
    head_epochs: int
    video_pixels: int
    video_frames: int
    video_epochs: int


SIZES = {
    "quick": Size(1, 1, 1, 64, 8, 1, 1, 32, 8, 1),
    "tiny": Size(12, 4, 8, 64, 8, 5, 20, 32, 8, 3),
    "small": Size(40, 8, 16, 64, 16, 20, 60, 64, 16, 20),
    "full": Size(40, 8, 16, 96, 24, 60, 120, 96, 24, 60),
}
LARGE, MOBILE = "resnet18", "mobilenetv2_035"
CUT = "blocks.2"
"""MobileNetV2's last block of stride 8: 8×8 maps of 64 pixels."""


# -- verdicts ----------------------------------------------------------------------------------------------


class Comparison(NamedTuple):
    """A number for each seed, what it must exceed, and the best accuracy that it was made of."""

    claim: int
    name: str
    threshold: float
    values: list[float]
    best: list[float]

    def interval(self) -> tuple[float, float]:
        """Of the mean; a single number is its own."""
        mean, n = statistics.fmean(self.values), len(self.values)
        half = T95[n - 2] * statistics.stdev(self.values) / math.sqrt(n) if n > 1 else 0.0
        return mean - half, mean + half

    def verdict(self, clips: int) -> str:
        """Held, not held or undecided; one seed decides nothing, nor do networks that all know nothing."""
        low, high = self.interval()
        guessing = 1 / K + 2 * math.sqrt((1 - 1 / K) / K / clips)
        if self.best and (len(self.values) < 2 or statistics.fmean(self.best) <= guessing):
            return "undecided"
        return "held" if low > self.threshold else "not held" if high < self.threshold else "undecided"


def together(verdicts: list[str]) -> str:
    """Of a claim, from its comparisons."""
    if "not held" in verdicts:
        return "not held"
    return "held" if set(verdicts) == {"held"} else "undecided"


# -- data and training -------------------------------------------------------------------------------------


class Clips(NamedTuple):
    """Clips in memory: uint8 video, or float features, and labels."""

    video: Tensor
    label: Tensor


def load(split: str, size: Size, spec: InputSpec, sampling: Sampling, flow_root: Path | None = None) -> Clips:
    """The first clips of each class of a split."""
    data = SyntheticActionsDataModule(
        spec=spec, train_sampling=sampling, eval_sampling=sampling, batch_size=16, num_workers=0, flow_root=flow_root
    )
    data.prepare_data()
    manifest = data.manifests[split]
    taken = [0] * K
    records = []
    for record in manifest:
        assert isinstance(record.label, int)
        taken[record.label] += 1
        if taken[record.label] <= getattr(size, split):
            records.append(record)
    data.manifests[split] = manifest.with_records(records)
    if flow_root is not None:
        failed = cache_flow(data.manifests[split], flow_root, method="dis", workers=1)
        assert not failed, failed
    batches = list(getattr(data, f"{split}_dataloader")())
    return Clips(torch.cat([b["video"] for b in batches]), torch.cat([b["label"] for b in batches]))


def batches_of(clips: Clips, snippets: tuple[int, int] | None = None) -> DataLoader[Any]:
    """Shuffled batches of 16; of each clip, where wanted, a number of its snippets of a length, drawn in order."""

    def collate(indices: list[int]) -> dict[str, Any]:
        video = clips.video[indices]
        if snippets is not None:
            count, length = snippets
            whole = video.unflatten(2, (-1, length))
            segments = torch.linspace(0, whole.shape[2], count + 1)
            starts = [int(a + torch.rand(()) * (b - a)) for a, b in itertools.pairwise(segments)]
            video = whole[:, :, starts].flatten(2, 3)
        ids = [str(i) for i in indices]
        return {"video": video, "label": clips.label[indices], "id": ids, "path": ids, "failures": []}

    # Without a last batch of one, which batch norm could not take.
    return DataLoader(range(len(clips.label)), 16, shuffle=True, collate_fn=collate, drop_last=len(clips.label) > 16)


def fit(module: ActionRecognizer, loader: DataLoader[Any], epochs: int, accelerator: str) -> None:
    """Train through the Trainer, in silence."""
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator=accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loader)
    module.to(trainer.strategy.root_device).eval()


@torch.no_grad()
def logits_of(module: ActionRecognizer, video: Tensor) -> Tensor:
    """(N, K); of several views (N, V, ...) their mean."""
    out = []
    for part in video.split(16):
        part = part.to(module.device)
        logits = module.forward_views(part) if part.ndim == 6 else module(part)
        assert isinstance(logits, Tensor)
        out.append(logits.cpu())
    return torch.cat(out)


def accuracy(logits: Tensor, clips: Clips) -> float:
    """Top-1."""
    return (logits.argmax(1) == clips.label).float().mean().item()


def difference(a: float, b: float) -> tuple[float, float]:
    """Of two accuracies, and the better of them."""
    return a - b, max(a, b)


@torch.no_grad()
def features_of(module: ActionRecognizer, clips: Clips) -> Clips:
    """Features of each frame by an image network."""
    extract: Callable[[Tensor], Tensor] = module.net.segment_features  # type: ignore[assignment]
    parts = [extract(module._prepare(x.to(module.device))).cpu() for x in clips.video.split(16)]  # type: ignore[arg-type]
    return Clips(torch.cat(parts), clips.label)


# -- the claims --------------------------------------------------------------------------------------------


class Bench:
    """The data of a size, loaded once, and what is trained on it for one seed at a time."""

    def __init__(self, size: Size, accelerator: str, flow_root: Path) -> None:
        self.size, self.accelerator, self.flow_root = size, accelerator, flow_root
        self.segments = Sampling("segments")
        spec = self.image_network(MOBILE).spec
        assert isinstance(spec, InputSpec)
        self.rgb = {s: load(s, size, spec, self.segments) for s in ("train", "val", "test")}
        self.ten_crops = load("test", size, spec, Sampling("segments", crop="ten"))
        flow_spec = self.image_network(MOBILE, "flow").spec
        assert isinstance(flow_spec, InputSpec)
        self.flow = {s: load(s, size, flow_spec, self.segments, flow_root) for s in ("train", "val", "test")}

    def image_network(self, backbone: str, modality: Any = "rgb") -> TSNModule:
        """An untrained one."""
        return TSNModule(
            K,
            backbone=backbone,
            num_segments=self.size.frames,
            modality=modality,
            pretrained=False,
            dropout=0.2,
            input_size=self.size.pixels,
            optimizer="adamw",
            lr=2e-3,
        )

    def trained(self, seed: int, backbone: str, modality: str = "rgb") -> TSNModule:
        """One trained on 3 snippets of each clip."""
        torch.manual_seed(seed)
        module = self.image_network(backbone, modality)
        data = (self.rgb if modality == "rgb" else self.flow)["train"]
        loader = batches_of(data, (3, 1 if modality == "rgb" else 5))
        fit(module, loader, self.size.image_epochs, self.accelerator)
        return module

    def head(self, seed: int, features: dict[str, Clips], temporal: str) -> float:
        """Test accuracy of a head on frozen features."""
        torch.manual_seed(seed)
        module = CNNRNNModule(
            K,
            backbone=None,
            feature_dim=features["train"].video.shape[-1],
            temporal=temporal,  # type: ignore[arg-type]
            hidden=128,
            pretrained=False,
            num_frames=self.size.frames,
        )
        fit(module, batches_of(features["train"]), self.size.head_epochs, self.accelerator)
        return accuracy(logits_of(module, features["test"].video), features["test"])

    def seed(self, seed: int) -> Iterator[tuple[int, str, float, float, float]]:
        """(claim, comparison, threshold, value, best accuracy of those compared) of one seed."""
        test = self.rgb["test"]
        networks = {name: self.trained(seed, name) for name in (MOBILE, LARGE)}
        scores: dict[str, dict[str, float]] = {}
        for name, network in networks.items():
            features = {s: features_of(network, self.rgb[s]) for s in ("train", "test")}
            heads = ("gru", "lstm", "single") if name == MOBILE else ("gru", "single")
            scores[name] = {head: self.head(seed, features, head) for head in heads}
        gap = {head: scores[LARGE][head] - scores[MOBILE][head] for head in ("gru", "single")}
        best = max(score for by_head in scores.values() for score in by_head.values())
        yield 1, "gap on a single frame - gap with GRU", 0.0, gap["single"] - gap["gru"], best
        mobile = scores[MOBILE]
        yield 2, "GRU - LSTM", -EQUAL, *difference(mobile["gru"], mobile["lstm"])
        yield 2, "LSTM - single frame", -EQUAL, *difference(mobile["lstm"], mobile["single"])

        parts = self.study_c(seed)
        yield 2, "ConvNet1D - ConvLSTM", 0.0, *difference(parts["convnet1d"], parts["convlstm"])
        yield 2, "ConvLSTM - LSTM", 0.0, *difference(parts["convlstm"], parts["lstm"])

        full, separable = self.video_networks(seed)
        yield 3, "accuracy: S3D - I3D", -EQUAL, *difference(separable, full)

        rgb = networks[MOBILE]
        one = logits_of(rgb, test.video)
        ten = logits_of(rgb, self.ten_crops.video)
        yield (
            4,
            "accuracy: one crop - ten crops",
            -EQUAL,
            *difference(accuracy(one, test), accuracy(ten, self.ten_crops)),
        )

        flow = self.trained(seed, MOBILE, "flow")
        val = [logits_of(rgb, self.rgb["val"].video), logits_of(flow, self.flow["val"].video)]
        weights = sorted((w / 20 for w in range(21)), key=lambda w: abs(w - 0.5))  # of equals the evenest
        weight = max(weights, key=lambda w: accuracy(torch.lerp(*val, w), self.rgb["val"]))
        fused = torch.lerp(one, logits_of(flow, self.flow["test"].video), weight)
        yield 5, "accuracy: RGB and flow - RGB", 0.0, *difference(accuracy(fused, test), accuracy(one, test))

    def study_c(self, seed: int) -> dict[str, float]:
        """Test accuracy of study C's heads over one frozen network, cut at 8×8 maps."""
        torch.manual_seed(seed)
        common: dict[str, Any] = {
            "backbone": MOBILE,
            "pretrained": False,
            "cut_after": CUT,
            "num_frames": self.size.frames,
            "input_size": self.size.pixels,
        }
        trunk = CNNRNNModule(
            K, temporal="avg", freeze_backbone=False, optimizer="adamw", lr=2e-3, dropout=0.2, **common
        )
        fit(trunk, batches_of(self.rgb["train"], (3, 1)), self.size.image_epochs, self.accelerator)
        assert trunk.net.backbone is not None
        scores = {}
        for part, hidden in (("convnet1d", 100), ("convlstm", 8), ("lstm", 50)):
            torch.manual_seed(seed)
            module = CNNRNNModule(K, temporal=part, hidden=hidden, **common)  # type: ignore[arg-type]
            assert module.net.backbone is not None
            module.net.backbone.load_state_dict(trunk.net.backbone.state_dict())
            fit(module, batches_of(self.rgb["train"]), self.size.head_epochs, self.accelerator)
            scores[part] = accuracy(logits_of(module, self.rgb["test"].video), self.rgb["test"])
        return scores

    def video_networks(self, seed: int) -> tuple[float, float]:
        """Test accuracy of I3D and of S3D, both GoogLeNets, on the same clips."""
        s = self.size
        scores = []
        for build, options in ((I3DModule, {"value_range": (0.0, 1.0)}), (S3DModule, {})):
            torch.manual_seed(seed)
            module = build(
                K,
                pretrained=False,
                num_frames=s.video_frames,
                input_size=s.video_pixels,
                dropout=0.2,
                optimizer="adamw",
                lr=1e-3,
                **options,  # type: ignore[arg-type]
            )
            # One preprocessing for both.
            module.spec = InputSpec(s.video_frames, (s.video_pixels, s.video_pixels))
            data = {split: load(split, s, module.spec, self.segments) for split in ("train", "test")}
            fit(module, batches_of(data["train"]), s.video_epochs, self.accelerator)
            scores.append(accuracy(logits_of(module, data["test"].video), data["test"]))
        return scores[0], scores[1]


@torch.no_grad()
def inflation_error(seed: int) -> float:
    """Greatest difference of features, as a share of the greatest feature, over families of networks."""
    import timm

    worst = 0.0
    # Frames: 1 + the sum of (kernel - 1) over the deepest path, so that the middle one is clear of the border.
    for name, frames in (("resnet18", 41), ("seresnet18", 41), ("mobilenetv2_100", 43)):
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
    """What has no spread to speak of: (claim, comparison, threshold, value)."""
    worst = max(inflation_error(seed) for seed in range(seeds))
    yield 6, "1e-5 - greatest relative difference of features, of all seeds", 0.0, 1e-5 - worst
    with torch.device("meta"):
        counts = {
            part: trainable(
                CNNRNNModule(13, temporal=part, hidden=hidden, backbone="mobilenetv2_100", pretrained=False,
                             num_frames=20, input_size=256)
            )
            for part, hidden in (("convnet1d", 100), ("convlstm", 8), ("lstm", 50))
        }  # fmt: skip
        full, separable = (sum(p.numel() for p in net.parameters()) for net in (I3D(), S3D("v1")))
    fewest = min(count for part, count in counts.items() if part != "convnet1d")
    yield 2, "study C's parameters: least of the others - ConvNet1D", 0.0, float(fewest - counts["convnet1d"])
    yield 3, "share of I3D's parameters that S3D-v1 saves, less 0.3", 0.0, 1 - separable / full - 0.3
    if view_memory.is_file():
        with view_memory.open(newline="") as file:
            shares = {
                r["backbone"]: float(r["memory_over_one_shot"]) for r in csv.DictReader(file) if r["way"] != "one_shot"
            }
        for backbone, share in shares.items():
            yield 4, f"memory of ten crops, {backbone}: a tenth of one batch - streamed", 0.0, 0.1 - share


def trainable(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


# -- the table ---------------------------------------------------------------------------------------------


def table(found: list[Comparison], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each comparison."""
    verdicts = {c.name: c.verdict(settings["test_clips"]) for c in found}
    rows = []
    for c in sorted(found, key=lambda c: c.claim):
        low, high = c.interval()
        rows.append(
            {
                "claim": c.claim,
                "statement": CLAIMS[c.claim],
                "claim_verdict": together([verdicts[o.name] for o in found if o.claim == c.claim]),
                "comparison": c.name,
                "threshold": c.threshold,
                "verdict": verdicts[c.name],
                "mean": f"{statistics.fmean(c.values):.6g}",
                "low": f"{low:.6g}" if c.best else "",
                "high": f"{high:.6g}" if c.best else "",
                "best_accuracy": f"{statistics.fmean(c.best):.6g}" if c.best else "",
                "values": json.dumps([float(f"{v:.6g}") for v in c.values]),
                **settings,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", choices=[s for s in SIZES if s != "quick"], default="tiny")
    parser.add_argument("--quick", action="store_true", help="one clip and one epoch of everything: tests the script")
    parser.add_argument("--accelerator", default="cpu", help="of the Trainer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--flow", type=Path, default=Path("~/.cache/lightning_har/claims-flow"), help="folder of flow")
    parser.add_argument("--out", type=Path, default=RESULTS / "claims.csv")
    args = parser.parse_args()
    if not 1 <= args.seeds <= len(T95) + 1:
        parser.error(f"--seeds is {args.seeds}; 1 to {len(T95) + 1}")
    torch.set_num_threads(args.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    size = SIZES["quick" if args.quick else args.size]

    start = time.perf_counter()
    bench = Bench(size, args.accelerator, args.flow.expanduser())
    found = {
        name: Comparison(c, name, t, [v], []) for c, name, t, v in properties(RESULTS / "view_memory.csv", args.seeds)
    }
    for seed in range(args.seeds):
        for claim, name, threshold, value, best in bench.seed(seed):
            comparison = found.setdefault(name, Comparison(claim, name, threshold, [], []))
            comparison.values.append(value)
            comparison.best.append(best)
            print(f"seed {seed}  {time.perf_counter() - start:6.0f} s  claim {claim}  {name}: {value:+.4g}", flush=True)
    settings = {
        "seeds": args.seeds,
        "size": "quick" if args.quick else args.size,
        "settings": json.dumps(size._asdict()),
        "test_clips": len(bench.rgb["test"].label),
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "torch": torch.__version__,
        "commit": commit(),
        **hardware(args.accelerator if args.accelerator == "cuda" else "cpu"),
    }
    rows = table(list(found.values()), settings)
    for row in rows:
        span = f"[{float(row['low']):+.3f}, {float(row['high']):+.3f}]" if row["low"] else ""
        print(f"{row['claim']}  {row['verdict']:10s} {row['comparison']:56s} {float(row['mean']):+.4g} {span}")
    for claim, statement in CLAIMS.items():
        verdict = next(row["claim_verdict"] for row in rows if row["claim"] == claim)
        print(f"claim {claim}: {verdict}: {statement}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
