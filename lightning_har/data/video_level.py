"""One vector for each video, for classifiers that know nothing of time: scikit-learn's, for one.

``svm = LinearSVC().fit(*video_level(data, "train"))``, then ``svm.score(*video_level(data, "test"))``.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_har.data.features import FeatureDataModule
from lightning_har.errors import ConfigError, DataError
from lightning_har.nets.temporal import Average, Max, Moments
from lightning_har.types import Failure

Pool = Literal["avg", "max", "moments"]
_PARTS = {"avg": Average, "max": Max, "moments": Moments}


def video_level(
    data: FeatureDataModule, split: str, pool: Pool = "avg"
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The features of a split, pooled over the frames of each video.

    Args:
        data: Stored features, with one head. With ``on_error="skip"`` what cannot be read is left out.
        split: "train", "val" or "test".
        pool: "avg"; "max"; or "moments", mean and standard deviation side by side. The same as the parts of these
            names in ``CNNRNNModule(backbone=None, temporal=...)``, which has a classifier after them.

    Returns:
        (N, D), or (N, 2 D) of moments; labels (N,).

    Raises:
        ConfigError: Unknown pool, or labels of several heads.
        DataError: The data has no such split, a video without a label, or no video that can be read.
    """
    if pool not in _PARTS:
        raise ConfigError(f"pool is {pool!r}; it must be 'avg', 'max' or 'moments'")
    dataset: Any = data.dataset(split)
    part = _PARTS[pool](data.feature_shape[1])
    vectors, labels = [], []
    for i in range(len(dataset)):
        sample = dataset[i]
        if isinstance(sample, Failure):
            continue
        label = sample.get("label")
        if isinstance(label, dict):
            raise ConfigError(f"{data.manifest} has the heads {', '.join(label)}; these classifiers take one label")
        if label is None:
            raise DataError(f"{data.manifest}: {sample['id']} has no label")
        vectors.append(part(sample["video"][None])[0].numpy())
        labels.append(int(label))
    if not vectors:
        raise DataError(f"{data.manifest}: none of the {len(dataset)} videos of {split} can be read")
    return np.stack(vectors), np.asarray(labels, np.int64)
