import csv
import itertools
import json
import math
from pathlib import Path

import pytest
from harness_runs import write_recipe, write_run

from lightning_har.bench.benchmark import benchmark
from lightning_har.bench.compare import compare, read_rows, to_markdown
from lightning_har.bench.rows import read_row
from lightning_har.bench.stats import MIN_CLIPS, half_interval, mcnemar, paired_permutation, spread, wilson
from lightning_har.cli.main import main
from lightning_har.errors import ConfigError, DataError


def rows(folder, rights, **kwargs):
    for seed, right in enumerate(rights):
        write_run(folder / f"seed{seed}", seed, right=right, **kwargs)
    return read_rows(folder)


def test_wilson_against_the_textbook():
    # Newcombe, Statistics in Medicine 1998, table I: 81 of 263.
    low, high = wilson(81 / 263, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert wilson(1.0, 100)[1] == 1.0
    assert wilson(0.5, MIN_CLIPS - 1) is None


@pytest.mark.parametrize(
    ("freedom", "confidence", "t"),
    [(1, 0.95, 12.706), (2, 0.95, 4.303), (3, 0.95, 3.182), (4, 0.95, 2.776), (9, 0.95, 2.262), (30, 0.95, 2.042),
     (120, 0.95, 1.980), (4, 0.99, 4.604), (7, 0.9, 1.895)],
)  # fmt: skip
def test_half_interval_against_the_table_of_student(freedom, confidence, t):
    values = [0.0, 1.0] * 64
    values = values[: freedom + 1]
    error = spread(values) / math.sqrt(len(values))
    assert half_interval(values, confidence) / error == pytest.approx(t, abs=6e-4)


def test_one_value_has_no_interval():
    assert half_interval([0.5]) is None
    assert half_interval([0.5, 0.5]) == 0.0


def test_mcnemar_is_the_binomial_test():
    for a, b in itertools.product(range(6), repeat=2):
        n = a + b
        tail = sum(math.comb(n, k) for k in range(n + 1) if abs(k - n / 2) >= abs(a - n / 2)) / 2**n
        assert mcnemar(a, b) == pytest.approx(min(1.0, tail))


def test_permutation_counts_the_flips():
    assert paired_permutation([1.0, 2.0, 3.0]) == 2 / 8
    assert paired_permutation([1.0, -1.0]) == 1.0
    assert paired_permutation([0.0, 0.0]) == 1.0
    assert paired_permutation([0.1] * 10) == pytest.approx(2 / 2**10)
    assert paired_permutation([1.0] * 40) < 0.001
    assert paired_permutation([1.0, -1.0] * 20) > 0.5
    with pytest.raises(ConfigError):
        paired_permutation([])


def test_spread():
    assert spread([1.0, 3.0]) == pytest.approx(math.sqrt(2))
    assert spread([1.0]) is None


def test_seeds_are_paired(tmp_path):
    found = compare(rows(tmp_path / "a", [12, 18]), rows(tmp_path / "b", [6, 9]), "a", "b")
    top1 = found["metrics"]["top1"]
    assert (top1["a"], top1["b"]) == (0.625, 0.3125)
    assert top1["difference"] == pytest.approx(0.3125)
    assert top1["p"] == 0.5  # two pairs can show no more
    assert found["metrics"]["parameters"]["p"] is None
    assert found["clips"]["clips"] == 24
    assert (found["clips"]["a_better"], found["clips"]["b_better"]) == (12, 0)
    assert "a is better on these clips" in to_markdown(found)


def test_one_pair_is_mcnemar_and_says_that_seeds_are_missing(tmp_path):
    found = compare(rows(tmp_path / "a", [13]), rows(tmp_path / "b", [12]), "a", "b")
    assert found["clips"]["p"] == 1.0
    assert found["clips"]["test"].startswith("McNemar")
    text = to_markdown(found)
    assert "undecided" in text
    assert "no test over seeds" in text


def test_classes_are_won_tied_or_undefined(tmp_path):
    # b names no clip rightly of those a does: 24 clips, a all right, b none.
    found = compare(rows(tmp_path / "a", [24]), rows(tmp_path / "b", [24]), "a", "b")
    assert found["classes"]["f1"] == {"a": 0, "b": 0, "ties": 3, "undefined": 0}
    found = compare(rows(tmp_path / "c", [24]), rows(tmp_path / "d", [0]), "c", "d")
    assert found["classes"]["recall"] == {"a": 3, "b": 0, "ties": 0, "undefined": 0}


def test_classes_are_counted_as_study_e_does(tmp_path):
    sides = [rows(tmp_path / side, [24]) for side in "ab"]
    scores = {  # by class, of a and of b: precision, recall, F1
        "all of a": ((0.9, 0.8, 0.85), (0.5, 0.5, 0.5)),
        "two of a": ((0.9, 0.8, 0.5), (0.5, 0.5, 0.5)),
        "one each": ((0.9, 0.5, 0.7), (0.5, 0.9, 0.7)),
        "one of b": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.6)),
        "all of b": ((0.1, 0.1, 0.1), (0.5, 0.5, 0.5)),
        "equal": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        "never predicted by b": ((0.9, 0.9, 0.9), (None, 0.0, 0.0)),
    }
    for k, side in enumerate(sides):
        side[0]["per_class"] = [
            {"head": "action", "class": name, **dict(zip(("precision", "recall", "f1"), both[k], strict=True))}
            for name, both in scores.items()
        ]
    found = compare(*sides, "a", "b")
    assert found["classes"]["precision"] == {"a": 3, "b": 1, "ties": 2, "undefined": 1}
    assert found["classes"]["all"] == {"a": 8, "b": 5, "ties": 7, "undefined": 1}
    assert found["classes"]["by_class"] == {
        "classes": 6,
        "equal": 1,
        "a_any": 3,
        "a_all_or_equal": 3,
        "a_all": 1,
        "b_any": 3,
        "b_all_or_equal": 3,
        "b_all": 1,
    }
    text = to_markdown(found)
    assert "| all three | 8 | 5 | 7 | 1 |" in text
    assert "| of 6 classes with all three defined | a | b |" in text
    assert "| at least one of the three higher | 3 | 3 |" in text
    assert "| each of the three higher | 1 | 1 |" in text
    assert "All three are equal in 1 of them." in text


def test_a_clip_of_several_heads_is_right_where_all_are(tmp_path):
    sides = []
    for side, verbs, nouns in (("a", "1100", "1110"), ("b", "1111", "1000")):
        folder = write_run(tmp_path / side)
        with (folder / "predictions.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "head", "label", "predicted", "error"])
            for head, hits in (("verb", verbs), ("noun", nouns)):
                writer.writerows([i, head, "x", "x" if hit == "1" else "y", ""] for i, hit in enumerate(hits))
            writer.writerows([["4", "verb", "x", "x", ""], ["4", "noun", "", "x", ""]])  # its noun is not known
            writer.writerow(["5", "", "", "", "cannot be read"])
        sides.append(read_rows(folder))
        sides[-1][0]["per_class"] = [
            {"head": head, "class": "x", "precision": 0.5, "recall": 0.5, "f1": 0.5} for head in ("verb", "noun")
        ]
    found = compare(*sides, "a", "b")
    clips = found["clips"]
    assert (clips["clips"], clips["a_better"], clips["b_better"]) == (4, 1, 0)  # of the verbs alone, b would be better
    assert "Clips (right: verb and noun are): of 4" in to_markdown(found)


@pytest.mark.parametrize("relative", [True, False])
def test_what_was_run_is_found_from_any_folder(relative, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path / "mine.py")
    out = Path("bench") if relative else tmp_path / "bench"
    benchmark(["mine.py"], out, say=lambda line: None)
    (tmp_path / "elsewhere" / "runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "bench").rename(tmp_path / "moved")
    found = read_rows("../moved")
    assert compare(found, found, "a", "b")["clips"]["clips"] == 24


def test_an_older_benchmark_is_found_from_where_it_was_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = read_row(write_run(Path("bench/runs/mine/seed0")) / "report.json", "mine", "mine")
    Path("bench/results.json").write_text(json.dumps({"runs": [row]}))
    assert row["folder"] == "bench/runs/mine/seed0"
    found = read_rows("bench")
    assert compare(found, found, "a", "b")["clips"]["clips"] == 24


def test_folds_are_the_unit_not_their_seeds(tmp_path):
    sides = {}
    for side, rights in (("a", (20, 22)), ("b", (10, 16))):
        for seed, (fold, right) in itertools.product((0, 1, 2), zip("12", rights, strict=True)):
            write_run(tmp_path / side / f"{seed}{fold}", seed, right=right - seed, fold=fold)
        sides[side] = read_rows(tmp_path / side)
    found = compare(sides["a"], sides["b"], "a", "b")
    assert found["unit"] == "fold"
    top1 = found["metrics"]["top1"]
    assert top1["p"] == 0.5  # of six units it would be 2 / 2^6
    assert top1["difference"] == pytest.approx(8 / 24)
    assert top1["difference_std"] == pytest.approx(spread([10 / 24, 6 / 24]))
    assert "2 differences flipped, one per fold" in to_markdown(found)


def test_a_score_that_always_differs_by_as_much_is_tested_a_count_is_not(tmp_path):
    found = compare(rows(tmp_path / "a", [12, 12, 12], macs=9), rows(tmp_path / "b", [6, 6, 6]), "a", "b")
    assert found["metrics"]["top1"]["p"] == 0.25
    assert found["metrics"]["macs"]["difference"] == -991
    assert found["metrics"]["macs"]["p"] is None


def test_other_clips_or_classes_are_refused(tmp_path):
    a = rows(tmp_path / "a", [12])
    with pytest.raises(ConfigError, match="other clips"):
        compare(a, rows(tmp_path / "b", [12], digest="e"), "a", "b")
    with pytest.raises(ConfigError, match=r"(?s)classes differ.*clap.*swim"):
        compare(a, rows(tmp_path / "c", [12], names=("clap", "wave", "swim")), "a", "c")
    with pytest.raises(ConfigError, match="no run of a"):
        compare(a, [dict(r, seed=7) for r in a], "a", "b")


def test_what_was_not_run_alike_is_remarked(tmp_path):
    """Half the batch is half the memory, whatever the model."""
    old = rows(tmp_path / "old", [12])  # of before reports told it
    alike = {"batch_size": 8, "precision": "32-true", "num_workers": 0}
    a, same, other = (
        rows(tmp_path / name, [12], protocol=protocol)
        for name, protocol in (("a", alike), ("same", alike), ("other", {**alike, "batch_size": 4, "num_workers": 2}))
    )
    assert compare(a, same, "a", "same")["remarks"] == compare(a, old, "a", "old")["remarks"] == []
    found = compare(a, other, "a", "other")
    (remark,) = found["remarks"]
    assert remark.startswith("a and other were not run alike (batch size 8 against 4, worker processes 0 against 2): ")
    assert f"- {remark}\n" in to_markdown(found)


def test_a_folder_without_runs(tmp_path):
    with pytest.raises(DataError, match=r"no report\.json"):
        read_rows(tmp_path)


def recipes(folder):
    for side, right in (("a", 18), ("b", 6)):
        write_recipe(folder / side / "mine.py", right=str(right))
    return [str(folder / side / "mine.py") for side in "ab"]


def test_two_recipes_of_one_name_are_kept_apart(tmp_path, capsys):
    a, b = recipes(tmp_path)
    out = tmp_path / "out"
    assert main(["compare", a, b, "--seeds", "0", "1", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["a"], found["b"]) == (a, b)
    assert (found["metrics"]["top1"]["a"], found["metrics"]["top1"]["b"]) == (0.75, 0.25)
    assert main(["compare", a, b, "--seeds", "0", "1", "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("done before") == 4


def test_what_is_wrong_with_b_is_said_before_a_is_run(tmp_path, capsys):
    a, _ = recipes(tmp_path)
    line = ["compare", a, "mini", "--recipes", str(tmp_path / "a"), "--out", str(tmp_path / "out")]
    assert main(line) == 2
    assert "did you mean mine" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_side_that_fails_says_why(tmp_path, capsys):
    a, _ = recipes(tmp_path)
    write_recipe(tmp_path / "bad.py", body="sys.exit('error: no such disk')")
    assert main(["compare", a, str(tmp_path / "bad.py"), "--out", str(tmp_path / "out")]) == 2
    assert "bad.py failed: no such disk" in capsys.readouterr().err
