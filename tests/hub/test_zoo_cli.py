"""`lightning-har zoo`: the same commands on a folder and on a hub; quick; readable by machines."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest
import torch
from hub_models import NAME, clip, tiny

import lightning_har as har
from lightning_har.cli.main import main
from lightning_har.hub.index import load_cards
from lightning_har.weights.hub import CONFIG, README, WEIGHTS


@pytest.fixture(params=["folder", "hub"])
def zoo(request, tmp_path, hub, monkeypatch):
    """What --zoo is given; logged in to the hub."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    if request.param == "hub":
        return "me"
    monkeypatch.delenv("HF_ENDPOINT")
    (tmp_path / "zoo").mkdir()
    return str(tmp_path / "zoo")


def run(capsys, *arguments):
    code = main(["zoo", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_the_same_commands_on_a_folder_and_on_a_hub(zoo, checkpoint, tmp_path, capsys, monkeypatch):
    code, out, _ = run(capsys, "publish", checkpoint, "--zoo", zoo, "--json")
    assert code == 0
    told = json.loads(out)
    assert told["name"] == NAME
    assert set(told["sha256"]) == {WEIGHTS, CONFIG}

    code, out, _ = run(capsys, "list", "--zoo", zoo, "--json")
    listed = json.loads(out)
    assert listed["asked"]
    assert [c["name"] for c in listed["checkpoints"] if c["available"]] == [NAME]
    assert set(load_cards()) < {c["name"] for c in listed["checkpoints"]}
    code, out, _ = run(capsys, "list", "--zoo", zoo)
    assert any(line.startswith(NAME) and "in the zoo" in line for line in out.splitlines())

    code, out, _ = run(capsys, "info", NAME, "--zoo", zoo)
    assert code == 0
    assert "A network for tests." in out
    code, out, _ = run(capsys, "info", NAME, "--zoo", zoo, "--json")
    assert json.loads(out)["license"] == "Apache-2.0"

    code, out, _ = run(capsys, "download", NAME, "--zoo", zoo, "--out", tmp_path / "here", "--json")
    assert json.loads(out)["folder"] == str(tmp_path / "here")
    assert sorted(p.name for p in (tmp_path / "here").iterdir()) == sorted([WEIGHTS, CONFIG, README])
    assert not any(p.is_symlink() for p in (tmp_path / "here").iterdir())
    assert torch.equal(har.load(tmp_path / "here")(clip()), tiny()(clip()))

    code, out, _ = run(capsys, "verify", NAME, "--zoo", zoo, "--json")
    assert (code, json.loads(out)["ok"]) == (0, True)
    code, _, err = run(capsys, "verify", "tsn-tinny", "--zoo", zoo)
    assert code == 2
    assert "Nearest: tsn-tiny" in err

    monkeypatch.setenv("LIGHTNING_HAR_ZOO", zoo)
    assert torch.equal(har.load(NAME)(clip()), tiny()(clip()))


def test_a_checkpoint_of_the_project_s_name_in_ones_own_zoo_is_ones_own(zoo, checkpoint, capsys):
    assert run(capsys, "publish", checkpoint, "--zoo", zoo, "--name", "quickstart")[0] == 0
    code, out, _ = run(capsys, "info", "quickstart", "--zoo", zoo, "--json")
    assert (code, json.loads(out)["summary"]) == (0, "A network for tests.")
    code, out, _ = run(capsys, "list", "--zoo", zoo, "--json")
    (row,) = [row for row in json.loads(out)["checkpoints"] if row["available"]]
    assert row["name"] == "quickstart", "what it is loaded by, not what its card calls it"
    assert row["parameters"] != load_cards()["quickstart"].parameters
    code, out, _ = run(capsys, "info", "s3d-kinetics400", "--zoo", zoo, "--json")
    assert json.loads(out)["converter"] == "torchvision_s3d", "what it does not have, the project may know"


def test_a_zoo_folder_with_strange_things_in_it_is_listed(checkpoint, tmp_path, capsys):
    shutil.copytree(checkpoint, tmp_path / "zoo" / "my model")
    shutil.copytree(checkpoint, tmp_path / "zoo" / ".half.123.part")
    shutil.copytree(checkpoint, tmp_path / "zoo" / "no-card")
    (tmp_path / "zoo" / "no-card" / README).write_text("by hand")
    (tmp_path / "zoo" / "notes.txt").touch()
    code, out, err = run(capsys, "list", "--zoo", tmp_path / "zoo", "--json")
    assert code == 0
    found = {row["name"] for row in json.loads(out)["checkpoints"] if row["available"]}
    assert found == {"my model", "no-card"}
    assert "no-card/README.md is not a card" in err


def test_verify_names_the_bad_file(checkpoint, tmp_path, capsys):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    har.load(folder)  # its digests are remembered
    status = (folder / WEIGHTS).stat()
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[3000] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    os.utime(folder / WEIGHTS, ns=(status.st_atime_ns, status.st_mtime_ns))
    code, out, _ = run(capsys, "verify", folder)
    assert code == 2
    assert f"BAD {WEIGHTS}: README.md promises SHA-256" in out or f"BAD {WEIGHTS}: config.json promises" in out
    assert f"ok  {CONFIG}" in out


@pytest.fixture
def away(monkeypatch):
    """A hub that does not answer; the connections that were tried. The client alone would try for half a minute."""
    tried = []
    connect = socket.socket.connect

    def counted(self, address):
        tried.append(address)
        return connect(self, address)

    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(socket.socket, "connect", counted)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits to try again"))
    return tried


@pytest.mark.parametrize(
    "command",
    [
        ["zoo", "download", "tsn-resnet50-kinetics40"],
        ["zoo", "verify", "tsn-resnet50-kinetics40"],
        ["zoo", "info", "tsn-resnet50-kinetics40"],
        ["predict", "clip.mp4", "--model", "tsn-resnet50-kinetics40"],
    ],
)
def test_without_network_an_unknown_name_is_answered_at_once(command, away, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").write_bytes(b"x")
    assert main(command) == 2
    err = capsys.readouterr().err
    assert "cannot be asked (127.0.0.1 cannot be reached" in err
    assert "Nearest: tsn-resnet50-kinetics400" in err
    assert away == [("127.0.0.1", 9)]


def test_without_network_what_is_in_the_cache_is_loaded(hub, uploaded, monkeypatch):
    har.load("me/tsn-tiny")
    hub.close()
    asked = len(hub.log)
    assert torch.equal(har.load("me/tsn-tiny")(clip()), tiny()(clip()))
    assert len(hub.log) == asked


def test_without_network_the_cards_are_listed(away, monkeypatch, capsys):
    code, out, err = run(capsys, "list")
    assert away == [("127.0.0.1", 9)]
    assert code == 0
    assert "tsn-resnet50-kinetics400" in out
    assert "cannot be asked" in err
    monkeypatch.delenv("HF_ENDPOINT")
    code, out, err = run(capsys, "list", "--json")
    assert (json.loads(out)["asked"], err) == (False, "")


def test_list_loads_nothing_heavy():
    """That is what makes it quick; how quick is measured by benchmarks/zoo_load.py."""
    code = (
        "import sys\n"
        "from lightning_har.cli.main import main\n"
        "assert main(['zoo', 'list', '--json']) == 0\n"
        "heavy = {'torch', 'numpy', 'huggingface_hub', 'safetensors', 'pytorch_lightning'}\n"
        "print(*heavy & set(sys.modules), file=sys.stderr)"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_ENDPOINT", "LIGHTNING_HAR_ZOO")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stderr.split() == []


def test_convert_a_runs_checkpoint(tmp_path, capsys):
    import pytorch_lightning as pl

    module = tiny()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=0, enable_checkpointing=False, **quiet)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "best.ckpt", weights_only=True)
    code, _, err = run(capsys, "convert", "my-model", tmp_path / "best.ckpt", "--out", tmp_path / "out")
    assert code == 2
    assert "--unverified" in err
    code, out, _ = run(capsys, "convert", "my-model", tmp_path / "best.ckpt", "--out", tmp_path / "out", "--unverified")
    assert code == 0
    assert "unverified source" in out
    assert torch.equal(har.load(tmp_path / "out")(clip()), tiny()(clip()))
    code, out, _ = run(capsys, "verify", tmp_path / "out")
    assert code == 0
    assert "were not verified" in out


def test_build_and_convert_of_unknown_names(tmp_path, capsys):
    code, _, err = run(capsys, "build", "s3d-kinetics")
    assert code == 2
    assert "Nearest: s3d-kinetics400" in err
    (tmp_path / "zoo").mkdir()
    code, _, err = run(capsys, "convert", "s3d-kinetics", tmp_path / "x.pth", "--zoo", tmp_path / "zoo")
    assert code == 2
    assert "Nearest: s3d-kinetics400" in err
    code, _, err = run(capsys, "list", "--zoo", tmp_path / "nowhere")
    assert code == 2
    assert "no zoo at" in err


def test_an_unbuilt_checkpoint_says_how_to_build_it(tmp_path, monkeypatch):
    (tmp_path / "zoo").mkdir()
    monkeypatch.setenv("LIGHTNING_HAR_ZOO", str(tmp_path / "zoo"))
    with pytest.raises(har.modules.pretrained.WeightsError, match="zoo build s3d-kinetics400"):
        har.load("s3d-kinetics400")


# -- what must not be published ----------------------------------------------------------------------------


@pytest.fixture
def folder(checkpoint, tmp_path):
    return shutil.copytree(checkpoint, tmp_path / "copy")


@pytest.mark.parametrize("name", ["best.ckpt", "pytorch_model.bin", "run/events.pkl", "notes.exe"])
def test_pickles_and_strange_files_are_not_published(folder, hub, name, capsys):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"\x80\x04.")
    code, _, err = run(capsys, "publish", folder, "--zoo", "me")
    assert code == 2
    assert f"is not published: {name}" in err
    assert not hub.repos


def test_tokens_are_not_published(folder, hub, capsys, caplog):
    text = (folder / README).read_text()
    (folder / README).write_text(text + f"\nlogin with {hub.token}\n")
    with caplog.at_level("DEBUG"):
        code, _, err = run(capsys, "publish", folder, "--zoo", "me")
    assert code == 2
    assert "README.md holds an access token" in err
    assert hub.token not in err + caplog.text
    assert not hub.repos


def test_a_licence_that_does_not_allow_it(tmp_path, capsys):
    path = tiny().save_pretrained(tmp_path / "x", card=load_cards()["bn-inception-imagenet"])
    code, _, err = run(capsys, "publish", path, "--zoo", tmp_path)
    assert code == 2
    assert "its licence (not stated) does not say that others may" in err


def test_altered_weights_are_not_published(folder, hub, capsys):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1] + b"x")
    assert run(capsys, "publish", folder, "--zoo", "me")[0] == 2
    assert not hub.repos


def test_publishing_again_replaces(folder, tmp_path, capsys):
    (tmp_path / "zoo").mkdir()
    for _ in range(2):
        assert run(capsys, "publish", folder, "--zoo", tmp_path / "zoo", "--name", "other")[0] == 0
    assert [p.name for p in (tmp_path / "zoo").iterdir()] == ["other"]


def test_help_of_every_action(capsys):
    for action in ("list", "info", "download", "verify", "convert", "build", "publish"):
        with pytest.raises(SystemExit) as end:
            main(["zoo", action, "--help"])
        assert end.value.code == 0
        assert "--json" in capsys.readouterr().out
