"""benchmarks/scfd_gap.py: the difference between two extractors, fold by fold."""

import csv

import pytest
from scripts import load_script

HEADS = ("single", "avg", "tsn", "lstm", "gru")


@pytest.fixture
def script():
    return load_script("scfd_gap")


def write(folder, top1, *, folds=3, seeds=2, **other):
    """A benchmark's results.csv; top1 is a function of head, fold and seed."""
    folder.mkdir()
    names = "clips file_list_sha256 epochs batch_size precision views crop versions commit"
    same = dict.fromkeys(names.split(), "1")
    rows = [
        {"name": f"scfd_heads/{h}", "fold": f, "seed": s, "top1": top1(h, f, s), "sampling": h, **same, **other}
        for h in HEADS
        for f in range(folds)
        for s in range(seeds)
    ]
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_gaps_are_paired_by_fold_and_their_seeds_averaged(script, tmp_path):
    # Large is better by 0.2 on a single frame, and 0.05 with a GRU, give or take 0.01 by fold; the folds differ by 0.3.
    mobile = write(tmp_path / "mobile", lambda h, f, s: 0.3 * f + 0.02 * s)
    gap = {"single": 0.2, "gru": 0.05}
    large = write(tmp_path / "large", lambda h, f, s: 0.3 * f + gap.get(h, -0.2) + 0.01 * (f - 1) + 0.04 * s)
    found = script.gaps(script.read(mobile), script.read(large))
    assert found["gru"] == pytest.approx([0.05, 0.06, 0.07])  # the seeds' 0.02 more, halved
    rows = {r["comparison"]: r for r in script.table(found)}
    assert rows["gap on a single frame"]["above_0"] == "held"
    assert rows["gap with lstm"]["above_0"] == "not held"
    narrowed = rows["gap on a single frame - gap with gru"]
    assert (narrowed["mean"], narrowed["low"], narrowed["high"]) == pytest.approx((0.15, 0.15, 0.15))
    half = 4.3027 * 0.01 / 3**0.5
    assert rows["gap with gru"]["low"] == pytest.approx(0.06 - half, abs=1e-4)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"folds": 2}, "not the same runs"), ({"epochs": "2"}, "differs in epochs"), ({"sampling": "x"}, "in sampling")],
)
def test_what_cannot_be_compared_is_refused(script, tmp_path, given, message):
    mobile = write(tmp_path / "mobile", lambda h, f, s: 0.5)
    large = write(tmp_path / "large", lambda h, f, s: 0.5, **given)
    with pytest.raises(SystemExit, match=message):
        script.gaps(script.read(mobile), script.read(large))
