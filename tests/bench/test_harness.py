import csv
import itertools
import json
import math
import re

import pytest
from harness_runs import write_recipe, write_run

from lightning_har.arguments import parse
from lightning_har.bench import harness
from lightning_har.bench.benchmark import benchmark
from lightning_har.bench.harness import Settings, find_targets, plan, read_reported
from lightning_har.bench.page import write_page
from lightning_har.bench.rows import read_row, reported_for, summarize
from lightning_har.data.folder import VideoFolderDataModule
from lightning_har.errors import ConfigError, DataError
from lightning_har.modules.cnn_rnn import CNNRNNModule


def quiet(line):
    pass


def test_a_recipe_becomes_a_row_with_its_reported_figure_beside_it(tmp_path):
    write_recipe(tmp_path / "recipes" / "mine.py")
    (row,) = benchmark(["mine"], tmp_path / "out", recipes=tmp_path / "recipes", say=quiet)
    assert row["values"]["top1"] == 0.5
    assert row["reported"] == {"on": "Elsewhere", "top1": {"table 1": 0.75}}
    page = (tmp_path / "out" / "results.html").read_text()
    assert "50.0" in page
    assert "75.0 (table 1)" in page
    assert not re.search(r'(src|href)="(?!data:)', page)  # self-contained
    text = (tmp_path / "out" / "results.md").read_text()
    assert "| 50.0 |" in text
    assert "24 clips: too few" in text
    (line,) = csv.DictReader((tmp_path / "out" / "results.csv").open())
    assert (line["name"], line["seed"], line["commit"], line["threads"]) == ("mine", "0", "abc", "1")
    assert (float(line["epoch_s"]), float(line["epochs"])) == (3.0, 3.0)  # the first epoch is left out


def test_seeds_are_averaged_with_their_spread(tmp_path):
    write_recipe(tmp_path / "mine.py", right="[6, 12, 18][args.seed]")
    (row,) = benchmark([str(tmp_path / "mine.py")], tmp_path / "out", Settings(seeds=(0, 1, 2)), say=quiet)
    assert row["runs"] == 3
    assert row["values"]["top1"] == pytest.approx(0.5)
    assert row["std"]["top1"] == pytest.approx(0.25)
    assert row["clips"] == 24  # not 72: the same clips three times


def test_what_is_done_is_not_done_again_and_what_was_stopped_goes_on(tmp_path):
    fails = 'if not args.resume: (folder / "last.ckpt").write_text("x"); sys.exit("error: stopped")'
    write_recipe(tmp_path / "a.py")
    write_recipe(tmp_path / "b.py", body=fails)
    names = [str(tmp_path / "a.py"), str(tmp_path / "b.py")]
    first = benchmark(names, tmp_path / "out", say=quiet)
    assert [r["runs"] for r in first] == [1, 0]
    assert first[1]["errors"] == ["stopped"]
    said = []
    second = benchmark(names, tmp_path / "out", say=said.append)
    assert [r["runs"] for r in second] == [1, 1]
    assert any("a seed 0: done before" in line for line in said)
    assert (tmp_path / "out/runs/a/seed0.log").read_text().count("fresh") == 1
    assert "resumed" in (tmp_path / "out/runs/b/seed0.log").read_text()


def test_other_settings_do_not_mix_into_a_folder(tmp_path):
    write_recipe(tmp_path / "a.py")
    benchmark([str(tmp_path / "a.py")], tmp_path / "out", say=quiet)
    with pytest.raises(ConfigError, match="another command"):
        benchmark([str(tmp_path / "a.py")], tmp_path / "out", Settings(arguments=("--x", "1")), say=quiet)
    write_recipe(tmp_path / "a.py", right="3")
    with pytest.raises(ConfigError, match="another text"):
        benchmark([str(tmp_path / "a.py")], tmp_path / "out", say=quiet)


def checkpoints(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "best.ckpt").write_bytes(b"weights")
    return find_targets([str(folder / name) for name in names])


def test_another_checkpoint_in_its_place_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "_attempt", lambda job, settings: write_run(job.folder) and None)
    names = [t.path for t in checkpoints(tmp_path, "run")]
    settings = Settings(data="clips")
    for _ in range(2):
        (row,) = benchmark(names, tmp_path / "out", settings, say=quiet)
        assert row["runs"] == 1
    names[0].write_bytes(b"trained again")
    with pytest.raises(ConfigError, match="another checkpoint"):
        benchmark(names, tmp_path / "out", settings, say=quiet)


def test_published_weights_are_noticed_too(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    settings = Settings(data="clips")
    (job,) = plan(find_targets([str(tmp_path / "model")]), tmp_path / "out", settings)
    harness._check_same(job, settings)
    harness._check_same(job, settings)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"others")
    with pytest.raises(ConfigError, match="another checkpoint"):
        harness._check_same(job, settings)


def test_arguments_are_for_recipes_alone(tmp_path):
    write_recipe(tmp_path / "mine.py")
    (checkpoint,) = checkpoints(tmp_path, "run")
    settings = Settings(data="clips", arguments=("--epochs", "3"))
    recipe, scored = plan([*find_targets([str(tmp_path / "mine.py")]), checkpoint], tmp_path / "out", settings)
    assert harness.command(recipe, settings)[-2:] == ["--epochs", "3"]
    assert "--epochs" not in harness.command(scored, settings)
    assert scored.arguments == ()  # nor does its row say that it was called with them
    with pytest.raises(ConfigError, match="--args go to recipes"):
        plan([checkpoint], tmp_path / "out", settings)


def test_the_accelerator_is_everyones(tmp_path):
    write_recipe(tmp_path / "mine.py")
    targets = [*find_targets([str(tmp_path / "mine.py")]), *checkpoints(tmp_path, "run")]
    for settings, given in ((Settings(data="clips", accelerator="cpu"), ["cpu"]), (Settings(data="clips"), [])):
        for job in plan(targets, tmp_path / "out", settings):
            line = harness.command(job, settings)
            assert [b for a, b in itertools.pairwise(line) if a == "--trainer.accelerator"] == given


@pytest.mark.parametrize(("given", "instead"), [("--seed=3", "--seeds"), ("--out", "--out"), ("--resume", "again")])
def test_arguments_that_would_make_every_run_the_same_are_refused(given, instead, tmp_path):
    write_recipe(tmp_path / "mine.py")
    with pytest.raises(ConfigError, match=instead):
        plan(find_targets([str(tmp_path / "mine.py")]), tmp_path / "out", Settings(arguments=(given, "3")))


@pytest.mark.parametrize("arguments", [("--variant=gru",), ("--variant", "gru")])
def test_the_one_variant_that_is_asked_for_is_run_once(arguments, tmp_path):
    recipe = write_recipe(tmp_path / "mine.py")
    recipe.write_text(
        "import sys\nif sys.argv[1:] == ['--variants']: sys.exit(print('avg gru'))\n" + recipe.read_text()
    )
    targets = find_targets([str(recipe)])
    assert [job.variant for job in plan(targets, tmp_path / "out", Settings())] == ["avg", "gru"]
    assert [job.variant for job in plan(targets, tmp_path / "out", Settings(arguments=arguments))] == [None]


@pytest.mark.parametrize("body", ["sys.exit()", "import shutil; shutil.rmtree(folder); sys.exit()"])
def test_a_recipe_that_ends_without_a_report_is_a_row_that_says_so(body, tmp_path):
    write_recipe(tmp_path / "a.py", body=body)
    write_recipe(tmp_path / "b.py")
    bad, good = benchmark([str(tmp_path / f"{n}.py") for n in "ab"], tmp_path / "out", say=quiet)
    assert (bad["runs"], bad["failed"], good["runs"]) == (0, 1, 1)
    assert "ended without a report" in bad["errors"][0]


def test_what_is_done_but_gone_is_done_again(tmp_path):
    write_recipe(tmp_path / "a.py")
    for _ in range(2):
        (row,) = benchmark([str(tmp_path / "a.py")], tmp_path / "out", say=quiet)
        assert row["runs"] == 1
        (tmp_path / "out/runs/a/seed0/report.json").unlink()


WORKER_KILLED = """
import torch
class Clips(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): os.kill(os.getpid(), 9)
next(iter(torch.utils.data.DataLoader(Clips(), num_workers=1)))
"""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (WORKER_KILLED, "out of memory, most likely"),
        ("raise ValueError('no such thing')", "ValueError: no such thing"),
        ("os.kill(os.getpid(), 9)", "out of memory, most likely"),
        ("sys.exit(3)", "fresh 0 8"),
    ],
)
def test_a_recipe_that_fails_is_a_row_that_says_why(body, reason, tmp_path):
    write_recipe(tmp_path / "bad.py", body=body)
    write_recipe(tmp_path / "good.py")
    bad, good = benchmark([str(tmp_path / f"{n}.py") for n in ("bad", "good")], tmp_path / "out", say=quiet)
    assert good["runs"] == 1
    assert bad["runs"] == 0
    assert reason in bad["errors"][0]
    assert "failed" in (tmp_path / "out" / "results.html").read_text()


def test_out_of_memory_is_told_and_auto_batch_finds_what_fits(tmp_path):
    hungry = "if args.batch > 5: raise MemoryError('CUDA out of memory')"
    write_recipe(tmp_path / "big.py", body=hungry)
    (row,) = benchmark([str(tmp_path / "big.py")], tmp_path / "plain", say=quiet)
    assert "out of memory" in row["errors"][0]
    (row,) = benchmark([str(tmp_path / "big.py")], tmp_path / "auto", Settings(auto_batch=True), say=quiet)
    assert row["runs"] == 1
    assert row["notes"] == ["out of memory at batch 8; the largest that fitted is 5"]


@pytest.mark.parametrize(
    "said",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
        "RuntimeError: DefaultCPUAllocator: not enough memory: you tried to allocate",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed. ",
        "RuntimeError: DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's "
        "workers are out of shared memory. Please try to raise your shared memory limit.",
        "OSError: [Errno 12] Cannot allocate memory",
    ],
)
def test_what_is_out_of_memory_is_known_whatever_fails_after_it(said):
    reason = harness._reason(1, f"$ run\nTraceback:\n{said}\nRuntimeError: exited unexpectedly\n")
    assert reason.startswith(said.rstrip())
    assert harness._OUT_OF_MEMORY.search(reason)


def test_a_segmentation_fault_is_not_out_of_memory():
    said = "RuntimeError: DataLoader worker (pid 7) is killed by signal: Segmentation fault. "
    assert not harness._OUT_OF_MEMORY.search(harness._reason(1, f"$ run\n{said}\n"))


def test_a_batch_is_tried_for_one_epoch_whatever_recipes_are_told(tmp_path, monkeypatch):
    recipe = write_recipe(tmp_path / "big.py")
    settings = Settings(arguments=("--epochs", "100"))
    (job,) = plan(find_targets([str(recipe)]), tmp_path / "out", settings)
    called = []
    monkeypatch.setattr(harness, "_call", lambda job, line: called.append(line))
    harness._probe(job, settings, 4)
    argv = called[0][called[0].index("--seed") :]
    args = parse(CNNRNNModule, VideoFolderDataModule, {}, ["--data.root", "x", *argv], recipe="big")
    assert args.trainer["max_epochs"] == 1
    assert args.trainer["limit_train_batches"] == 2
    assert args.data["batch_size"] == 4


def test_unknown_names_are_answered_with_the_nearest(tmp_path):
    write_recipe(tmp_path / "i3d_ucf101.py")
    with pytest.raises(ConfigError, match="did you mean i3d_ucf101"):
        find_targets(["i3d_ucf10"], tmp_path)


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for recipe in ("avg", "gru"):
        (tmp_path / recipe / "seed0").mkdir(parents=True)
        (tmp_path / recipe / "seed0" / "best.ckpt").write_bytes(b"")
    places = [str(tmp_path / recipe / "seed0") for recipe in ("avg", "gru")]
    assert [t.name for t in find_targets(places)] == ["avg-seed0", "gru-seed0"]
    assert [t.name for t in find_targets(places[:1])] == ["seed0"]
    with pytest.raises(ConfigError, match="two targets are called"):
        find_targets([places[0], places[0]])


def test_a_checkpoint_needs_data(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.ckpt").write_bytes(b"")
    with pytest.raises(ConfigError, match="--data"):
        benchmark([str(tmp_path / "run")], tmp_path / "out", say=quiet)


def test_reported_is_read_without_running(tmp_path):
    path = tmp_path / "r.py"
    path.write_text("raise SystemExit(1)\nREPORTED = {'top1': {'t': 0.5}}\n")
    assert read_reported(path) == {"top1": {"t": 0.5}}
    path.write_text("REPORTED = dict(a=1)\n")
    with pytest.raises(ConfigError, match="plain dict"):
        read_reported(path)


def test_reported_of_a_variant():
    given = {"on": "X", "a/top1": {"t": 0.1}, "b/top1": {"t": 0.2}}
    assert reported_for("r/b", "r", given) == {"on": "X", "top1": {"t": 0.2}}


def test_folds_count_every_clip_once_and_weigh_by_clips(tmp_path):
    rows = []
    for seed in (0, 1):
        for fold, clips, right in (("1", 30, 30), ("2", 10, 0)):
            folder = write_run(tmp_path / f"{seed}{fold}", seed, right=right, clips=clips, fold=fold)
            rows.append(read_row(folder / "report.json", "m", "m"))
    (summary,) = summarize(rows, {})
    assert summary["clips"] == 40
    assert summary["values"]["top1"] == pytest.approx(0.75)
    low, high = summary["top1_interval"]
    assert low < 0.75 < high
    # Of the folds by themselves, 1 and 0, each the same with both seeds.
    assert summary["top1_over_folds"] == pytest.approx(
        {"folds": 2, "mean": 0.5, "std": math.sqrt(0.5), "half": 12.7062 * 0.5}, rel=1e-4
    )


def test_one_fold_or_none_tells_nothing_over_folds(tmp_path):
    for fold in (None, "1"):
        row = read_row(write_run(tmp_path / str(fold), fold=fold) / "report.json", "m", "m")
        assert summarize([row], {})[0]["top1_over_folds"] is None


def test_scores_of_several_heads_are_named_by_their_heads(tmp_path):
    path = write_run(tmp_path) / "report.json"
    report = json.loads(path.read_text())
    report["metrics"]["test"] = {
        "verb": {"video": {"top1": 0.5, "top5": 0.75, "loss": 1.0}},
        "noun": {"video": {"top1": 0.25, "noun_loss": 2.0}},
        "action": {"video": {"top1": 0.125, "top3": 0.375, "f1_macro": 0.1}},
    }
    path.write_text(json.dumps(report))
    values = read_row(path, "m", "m")["values"]
    found = {k: v for k, v in values.items() if ("top" in k or "f1" in k or "loss" in k) and k != "train_top1"}
    of_parts = {"verb_top1": 0.5, "verb_top5": 0.75, "noun_top1": 0.25}
    of_both = {"top1": 0.125, "action_top1": 0.125, "top3": 0.375, "action_top3": 0.375, "f1_macro": 0.1}
    assert found == of_parts | of_both
    report["metrics"]["test"] = {"action": {"video": {"top1": 0.125}}}
    path.write_text(json.dumps(report))
    assert "action_top1" not in read_row(path, "m", "m")["values"]  # of one head, top-1 says it all
    report["metrics"]["test"] = {"verb": {"video": {"top1": 0.25}}}
    path.write_text(json.dumps(report))
    (tmp_path / "metrics.csv").write_text("epoch,train_verb_top1\n0,0.625\n")
    values = read_row(path, "m", "m")["values"]
    assert (values["top1"], values["train_top1"]) == (0.25, 0.625)
    (tmp_path / "metrics.csv").write_text("train_action_top1,train_noun_top1,train_verb_top1\n0.5,0.75,1.0\n")
    assert read_row(path, "m", "m")["values"]["train_top1"] == 0.5


def test_names_with_markup_stay_text(tmp_path):
    row = read_row(write_run(tmp_path / "r") / "report.json", "<b>x</b>", "x")
    write_page("<script>", summarize([row], {}), [row], {}, {}, tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text()
    assert "<b>x</b>" not in page
    assert "<title>&lt;script&gt;" in page


def test_what_is_no_report_is_refused(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(DataError, match="no report"):
        read_row(tmp_path / "report.json", "m", "m")
