"""A recogniser, its bundle and a clip, for the tests of what runs on the device."""

import pytest
from edge_models import clips, cnn_rnn, write_video

from lightning_har.edge.bundle import bundle


@pytest.fixture(scope="session")
def module():
    """A recogniser, not to be changed."""
    return cnn_rnn()


@pytest.fixture(scope="session")
def made(module, tmp_path_factory):
    """Its bundle, not to be changed."""
    folder = tmp_path_factory.mktemp("bundles") / "gru"
    bundle(module, folder)
    return folder


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    """A clip of 30 frames of 96×96, at 25 a second."""
    frames = clips(1, frames=30, size=96)["video"][0].permute(1, 2, 3, 0).numpy()
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", frames)
