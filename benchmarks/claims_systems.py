"""The networks of ``claims.py``, their data, and how they are trained: a test accuracy by name and seed."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_har import CNNRNNModule, I3DModule, S3DModule
from lightning_har.data.flow import cache_flow
from lightning_har.data.synthetic import ACTIONS, SyntheticActionsDataModule
from lightning_har.modules.base import ActionRecognizer
from lightning_har.nets.backbones import Backbone, build_backbone
from lightning_har.nets.cnn_rnn import CNNRNN, temporal_part
from lightning_har.nets.tsn import TSN
from lightning_har.spec import InputSpec, Sampling

K = len(ACTIONS)


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
