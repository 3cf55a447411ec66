"""A hub on loopback, an empty cache, and a small checkpoint."""

import pytest
from hub.server import Hub
from hub_models import NAME, tiny

from lightning_har.weights.card import Card, Result


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Caches of this test alone; no zoo, no hub, no login from outside."""
    for name in ("LIGHTNING_HAR_ZOO", "HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LIGHTNING_HAR_CACHE", str(tmp_path / "har"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    from huggingface_hub import constants

    for name, value in {
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(tmp_path / "hf" / "hub"),
        "HF_TOKEN_PATH": str(tmp_path / "hf" / "token"),
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
    }.items():
        monkeypatch.setattr(constants, name, value)


@pytest.fixture
def hub(monkeypatch):
    hub = Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    yield hub
    hub.close()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A checkpoint folder, not to be changed."""
    card = Card(
        name=NAME,
        summary="A network for tests.",
        license="Apache-2.0",
        datasets=("made-up",),
        results=(Result("made-up", "top-1", 25.0, "val"),),
        intended_use="Tests.",
    )
    return tiny().save_pretrained(tmp_path_factory.mktemp("zoo") / NAME, card=card)


@pytest.fixture
def uploaded(hub, checkpoint):
    """The checkpoint as me/tsn-tiny on the hub; gives its commit."""
    return hub.commit("me/tsn-tiny", {p.name: p.read_bytes() for p in checkpoint.iterdir()})
