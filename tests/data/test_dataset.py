import os
import pickle
import signal

import numpy as np
import pytest
import torch
from videos import write_no_frames

from lightning_har.data.dataset import ActionDataset, ActionLoader, Collate, EpochSampler
from lightning_har.data.decode import open_video
from lightning_har.data.manifest import Manifest, Record
from lightning_har.errors import DecodeError
from lightning_har.spec import InputSpec, Sampling
from lightning_har.types import Failure

RGB = InputSpec(4, (32, 40))
TRAIN = Sampling("segments", random=True, crop="random", flip=0.5)


class Open:
    """A picklable opener."""

    def __init__(self, root, channels=3):
        self.root, self.channels = root, channels

    def __call__(self, record, threads):
        return Cut(open_video(self.root / record.path, "pyav", threads), self.channels)


class Cut:
    """A video of fewer channels, as optical flow has."""

    def __init__(self, video, channels):
        self.video, self.channels = video, channels

    def __getattr__(self, name):
        return getattr(self.video, name)

    def read(self, indices, size=None):
        return self.video.read(indices, size)[..., : self.channels]


class Killer(Open):
    def __call__(self, record, threads):
        if record.id == "2":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(record, threads)


@pytest.fixture(scope="module")
def root(class_folder):
    return class_folder


def manifest_of(root, **fields):
    files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.mp4"))
    records = [Record(str(i), path, label=i % 2, **fields) for i, path in enumerate(files)]
    return Manifest(tuple(records), ("jump", "walk"), root)


def dataset_of(root, specs=None, sampling=TRAIN, manifest=None, opener=None, **arguments):
    specs = specs or {"rgb": RGB}
    openers = {m: opener or Open(root, spec.channels) for m, spec in specs.items()}
    return ActionDataset(manifest or manifest_of(root), specs, dict.fromkeys(specs, sampling), openers, **arguments)


def test_a_sample(root):
    sample = dataset_of(root)[3]
    assert sample["video"].shape == (3, 4, 32, 40)
    assert sample["video"].dtype == torch.uint8
    assert (sample["id"], sample["path"], sample["label"]) == ("3", "jump/jump_3.mp4", 1)
    assert not sample["is_padding"]


def test_randomness_depends_on_seed_epoch_and_index_only(root):
    epoch = torch.zeros((), dtype=torch.int64)
    data = dataset_of(root, epoch=epoch, seed=5)
    first = data[2]["video"]
    _ = data[0]
    assert torch.equal(first, data[2]["video"])
    assert torch.equal(first, dataset_of(root, seed=5)[2]["video"])
    assert not torch.equal(first, dataset_of(root, seed=6)[2]["video"])
    epoch.fill_(1)
    assert not torch.equal(first, data[2]["video"])


def test_workers_change_nothing_and_see_the_epoch(root):
    def epochs(workers):
        data = dataset_of(root, epoch=torch.zeros((), dtype=torch.int64).share_memory_())
        sampler = EpochSampler(data, shuffle=True)
        loader = ActionLoader(
            data, 3, sampler=sampler, num_workers=workers, collate_fn=Collate(data.specs, data.samplings),
            persistent_workers=workers > 0,
        )  # fmt: skip
        found = []
        for epoch in range(2):
            sampler.set_epoch(epoch)
            found.append([(b["id"], b["video"]) for b in loader])
        return found

    alone, shared = epochs(0), epochs(2)
    for a, b in zip(alone, shared, strict=True):
        assert [ids for ids, _ in a] == [ids for ids, _ in b]
        assert all(torch.equal(x, y) for (_, x), (_, y) in zip(a, b, strict=True))
    assert [ids for ids, _ in alone[0]] != [ids for ids, _ in alone[1]]


def test_stretches_stay_inside(root, number_of):
    records = [Record("a", "walk/walk_3.mp4", start=3, stop=7), Record("b", "walk/walk_3.mp4", start=9, stop=99)]
    manifest = Manifest(tuple(records), None, root)
    data = dataset_of(root, manifest=manifest, sampling=Sampling(crop="full"))
    numbers = [[number_of(f) - 32 for f in data[i]["video"].permute(1, 2, 3, 0).numpy()] for i in (0, 1)]
    assert numbers == [[3, 4, 5, 6], [9, 9, 10, 10]]
    gone = Manifest((Record("c", "walk/walk_3.mp4", start=50, stop=60),), None, root)
    with pytest.raises(DecodeError, match=r"walk_3\.mp4: frames 50 to 60 are wanted of a video of 11"):
        _ = dataset_of(root, manifest=gone)[0]
    gone = Manifest((Record("c", "walk/walk_3.mp4", start=50),), None, root)
    with pytest.raises(DecodeError, match=r"walk_3\.mp4: frames 50 to the end are wanted of a video of 11"):
        _ = dataset_of(root, manifest=gone)[0]


def test_a_video_without_frames_is_said_to_have_none(tmp_path):
    write_no_frames(tmp_path / "a.avi")
    with pytest.raises(DecodeError, match=r"^a\.avi: has no frames$"):
        _ = dataset_of(tmp_path, manifest=Manifest((Record("a", "a.avi"),), None, tmp_path))[0]


def test_two_modalities_share_frames_and_crop(root):
    flow = InputSpec(4, (32, 40), mean=(0.5,), std=(0.5,), modality="flow")
    data = dataset_of(root, {"rgb": RGB, "flow": flow}, Sampling("segments", random=True, crop="random"))
    for i in range(4):
        video = data[i]["video"]
        assert video["flow"].shape == (2, 4, 32, 40)
        assert torch.equal(video["rgb"][:2], video["flow"])
    batch = Collate(data.specs, data.samplings)([data[0], data[1]])
    assert {m: tuple(v.shape) for m, v in batch["video"].items()} == {
        "rgb": (2, 3, 4, 32, 40),
        "flow": (2, 2, 4, 32, 40),
    }


def test_views(root):
    data = dataset_of(root, sampling=Sampling(num_clips=2, crop="ten"))
    batch = Collate(data.specs, data.samplings)([data[0]])
    assert batch["video"].shape == (1, 20, 3, 4, 32, 40)


def test_heads(root):
    records = (Record("a", "jump/jump_0.mp4", label={"verb": 1, "noun": 4}), Record("b", "jump/jump_1.mp4"))
    data = dataset_of(root, manifest=Manifest(records, {"verb": ("p", "q"), "noun": tuple("abcde")}, root))
    batch = Collate(data.specs, data.samplings, ("verb", "noun"))([data[0], data[1]])
    assert {h: label.tolist() for h, label in batch["label"].items()} == {"verb": [1, -1], "noun": [4, -1]}


def broken(root, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    records = (Record("ok", str(root / "jump/jump_0.mp4"), label=0), Record("bad", str(tmp_path / "bad.mp4"), label=1))
    return Manifest(records, ("jump", "walk"), root)


def test_unreadable_videos(root, tmp_path):
    manifest = broken(root, tmp_path)
    with pytest.raises(DecodeError, match=r"^.*bad\.mp4: is no video"):
        _ = dataset_of(root, manifest=manifest)[1]
    data = dataset_of(root, manifest=manifest, on_error="skip")
    collate = Collate(data.specs, data.samplings)
    batch = collate([data[0], data[1]])
    assert batch["id"] == ["ok"]
    assert batch["failures"][0][:2] == ("bad", str(tmp_path / "bad.mp4"))
    empty = collate([data[1]])
    assert empty["video"].shape == (0, 3, 4, 32, 40)
    assert empty["label"].shape == (0,)
    assert len(empty["failures"]) == 1
    assert isinstance(data[-2], Failure)
    assert collate([data[0], data[-2]])["failures"] == [], "the rank that owns it reports it"


def test_a_workers_error_is_the_one_that_it_raised(root, tmp_path):
    """And not torch's message, which has the worker's traceback in it."""
    data = dataset_of(root, manifest=broken(root, tmp_path))
    with pytest.raises(DecodeError) as alone:
        _ = data[1]
    loader = ActionLoader(data, 1, num_workers=2, collate_fn=Collate(data.specs, data.samplings))
    with pytest.raises(DecodeError) as raised:
        list(loader)
    assert str(raised.value) == str(alone.value)
    assert str(raised.value).startswith(str(tmp_path / "bad.mp4"))
    assert "Traceback" in str(raised.value.__cause__), "with --debug it is still told where"


def test_a_worker_that_dies_names_its_file(root):
    data = dataset_of(root, opener=Killer(root))
    loader = ActionLoader(data, 1, num_workers=1, collate_fn=Collate(data.specs, data.samplings))
    with pytest.raises(DecodeError, match=r"^jump/jump_2\.mp4: a worker of the data loader died"):
        list(loader)


@pytest.mark.parametrize(("videos", "ranks"), [(101, 2), (8, 3), (1, 4), (6, 2)])
def test_each_video_counts_once_over_ranks(videos, ranks, tmp_path):
    manifest = Manifest(tuple(Record(str(i), f"{i}.mp4") for i in range(videos)), None, tmp_path)
    data = dataset_of(tmp_path, manifest=manifest)
    parts = [list(EpochSampler(data, shuffle=False, num_replicas=ranks, rank=r)) for r in range(ranks)]
    assert len({len(p) for p in parts}) == 1
    assert sorted(i for p in parts for i in p if i >= 0) == list(range(videos))
    assert all(-videos <= i for p in parts for i in p)
    shuffled = [list(EpochSampler(data, shuffle=True, num_replicas=ranks, rank=r)) for r in range(ranks)]
    assert sorted(i for p in shuffled for i in p if i >= 0) == list(range(videos))
    assert all(-videos <= i for p in shuffled for i in p)
    assert [len(p) for p in shuffled] == [len(p) for p in parts]


def test_padding_is_flagged(root):
    data = dataset_of(root)
    assert data[-3]["is_padding"]
    assert data[-3]["id"] == "2"
    assert torch.equal(data[-3]["video"], data[2]["video"])
    batch = Collate(data.specs, data.samplings)([data[2], data[-3]])
    assert batch["label"].tolist() == [0, -1], "no loss counts it a second time"
    batch = Collate(data.specs, data.samplings)([data[0], data[-1]])
    assert batch["is_padding"].tolist() == [False, True]


def test_it_pickles_for_spawned_workers(root):
    data = dataset_of(root)
    again = pickle.loads(pickle.dumps(data))
    assert np.array_equal(again[1]["video"], data[1]["video"])
