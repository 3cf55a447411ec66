"""``benchmark``, ``compare`` and ``test`` as they are typed, on recipes that really train."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_har.cli.main import main
from lightning_har.data.fake import write_fake_folder

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
from functools import partial

import torch

from lightning_har.data.folder import VideoFolderDataModule
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.run import run

REPORTED = {{"on": "Elsewhere", "top1": {{"table 1": 0.75}}}}


class Module(CNNRNNModule):
    def training_step(self, batch, batch_idx):
        {body}
        return super().training_step(batch, batch_idx)


if __name__ == "__main__":
    run(
        module=partial(
            {module},
            backbone="mobilenetv2_035",
            temporal="{temporal}",
            pretrained=False,
            num_frames=2,
            input_size=32,
            hidden=8,
        ),
        data=partial(VideoFolderDataModule, root="nowhere", batch_size=4, num_workers=0),
        trainer={{"max_epochs": {epochs}, "num_sanity_val_steps": 0}},
    )
"""
CLASSES = ("clap", "jump", "run", "sit", "walk", "wave")
pytestmark = pytest.mark.slow


def write_recipe(path, temporal="avg", body="pass", epochs=2, module="CNNRNNModule"):
    path.write_text(RECIPE.format(temporal=temporal, body=body, epochs=epochs, module=module))
    return path


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a folder of clips."""
    place = tmp_path_factory.mktemp("bench")
    write_fake_folder(place / "clips", CLASSES, clips=5)
    return place


@pytest.fixture(scope="module")
def bench(place):
    """Two recipes and one that fails, measured on those clips."""
    write_recipe(place / "avg.py")
    write_recipe(place / "gru.py", "gru")
    write_recipe(place / "broken.py", "grue")
    line = ["benchmark", *(str(place / f"{n}.py") for n in ("avg", "gru", "broken"))]
    code = main([*line, "--data", str(place / "clips"), "--accelerator", "cpu", "--out", str(place / "out")])
    assert code == 1  # one failed
    return place


def test_every_number_is_measured_and_says_how(bench):
    avg, gru, broken = rows_of(bench / "out" / "results.csv")
    for row in (avg, gru):
        for name in (
            *("top1", "top5", "precision_macro", "recall_macro", "f1_macro", "num_predicted_classes"),
            *("parameters", "trainable_parameters", "macs", "checkpoint_bytes", "train_peak_bytes", "test_peak_bytes"),
            *("p50_ms", "p95_ms", "clips_per_s", "reading_p50_ms", "reading_p95_ms", "reading_clips_per_s"),
            *("epoch_s", "epochs", "threads", "clips"),
        ):
            assert float(row[name]) > 0 or name in ("top1", "precision_macro", "recall_macro", "f1_macro"), name
        assert 0 <= float(row["data_wait_share"]) <= 1
        assert (row["seed"], row["data"], row["split"], row["accelerator"]) == (
            "0",
            "VideoFolderDataModule",
            "test",
            "cpu",
        )
        assert len(row["file_list_sha256"]) == 64
        assert json.loads(row["sampling"])["num_frames"] == 2
        assert row["cpu"]
        assert "torch" in row["versions"]
        assert not (ROOT / ".git").exists() or re.match(r"[0-9a-f]{40}", row["commit"])
    assert avg["file_list_sha256"] == gru["file_list_sha256"]
    assert int(gru["parameters"]) > int(avg["parameters"])
    assert broken["top1"] == ""
    assert "temporal is 'grue'" in broken["error"]


def test_everything_promised_is_written(bench):
    out = bench / "out"
    for name in ("memory", "training_memory", "latency", "size"):
        assert (out / f"accuracy_{name}.png").stat().st_size > 1000
    assert {p.stem for p in (out / "confusion").iterdir()} == {"avg", "gru"}
    record = json.loads((out / "results.json").read_text())
    assert [m["name"] for m in record["models"]] == ["avg", "gru", "broken"]
    classes = {c["class"]: c for c in record["runs"][0]["per_class"]}
    assert tuple(classes) == CLASSES
    assert {"precision", "recall", "f1", "support", "predicted"} <= set(classes["clap"])
    page, text = (out / "results.html").read_text(), (out / "results.md").read_text()
    for shown in (page, text):
        assert "75.0 (table 1)" in shown
        assert "temporal is" in shown
    measured = record["models"][0]["values"]["top1"]
    assert f"| {100 * measured:.1f} |" in text


def test_called_again_it_does_what_is_left(bench, capsys):
    log = (bench / "out/runs/avg/seed0.log").read_bytes()
    names = [str(bench / f"{n}.py") for n in ("avg", "gru", "broken")]
    line = ["benchmark", *names, "--data", str(bench / "clips"), "--accelerator", "cpu"]
    assert main([*line, "--out", str(bench / "out")]) == 1  # the broken one is tried again
    said = capsys.readouterr().out
    assert "avg seed 0: done before" in said
    assert "gru seed 0: done before" in said
    assert (bench / "out/runs/avg/seed0.log").read_bytes() == log


def test_compare_pairs_what_was_run(bench, tmp_path, capsys):
    out = f"{bench / 'out'}:"
    assert main(["compare", f"{out}avg", f"{out}gru", "--out", str(tmp_path / "versus")]) == 0
    shown = capsys.readouterr().out
    found = json.loads((tmp_path / "versus" / "compare.json").read_text())
    assert found["pairs"] == [{"seed": 0, "fold": None}]
    assert {"top1", "parameters", "train_peak_bytes", "p50_ms", "epoch_s"} <= set(found["metrics"])
    for metric in ("precision", "recall", "f1"):
        assert sum(found["classes"][metric].values()) == len(CLASSES)
    for said in ("avg wins", "ties", "McNemar", "no test over seeds"):
        assert said in shown
    assert main(["compare", f"{out}avg", f"{out}gruu"]) == 2
    assert "avg, gru" in capsys.readouterr().err


def test_compare_runs_recipes_over_seeds(bench, tmp_path):
    line = ["compare", str(bench / "avg.py"), str(bench / "gru.py"), "--data", str(bench / "clips")]
    more = ["--seeds", "0", "1", "--out", str(tmp_path / "v"), "--args", "--trainer.max_epochs", "1"]
    assert main([*line, *more]) == 0
    found = json.loads((tmp_path / "v" / "compare.json").read_text())
    assert [p["seed"] for p in found["pairs"]] == [0, 1]
    assert found["metrics"]["top1"]["a_std"] is not None
    assert "2 differences flipped, one per seed" in (tmp_path / "v" / "compare.md").read_text()


def test_test_scores_a_checkpoint_as_its_run_did(bench, tmp_path, capsys):
    run = bench / "out" / "runs" / "avg" / "seed0"
    line = ["test", str(run), "--data", str(bench / "clips"), "--batch-size", "4"]  # the recipe's
    assert main([*line, "--out", str(tmp_path / "scored")]) == 0
    ours, theirs = (json.loads((p / "report.json").read_text()) for p in (tmp_path / "scored", run))
    assert ours["metrics"]["test"]["action"]["video"] == pytest.approx(theirs["metrics"]["test"]["action"]["video"])
    assert ours["protocol"] == theirs["protocol"]
    assert ours["memory"]["train_peak_bytes"] is None
    assert ours["memory"]["test_peak_bytes"] > 0
    assert (tmp_path / "scored" / "confusion_matrix.png").is_file()
    assert "top1" in capsys.readouterr().out


def test_other_classes_are_refused_with_both_lists(bench, tmp_path, capsys):
    write_fake_folder(tmp_path / "clips", classes=("fall", "kick"))
    run = bench / "out" / "runs" / "avg" / "seed0"
    assert main(["test", str(run), "--data", str(tmp_path / "clips"), "--out", str(tmp_path / "scored")]) == 2
    said = capsys.readouterr().err
    assert ", ".join(CLASSES) in said
    assert "fall, kick" in said
    assert not (tmp_path / "scored").exists()
    assert main(["benchmark", str(run), "--data", str(tmp_path / "clips"), "--out", str(tmp_path / "out")]) == 1
    (row,) = rows_of(tmp_path / "out" / "results.csv")
    assert ", ".join(CLASSES) in row["error"]
    assert "fall, kick" in row["error"]


def test_a_checkpoint_is_a_row_beside_recipes(bench, tmp_path):
    run = bench / "out" / "runs" / "gru" / "seed0"
    assert main(["benchmark", str(run), "--data", str(bench / "clips"), "--out", str(tmp_path / "out")]) == 0
    (row,) = rows_of(tmp_path / "out" / "results.csv")
    (theirs,) = (r for r in rows_of(bench / "out" / "results.csv") if r["name"] == "gru")
    assert (row["name"], row["top1"], row["parameters"]) == ("seed0", theirs["top1"], theirs["parameters"])
    assert row["train_peak_bytes"] == row["epoch_s"] == ""


def test_unknown_names_are_answered_before_anything_runs(bench, tmp_path, capsys):
    line = ["benchmark", str(bench / "avg.py"), "grw", "--recipes", str(bench), "--out", str(tmp_path / "out")]
    assert main([*line, "--data", str(bench / "clips")]) == 2
    assert "did you mean gru" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_auto_batch_finds_the_largest_that_fits(bench, tmp_path):
    full = "if len(batch['id']) > 3: raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB')"
    recipe = write_recipe(tmp_path / "hungry.py", body=full, epochs=1, module="Module")
    line = ["benchmark", str(recipe), "--data", str(bench / "clips"), "--out"]
    assert main([*line, str(tmp_path / "plain")]) == 1
    (row,) = rows_of(tmp_path / "plain" / "results.csv")
    assert "out of memory" in row["error"]
    assert main([*line, str(tmp_path / "auto"), "--auto-batch"]) == 0
    (row,) = rows_of(tmp_path / "auto" / "results.csv")
    assert row["note"] == "out of memory at batch 4; the largest that fitted is 3"
    assert row["top1"]
    assert "largest that fitted is 3" in (tmp_path / "auto" / "results.html").read_text()


def start(recipe, place, out, *command):
    line = [sys.executable, "-m", "lightning_har.cli.main", *(command or ["benchmark"]), str(recipe)]
    line += ["--data", str(place / "clips")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*line, "--out", str(out)], env=environment, start_new_session=True, stdout=subprocess.PIPE, text=True
    )


def wait_for(path, seconds=240):
    end = time.monotonic() + seconds
    while not path.is_file():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.05)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_in_the_middle_it_goes_on(place, tmp_path, how):
    slow = "import time; time.sleep(0.5)"
    recipe = write_recipe(tmp_path / "slow.py", body=slow, epochs=4, module="Module")
    out = tmp_path / "out"
    process = start(recipe, place, out)
    wait_for(out / "runs/slow/seed0/last.ckpt")
    if how == signal.SIGKILL:
        os.killpg(process.pid, how)  # whatever it started too
    else:
        process.send_signal(how)  # to the benchmark alone
    assert process.wait(200) in (-9, 130)
    assert not (out / "results.csv").exists()
    again = start(recipe, place, out)
    said = again.communicate(timeout=300)[0]
    assert again.returncode == 0, said
    assert "--resume" in (out / "runs/slow/seed0.log").read_text()
    epochs = [row["epoch"] for row in rows_of(out / "runs/slow/seed0/metrics.csv")]
    assert epochs == ["0", "1", "2", "3"]
    (row,) = rows_of(out / "results.csv")
    assert row["epochs"] == "4"


@pytest.mark.timeout(1200)
def test_a_comparison_that_is_stopped_goes_on(place, tmp_path):
    write_recipe(tmp_path / "quick.py", epochs=1)
    recipe = write_recipe(tmp_path / "slow.py", body="import time; time.sleep(0.5)", epochs=4, module="Module")
    out = tmp_path / "out"
    command = ["compare", str(tmp_path / "quick.py")]
    process = start(recipe, place, out, *command)
    wait_for(out / "slow/runs/slow/seed0/last.ckpt", 400)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=200)
    assert process.returncode == 130, said
    assert not (out / "compare.json").exists()
    again = start(recipe, place, out, *command)
    said = again.communicate(timeout=300)[0]
    assert again.returncode == 0, said
    assert "quick seed 0: done before" in said
    assert "--resume" in (out / "slow/runs/slow/seed0.log").read_text()
    assert [row["epoch"] for row in rows_of(out / "slow/runs/slow/seed0/metrics.csv")] == ["0", "1", "2", "3"]
    assert json.loads((out / "compare.json").read_text())["pairs"] == [{"seed": 0, "fold": None}]


def test_a_run_that_outlived_its_benchmark_is_not_disturbed(place, tmp_path, capsys):
    recipe = write_recipe(tmp_path / "slow.py", body="import time; time.sleep(0.5)", epochs=30, module="Module")
    out = tmp_path / "out"
    process = start(recipe, place, out)
    try:
        wait_for(out / "runs/slow/seed0/config.yaml")
        process.kill()
        process.wait()
        assert main(["benchmark", str(recipe), "--data", str(place / "clips"), "--out", str(out)]) == 2
        assert "another process is still at" in capsys.readouterr().err
        assert (out / "runs/slow/seed0/config.yaml").is_file()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
