"""benchmarks/all_recipes.py: what it is called with arrives at every recipe's run, and its results lie apart."""

import json
from pathlib import Path

import pytest
from harness_runs import write_recipe
from scripts import load_script

from lightning_har.cli.run import run_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.py"))


@pytest.fixture
def script(tmp_path, monkeypatch):
    """The script, on folders of its own."""
    module = load_script("all_recipes")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    return module


def call(script, monkeypatch, *argv):
    monkeypatch.setattr("sys.argv", ["all_recipes.py", *argv])
    script.main()


def record_of(folder):
    return json.loads((folder / "results.json").read_text())


def test_each_accelerator_precision_and_size_has_results_of_its_own(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "render", lambda *given, full: None)
    write_recipe(tmp_path / "recipes" / "mine.py")
    write_recipe(tmp_path / "recipes" / "streams.py", body="'TwoStreamModule'")
    call(script, monkeypatch, "mine")
    call(script, monkeypatch, "--accelerator", "cuda", "--precision", "bf16-mixed", "--full")
    assert {p.name for p in (tmp_path / "results").iterdir()} == {"all_recipes", "all_recipes_cuda_bf16-mixed_full"}
    small = record_of(tmp_path / "results" / "all_recipes")
    full = record_of(tmp_path / "results" / "all_recipes_cuda_bf16-mixed_full")
    for record, names, accelerator in ((small, ["mine"], "cpu"), (full, ["mine", "streams"], "cuda")):
        assert [run["name"] for run in record["runs"]] == names
        assert {run["identity"]["hardware"]["accelerator"] for run in record["runs"]} == {accelerator}
    assert not small["title"].endswith(")")
    assert "at its own size" in full["title"]
    assert full["title"].endswith(" (cuda, bf16-mixed)")
    for run in small["runs"]:
        assert {"--smoke", "--data.batch_size=8"} <= set(run["arguments"])
        assert not any("precision" in argument for argument in run["arguments"])
    weights = ["--module.pretrained=false", "--module.arguments.pretrained=false"]
    for run, random in zip(full["runs"], weights, strict=True):
        assert {"--trainer.precision=bf16-mixed", random} <= set(run["arguments"])
        assert not any("smoke" in argument or "batch_size" in argument for argument in run["arguments"])


@pytest.mark.slow
def test_a_recipe_trains_in_the_precision_that_is_asked_for(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "ROOT", ROOT)
    monkeypatch.setattr(script, "SMALL", script.Clips(1, 1, 1, 32))
    given = ("--work", str(tmp_path / "work"), "--epochs", "1", "--precision", "bf16-mixed")
    call(script, monkeypatch, "tsm_mobilenetv2_ucf101", *given)
    (run,) = record_of(tmp_path / "results" / "all_recipes_bf16-mixed")["runs"]
    assert run["error"] is None
    assert run["identity"]["protocol"]["precision"] == "bf16-mixed"
    assert run["identity"]["hardware"]["accelerator"] == "cpu"


@pytest.mark.slow
def test_at_full_size_a_recipe_with_flow_trains(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "FULL", script.Clips(1, 1, 1, 32))
    text = (ROOT / "recipes" / "i3d_twostream_ucf101.py").read_text()
    small = text.replace('"num_frames": 64,', '"num_frames": 8, "input_size": 32,', 1)
    assert small != text
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "small.py").write_text(small)
    call(script, monkeypatch, "--full", "--epochs", "1")
    (run,) = record_of(tmp_path / "results" / "all_recipes_full")["runs"]
    assert run["error"] is None
    assert run["identity"]["protocol"]["batch_size"] == 16
    assert "--data.flow_root" in " ".join(run["arguments"])


@pytest.mark.slow
def test_every_recipe_takes_its_full_size_with_random_weights(script, tmp_path, monkeypatch):
    def build(args, folder, *given, recipe, **more):
        of_both = args.module.get("arguments") or {}
        assert args.module.get("pretrained", of_both.get("pretrained")) is False
        assert args.module.get("rgb_checkpoint") is args.module.get("flow_checkpoint") is None
        spec = args.module_class(12, **args.module).spec
        specs = spec.values() if isinstance(spec, dict) else [spec]
        found[recipe] = {(one.num_frames, one.size[0]) for one in specs}

    found = {}
    monkeypatch.setattr("lightning_har.run._run_one", build)
    monkeypatch.setattr("lightning_har.run._print_results", lambda reports: None)
    for recipe in RECIPES:
        given = script.arguments(recipe, script.FULL, tmp_path / "clips", 1, full=True)
        run_recipe(str(recipe), ["--on", "synthetic", "--out", str(tmp_path / recipe.stem), *given])
    assert {name.partition("/")[0] for name in found} == {recipe.stem for recipe in RECIPES}
    wanted = {
        "i3d_ucf101": (64, 224),
        "i3d_twostream_msr_daily": (64, 224),
        "s3d_v3_minikinetics": (64, 224),
        "mobilenetv2q_gru_ucf101": (25, 224),
        "mobilenetv2_lstm_epic/categories": (20, 256),
    }
    assert {name: found[name] for name in wanted} == {name: {size} for name, size in wanted.items()}
