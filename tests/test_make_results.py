"""The page of results is made of what was measured, and of nothing else."""

import csv
import json
import shutil

import pytest
from harness_runs import write_recipe
from scripts import load_script

from lightning_har.bench.benchmark import benchmark
from lightning_har.bench.harness import Settings


@pytest.fixture
def script(tmp_path, monkeypatch):
    """The script, on folders of its own."""
    module = load_script("make_results")
    for name in ("scripts/results", "docs"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(module, "HERE", tmp_path / "scripts")
    monkeypatch.setattr(module, "RESULTS", tmp_path / "scripts" / "results")
    monkeypatch.setattr(module, "PAGE", tmp_path / "docs" / "results.md")
    monkeypatch.setattr(module, "PICTURES", tmp_path / "docs" / "results")
    monkeypatch.setattr("sys.argv", ["make_results.py"])
    return module


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_a_csv_stands_below_what_its_script_says(script, tmp_path):
    (tmp_path / "scripts" / "cost.py").write_text(
        '"""What it costs.\n\nCounted on\none machine.\n\n    python x\n"""\n'
        'REPORTED = """The study: 17\nGB."""\nraise SystemExit("never run")\n'
    )
    rows = [["way", "mib", "cpu"], ["a", "3", "Chip"], ["b|c", "4", "Chip"]]
    write_csv(tmp_path / "scripts/results/cost.csv", rows)
    write_csv(tmp_path / "scripts/results/cost_runs.csv", rows)
    write_csv(tmp_path / "scripts/results/other.csv", rows[:2])
    assert script.main() == 0
    text = (tmp_path / "docs" / "results.md").read_text()
    table = "| way | mib |\n| --- | --- |\n| a | 3 |\n| b\\|c | 4 |"
    assert f"## What it costs\n\nCounted on one machine.\n\n{table}" in text
    assert "\ncpu: Chip\n" in text
    assert "\nReported, not measured here: The study: 17 GB.\n" in text
    assert "## What it costs (runs)" in text
    assert "## other" in text


def test_long_tables_are_cut_and_say_so(script, tmp_path):
    write_csv(tmp_path / "scripts/results/long.csv", [["k"], *([i] for i in range(100))])
    script.main()
    text = (tmp_path / "docs" / "results.md").read_text()
    assert f"| {script.LONGEST - 1} |" in text
    assert f"| {script.LONGEST} |" not in text
    assert f"The first {script.LONGEST} of 100 rows." in text


def test_a_benchmark_is_shown_with_what_is_reported_beside_it(script, tmp_path):
    write_recipe(tmp_path / "recipes" / "mine.py")
    write_recipe(tmp_path / "recipes" / "bad.py", body="sys.exit('error: broken')")
    folder = tmp_path / "scripts" / "results" / "bench"
    benchmark(["mine", "bad"], folder, recipes=tmp_path / "recipes", title="All of them", say=lambda line: None)
    script.main()
    text = (tmp_path / "docs" / "results.md").read_text()
    assert "## All of them" in text
    table = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    head, mine, bad = table[0], table[2], table[3]
    measured, reported = (head.index(f"top-1, {kind} (%)") for kind in ("measured", "reported"))
    assert (mine[measured], mine[reported]) == ("50.0", "75.0 (table 1)")
    assert bad[measured] == "–"  # what is reported never takes its place
    assert "- bad failed: broken" in text
    assert "- mine: reported on Elsewhere" in text
    shown = json.loads((folder / "results.json").read_text())
    assert shown["models"][0]["values"]["top1"] == 0.5
    pictures = {p.name for p in (tmp_path / "docs" / "results").iterdir()}
    assert {f"bench-accuracy_{name}.png" for name in ("memory", "latency", "size")} <= pictures
    for name in pictures:
        assert f"(results/{name})" in text


def test_that_there_is_no_gpu_is_said_until_there_is_one(script, tmp_path):
    recipe, results = str(write_recipe(tmp_path / "mine.py")), tmp_path / "scripts" / "results"
    (tmp_path / "scripts" / "bench.py").write_text('"""All.\n\nOf them, told once.\n"""\n')
    page = tmp_path / "docs" / "results.md"
    write_csv(results / "x.csv", [["k", "accelerator"], ["1", "cpu"]])
    benchmark([recipe], results / "bench", Settings(accelerator="cpu"), title="All", say=lambda line: None)
    script.main()
    assert script.NO_GPU in page.read_text()
    on_gpu = {"settings": Settings(accelerator="cuda"), "title": "All (cuda)", "say": lambda line: None}
    benchmark([recipe], results / "bench_cuda_bf16-mixed", **on_gpu)
    script.main()
    text = page.read_text()
    assert script.NO_GPU not in text
    assert "## All\n\nOf them, told once." in text
    assert "## All (cuda)\n\nOf them, told once." in text  # by the same script
    assert "- machine: c, 2 cores, 1 threads, cuda" in text
    shutil.rmtree(results / "bench_cuda_bf16-mixed")
    write_csv(results / "x.csv", [["k", "accelerator"], ["1", "Chip 7"]])
    script.main()
    assert script.NO_GPU not in page.read_text()


def test_check_finds_a_page_that_is_not_current(script, tmp_path, monkeypatch, capsys):
    write_csv(tmp_path / "scripts/results/x.csv", [["k"], ["1"]])
    monkeypatch.setattr("sys.argv", ["make_results.py", "--check"])
    assert script.main() == 1
    assert "run python benchmarks/make_results.py" in capsys.readouterr().err
    assert not (tmp_path / "docs" / "results.md").exists()
    monkeypatch.setattr("sys.argv", ["make_results.py"])
    assert script.main() == 0
    monkeypatch.setattr("sys.argv", ["make_results.py", "--check"])
    assert script.main() == 0
    write_csv(tmp_path / "scripts/results/x.csv", [["k"], ["2"]])
    assert script.main() == 1


def test_check_finds_pictures_that_are_not_current(script, tmp_path, monkeypatch, capsys):
    source, shown = tmp_path / "scripts/results/x.png", tmp_path / "docs/results/results-x.png"
    write_csv(source.with_suffix(".csv"), [["k"], ["1"]])
    source.write_bytes(b"old")
    assert script.main() == 0
    assert shown.read_bytes() == b"old"
    monkeypatch.setattr("sys.argv", ["make_results.py", "--check"])
    assert script.main() == 0
    source.write_bytes(b"new")
    assert script.main() == 1
    assert "results-x.png is not what" in capsys.readouterr().err
    source.unlink()  # the page no longer shows it
    assert script.main() == 1
    assert "results-x.png is not what" in capsys.readouterr().err
    assert shown.read_bytes() == b"old"
    monkeypatch.setattr("sys.argv", ["make_results.py"])
    assert script.main() == 0
    assert not shown.exists()
