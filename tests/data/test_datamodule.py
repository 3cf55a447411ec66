import pytest
import torch

from lightning_har._lightning import LightningModule, Trainer
from lightning_har.data.datamodule import ActionDataModule
from lightning_har.data.folder import VideoFolderDataModule
from lightning_har.data.manifest import Manifest, Record
from lightning_har.errors import ConfigError, DataError
from lightning_har.spec import InputSpec, Sampling

SPEC = InputSpec(3, (24, 24))


class Watcher(LightningModule):
    """Learns nothing and remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {"train": [], "val": [], "test": []}

    def note(self, stage, batch):
        self.seen[stage].append((self.current_epoch, tuple(batch["id"]), int(batch["video"].sum())))

    def training_step(self, batch, batch_idx):
        self.note("train", batch)
        return self.weight * batch["video"].float().mean()

    def validation_step(self, batch, batch_idx):
        self.note("val", batch)

    def test_step(self, batch, batch_idx):
        self.note("test", batch)

    def predict_step(self, batch, batch_idx):
        return batch["id"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(**arguments):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return Trainer(enable_model_summary=False, num_sanity_val_steps=0, **quiet, **arguments)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_trainer_takes_it(workers, class_folder):
    data = VideoFolderDataModule(class_folder, spec=SPEC, batch_size=2, num_workers=workers)
    module = Watcher()
    trainer(max_epochs=2).fit(module, data)
    epochs = [[x for x in module.seen["train"] if x[0] == e] for e in (0, 1)]
    ids = [sorted(i for _, batch, _ in e for i in batch) for e in epochs]
    assert ids[0] == ids[1] == sorted(r.id for r in data.manifests["train"])
    assert [b for _, b, _ in epochs[0]] != [b for _, b, _ in epochs[1]], "the order changes with the epoch"
    pixels = [{batch: total for _, batch, total in e} for e in epochs]
    same = set(pixels[0]) & set(pixels[1])
    assert not same or any(pixels[0][b] != pixels[1][b] for b in same), "and the augmentation"
    assert len({x[2] for x in module.seen["val"]}) == len(module.seen["val"]) / 2, "validation does not"
    trainer().test(module, data, verbose=False)
    assert sorted(i for _, batch, _ in module.seen["test"] for i in batch) == sorted(
        r.id for r in data.manifests["test"]
    )
    assert [i for batch in trainer().predict(module, data) for i in batch] == [r.id for r in data.manifests["test"]]


def test_a_run_is_the_same_twice(class_folder):
    seen = []
    for workers in (0, 2):
        module = Watcher()
        data = VideoFolderDataModule(class_folder, spec=SPEC, batch_size=2, num_workers=workers, seed=3)
        trainer(max_epochs=2).fit(module, data)
        seen.append(module.seen)
    assert seen[0] == seen[1]


def test_names_are_known_without_a_spec_and_loaders_need_one(class_folder):
    data = VideoFolderDataModule(class_folder)
    assert data.num_classes == 2
    with pytest.raises(ConfigError, match=r"spec=module\.spec"):
        data.setup("fit")
    data.spec = SPEC
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["video"].shape[1:] == (3, 3, 24, 24)
    assert data.manifests["train"][0].num_frames >= 8


def test_samplings_for_training_and_evaluation(class_folder):
    data = VideoFolderDataModule(class_folder, spec=SPEC, eval_sampling=Sampling(num_clips=2, crop="three"))
    assert next(iter(data.val_dataloader()))["video"].shape[1:] == (6, 3, 3, 24, 24)
    assert next(iter(data.train_dataloader()))["video"].shape[1:] == (3, 3, 24, 24)


def test_a_modality_that_is_not_there(class_folder):
    with pytest.raises(ConfigError, match="has no 'depth'"):
        VideoFolderDataModule(class_folder, spec={"rgb": SPEC, "depth": SPEC}).setup("fit")
    with pytest.raises(ConfigError, match="sampling has modalities"):
        VideoFolderDataModule(class_folder, spec=SPEC, train_sampling={"flow": Sampling()}).setup("fit")


def test_a_split_that_is_not_there(class_folder):
    data = VideoFolderDataModule(class_folder, spec=SPEC, test_fraction=0)
    with pytest.raises(DataError, match="no 'test' split, only train, val"):
        data.test_dataloader()


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"num_workers": -1}, {"on_error": "ignore"}, {"val_fraction": 1.0}])
def test_bad_arguments(bad, class_folder):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        VideoFolderDataModule(class_folder, **bad)


def test_a_subclass_adds_its_parser(class_folder):
    class Heads(ActionDataModule):
        def load_manifests(self):
            labels = [{"verb": i % 2, "noun": i // 2} for i in range(4)]
            records = [Record(str(i), f"jump/jump_{i}.mp4", label=labels[i]) for i in range(4)]
            return {"train": Manifest(tuple(records), {"verb": ("a", "b"), "noun": ("c", "d")}, class_folder)}

    data = Heads(spec=SPEC, batch_size=4)
    assert data.num_classes == {"verb": 2, "noun": 2}
    batch = next(iter(data.train_dataloader()))
    assert set(batch["label"]) == {"verb", "noun"}
    assert len(data.manifests["val"]) >= 1
