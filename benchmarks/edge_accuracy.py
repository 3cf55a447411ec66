"""What int8 costs a MobileNetV2-GRU in accuracy: float, quantized after training, and trained with rounding.

"scfd": the Surveillance Camera Fight Dataset over its fixed folds, a GRU on the features of a frozen MobileNetV2, with
several seeds, settings as in scfd_heads.py, trained on all of the other four folds. "synthetic": rendered actions, a
MobileNetV2-GRU trained as a whole on the clips of recipes/synthetic.py, or where its table names a checkpoint, that
one, whose epoch its own run chose on the validation part; it is scored on 4,800 clips of the test part's actors that
the recipe's own test has not. Training ends after a fixed number of epochs, and the last one is scored on the test
part. Calibration takes training clips. Each int8 model is what ``edge.export`` writes, run in ONNX Runtime. "int8
trained" goes on from the float network: the head alone, on the features of the int8 backbone ("scfd"), or the whole
network ("synthetic"), with ``QuantizationAwareTraining``; there twice, at a tenth of the learning rate, and with
distillation at a hundredth, of which the one whose int8 model has the smaller loss on the validation part is scored. On
scfd nothing is chosen. "float longer" trains as many epochs more without rounding, at the same learning rate, so that
what rounding did is not mistaken for what training on did. "right by training alone" counts the test clips that only
"int8 trained" names right, "wrong by training alone" those that only "int8" does. --prune takes a share of the hidden
channels of the backbone out before the head is trained, and tells what is left of its multiply-adds.

    python benchmarks/edge_accuracy.py scfd FOLDS.csv WEIGHTS.tflite [--prune 0.25]
    python benchmarks/edge_accuracy.py synthetic [--checkpoint best.ckpt]
"""

from __future__ import annotations

import argparse
import copy
import csv
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_har import CNNRNNModule
from lightning_har._lightning import Trainer, pl
from lightning_har.bench.report import commit, hardware
from lightning_har.edge.export import export
from lightning_har.edge.graphs import build_graphs
from lightning_har.edge.qat import QuantizationAwareTraining
from lightning_har.edge.runtime import open_graph, read_clip
from lightning_har.nets.preprocess import normalize
from lightning_har.spec import Sampling

SETTINGS = {"hidden": 256, "dropout": 0.5, "optimizer": "adam", "lr": 1e-3, "weight_decay": 1e-4, "topk": (1,)}
EPOCHS, MORE_EPOCHS, BATCH = 30, 5, 16
SYNTHETIC_LR = 4e-3
WAYS = {"plain": (SYNTHETIC_LR / 10, False), "distilled": (SYNTHETIC_LR / 100, True)}  # to train on: lr, distill
CALIBRATION_CLIPS = 40  # half calibrate, half are compared by export
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "limit_val_batches": 0,
}


def batch_of(videos: Sequence[Tensor], labels: Sequence[int]) -> dict[str, Any]:
    names = [str(i) for i in range(len(labels))]
    return {
        "video": torch.stack(list(videos)),
        "label": torch.tensor(labels),
        "id": names,
        "path": names,
        "failures": [],
    }


def first_output(graph: Any, x: np.ndarray) -> np.ndarray:
    return graph([x])[0]


def as_tensor(graph: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.from_numpy(first_output(graph, x.numpy()))


def fit(module: Any, loader: Any, epochs: int, lr: float, *callbacks: Any) -> None:
    module.options["lr"] = lr
    module.train()
    Trainer(max_epochs=epochs, callbacks=list(callbacks), **QUIET).fit(module, loader)
    module.eval()


# -- scfd ------------------------------------------------------------------------------------------------------


class Heads:
    """Recurrent heads on features that are at hand."""

    def __init__(self, labels: Sequence[int], train: Sequence[int], test: Sequence[int], seed: int) -> None:
        self.labels, self.train, self.test, self.seed = labels, train, test, seed

    def loader(self, features: Tensor) -> Any:
        """Shuffled batches of the training clips' features."""
        items = [(features[i], self.labels[i]) for i in self.train]
        return torch.utils.data.DataLoader(
            items,  # type: ignore[arg-type]
            batch_size=BATCH,
            shuffle=True,
            drop_last=len(items) > BATCH,
            generator=torch.Generator().manual_seed(self.seed),
            collate_fn=lambda pairs: batch_of(*zip(*pairs, strict=True)),
        )

    def top1(self, run: Callable[[Tensor], Tensor], features: Tensor) -> float:
        """Share of the test clips that are named right."""
        with torch.no_grad():
            return mean(int(run(features[i][None]).argmax(1)) == self.labels[i] for i in self.test)


def scfd(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    with args.folds.open() as file:
        rows = list(csv.DictReader(file))
    if args.smoke:
        rows = rows[::30]
    classes = sorted({r["label"] for r in rows})
    labels = [classes.index(r["label"]) for r in rows]
    full = CNNRNNModule(2, "mobilenetv2_100", "gru", pretrained=str(args.weights), num_frames=25, **SETTINGS).eval()
    spec = full.spec
    args.work.mkdir(parents=True, exist_ok=True)
    path = args.work / f"frames-{len(rows)}.npy"
    if not path.is_file():
        unfinished = path.with_suffix(".part")
        frames = np.lib.format.open_memmap(unfinished, "w+", np.uint8, (len(rows), 25, *spec.size, 3))
        for i, row in enumerate(rows):
            frames[i] = read_clip(args.folds.parent / row["path"], spec, full.eval_sampling or Sampling())
        frames.flush()
        unfinished.rename(path)
    frames = np.load(path, mmap_mode="r")

    def clip(i: int) -> Tensor:
        return torch.from_numpy(np.array(frames[i])).permute(3, 0, 1, 2)

    note = {}
    if args.prune:
        from lightning_har.edge.prune import prune

        before = products(full)
        seen = [normalize(clip(i)[None], spec)[0].transpose(0, 1)[::8] for i in range(0, len(rows), 10)]
        full.net.backbone.net = prune(full.net.backbone.net, args.prune, seen)
        note["multiply_adds"] = round(products(full) / before, 3)

    def features_of(run: Callable[[np.ndarray], np.ndarray]) -> Tensor:
        out = [
            np.concatenate([run(np.ascontiguousarray(x)[None]) for x in frames[i].transpose(0, 3, 1, 2)])
            for i in range(len(rows))
        ]
        return torch.from_numpy(np.stack(out))

    plain = build_graphs(full, "frames")[0].net
    with torch.no_grad():
        floats = features_of(lambda x: plain(torch.from_numpy(x))[0].numpy())
    for fold in sorted({r["fold"] for r in rows})[: args.num_folds]:
        train = [i for i, r in enumerate(rows) if r["fold"] != fold]
        test = [i for i, r in enumerate(rows) if r["fold"] == fold]
        coded = None
        for seed in args.seeds:
            pl.seed_everything(seed, verbose=False)
            heads = Heads(labels, train, test, seed)
            options = {**SETTINGS, "backbone": None, "feature_dim": 1280, "temporal": "gru", "pretrained": False}
            head = CNNRNNModule(2, **options)
            fit(head, heads.loader(floats), args.epochs, SETTINGS["lr"])
            chosen = np.random.default_rng(seed).permutation(train)[:CALIBRATION_CLIPS]
            calibration = [batch_of([clip(i)], [labels[i]]) for i in chosen]
            with tempfile.TemporaryDirectory() as folder:

                def quantized(head: Any, name: str, folder: str = folder, calibration: Any = calibration) -> Any:
                    full.net.load_state_dict(head.net.state_dict(), strict=False)
                    report = export(full, Path(folder) / name, int8=True, calibration=calibration, kind="frames")
                    graphs = {part: open_graph(file, args.threads) for part, file in report.files.items()}
                    return graphs, report

                graphs, report = quantized(head, "after")
                if coded is None:  # the backbone is the same for all seeds, but for which clips calibrate it
                    coded = features_of(partial(first_output, graphs["frame"]))
                scores = {"float": heads.top1(head, floats), "int8": heads.top1(as_tensor(graphs["head"]), coded)}
                longer, rounded = copy.deepcopy(head), copy.deepcopy(head)
                lr = SETTINGS["lr"] / 10
                fit(longer, heads.loader(floats), args.more_epochs, lr)
                fit(rounded, heads.loader(coded), args.more_epochs, lr, QuantizationAwareTraining())
                graphs, _ = quantized(rounded, "trained")
                scores["float longer"] = heads.top1(longer, floats)
                scores["int8 trained"] = heads.top1(as_tensor(graphs["head"]), coded)
            same = {"agreement_of_int8": report.agreement, "features_snr_db": snr(floats[test], coded[test])}
            yield {"fold": fold, "seed": seed, **scores, **same, **note}


def products(module: Any) -> int:
    """Multiply-adds of the backbone's convolutions on a frame."""
    counts: list[int] = []
    handles = [
        m.register_forward_hook(lambda m, x, y: counts.append(m.weight[0].numel() * y[0].numel()))
        for m in module.net.backbone.modules()
        if isinstance(m, nn.Conv2d)
    ]
    with torch.no_grad():
        module.net.backbone(torch.zeros(1, 3, *module.spec.size))
    for handle in handles:
        handle.remove()
    return sum(counts)


def snr(signal: Tensor, given: Tensor) -> float:
    return round(float(10 * torch.log10(signal.square().mean() / (given - signal).square().mean())), 1)


# -- synthetic -------------------------------------------------------------------------------------------------


def synthetic(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from lightning_har.data.synthetic import SyntheticActionsDataModule
    from lightning_har.modules import load_checkpoint

    clips = (2, 1, 1) if args.smoke else (150, 40, 400)  # of each class, to train, to choose and to test on
    full = Sampling("uniform", crop="full")
    for seed in args.seeds:
        pl.seed_everything(seed, verbose=False)
        make = partial(
            SyntheticActionsDataModule,
            size=96,
            batch_size=BATCH,
            train_sampling=full,
            eval_sampling=full,
            num_workers=0,
            seed=seed,
        )
        data = make(train_clips=clips[0], val_clips=clips[1], test_clips=0)
        unseen = make(train_clips=0, val_clips=0, test_clips=clips[2], data_seed=1)
        module: Any
        if args.checkpoint:
            module = load_checkpoint(args.checkpoint)
        else:
            module = CNNRNNModule(
                12,
                "mobilenetv2_050",
                "gru",
                cut_after="blocks.4",
                pretrained=False,
                freeze_backbone=False,
                batch_norm=False,
                num_frames=16,
                input_size=80,
                dropout=0.2,
                optimizer="adamw",
                weight_decay=0.01,
                schedule="cosine",
                warmup_epochs=min(2, args.epochs / 4),
            )
        for part, stage in ((data, "fit"), (unseen, "test")):
            part.spec = module.spec
            part.prepare_data()
            part.setup(stage)
        if not args.checkpoint:
            fit(module, data.train_dataloader(), args.epochs, SYNTHETIC_LR)
        module.class_names = data.class_names
        tests, validation = (
            [
                (video[None], int(label))
                for batch in loader
                for video, label in zip(batch["video"], batch["label"], strict=True)
            ]
            for loader in (unseen.test_dataloader(), data.val_dataloader())
        )
        calibration = []
        for batch in data.train_dataloader():
            calibration += [batch_of([v], [int(y)]) for v, y in zip(batch["video"], batch["label"], strict=True)]
            if len(calibration) >= CALIBRATION_CLIPS:
                break

        def int8(module: Any, calibration: Any = calibration) -> tuple[Callable[[Tensor], Tensor], Any]:
            with tempfile.TemporaryDirectory() as folder:
                report = export(module, folder, int8=True, calibration=calibration, kind="frames")
                graphs = {part: open_graph(path, args.threads) for part, path in report.files.items()}

            def logits(frames_of: Tensor) -> Tensor:
                frames = [np.ascontiguousarray(frame)[None] for frame in frames_of[0].transpose(0, 1).numpy()]
                features = np.stack([first_output(graphs["frame"], frame) for frame in frames], 1)
                return torch.from_numpy(first_output(graphs["head"], features))

            return logits, report

        def trained_on(lr: float, *callbacks: Any, module: Any = module, data: Any = data) -> Any:
            more = copy.deepcopy(module)
            fit(more, data.train_dataloader(), args.more_epochs, lr, *callbacks)
            return more

        after, report = int8(module)
        print(f"seed {seed}, int8: validation loss {loss(after, validation):.4f}", flush=True)
        trials = {}
        for way, (lr, distill) in WAYS.items():
            run, _ = int8(trained_on(lr, QuantizationAwareTraining(distill=distill)))
            trials[way] = (loss(run, validation), run)
            print(f"seed {seed}, {way}: validation loss {trials[way][0]:.4f}", flush=True)
        best = min(trials, key=lambda way: trials[way][0])
        runs = {
            "float": module,
            "int8": after,
            "float longer": trained_on(WAYS[best][0]),
            "int8 trained": trials[best][1],
        }
        right = {name: named_right(run, tests) for name, run in runs.items()}
        pairs = list(zip(right["int8"], right["int8 trained"], strict=True))
        yield {
            "fold": "test",
            "seed": seed,
            **{name: mean(given) for name, given in right.items()},
            "right by training alone": sum(trained and not plain for plain, trained in pairs),
            "wrong by training alone": sum(plain and not trained for plain, trained in pairs),
            "agreement_of_int8": report.agreement,
            "trained": best,
            **({"checkpoint": checkpoint_of(args.checkpoint)} if args.checkpoint else {}),
        }


@torch.no_grad()
def named_right(run: Callable[[Tensor], Tensor], clips: Sequence[tuple[Tensor, int]]) -> list[bool]:
    """Of each clip, whether its label is the likeliest."""
    return [int(run(x).argmax(1)) == y for x, y in clips]


@torch.no_grad()
def loss(run: Callable[[Tensor], Tensor], clips: Sequence[tuple[Tensor, int]]) -> float:
    """Mean cross entropy."""
    return mean(float(nn.functional.cross_entropy(run(x), torch.tensor([y]))) for x, y in clips)


def checkpoint_of(path: Path) -> str:
    """The recipe that trained it, if a report lies beside it, and what tells it from others."""
    report = path.parent / "report.json"
    recipe = json.loads(report.read_text())["recipe"] if report.is_file() else path.name
    return f"{recipe} {hashlib.sha256(path.read_bytes()).hexdigest()[:8]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = parser.add_subparsers(dest="what", required=True)
    for name in ("scfd", "synthetic"):
        part = sub.add_parser(name)
        if name == "scfd":
            part.add_argument("folds", type=Path)
            part.add_argument("weights", type=Path)
            part.add_argument("--num-folds", type=int, default=5)
            part.add_argument("--prune", type=float, default=0.0, metavar="SHARE")
            part.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "edge_accuracy")
        else:
            part.add_argument("--checkpoint", type=Path, help="a trained network; default: one is trained")
        part.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
        part.add_argument("--epochs", type=int, default=EPOCHS if name == "scfd" else 16)
        part.add_argument("--more-epochs", type=int, default=MORE_EPOCHS)
        part.add_argument("--threads", type=int, default=2)
        part.add_argument("--smoke", action="store_true", help="few clips and epochs, to see that it runs")
        part.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / f"edge_accuracy_{name}.csv")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.smoke:
        args.seeds, args.epochs, args.more_epochs, args.num_folds = [0], 1, 1, 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    about = {"hardware": hardware()["cpu"], "commit": commit()}
    found = []
    for row in scfd(args) if args.what == "scfd" else synthetic(args):
        print(row, flush=True)
        found.append({**row, **about})
        with args.out.open("w", newline="") as file:  # each time: a seed takes up to an hour
            writer = csv.DictWriter(file, list(found[0]))
            writer.writeheader()
            writer.writerows(found)
    folds = sorted({r["fold"] for r in found})
    for name in ("float", "int8", "float longer", "int8 trained"):
        over = [mean(r[name] for r in found if r["fold"] == f) for f in folds]
        print(f"{name:13} top-1 {mean(over):.4f}")
    for what, one, other, limit in (
        ("int8 - float, wanted within 1 point", "int8", "float", -0.01),
        ("int8 trained - int8, wanted at least 0", "int8 trained", "int8", 0.0),
    ):
        difference = mean(r[one] - r[other] for r in found)
        print(f"{what}: {100 * difference:+.2f} points: {'held' if difference >= limit else 'NOT held'}")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
