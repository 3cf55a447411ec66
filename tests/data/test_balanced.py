"""Balanced sampling: every class equally often, in an epoch as long as ever."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from lightning_har.data.dataset import EpochSampler
from lightning_har.data.manifest import Manifest, Record
from lightning_har.errors import ConfigError

COUNTS = {0: 30, 1: 5, 3: 1}  # class 2 has no video
LABELS = [label for label, count in COUNTS.items() for _ in range(count)]


class Videos(Dataset):
    """What the sampler looks at of a data set."""

    def __init__(self, labels=LABELS, names=("a", "b", "c", "d")):
        records = [Record(id=str(i), path=f"{i}.mp4", label=label) for i, label in enumerate(labels)]
        self.manifest = Manifest(tuple(records), class_names=names, root=Path())
        self.seed, self.epoch = 0, torch.zeros((), dtype=torch.int64)

    def __len__(self):
        return len(self.manifest)


def drawn(epoch, ranks=1, **kwargs):
    out = []
    for rank in range(ranks):
        sampler = EpochSampler(Videos(), shuffle=True, balanced=True, num_replicas=ranks, rank=rank, **kwargs)
        sampler.set_epoch(epoch)
        out.append(list(sampler))
    return out


def test_classes_come_equally_often():
    (indices,) = drawn(0)
    assert len(indices) == len(LABELS)
    assert Counter(LABELS[i] for i in indices) == {0: 12, 1: 12, 3: 12}
    common = [i for i in indices if LABELS[i] == 0]
    assert len(set(common)) == 12  # none twice while others wait
    rare = Counter(i for i in indices if LABELS[i] == 1)
    assert set(rare.values()) == {2, 3}


def test_ranks_share_an_epoch_and_epochs_differ():
    (alone,) = drawn(3)
    two = drawn(3, ranks=2)
    assert sorted(two[0] + two[1]) == sorted(alone)
    assert drawn(3) == [alone]
    assert drawn(4) != [alone]


def test_evaluation_is_not_balanced():
    assert list(EpochSampler(Videos(), shuffle=False, balanced=True)) == list(range(len(LABELS)))


def test_several_heads_are_refused():
    videos = Videos([{"verb": 0, "noun": 1}], {"verb": ("a",), "noun": ("b", "c")})
    with pytest.raises(ConfigError, match="0 has labels for noun, verb"):
        EpochSampler(videos, shuffle=True, balanced=True)
