"""The six claims that the five studies make together, tested on the synthetic actions.

    python benchmarks/claims.py [--seeds 3] [--size tiny|small|full]

Each claim is one or more comparisons; each comparison a number for every seed, such as a difference of test accuracies.
The interval is Student's, at 95 %, over seeds: it holds the spread of training, not that of the clips. A comparison

- held, if the whole interval lies above its threshold,
- did not hold, if the whole interval lies below it,
- is undecided otherwise. Three seeds decide only what is clear.

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
import copy
import csv
import hashlib
import itertools
import json
import logging
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_har import CNNRNNModule, I3DModule, S3DModule
from lightning_har.bench.report import commit, hardware
from lightning_har.data.flow import cache_flow
from lightning_har.data.synthetic import ACTIONS, SyntheticActionsDataModule
from lightning_har.modules.base import ActionRecognizer
from lightning_har.nets.backbones import Backbone, build_backbone
from lightning_har.nets.cnn_rnn import CNNRNN, temporal_part
from lightning_har.nets.i3d import I3D
from lightning_har.nets.inflate import inflate
from lightning_har.nets.s3d import S3D
from lightning_har.nets.tsn import TSN
from lightning_har.spec import InputSpec, Sampling

RESULTS = Path(__file__).parent / "results"
CACHE = Path(os.environ.get("LIGHTNING_HAR_CACHE") or Path("~/.cache/lightning_har").expanduser())
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
    "smoke": Size(1, 1, 1, 64, 20, 1, 1, 32, 8, 1),
    "tiny": Size(40, 8, 16, 64, 20, 12, 15, 48, 8, 10),
    "small": Size(40, 8, 16, 64, 20, 20, 60, 64, 16, 20),
    "full": Size(40, 8, 16, 96, 20, 60, 120, 96, 24, 60),
}
LARGE, MOBILE = "resnet18", "mobilenetv2_050"
CUT = {LARGE: "layer3", MOBILE: "blocks.4"}
"""Their last blocks of stride 16: of 64 pixels 4×4 maps."""
SNIPPETS = 8
STUDY_C: dict[str, int] = {"convnet1d": 100, "convlstm": 8, "lstm": 50}
"""Its heads, and what ``CNNRNNModule`` calls hidden."""


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
    mean, n = statistics.fmean(values), len(values)
    half = T95[n - 2] * statistics.stdev(values) / math.sqrt(n) if n > 1 else math.inf
    return mean - half, mean + half


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


# -- data and training -------------------------------------------------------------------------------------


class Clips(NamedTuple):
    """Clips in memory: uint8 video, float features or maps (B, D, T, h, w), and labels."""

    video: Tensor
    label: Tensor


def load(split: str, size: Size, spec: InputSpec, sampling: Sampling, flow_root: Path | None, workers: int) -> Clips:
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
        failed = cache_flow(data.manifests[split], flow_root, method="dis", workers=workers)
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


# -- the networks ------------------------------------------------------------------------------------------


class ImageModule(ActionRecognizer):
    """A TSN over a backbone that is cut."""

    net: TSN

    def __init__(self, backbone: str, modality: str, size: Size) -> None:
        rgb = modality == "rgb"
        length = 1 if rgb else 5
        extractor = build_backbone(backbone, pretrained=False, in_channels=3 if rgb else 10, cut_after=CUT[backbone])
        net = TSN(extractor, K, size.frames, snippet_length=length, dropout=0.2)
        shape = (size.pixels, size.pixels)
        if rgb:
            spec = InputSpec(size.frames, shape)
        else:
            spec = InputSpec(
                size.frames * length, shape, (-1.0, 1.0), (0.0,), (1.0,), modality="flow", snippet_length=length
            )
        super().__init__(
            net, spec, K, optimizer="adamw", lr=4e-3, weight_decay=0.01, schedule="cosine", warmup_epochs=1.5
        )


class Given(Backbone):
    """Stands for a frozen backbone whose maps are what the network is given."""

    def __init__(self, num_features: int) -> None:
        super().__init__(nn.Identity(), "given", num_features, (8, 8))

    def forward_map(self, x: Tensor) -> Tensor:
        """(N, D, h, w), the same."""
        return x


class MapsModule(ActionRecognizer):
    """Study C's ConvLSTM on maps (B, D, T, h, w)."""

    def __init__(self, num_features: int, frames: int) -> None:
        part = temporal_part(
            "convlstm", num_features, STUDY_C["convlstm"], num_frames=frames, reset="after", causal=False
        )
        super().__init__(CNNRNN(Given(num_features), part, K, batch_norm=False), None, K)

    def _prepare(self, video: Any) -> Any:
        return video.float()


class Bench:
    """The data of a size, loaded when wanted and once, and what is trained on it for one seed at a time."""

    def __init__(self, size: Size, accelerator: str, work: Path, workers: int) -> None:
        self.size, self.accelerator, self.work, self.workers = size, accelerator, work, workers
        self.segments = Sampling("segments")
        self.networks: dict[tuple[int, str], ImageModule] = {}
        self.video_clips: dict[str, Clips] = {}

    def load(self, module: ImageModule, split: str, sampling: Sampling) -> Clips:
        """What a network takes of a split."""
        assert isinstance(module.spec, InputSpec)
        flow = self.work / "flow" if module.spec.modality == "flow" else None
        return load(split, self.size, module.spec, sampling, flow, self.workers)

    @cached_property
    def rgb(self) -> dict[str, Clips]:
        """Frames by split."""
        network = ImageModule(MOBILE, "rgb", self.size)
        return {split: self.load(network, split, self.segments) for split in ("train", "val", "test")}

    @cached_property
    def ten_crops(self) -> Clips:
        """The test split, ten views of each clip."""
        return self.load(ImageModule(MOBILE, "rgb", self.size), "test", Sampling("segments", crop="ten"))

    @cached_property
    def flow(self) -> dict[str, Clips]:
        """Flow by split, computed on first use."""
        network = ImageModule(MOBILE, "flow", self.size)
        return {split: self.load(network, split, self.segments) for split in ("train", "val", "test")}

    def trained(self, seed: int, backbone: str, modality: str = "rgb") -> ImageModule:
        """One trained on some snippets of each clip."""
        key = (seed, f"{backbone} {modality}")
        if key not in self.networks:
            torch.manual_seed(seed)
            module = ImageModule(backbone, modality, self.size)
            data = (self.rgb if modality == "rgb" else self.flow)["train"]
            loader = batches_of(data, (SNIPPETS, 1 if modality == "rgb" else 5))
            fit(module, loader, self.size.image_epochs, self.accelerator)
            self.networks = {k: v for k, v in self.networks.items() if k[0] == seed} | {key: module}
        return self.networks[key]

    def tested(self, seed: int, build: Callable[[], ActionRecognizer], data: dict[str, Clips], epochs: int) -> float:
        """Test accuracy of a network, built and trained with a seed."""
        torch.manual_seed(seed)
        module = build()
        fit(module, batches_of(data["train"]), epochs, self.accelerator)
        return accuracy(logits_of(module, data["test"].video), data["test"])

    # -- the parts of a seed: each gives test accuracies ---------------------------------------------------

    def study_e(self, seed: int) -> dict[str, float]:
        """Heads on features of two frozen networks: claims 1 and 2."""
        scores = {}
        for which, name in (("mobile", MOBILE), ("large", LARGE)):
            network = self.trained(seed, name)
            wanted = {split: self.rgb[split] for split in ("train", "test")}
            data = {split: Clips(self.frame_features(network, c.video), c.label) for split, c in wanted.items()}
            for head in ("GRU", "LSTM", "single"):

                def build(head: str = head, dim: int = data["train"].video.shape[-1]) -> CNNRNNModule:
                    return CNNRNNModule(
                        K,
                        backbone=None,
                        feature_dim=dim,
                        temporal=head.lower(),  # type: ignore[arg-type]
                        hidden=128,
                        reset="before",
                        input_dropout=0.0 if head == "single" else 0.5,
                        head_width=128,
                        pretrained=False,
                        num_frames=self.size.frames,
                    )

                scores[f"{which} {head}"] = self.tested(seed, build, data, self.size.head_epochs)
        return scores

    def study_c(self, seed: int) -> dict[str, float]:
        """Heads on 8×8 maps of the frozen mobile network: claim 2."""
        network = self.trained(seed, MOBILE)
        maps = {s: Clips(self.frame_maps(network, self.rgb[s].video), self.rgb[s].label) for s in ("train", "test")}
        features = {s: Clips(c.video.mean((3, 4), dtype=torch.float32).mT, c.label) for s, c in maps.items()}
        dim, frames = features["train"].video.shape[-1], self.size.frames
        scores = {}
        for part, hidden in STUDY_C.items():

            def build(part: str = part, hidden: int = hidden) -> ActionRecognizer:
                if part == "convlstm":
                    return MapsModule(dim, frames)
                return CNNRNNModule(
                    K,
                    backbone=None,
                    feature_dim=dim,
                    temporal=part,  # type: ignore[arg-type]
                    hidden=hidden,
                    pretrained=False,
                    num_frames=frames,
                )

            data = maps if part == "convlstm" else features
            scores[f"C {part}"] = self.tested(seed, build, data, self.size.head_epochs)
        return scores

    def video_networks(self, seed: int) -> dict[str, float]:
        """I3D and S3D, both GoogLeNets, on the same clips: claim 3."""
        s = self.size
        spec = InputSpec(s.video_frames, (s.video_pixels, s.video_pixels))  # one preprocessing for both
        for split in ("train", "test"):
            if split not in self.video_clips:
                self.video_clips[split] = load(split, s, spec, self.segments, None, self.workers)
        scores = {}
        for name, cls in (("I3D", I3DModule), ("S3D", S3DModule)):

            def build(cls: type[I3DModule] | type[S3DModule] = cls) -> ActionRecognizer:
                module = cls(
                    K,
                    pretrained=False,
                    num_frames=s.video_frames,
                    input_size=s.video_pixels,
                    dropout=0.2,
                    optimizer="adamw",
                    lr=1e-3,
                    weight_decay=0.01,
                    schedule="cosine",
                    warmup_epochs=1.5,
                )
                module.spec = spec
                return module

            scores[name] = self.tested(seed, build, self.video_clips, s.video_epochs)
        return scores

    def crops_and_flow(self, seed: int) -> dict[str, float]:
        """The mobile TSN by one crop, by ten, and fused with flow: claims 4 and 5."""
        rgb, flow, test = self.trained(seed, MOBILE), self.trained(seed, MOBILE, "flow"), self.rgb["test"]
        one, ten = logits_of(rgb, test.video), logits_of(rgb, self.ten_crops.video)
        val = [logits_of(rgb, self.rgb["val"].video), logits_of(flow, self.flow["val"].video)]
        weights = sorted((w / 20 for w in range(21)), key=lambda w: abs(w - 0.5))  # of equals the evenest
        weight = max(weights, key=lambda w: accuracy(torch.lerp(*val, w), self.rgb["val"]))
        other = logits_of(flow, self.flow["test"].video)
        assert torch.equal(test.label, self.ten_crops.label)
        assert torch.equal(test.label, self.flow["test"].label)
        return {
            "RGB": accuracy(one, test),
            "RGB, ten crops": accuracy(ten, test),
            "flow": accuracy(other, test),
            "RGB and flow": accuracy(torch.lerp(one, other, weight), test),
        }

    @torch.no_grad()
    def frame_features(self, network: ImageModule, video: Tensor) -> Tensor:
        """(N, T, D)."""
        parts = [network.net.segment_features(network._prepare(x.to(network.device))) for x in video.split(16)]  # type: ignore[arg-type]
        return torch.cat([part.cpu() for part in parts])

    @torch.no_grad()
    def frame_maps(self, network: ImageModule, video: Tensor) -> Tensor:
        """(N, D, T, h, w) by the dilated network, in half precision, for there are many."""
        backbone, out = dilated(network.net.backbone), None
        for start in range(0, len(video), 4):
            clip = network._prepare(video[start : start + 4].to(network.device))
            assert isinstance(clip, Tensor)
            frames = clip.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)
            maps = backbone.forward_map(frames).unflatten(0, (len(clip), -1)).transpose(1, 2)
            if out is None:
                out = torch.empty(len(video), *maps.shape[1:], dtype=torch.float16)
            out[start : start + 4] = maps
        assert out is not None
        return out


PARTS: dict[str, Callable[[Bench, int], dict[str, float]]] = {
    "study E": Bench.study_e,
    "study C": Bench.study_c,
    "crops and flow": Bench.crops_and_flow,
    "video networks": Bench.video_networks,
}


def dilated(backbone: Backbone) -> Backbone:
    """The same weights where the last stride is a dilation: the same features, and those between their places."""
    backbone = copy.deepcopy(backbone).eval()
    wide = [m for m in backbone.modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    last = max(i for i, conv in enumerate(wide) if max(conv.stride) > 1)
    wide[last].stride = (1, 1)
    for conv in wide[last + 1 :]:
        conv.dilation = conv.padding = (2, 2)  # of kernels 3×3
    return backbone


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

    The file is named by the size and by what this script says: what another version of it found does not count.
    """

    def __init__(self, folder: Path, size: Size) -> None:
        digest = hashlib.sha256(Path(__file__).read_bytes() + repr(size).encode()).hexdigest()[:12]
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
    if not 2 <= args.seeds <= len(T95) + 1:
        parser.error(f"--seeds is {args.seeds}; 2 to {len(T95) + 1}")
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
