import json
import re
from pathlib import Path

import pytest

from lightning_har.cli import doctor
from lightning_har.cli.main import main
from lightning_har.errors import ConfigError


def by_name(checks: list[doctor.Check]) -> dict[str, doctor.Check]:
    return {check.name: check for check in checks}


def test_json_says_what_was_looked_at(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_HAR_ZOO", "/nowhere/at/all")  # must not be asked with --offline
    code = main(["doctor", "--json", "--offline"])
    checks = json.loads(capsys.readouterr().out)
    assert {"packages", "decoder", "accelerator", "disk, cache"} <= {check["name"] for check in checks}
    assert "hub" not in {check["name"] for check in checks}
    assert code == int(any(check["status"] == "problem" for check in checks))
    assert all(check["remedy"] for check in checks if check["status"] != "ok")


def test_wrong_and_missing_packages_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["torch>=99", "pytorch-lightning!=2.6.2", "no-such-package-at-all>=2", "absent; extra == 'x'"]
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda _: wanted)
    checks = by_name(list(doctor._versions()))
    assert checks["torch"].status == checks["no-such-package-at-all"].status == "problem"
    assert "'torch>=99'" in checks["torch"].remedy
    assert "absent" not in checks
    assert checks["packages"].found.startswith("pytorch-lightning")


def test_a_broken_decoder_is_a_problem_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("libavcodec is not there\nsecond line")

    monkeypatch.setattr(av, "open", broken)
    check = doctor._attempt("decoder", doctor._pyav)
    assert check.status == "problem"
    assert check.found == "RuntimeError: libavcodec is not there"
    assert check.remedy


def test_a_driver_without_a_gpu_in_torch_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert doctor._accelerator().status == "problem"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert doctor._accelerator().status == "note"


def test_a_full_disk_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = doctor.shutil._ntuple_diskusage(10**12, 10**12, 10**6)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    checks = by_name(list(doctor._disk()))
    assert checks["disk, here"].status == "problem"


def test_extras_are_what_can_be_imported_not_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV comes in four packages; ONNX export needs three."""
    there = {"cv2": ["opencv-contrib-python"], "onnxruntime": ["onnxruntime"], "onnx": ["onnx"], "gradio": []}
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: name if name in there else None)
    monkeypatch.setattr(doctor.importlib.metadata, "packages_distributions", lambda: there)
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "9.9")
    checks = by_name(list(doctor._extras()))
    assert (checks["extra flow"].status, checks["extra flow"].remedy) == ("ok", "")
    assert checks["extra flow"].found == "opencv-contrib-python 9.9: optical flow"
    assert checks["extra demo"].status == "ok"
    assert checks["extra onnx"].status == checks["extra ray"].status == "note"
    assert checks["extra onnx"].found.startswith("not installed: onnxscript, for ONNX")
    assert checks["extra onnx"].remedy.endswith("install 'lightning-har[onnx]'")


def test_every_extra_is_looked_at() -> None:
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()
    section = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = set(re.findall(r"^(\w+) = ", section, re.MULTILINE)) - {"lightning", "docs", "dev"}
    assert set(doctor._OPTIONAL) == extras


def test_whose_command_lightning_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "lightning"
    for found, text, status, words in (
        (None, "", "note", "not on the PATH"),
        (command, "from lightning_har.cli.lightning import main", "ok", str(command)),
        (command, "from lightning_sdk.cli import main", "note", "another package's"),
    ):
        command.write_text(text)
        monkeypatch.setattr(doctor.shutil, "which", lambda _, found=found: found and str(found))
        check = doctor._command()
        assert check.status == status
        assert words in check.found
        assert bool(check.remedy) == (status != "ok")


@pytest.mark.parametrize(
    ("variables", "status", "words"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "note", "cannot be reached"),
        ({"LIGHTNING_HAR_ZOO": "{tmp}"}, "ok", "folder"),
        ({"LIGHTNING_HAR_ZOO": "{tmp}/gone"}, "problem", "no zoo at"),
        ({"HF_HUB_OFFLINE": "1"}, "note", "HF_HUB_OFFLINE"),
    ],
)
def test_hub(
    variables: dict[str, str], status: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_ENDPOINT", "LIGHTNING_HAR_ZOO", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))
    check = doctor._hub()
    assert check.status == status
    assert words in check.found


def test_a_torchcodec_that_opens_no_video_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(decoder: str) -> bool:
        raise ConfigError("no FFmpeg")

    monkeypatch.setattr(doctor, "_OPTIONAL", {"torchcodec": (["json"], "a second decoder")})  # whether installed or not
    monkeypatch.setattr(doctor, "_decodes", none)
    (check,) = doctor._extras()
    assert (check.name, check.status) == ("extra torchcodec", "note")
    assert "apt install ffmpeg" in check.remedy
    monkeypatch.setattr(doctor, "_decodes", lambda decoder: decoder == "torchcodec")
    (check,) = doctor._extras()
    assert check.status == "ok"
