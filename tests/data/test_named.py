"""Data as the command line names it."""

import pytest

from lightning_har.data.fake import write_fake_folder
from lightning_har.data.features import FeatureDataModule
from lightning_har.data.folder import VideoFolderDataModule
from lightning_har.data.named import DATASETS, data_factory
from lightning_har.data.synthetic import SyntheticActionsDataModule
from lightning_har.data.ucf101 import UCF101DataModule
from lightning_har.errors import ConfigError


def test_what_each_form_means(tmp_path):
    write_fake_folder(tmp_path / "clips", clips=1)
    FeatureDataModule.fake(tmp_path / "features")
    table = tmp_path / "clips.csv"
    table.write_text("path,label\nclips/clap/clap_00.mp4,clap\n")
    assert data_factory("synthetic").func is SyntheticActionsDataModule
    for place in (tmp_path / "clips", table):
        found = data_factory(str(place))
        assert (found.func, found.keywords) == (VideoFolderDataModule, {"root": str(place)})
    for place in (tmp_path / "features", tmp_path / "features" / "manifest.csv"):
        found = data_factory(f"features:{place}")
        assert found.func is FeatureDataModule
        assert found().feature_shape == (8, 16)
    found = data_factory("ucf101:/data/UCF-101")  # read when it is used, not now
    assert (found.func, found.keywords) == (UCF101DataModule, {"root": "/data/UCF-101"})


@pytest.mark.parametrize("name", DATASETS)
def test_every_name_leads_to_a_class(name):
    assert data_factory(f"{name}:x").func.__name__.endswith("DataModule")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ucf1001:/data", r"no data set 'ucf1001'; did you mean ucf101\?"),
        ("kinetcs:/data", "did you mean kinetics"),
        ("zzz:/data", r"no data set 'zzz'; give .*NAME:DIR with NAME one of .*hmdb51"),
        ("no/such/folder", "no data at no/such/folder; give a folder of clips per class"),
        ("synthetics", "no data at synthetics"),
    ],
)
def test_what_is_not_there_is_said_with_what_would_do(text, message):
    with pytest.raises(ConfigError, match=message):
        data_factory(text)


def test_a_colon_in_the_name_of_a_folder_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_fake_folder(tmp_path / "my:clips", clips=1)
    assert data_factory("my:clips").func is VideoFolderDataModule
