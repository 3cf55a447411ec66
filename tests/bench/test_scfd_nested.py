"""The nested validation of benchmarks/scfd_nested.py, on features that are made up."""

import csv
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FOLDS = ("0", "1", "2", "3")


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("scfd_nested")
    for name in ("scfd_nested", "scfd_features"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def data(script):
    """48 clips of two classes in four folds: "told" tells the classes apart, "noise" does not."""
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 24)
    clips = []
    for label in labels:
        frames = int(rng.integers(6, 9))
        told = rng.standard_normal((frames, 5)) + 2 * label
        clips.append({"told": told.astype(np.float32), "noise": rng.standard_normal((frames, 5)).astype(np.float32)})
    return script.Data(clips, labels, np.repeat(FOLDS, 12))


def test_pooled_joins_what_it_is_asked_for(script):
    clip = {"a": np.array([[1.0, 2.0], [3.0, 6.0]]), "b": np.array([[5.0]])}
    np.testing.assert_allclose(script.pooled(clip, "a:mean+std+max+step,b:mean"), [2, 4, 1, 2, 3, 6, 2, 4, 5])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["logistic", "svm", "trees", "gru", "attention"])
def test_every_classifier_learns_what_can_be_learnt(script, data, kind, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(script, "EPOCHS", 200)  # of two batches each
    vector = kind not in ("gru", "attention")
    one = script.Candidate("told:mean" if vector else "told", kind, 1.0 if kind in ("logistic", "svm") else 0.0)
    said = data.predict(one, data.inputs(one), ("0", "1"), seed=0)
    assert said.shape == (48,)
    assert data.right(said, "0") > 0.8
    # What is held out has no say: other labels there, the same answer.
    other = script.Data(data.clips, np.where(np.isin(data.folds, ("0", "1")), 1 - data.labels, data.labels), data.folds)
    np.testing.assert_array_equal(other.predict(one, other.inputs(one), ("0", "1"), seed=0), said)


def test_the_test_fold_chooses_nothing(script, data, tmp_path):
    pytest.importorskip("sklearn")
    tried = [script.Candidate(f"{name}:mean", "logistic", c) for name in ("noise", "told") for c in (0.01, 1.0)]
    inner = script.inner_scores(data, tried, tmp_path / "a")
    assert set(inner) == {(fold, k) for fold in FOLDS for k in range(4)}
    chosen = script.ranked(inner, "0", tried)
    assert [tried[k].features for k in chosen] == ["told:mean", "noise:mean"]  # one of each
    flipped = script.Data(data.clips, np.where(data.folds == "0", 1 - data.labels, data.labels), data.folds)
    again = script.inner_scores(flipped, tried, tmp_path / "b")
    assert {key: v for key, v in again.items() if key[0] == "0"} == {k: v for k, v in inner.items() if k[0] == "0"}
    assert again != inner  # the folds that it trains do change
    # What is kept is not computed again.
    assert script.inner_scores(data, tried, tmp_path / "a") == inner
    assert len((tmp_path / "a").read_text().splitlines()) == 4


def test_tables_tell_all_that_was_tried(script, data, tmp_path):
    tried = [script.Candidate("noise:mean", "trees"), script.Candidate("told:mean", "svm", 1.0)]
    inner = {(fold, k): 0.5 + 0.1 * k for fold in FOLDS for k in range(2)}
    rows = [("best", fold, seed, 0.6 + 0.1 * (fold == "3")) for fold in FOLDS for seed in (0, 1)]
    by_fold = {one.name: [0.5, 0.6, 0.7, 0.8] for one in tried}
    script.write(tmp_path, tried, inner, by_fold, {fold: [1, 0] for fold in FOLDS}, rows, FOLDS)
    with (tmp_path / "scfd_nested.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["top1_mean"], row["inner_top1"], row["candidates"], row["seeds"]) == ("0.6250", "0.6000", "2", "2")
    assert float(row["ci95_over_folds"]) == pytest.approx(3.182 * 0.05 / 2, abs=1e-4)
    with (tmp_path / "scfd_nested_candidates.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [r["candidate"] for r in found] == ["told:mean svm C=1", "noise:mean trees"]
    assert found[0]["best_for"] == "0 1 2 3"
    assert float(found[0]["ci95_over_folds"]) == pytest.approx(3.182 * 0.12910 / 2, abs=1e-4)
    assert found[0]["hardware"] == script.hardware()["cpu"]


def test_a_candidate_has_a_score_on_each_fold(script, data, tmp_path):
    pytest.importorskip("sklearn")
    tried = [script.Candidate("told:mean", "logistic", 1.0), script.Candidate("noise:mean", "logistic", 1.0)]
    inner = script.inner_scores(data, tried, tmp_path / "kept")
    found = script.folds_scored(tmp_path / "kept")
    assert list(found) == [one.name for one in tried]
    for k, one in enumerate(tried):  # the same scores, grouped by the fold they are on
        assert np.mean(found[one.name]) == pytest.approx(np.mean([inner[f, k] for f in FOLDS]))
    noise = tried[1]
    said = [data.predict(noise, data.inputs(noise), ("0", other), seed=0) for other in FOLDS[1:]]
    assert found[noise.name][0] == pytest.approx(np.mean([data.right(s, "0") for s in said]))
