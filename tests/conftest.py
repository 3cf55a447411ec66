"""Fixtures for all tests: videos that are made, not stored, and the way to ../shared."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings
from videos import frame_number, write_video

# Several processes whose networks each take all cores wait for one another more than they compute: 154 s for what takes
# 61 s on two cores. Before anything imports torch, for this process and those that it starts.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))

# Hypothesis gives an example 200 ms of wall time, which a busy machine does not keep.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# A shell starts what runs in its background with Ctrl-C ignored, and so would be the children that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def make_video():
    """``write_video``, for tests."""
    return write_video


@pytest.fixture
def number_of():
    """``frame_number``, for tests."""
    return frame_number


@pytest.fixture(scope="session")
def class_folder(tmp_path_factory):
    """A folder of two classes with four clips each, of 8 to 11 frames of 48×64."""
    root = tmp_path_factory.mktemp("classes")
    for c, name in enumerate(("jump", "walk")):
        for i in range(4):
            write_video(root / name / f"{name}_{i}.mp4", num_frames=8 + i, size=(48, 64), first=32 * c)
    return root


@pytest.fixture(scope="session")
def shared():
    """The folder ../shared beside the repository."""
    path = Path(__file__).resolve().parents[2] / "shared"
    if not path.is_dir():
        pytest.skip(f"{path} is not there")
    return path


@pytest.fixture(autouse=True, scope="session")
def cache_folder(tmp_path_factory):
    """Nothing of a test stays in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHTNING_HAR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
