"""Publishing and downloading through huggingface_hub itself, against a server on loopback."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hub_models import clip, tiny

import lightning_har as har
from lightning_har.errors import WeightsError
from lightning_har.weights.card import read_card
from lightning_har.weights.hub import WEIGHTS, Zoo, names, remembered_digests, resolve
from lightning_har.weights.resume import resume


def test_push_then_load(hub, checkpoint):
    module = har.load(checkpoint)
    commit = module.push_to_hub("me/pushed", private=True, commit_message="first", token=hub.token)
    repo = hub.repos["me/pushed"]
    assert repo.private
    assert repo.commits[-1][0] == commit
    assert set(repo.files) == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert any(m == "PUT" and p.startswith("/lfs/") for m, p, _ in hub.log), "the weights went through LFS"
    loaded = har.TSNModule.from_pretrained("me/pushed", token=hub.token)
    assert type(loaded) is har.TSNModule
    assert not loaded.training
    assert torch.equal(loaded(clip()), module(clip()))
    assert loaded.class_names == module.class_names
    assert (loaded.spec, loaded.eval_sampling) == (module.spec, module.eval_sampling)
    assert b'lightning_har.load("me/pushed")' in repo.files["README.md"]


def test_a_private_repository_does_not_exist_for_others(hub, checkpoint):
    tiny().push_to_hub("me/secret", private=True, token=hub.token)
    with pytest.raises(WeightsError, match=r"no checkpoint 'me/secret', or it is private"):
        har.load("me/secret")
    with pytest.raises(WeightsError, match="'me/secret'") as refused:
        har.load("me/secret", token="hf_wrongwrongwrong")
    assert "hf_wrong" not in str(refused.value)


def test_push_without_a_right_token_is_refused_and_does_not_tell_it(hub, caplog):
    told = r"me/x cannot be published: .*Log in \(hf auth login\).* or take a namespace of yours: --zoo NAME"
    with caplog.at_level("DEBUG"), pytest.raises(WeightsError, match=told) as refused:
        tiny().push_to_hub("me/x", token="hf_wrongwrongwrong")
    assert "hf_wrong" not in str(refused.value) + repr(refused.value.__cause__) + caplog.text
    assert "me/x" not in hub.repos


def test_publishing_without_a_network_is_refused_at_once(hub, monkeypatch):
    hub.close()
    with pytest.raises(WeightsError, match=r"me/x cannot be published: 127\.0\.0\.1 cannot be reached.*--zoo PATH"):
        tiny().push_to_hub("me/x", token=hub.token)


def test_pinned_revision(hub, checkpoint, uploaded):
    other = tiny()
    torch.nn.init.zeros_(other.net.head.fc.weight)
    second = other.push_to_hub("me/tsn-tiny", token=hub.token)
    old, new = har.load("me/tsn-tiny", revision=uploaded), har.load("me/tsn-tiny")
    assert torch.equal(old(clip()), tiny()(clip()))
    assert torch.equal(new(clip()), other(clip()))
    assert torch.equal(har.load("me/tsn-tiny", revision=second)(clip()), other(clip()))
    with pytest.raises(WeightsError, match="no revision 'v9'"):
        har.load("me/tsn-tiny", revision="v9")


def test_cached_checkpoints_need_no_network(hub, uploaded):
    har.load("me/tsn-tiny")
    asked = len(hub.log)
    har.load("me/tsn-tiny", local_files_only=True)
    har.load("me/tsn-tiny", revision=uploaded, local_files_only=True)
    assert len(hub.log) == asked
    hub.close()
    har.load("me/tsn-tiny", local_files_only=True)
    with pytest.raises(WeightsError, match=r"not in the cache.*LIGHTNING_HAR_ZOO"):
        har.load("me/never-seen", local_files_only=True)


def test_listing_and_nearest_names(hub, checkpoint, uploaded):
    assert names(Zoo(None, "me")) == ["tsn-tiny"]
    with pytest.raises(WeightsError, match="Nearest: tsn-tiny"):
        har.modules.pretrained.load("tsn-tinny", zoo=Zoo(None, "me"))
    with pytest.raises(WeightsError, match=r"Nearest: .*tsn-resnet50-kinetics400"):
        har.load("tsn-resnet-kinetics400")


def test_a_repository_of_something_else(hub):
    hub.commit("me/other", {"pytorch_model.bin": b"\x80\x04" + bytes(9000), "config.json": b"{}"})
    with pytest.raises(WeightsError, match=r"no model\.safetensors.*Only safetensors are read"):
        har.load("me/other")
    assert not [path for _, path, _ in hub.log if path.endswith(".bin")], "the pickle is not even fetched"


def test_one_flipped_byte_is_fetched_again(hub, uploaded, caplog):
    hub.faults = [("flip", 5000)]
    module = har.load("me/tsn-tiny")
    assert torch.equal(module(clip()), tiny()(clip()))
    assert "try 1 of 2" in caplog.text


def test_two_flipped_downloads_are_refused_and_leave_nothing(hub, uploaded, tmp_path):
    hub.faults = [("flip", 5000), ("flip", 6000), None]
    with pytest.raises(WeightsError, match=r"refused: model\.safetensors: .*removed from the cache"):
        har.load("me/tsn-tiny")
    good = hub.repos["me/tsn-tiny"].files[WEIGHTS]
    kept = [p for p in (tmp_path / "hf").rglob("*") if p.is_file() and p.stat().st_size == len(good)]
    assert not kept
    with pytest.raises(WeightsError):
        har.load("me/tsn-tiny", local_files_only=True)
    assert torch.equal(har.load("me/tsn-tiny")(clip()), tiny()(clip()))


def test_a_byte_that_flips_in_the_cache_later(hub, uploaded, tmp_path):
    har.load("me/tsn-tiny")
    blob = next(tmp_path.rglob(f"snapshots/*/{WEIGHTS}")).resolve()
    content = bytearray(blob.read_bytes())
    content[-7] ^= 4
    blob.chmod(0o644)
    blob.write_bytes(content)
    with pytest.raises(WeightsError, match="refused"):
        har.load("me/tsn-tiny", local_files_only=True)
    assert torch.equal(har.load("me/tsn-tiny")(clip()), tiny()(clip()))


def test_config_and_card_are_digested_too(hub, checkpoint):
    files = {p.name: p.read_bytes() for p in checkpoint.iterdir()}
    files["config.json"] = files["config.json"].replace(b'"dropout": 0.5', b'"dropout": 0.6')
    hub.commit("me/altered", files)
    with pytest.raises(WeightsError, match=r"config\.json: README\.md promises"):
        har.load("me/altered")


def test_a_connection_that_breaks_is_resumed(hub, uploaded, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 4096)  # what it keeps of a broken answer
    hub.faults = [("cut", 0.5), ("cut", 0.9)]
    assert torch.equal(har.load("me/tsn-tiny")(clip()), tiny()(clip()))
    ranges = [r for m, p, r in hub.log if m == "GET" and p.startswith("/cdn/")]
    size = len(hub.repos["me/tsn-tiny"].files[WEIGHTS])
    assert ranges[0] is None
    resumed = [int(r.removeprefix("bytes=").removesuffix("-")) for r in ranges[1:]]
    assert [size // 2 // 4096, int(size * 0.9) // 4096] == [at // 4096 for at in resumed]


@pytest.fixture
def pinned(hub, checkpoint, uploaded, tmp_path, monkeypatch):
    """The project's own card pins a commit and its digests; main has moved on since."""
    commit = hub.commit("lightning-har/tsn-tiny", {p.name: p.read_bytes() for p in checkpoint.iterdir()})
    other = tiny()
    torch.nn.init.zeros_(other.net.head.fc.weight)
    other.push_to_hub("lightning-har/tsn-tiny", token=hub.token)
    card = read_card(checkpoint / "README.md")
    cards = tmp_path / "cards"
    cards.mkdir()
    monkeypatch.setattr("lightning_har.weights.hub.cards_folder", lambda: cards)

    def pin(**changes):
        told = replace(card, status="published", revision=commit, **changes).to_dict()
        (cards / "tsn-tiny.yaml").write_text(yaml.safe_dump(told))

    return pin


def test_the_projects_card_pins_commit_and_digests(pinned):
    pinned()
    assert torch.equal(har.load("tsn-tiny")(clip()), tiny()(clip()))
    assert not torch.equal(har.load("tsn-tiny", revision="main")(clip()), tiny()(clip()))


def test_a_repository_that_agrees_with_itself_but_not_with_the_pin_is_refused(pinned):
    pinned(sha256={"model.safetensors": "0" * 64})
    with pytest.raises(WeightsError, match=r"the zoo's card promises SHA-256 0{64}"):
        har.load("tsn-tiny")


LOADER = """
import os, sys
import huggingface_hub.constants as constants
constants.DOWNLOAD_CHUNK_SIZE = 16384
from lightning_har.weights.hub import resolve, remembered_digests
print(remembered_digests(resolve("me/tsn-tiny", cache_dir=sys.argv[1]) / "model.safetensors").sha256)
"""


def start(tmp_path, hub):
    env = {**os.environ, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", textwrap.dedent(LOADER), str(tmp_path / "cache")]
    return subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip()


@pytest.fixture
def sha256(hub, uploaded):
    import hashlib

    return hashlib.sha256(hub.repos["me/tsn-tiny"].files[WEIGHTS]).hexdigest()


def test_killed_downloads_end_identical(hub, sha256, tmp_path):
    for share in (0.1, 0.5, 0.99):
        hub.faults = [("stall", share)]
        hub.stalled.clear()
        process = start(tmp_path, hub)
        assert hub.stalled.wait(60)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert not list((tmp_path / "cache").rglob(f"snapshots/*/{WEIGHTS}")), "what is not complete has no name yet"
    assert finish(start(tmp_path, hub)) == sha256


def parts(tmp_path):
    names = [Path(folder, name) for folder, _, files in os.walk(tmp_path / "cache") for name in files]
    # Not rglob: the client makes and removes folders meanwhile, which it does not bear.
    return [path for path in names if path.suffix == ".incomplete" and path.exists() and path.stat().st_size]


def ranges(hub):
    return [r for m, p, r in hub.log if m == "GET" and p.startswith("/cdn/")]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_killed_download_is_continued_by_the_next_process(hub, sha256, tmp_path, share):
    content = hub.repos["me/tsn-tiny"].files[WEIGHTS]
    hub.faults = [("stall", share)]
    process = start(tmp_path, hub)
    assert hub.stalled.wait(60)
    deadline = time.monotonic() + 30
    while not parts(tmp_path) and time.monotonic() < deadline:  # of what was sent, the client's last block is lost
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (left,) = parts(tmp_path)
    have = left.stat().st_size
    assert 0 < have < len(content)
    hub.log.clear()
    assert finish(start(tmp_path, hub)) == sha256
    assert ranges(hub) == [f"bytes={have}-"]
    assert not parts(tmp_path), "nothing is left over"


@pytest.fixture
def left(hub, sha256, tmp_path):
    """Half of the weights, as the client leaves it when it is killed."""
    content = hub.repos["me/tsn-tiny"].files[WEIGHTS]
    blobs = tmp_path / "cache" / "models--me--tsn-tiny" / "blobs"
    blobs.mkdir(parents=True)
    path = blobs / f"{sha256}.0123abcd.incomplete"
    path.write_bytes(content[: len(content) // 2])
    return path


def resolved(tmp_path):
    return remembered_digests(resolve("me/tsn-tiny", cache_dir=tmp_path / "cache") / WEIGHTS).sha256


def test_the_longest_part_is_continued(hub, sha256, tmp_path, left):
    left.with_name(f"{sha256}.aaaaaaaa.incomplete").write_bytes(left.read_bytes()[:100])
    left.with_name(f"{'0' * 64}.bbbbbbbb.incomplete").write_bytes(b"of another file")
    assert resolved(tmp_path) == sha256
    assert ranges(hub) == [f"bytes={left_size(hub)}-"]
    assert [path.name for path in parts(tmp_path)] == [f"{'0' * 64}.bbbbbbbb.incomplete"]


def left_size(hub):
    return len(hub.repos["me/tsn-tiny"].files[WEIGHTS]) // 2


def test_a_part_of_something_else_does_no_harm(hub, sha256, tmp_path, left):
    left.write_bytes(b"x" * 9000)
    assert resolved(tmp_path) == sha256
    assert ranges(hub) == ["bytes=9000-", None]


def test_a_part_that_cannot_be_continued_is_left_to_the_client(hub, sha256, tmp_path, left, monkeypatch):
    def refuse(*_):
        raise WeightsError("HTTP 403")

    monkeypatch.setattr("lightning_har.weights.resume.download", refuse)
    assert resolved(tmp_path) == sha256
    assert ranges(hub) == [None]


def test_a_part_that_another_process_holds_is_left_to_it(hub, sha256, tmp_path, left):
    from filelock import FileLock

    lock = tmp_path / "cache" / ".locks" / "models--me--tsn-tiny" / f"{sha256}.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        resume("me/tsn-tiny", WEIGHTS, revision=None, endpoint=hub.url, token=None, cache_dir=tmp_path / "cache")
    assert ranges(hub) == []
    assert parts(tmp_path) == [left]


def test_a_private_download_is_continued_without_its_token_leaving_the_hub(hub, sha256, tmp_path, left):
    hub.repos["me/tsn-tiny"].private = True
    folder = resolve("me/tsn-tiny", cache_dir=tmp_path / "cache", token=hub.token)
    assert remembered_digests(folder / WEIGHTS).sha256 == sha256
    assert ranges(hub) == [f"bytes={left_size(hub)}-"], "the server's storage answers a token with an error"


def test_two_processes_at_once(hub, sha256, tmp_path):
    hub.faults = [("slow", 0.02)] * 4
    assert {finish(p) for p in [start(tmp_path, hub), start(tmp_path, hub)]} == {sha256}
    assert len(list(Path(tmp_path / "cache").rglob(f"snapshots/*/{WEIGHTS}"))) == 1
