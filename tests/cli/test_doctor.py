import json
from pathlib import Path

import pytest

from lightning_har.cli import doctor
from lightning_har.cli.main import main


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
