import itertools
import json
import math

import pytest
from harness_runs import write_recipe, write_run

from lightning_har.bench.compare import compare, read_rows, to_markdown
from lightning_har.bench.stats import MIN_CLIPS, mcnemar, paired_permutation, spread, wilson
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


def test_folds_are_the_unit_not_their_seeds(tmp_path):
    sides = {}
    for side, right in (("a", 20), ("b", 10)):
        for seed, fold in itertools.product((0, 1, 2), ("1", "2")):
            write_run(tmp_path / side / f"{seed}{fold}", seed, right=right, fold=fold)
        sides[side] = read_rows(tmp_path / side)
    found = compare(sides["a"], sides["b"], "a", "b")
    assert found["unit"] == "fold"
    assert found["metrics"]["top1"]["p"] is None or found["metrics"]["top1"]["p"] == 0.5
    assert "2 differences flipped, one per fold" in to_markdown(found)


def test_other_clips_or_classes_are_refused(tmp_path):
    a = rows(tmp_path / "a", [12])
    with pytest.raises(ConfigError, match="other clips"):
        compare(a, rows(tmp_path / "b", [12], digest="e"), "a", "b")
    with pytest.raises(ConfigError, match=r"(?s)classes differ.*clap.*swim"):
        compare(a, rows(tmp_path / "c", [12], names=("clap", "wave", "swim")), "a", "c")
    with pytest.raises(ConfigError, match="no run of a"):
        compare(a, [dict(r, seed=7) for r in a], "a", "b")


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
