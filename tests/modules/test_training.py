"""Training as it is done: on two ranks, in half precision, accumulated, compiled, killed and resumed."""

import csv
import json
import signal
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from videos import write_video

import lightning_har as har
from lightning_har import CNNRNNModule, TSNModule, VideoFolderDataModule
from lightning_har.run import run

SMALL = {"backbone": "test_resnet", "pretrained": False, "input_size": 32}


def trainer(**kwargs):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(**{**quiet, "enable_checkpointing": False, "max_epochs": 1, **kwargs})


def python(code, folder, *argv):
    """Run a script; Lightning starts the further ranks of a file, not of ``-c``."""
    script = folder / "script.py"
    script.write_text(code)
    command = [sys.executable, str(script), *map(str, argv)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A CSV of 6 clips to train on, 2 to validate, and 7 to test: an odd number, for two ranks."""
    root = tmp_path_factory.mktemp("clips")
    rows = []
    for i, split in enumerate(["train"] * 6 + ["val"] * 2 + ["test"] * 7):
        path = write_video(root / f"{i}.mp4", num_frames=8 + i, size=(48, 64), first=20 * i)
        rows.append({"path": path.name, "label": "ab"[i % 2], "split": split})
    with (root / "clips.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return root / "clips.csv"


# -- ranks -------------------------------------------------------------------------------------------------

RANKS = """
import json, sys
import pytorch_lightning as pl
from lightning_har import TSNModule, VideoFolderDataModule

clips, devices = sys.argv[1], int(sys.argv[2])
pl.seed_everything(0, verbose=False)
module = TSNModule(2, backbone="test_resnet", pretrained=False, input_size=32)
data = VideoFolderDataModule(clips, spec=module.spec, batch_size=2, num_workers=0)
ids = []

class Ids(pl.Callback):
    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        ids.extend(outputs["id"] if outputs else [])

trainer = pl.Trainer(
    accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=1, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, callbacks=[Ids()],
)
before = trainer.test(module, data, verbose=False)[0]
tested = list(ids)
trainer.fit(module, data)
total = sum(float(p.detach().double().sum()) for p in module.parameters())
out = {"before": before, "ids": tested, "weights": total, "train_loss": float(trainer.callback_metrics["train_loss"])}
with open(f"{devices}-{trainer.global_rank}.json", "w") as file:
    json.dump(out, file)
"""


@pytest.mark.slow
def test_two_ranks_score_what_one_does(clips, tmp_path):
    for devices in (1, 2):
        done = python(RANKS, tmp_path, clips, devices)
        assert done.returncode == 0, done.stderr[-3000:]
    alone, first, second = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("1-0", "2-0", "2-1"))
    assert len(alone["ids"]) == 7
    assert sorted(first["ids"] + second["ids"]) == sorted(alone["ids"])  # each once, the padding none
    assert first["before"] == pytest.approx(alone["before"], abs=1e-6)
    assert second["before"] == pytest.approx(alone["before"], abs=1e-6)
    assert first["weights"] == second["weights"]
    assert first["train_loss"] == pytest.approx(second["train_loss"])


# -- precision, accumulation, compilation ------------------------------------------------------------------


def video_batches(count, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for i in range(count):
        ids = [f"{i}-{j}" for j in range(size)]
        video = torch.randint(0, 256, (size, 3, 3, 32, 32), dtype=torch.uint8, generator=generator)
        yield {"video": video, "label": torch.arange(size) % 2, "id": ids, "path": ids, "failures": []}


def test_bf16_mixed_stays_near_float32():
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(0)
        module = TSNModule(2, dropout=0.0, lr=1e-4, **SMALL)
        fit = trainer(precision=precision)
        loader = DataLoader(list(video_batches(3, 4)), batch_size=None)
        fit.fit(module, loader, loader)
        losses[precision] = [float(fit.callback_metrics[name]) for name in ("train_loss", "val_loss")]
        assert all(p.dtype == torch.float32 and p.isfinite().all() for p in module.parameters())
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.03)
    assert losses["bf16-mixed"] != losses["32-true"]  # it was another arithmetic


def test_accumulated_batches_equal_one_large_batch():
    """Where nothing but the loss looks across a batch: without batch norm."""
    features = torch.randn(16, 5, 6, generator=torch.Generator().manual_seed(0))

    def weights(batch_size, accumulate):
        ids = ["x"] * batch_size
        parts = zip(features.split(batch_size), (torch.arange(16) % 3).split(batch_size), strict=True)
        batches = [{"video": x, "label": y, "id": ids, "path": ids, "failures": []} for x, y in parts]
        torch.manual_seed(0)
        module = CNNRNNModule(
            3, backbone=None, feature_dim=6, temporal="gru", hidden=4, batch_norm=False, dropout=0.0, pretrained=False,
            optimizer="sgd", lr=0.5,
        )  # fmt: skip
        start = [p.detach().clone() for p in module.parameters()]
        trainer(accumulate_grad_batches=accumulate).fit(module, DataLoader(batches, batch_size=None))
        assert any((a - b).abs().max() > 1e-3 for a, b in zip(start, module.parameters(), strict=True))
        return list(module.parameters())

    for a, b in zip(weights(8, 1), weights(4, 2), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0)


FAMILIES = {
    "tsn": (TSNModule, SMALL, (3, 32)),
    "tsm": (TSNModule, {**SMALL, "backbone": "resnet18", "temporal_shift": True}, (3, 32)),
    "cnn_gru": (CNNRNNModule, {**SMALL, "hidden": 8, "num_frames": 4}, (4, 32)),
    "i3d": (har.I3DModule, {"pretrained": False}, (8, 32)),
    "i3d_inflated": (har.I3DModule, {"backbone": "resnet18", "pretrained": False}, (8, 32)),
    "s3d": (har.S3DModule, {}, (8, 32)),
    "pytorchvideo": (har.PyTorchVideoModule, {"name": "x3d_xs"}, (4, 32)),
    "two_stream": (har.TwoStreamModule, {"family": "tsn", "arguments": SMALL}, (3, 32)),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_compiles(family):
    build, arguments, (frames, pixels) = FAMILIES[family]
    torch.manual_seed(0)
    module = build(3, **arguments).eval()
    if family == "two_stream":
        clip = {"rgb": torch.randn(1, 3, 3, pixels, pixels), "flow": torch.randn(1, 2, 15, pixels, pixels)}
    else:
        clip = torch.randn(1, 3, frames, pixels, pixels)
    compiled = torch.compile(module.net, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(clip), module.net(clip), atol=1e-4, rtol=1e-3)
    torch._dynamo.reset()


# -- killed and resumed ------------------------------------------------------------------------------------

STOPPED = """
import os, signal, sys, time
from functools import partial
from lightning_har import TSNModule, VideoFolderDataModule
from lightning_har._lightning import Callback
from lightning_har.run import run

class Stop(Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.current_epoch == 1 and "--resume" not in sys.argv:
            os.killpg(0, signal.SIGINT)  # what a terminal does: it reaches the loader's workers too
            time.sleep(60)

if __name__ == "__main__":
    module = partial(TSNModule, backbone="test_resnet", pretrained=False, input_size=32)
    data = partial(VideoFolderDataModule, batch_size=2, num_workers=2)
    run(module, data, name="tiny", trainer={"max_epochs": 3, "callbacks": [Stop()]})
"""


@pytest.mark.slow
def test_ctrl_c_at_the_terminal_and_resume(clips, tmp_path):
    (tmp_path / "recipe.py").write_text(STOPPED)
    begun = [sys.executable, "-m", "lightning_har.cli.main", "run", "recipe.py"]
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 300, "start_new_session": True}
    done = subprocess.run([*begun, "--data.root", str(clips), "--out", "out"], **options)
    assert done.returncode == 130, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "stopped; go on with: --resume out"
    assert torch.load(tmp_path / "out" / "last.ckpt", weights_only=True)["global_step"] == 4
    done = subprocess.run([*begun, "--resume", "out"], **options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert torch.load(tmp_path / "out" / "last.ckpt", weights_only=True)["global_step"] == 9
    assert (tmp_path / "out" / "report.json").exists()


MODULE = partial(TSNModule, backbone="test_resnet", pretrained=False, input_size=32, mixup=0.4, dropout=0.5)

KILLED = """
import os, signal, sys
from functools import partial
from lightning_har import TSNModule, VideoFolderDataModule
from lightning_har._lightning import Callback
from lightning_har.run import run

class Kill(Callback):
    def on_train_batch_end(self, trainer, *args):
        if trainer.current_epoch == 2:  # in its middle; the last epoch on disk is the one before
            os.kill(os.getpid(), signal.SIGKILL)

module = partial(TSNModule, backbone="test_resnet", pretrained=False, input_size=32, mixup=0.4, dropout=0.5)
data = partial(VideoFolderDataModule, root=sys.argv[1], batch_size=2, num_workers=int(sys.argv[3]))
run(module, data, name="tiny", trainer={"max_epochs": 4, "callbacks": [Kill()]}, argv=["--out", sys.argv[2]])
"""


def test_a_loader_made_for_a_resumed_epoch_starts_in_it(clips):
    """Lightning asks it for its first batch before it tells it the epoch."""

    def first(epoch, resumed):
        data = VideoFolderDataModule(clips, spec=TSNModule(2, **SMALL).spec, batch_size=6, num_workers=0)
        progress = SimpleNamespace(current=SimpleNamespace(processed=epoch if resumed else 0))
        loop = SimpleNamespace(epoch_progress=progress)
        data.trainer = SimpleNamespace(world_size=1, global_rank=0, fit_loop=loop)
        loader = data.train_dataloader()
        if not resumed:
            loader.sampler.set_epoch(epoch)
        return next(iter(loader))

    expected, resumed = first(2, False), first(2, True)
    assert resumed["id"] == expected["id"]
    assert torch.equal(resumed["video"], expected["video"])
    assert not torch.equal(first(0, False)["video"], expected["video"])


@pytest.mark.slow
def test_a_killed_run_ends_where_an_uninterrupted_one_does(clips, tmp_path):
    """What is drawn depends on seed, epoch and index: not on what was drawn before, nor on workers."""
    data = partial(VideoFolderDataModule, root=str(clips), batch_size=2, num_workers=0)
    options = {"name": "tiny", "trainer": {"max_epochs": 4}}
    run(MODULE, data, argv=["--out", str(tmp_path / "whole")], **options)
    done = python(KILLED, tmp_path, clips, tmp_path / "killed", 1)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    stopped = torch.load(tmp_path / "killed" / "last.ckpt", weights_only=True)
    assert stopped["epoch"] == 1
    run(MODULE, data, argv=["--resume", str(tmp_path / "killed")], **options)
    states = [torch.load(tmp_path / n / "last.ckpt", weights_only=True) for n in ("whole", "killed")]
    assert [s["global_step"] for s in states] == [12, 12]
    for name, tensor in states[0]["state_dict"].items():
        torch.testing.assert_close(states[1]["state_dict"][name], tensor, atol=1e-6, rtol=0)
    learnt = [stopped["state_dict"][n] - t for n, t in states[0]["state_dict"].items() if t.is_floating_point()]
    assert max(d.abs().max() for d in learnt) > 1e-3  # the two epochs after did something
