"""The Surveillance Camera Fight Dataset with the end of the backbone trained too, on pictures and on optical flow.

Goes on from scfd_nested.py, whose best five candidates of each test fold (chosen there by inner folds alone) it
averages with two networks: MobileNetV2, the last two stages and the last convolution trained with a linear classifier
over the mean of the frames, once on RGB and once on flow pictures. One setting, written down before the first run, for
every fold; the last epoch is scored; nothing is chosen by a test fold. The rule that counts was fixed beforehand too,
the average of the best five and both networks; the others stand beside it. The interval is over folds; what another
seed would give it tells only where the table says more than one. "Shifted": the same two networks with the temporal
shift of TSM in the trained residual blocks; they were added when the scores of the others were known, and enter no
average. Not tried: 3D networks, frozen or fine-tuned, nor the whole of a network fine-tuned.

    python benchmarks/scfd_finetune.py FOLDS.csv WEIGHTS.tflite --features DIR [--seeds 1]

DIR is that of scfd_nested.py, whose features and inner scores it reads (and makes where they are missing). The maps of
the stages that stay as they are get cached there (about 1.2 GB), as they are and mirrored. Writes
results/scfd_finetune.csv.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from scfd_features import FRAMES, SIZE, Array, extract, pictures
from scfd_nested import BEST, RESULTS, Data, candidates, inner_scores, learn, ranked, write_scores
from torch import nn

from lightning_har.nets.backbones import build_backbone
from lightning_har.nets.tsn import add_temporal_shift

STREAMS = ("rgb", "flow")
EVERY = 2
"""Of the frames of scfd_features.py, every so many."""
SEGMENTS, EPOCHS, LR, HEAD_LR, DECAY, DROPOUT = 6, 12, 1e-4, 1e-3, 1e-2, 0.5
RULE = "average of best 5 and both networks"


def stages(weights: Path) -> tuple[nn.Module, nn.Module, tuple[float, float]]:
    """The network up to block 4, (N, 3, 224, 224) to (N, 96, 14, 14); the rest, to (N, 1280, 7, 7); its values."""
    backbone = build_backbone("mobilenetv2_100", pretrained=str(weights)).eval()
    net = backbone.net
    front = nn.Sequential(net.conv_stem, net.bn1, *net.blocks[:5])
    return front, nn.Sequential(*net.blocks[5:], net.conv_head, net.bn2), backbone.value_range


def mirrored(shown: Array, stream: str) -> Array:
    """Pictures (T, H, W, 3) as a mirror shows them; of flow, whose first channel is x, also with its sign turned."""
    out = shown[:, :, ::-1].copy()
    if stream == "flow":
        out[..., 0] = 256 - np.maximum(out[..., 0].astype(np.int16), 1)
    return out


@torch.inference_mode()
def maps(paths: Sequence[Path], weights: Path, out: Path) -> dict[str, Array]:
    """By stream the maps of every clip's frames, float16 (N, 2, T, 96, 14, 14); the second of the two is mirrored.

    A clip of fewer frames repeats its last, as does flow, of which there is one less.
    """
    count = len(range(0, FRAMES, EVERY))
    files = {s: out / f"maps-{s}-{len(paths)}.npy" for s in STREAMS}
    marker = out / f"maps-{len(paths)}.json"
    done = json.loads(marker.read_text()) if marker.is_file() else 0
    shape = (len(paths), 2, count, 96, SIZE // 16, SIZE // 16)
    mode = "r+" if done else "w+"
    found = {s: np.lib.format.open_memmap(f, mode, np.float16, None if done else shape) for s, f in files.items()}
    front, _, (low, high) = stages(weights)
    for i in range(done, len(paths)):
        started = time.monotonic()
        pictured, _ = pictures(paths[i])
        for stream in STREAMS:
            shown = pictured[stream][::EVERY]
            shown = shown[np.minimum(np.arange(count), len(shown) - 1)]
            for k, side in enumerate((shown, mirrored(shown, stream))):
                x = torch.from_numpy(np.ascontiguousarray(side)).permute(0, 3, 1, 2).float() / 255 * (high - low) + low
                found[stream][i, k] = front(x).half().numpy()
            found[stream].flush()
        marker.write_text(json.dumps(i + 1))
        print(f"{i + 1} of {len(paths)}, {time.monotonic() - started:.1f} s", end="\r", file=sys.stderr)
    return dict(found)


class Tail(nn.Module):
    """The trained part: maps (B, T, 96, 14, 14) to logits (B, 2), by the mean of the frames' features.

    Args:
        shifted: Shift an eighth of the channels from the frame before and an eighth from the one after in each
            residual block; T then is SEGMENTS.
    """

    def __init__(self, weights: Path, shifted: bool) -> None:
        super().__init__()
        self.stages = stages(weights)[1]
        if shifted:
            add_temporal_shift(self.stages, SEGMENTS)
        self.head = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(1280, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (B, T, 96, 14, 14) to logits (B, 2)."""
        features = self.stages(x.flatten(0, 1)).mean((2, 3)).unflatten(0, x.shape[:2])
        return self.head(features.mean(1))

    def train(self, mode: bool = True) -> Tail:
        """The batch norms keep ImageNet's statistics: a batch here is a few clips' frames, much alike."""
        super().train(mode)
        self.stages.eval()
        return self


def finetuned(
    maps: Array, labels: Array, train: Array, test: Array, weights: Path, seed: int, shifted: bool = False
) -> Array:
    """Trained on clips ``train``, the probability of class 1 of clips ``test``.

    A frame of each of SEGMENTS parts of a clip is drawn in training. The test takes all frames; with the shift, for
    which neighbours must be as far apart as in training, the middle of each part.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = Tail(weights, shifted)
    groups = [{"params": net.stages.parameters(), "lr": LR}, {"params": net.head.parameters(), "lr": HEAD_LR}]
    optimizer = torch.optim.AdamW(groups, weight_decay=DECAY)
    edges = np.linspace(0, maps.shape[2], SEGMENTS + 1)

    def draw(batch: Array) -> Array:
        places = [rng.uniform(edges[:-1], edges[1:]).astype(int) for _ in batch]
        return np.stack([maps[i, rng.integers(2)][at] for i, at in zip(batch, places, strict=True)])

    learn(net, optimizer, EPOCHS, train, labels, draw, rng)
    seen = ((edges[:-1] + edges[1:]) / 2).astype(int) if shifted else np.arange(maps.shape[2])
    with torch.inference_mode():
        said = [net(torch.from_numpy(maps[i][:, seen]).float()).softmax(1)[:, 1].mean() for i in test]
    return np.array([float(p) for p in said])


def main() -> None:
    """Extract, train, score, print and write; what is scored already is kept in the folder of features."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folds", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    made = extract(args.folds, args.weights, args.features)
    rows = [row for row, _ in made]
    names = sorted({row["label"] for row in rows})
    labels = np.array([names.index(row["label"]) for row in rows])
    data = Data([clip for _, clip in made], labels, np.array([row["fold"] for row in rows]))
    tried = candidates()
    inner = inner_scores(data, tried, args.features / "inner.jsonl")
    cached = maps([args.folds.parent / row["path"] for row in rows], args.weights, args.features)
    kept = args.features / "finetuned.jsonl"
    lines = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
    known = {(one["stream"], one["fold"], one["seed"]): np.array(one["probabilities"]) for one in lines}
    scores = []
    folds = sorted(set(data.folds))
    for seed in range(args.seeds):
        for fold in folds:
            train, test = np.flatnonzero(data.folds != fold), np.flatnonzero(data.folds == fold)
            chosen = [tried[k] for k in ranked(inner, fold, tried)[:BEST]]
            best = [data.predict(c, data.inputs(c), (fold,), seed) for c in chosen]
            rules = {}
            for stream, shifted in product(STREAMS, (False, True)):
                name = f"{stream}, shifted" if shifted else stream
                key = (name, fold, seed)
                if key not in known:
                    started = time.monotonic()
                    known[key] = finetuned(cached[stream], labels, train, test, args.weights, seed, shifted)
                    with kept.open("a") as file:
                        line = {"stream": name, "fold": fold, "seed": seed, "probabilities": known[key].tolist()}
                        file.write(json.dumps(line) + "\n")
                    print(f"fold {fold} seed {seed} {name}: {time.monotonic() - started:.0f} s", flush=True)
                rules[f"network on {name}"] = known[key]
            nets = [known[stream, fold, seed] for stream in STREAMS]
            rules["average of both networks"] = np.mean(nets, 0)
            rules[f"average of best {BEST}"] = np.mean(best, 0)[test]
            rules[RULE] = np.mean([*(b[test] for b in best), *nets], 0)
            scores += [(rule, fold, seed, float(((p > 0.5) == labels[test]).mean())) for rule, p in rules.items()]
    write_scores(args.out / "scfd_finetune.csv", scores, folds, len(tried), {})


if __name__ == "__main__":
    main()
