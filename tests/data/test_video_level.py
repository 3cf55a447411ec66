"""One vector for each video, and what an SVM learns from it."""

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from lightning_har.data.features import FeatureDataModule
from lightning_har.data.video_level import video_level
from lightning_har.errors import ConfigError, DataError


@pytest.fixture
def data(tmp_path):
    """Two classes that differ in how much a feature varies over time, not in its mean."""
    rng = np.random.default_rng(0)
    rows = ["path,label,split"]
    for i in range(24):
        split, label = "train" if i < 16 else "test", "ab"[i % 2]
        frames = rng.standard_normal((6, 5)).astype(np.float32)
        frames[:, 0] *= 3.0 if label == "b" else 0.1
        frames[:, 0] -= frames[:, 0].mean()
        np.save(tmp_path / f"{i}.npy", frames)
        rows.append(f"{i}.npy,{label},{split}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    return FeatureDataModule(tmp_path / "manifest.csv")


POOLS = {
    "avg": lambda frames: frames.mean(0),
    "max": lambda frames: frames.max(0),
    "moments": lambda frames: np.concatenate([frames.mean(0), np.sqrt(frames.var(0) + 1e-6)]),
}


@pytest.mark.parametrize("pool", POOLS)
def test_vectors_are_pooled_over_frames(data, pool):
    vectors, labels = video_level(data, "test", pool)
    for vector, label, record in zip(vectors, labels, data.manifests["test"], strict=True):
        frames = np.load(data.manifest.parent / record.path)
        np.testing.assert_allclose(vector, POOLS[pool](frames), rtol=1e-5, atol=1e-6)
        assert label == record.label


def test_a_split_of_which_nothing_can_be_read_is_named(data):
    data.on_error = "skip"
    for record in data.manifests["test"]:
        (data.manifest.parent / record.path).write_bytes(b"junk")
    with pytest.raises(DataError, match=r"manifest\.csv: none of the 8 videos of test can be read"):
        video_level(data, "test")


def test_an_svm_learns_from_moments_what_the_mean_does_not_hold(data):
    scores = {}
    for pool in ("avg", "moments"):
        svm = LinearSVC(random_state=0).fit(*video_level(data, "train", pool))
        scores[pool] = svm.score(*video_level(data, "test", pool))
    assert scores["moments"] == 1.0
    assert scores["avg"] < 1.0


def test_what_cannot_be_pooled_is_said(data):
    with pytest.raises(ConfigError, match="'median'; it must be 'avg', 'max' or 'moments'"):
        video_level(data, "test", "median")
    with pytest.raises(DataError, match="no 'val2' split"):
        video_level(data, "val2")
