"""The clips that calibrate: which are taken, which are left to check, and what is refused."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from edge_models import batches, clips, cnn_rnn, features, of_features, tsn

from lightning_har.data.folder import VideoFolderDataModule
from lightning_har.edge.export import export
from lightning_har.edge.graphs import example_video
from lightning_har.errors import ConfigError
from lightning_har.modules.two_stream import TwoStreamModule
from lightning_har.spec import Sampling


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        (None, "calibration data"),
        ([], "no clips"),
        ([clips(4, classes=1)], "one class"),
        ([{**clips(4), "video": clips(4)["video"].float() * float("nan")}], "NaN"),
        ([{k: v for k, v in clips(4).items() if k != "label"}], "labels"),
    ],
    ids=["none", "empty", "one class", "nan", "unlabelled"],
)
def test_unfit_calibration_is_refused(tmp_path, calibration, words):
    with pytest.raises(ConfigError, match=words):
        export(cnn_rnn("avg"), tmp_path, int8=True, calibration=calibration)
    assert not list(tmp_path.iterdir())


def test_the_one_class_is_named_as_the_data_does(tmp_path, make_video):
    """A folder of one class counts it from 0, whatever the module's first class is."""
    for i in range(8):
        make_video(tmp_path / "clips" / "wave" / f"{i}.mp4", num_frames=8)
    module = cnn_rnn("avg")
    module.class_names = ("sit", "stand", "wave", "jump")
    data = VideoFolderDataModule(tmp_path / "clips", batch_size=2, num_workers=0)
    with pytest.raises(ConfigError, match=r"of one class \('wave'\)"):
        export(module, tmp_path / "out", int8=True, calibration=data)


def test_a_network_with_nan_is_refused(tmp_path):
    module = cnn_rnn("avg")
    with torch.no_grad():
        module.net.backbone.net.conv1[0].weight[0] = torch.nan
    with pytest.raises(ConfigError, match="NaN"):
        export(module, tmp_path, int8=True, calibration=batches())


def test_clips_that_check_are_not_those_that_calibrate(tmp_path):
    from lightning_har.edge.calibration import collect

    taken = collect(cnn_rnn("avg"), [clips(4, seed=s) for s in range(3)], max_clips=4)
    assert taken.held_out
    fit = {x.numpy().tobytes() for x in taken.fit}
    assert not fit & {x.numpy().tobytes() for x in taken.check}


def test_labels_that_alternate_are_parted_within_each_class():
    """Every second clip of all would be one class of two, or half the classes of many."""
    from lightning_har.edge.calibration import collect

    def numbered(labels):
        video = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1, 1).expand(-1, 3, 1, 2, 2)
        return [{"video": video, "label": torch.tensor(labels), "id": list(map(str, labels))}]

    def numbers(clips):
        return [int(x.flatten()[0]) for x in clips]

    two = collect(cnn_rnn("avg"), numbered([0, 1, 0, 1, 0, 1, 0, 1]), max_clips=4)
    assert numbers(two.fit) == [0, 1, 4, 5]
    assert numbers(two.check) == [2, 3, 6, 7]
    many = collect(cnn_rnn("avg"), numbered([0, 1, 2, 3] * 2), max_clips=4)
    assert numbers(many.fit) == [0, 1, 2, 3]
    assert numbers(many.check) == [4, 5, 6, 7]
    once = collect(cnn_rnn("avg"), numbered(list(range(6))), max_clips=4)
    assert numbers(once.fit) == list(range(6))
    assert not once.held_out


def test_clips_that_check_are_of_all_classes_though_the_data_is_sorted():
    from lightning_har.edge.calibration import collect

    class Clips(torch.utils.data.Dataset):
        def __len__(self):
            return 40

        def __getitem__(self, i):
            return {"video": torch.full((3, 1, 2, 2), i // 10, dtype=torch.uint8), "label": i // 10, "id": str(i)}

    class Sorted:
        def prepare_data(self):
            pass

        def setup(self, stage):
            pass

        def train_dataloader(self):
            return torch.utils.data.DataLoader(Clips(), 4, shuffle=True)

        def val_dataloader(self):
            return torch.utils.data.DataLoader(Clips(), 4)

    taken = collect(cnn_rnn("avg"), Sorted(), max_clips=8)
    assert [int(x.flatten()[0]) for x in taken.check] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_calibration_samples_as_the_bundle_will(tmp_path):
    from dataclasses import replace

    from edge_models import write_video

    from lightning_har.data.folder import VideoFolderDataModule
    from lightning_har.edge.calibration import collect
    from lightning_har.spec import Sampling

    batch = clips(8)
    for i, video in enumerate(batch["video"]):
        (tmp_path / "abcd"[i % 4]).mkdir(exist_ok=True)
        write_video(tmp_path / "abcd"[i % 4] / f"{i}.mp4", video.permute(1, 2, 3, 0).numpy())
    module = tsn()
    module.eval_sampling = replace(module.eval_sampling, num_clips=10, crop="three")  # the runner takes one view
    asked = []

    class Data(VideoFolderDataModule):
        def val_dataloader(self):
            asked.append((self.train_sampling, self.eval_sampling))
            return super().val_dataloader()

    data = Data(tmp_path, batch_size=1, num_workers=0)
    before = dict(vars(data))
    collect(module, data)
    own = Sampling("dense", crop="full")
    collect(module, Data(tmp_path, train_sampling=own, eval_sampling=own, batch_size=1, num_workers=0))
    middle = replace(module.eval_sampling, num_clips=1, crop="center")
    assert asked == [(module.train_sampling, middle), (own, own)]
    # And the data is what it was: what it gives next is not what calibrated.
    assert vars(data) == before
    assert not data._datasets


class Plain(pl.LightningDataModule):
    """As one writes it for another library: no spec, no samplings."""

    def train_dataloader(self):
        return batches()


class WithNone(Plain):
    def val_dataloader(self):
        return None


class Duck:
    prepare_data = setup = lambda self, stage=None: None
    train_dataloader = Plain.train_dataloader


@pytest.mark.parametrize("kind", [Plain, WithNone, Duck])
def test_a_data_module_without_validation_data_is_told_so(kind):
    from lightning_har.edge.calibration import collect

    with pytest.raises(ConfigError, match=f"{kind.__name__} gives no val_dataloader; .*or give labelled batches"):
        collect(cnn_rnn("avg"), kind())


def test_a_data_module_without_training_data_is_told_so():
    from lightning_har.edge.calibration import collect

    with pytest.raises(ConfigError, match="LightningDataModule gives no train_dataloader"):
        collect(cnn_rnn("avg"), pl.LightningDataModule())


def moved(batch, change):
    return {**batch, "video": change(batch["video"])}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda x: x.repeat(1, 1, 2, 1, 1)[:, :, :8],
            r"is 3 × 8 × 64 × 64 .*give clips of 3 × 6 × 64 × 64; .*num_frames",
        ),
        (lambda x: x[..., :32], r"is 3 × 6 × 64 × 32 .*give clips of 3 × 6 × 64 × 64$"),
        (lambda x: x[:, :2], r"is 2 × 6 × 64 × 64 .*give clips of 3 × 6 × 64 × 64$"),
        (lambda x: x.float(), r"is torch\.float32; .* takes torch\.uint8: give uint8 as decoders give it"),
        (lambda x: {"rgb": x, "flow": x}, "holds rgb, flow; this network takes one clip, no dict"),
    ],
    ids=["frames", "size", "channels", "type", "modalities"],
)
def test_clips_that_the_network_does_not_take_are_refused_as_such(tmp_path, change, words):
    """And not as something that the format lacks."""
    calibration = [moved(clips(4), change)]
    with pytest.raises(ConfigError, match=f"a calibration clip {words}"):
        export(cnn_rnn(), tmp_path / "out", int8=True, calibration=calibration)
    assert not list(tmp_path.iterdir())


def test_clips_to_compare_are_looked_at_before_anything_is_written(tmp_path):
    calibration = [*(clips(4) for _ in range(9)), clips(4, frames=8)]
    with pytest.raises(ConfigError, match="a clip to compare is 3 × 8 × 64 × 64"):
        export(cnn_rnn(), tmp_path / "out", int8=True, calibration=calibration)
    assert not list(tmp_path.iterdir())


def test_frames_of_ones_own_sampling_are_refused_with_the_argument_that_sets_them(tmp_path, make_video):
    for i in range(8):
        make_video(tmp_path / "clips" / "ab"[i % 2] / f"{i}.mp4", num_frames=8)
    data = VideoFolderDataModule(tmp_path / "clips", train_sampling=Sampling(num_frames=8), batch_size=2, num_workers=0)
    with pytest.raises(ConfigError, match=r"is 3 × 8 × 64 × 64 .*set by num_frames of its samplings"):
        export(cnn_rnn(), tmp_path / "out", int8=True, calibration=data, kind="frames")


def test_features_of_another_width_are_refused(tmp_path):
    calibration = [moved(features(), lambda x: x[..., :6])]
    with pytest.raises(ConfigError, match=r"is 25 × 6 \(frames × features\), .*give clips of 25 × 8"):
        export(of_features(), tmp_path, int8=True, calibration=calibration)


@pytest.mark.parametrize(
    "options", [{"kind": "stream"}, {"dynamic": ("time",)}], ids=["a stream", "time that stays open"]
)
def test_any_number_of_frames_calibrates_graphs_that_take_it(tmp_path, options):
    module = cnn_rnn("gru") if "kind" in options else tsn()
    calibration = [clips(4, frames=8), clips(4, frames=4)]
    assert export(module, tmp_path, int8=True, calibration=calibration, **options).files


@pytest.mark.slow
def test_the_order_of_the_modalities_of_a_batch_is_of_no_matter(tmp_path):
    options = {"backbone": "resnet10t", "num_segments": 2, "pretrained": False, "input_size": 64}
    module = TwoStreamModule(4, "tsn", options).eval()
    video = example_video(module, batch_size=4)
    batch = {**clips(4), "video": dict(reversed(video.items()))}
    assert export(module, tmp_path, int8=True, calibration=[batch]).clips == 4
