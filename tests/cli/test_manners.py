"""Every command as a new user would call it wrongly: a message of a few lines, never a traceback."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_har.cli.main import COMMANDS, guard, main, quietly

ALONE = {"demo", "doctor"}
"""Commands that need no arguments; demo needs a model, and says so."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what a new user may name by mistake."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    (tmp_path / "recipe.py").write_text("print('not a recipe')")
    monkeypatch.chdir(tmp_path)
    for name in ("LIGHTNING_HAR_ZOO", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def call(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and stderr. Any exception but argparse's exit is what a user would see as a traceback."""
    code = main_code(arguments)
    return code, capsys.readouterr().err


def main_code(arguments: list[str]) -> int:
    """The exit code, however the command ends."""
    try:
        return main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def check(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    code, said = call(arguments, capsys)
    assert code in (1, 2), f"{arguments}: exit code {code}"
    assert said.strip(), f"{arguments}: no message"
    assert "Traceback" not in said
    message = [line for line in said.splitlines() if line.strip() and not line.startswith((" ", "usage:"))]
    assert len(message) <= 3, said
    return said


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_no_arguments_and_unknown_options(command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if command not in ALONE or command == "demo":
        code = main_code([command])
        said = capsys.readouterr()
        assert code == 2
        assert "error: " in said.err or "examples:" in said.out  # what is missing, or the help
    assert "frobnicate" in check([command, "--frobnicate"], capsys) or command not in ALONE


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"doctor", "completion", "init", "demo"}))
@pytest.mark.parametrize("wrong", ["/no/such/place", "folder", "empty.mp4", "text.mp4", "bad.csv", "bad.ckpt"])
def test_wrong_paths(command: str, wrong: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the first argument, and for every option that the command insists on."""
    check([command, wrong], capsys)


@pytest.mark.parametrize(
    "line",
    [
        "predict folder --model folder",
        "predict empty.mp4 --model bad.ckpt",
        "predict text.mp4 --model folder",
        "predict text.mp4 --model /no/such/place",
        "predict text.mp4 --model no-such-model",
        "test --model bad.ckpt --data folder",
        "test bad.ckpt --data folder",
        "extract --model mobilenetv2_999 --data folder --out out",
        "extract --model bad.ckpt --data folder --out out",
        "extract --model folder --data bad.csv --out out",
        "data show nothing",
        "data show folder",
        "data check folder",
        "data check bad.csv",
        "data stats /no/such/place",
        "data split bad.csv --out out.csv",
        "data download ucf1011 here",
        "data fake ucf1011 here",
        "data flow folder --out flow --method no-such-method",
        "zoo info no-such-checkpoint",
        "zoo verify folder",
        "zoo build no-such-card --out out",
        "zoo publish folder --zoo folder",
        "export --model bad.ckpt --out out",
        "export --model folder --out out",
        "bundle --model /no/such/place --out out",
        "edge-bench folder --video empty.mp4",
        "compare folder folder",
        "benchmark no_such_recipe --data folder --out out",
        "show confusion folder",
        "show samples folder --model bad.ckpt",
        "show gradcam text.mp4 --model bad.ckpt",
        "show features mobilenetv2_999 --weights none",
        "demo --model /no/such/place",
        "demo --model bad.ckpt --port 0x",
        "run recipes/quikstart.py",
        "run folder",
        "run text.mp4",
        "init recipe 9lives",
        "completion tcsh",
    ],
)
def test_wrong_values(line: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(line.split(), capsys)


def test_a_mistyped_option_names_the_nearest(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean --annotate" in check(["predict", "x.mp4", "--model", "m", "--anotate", "o.mp4"], capsys)
    assert "did you mean --report" in check(["data", "check", "folder", "--rport", "x.csv"], capsys)


@pytest.mark.parametrize(
    ("wrong", "right"), [("predct", "predict"), ("docter", "doctor"), ("exprt", "export"), ("shwo", "show")]
)
def test_a_mistyped_command_names_the_nearest(
    wrong: str, right: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"did you mean {right}" in check([wrong], capsys)


def test_no_permission_and_no_space(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(number: int, path: str | None) -> int:
        raise OSError(number, os.strerror(number), path) if path else OSError(number, os.strerror(number))

    for number, path, words in (
        (errno.EACCES, "/x/report.json", "/x/report.json: Permission denied"),
        (errno.ENOSPC, "/x/report.json", "make room"),
        (errno.ENOSPC, None, "No space left on device; make room"),
        (errno.EDQUOT, None, "make room"),
        (errno.EROFS, "/x", "Read-only"),
    ):
        assert guard(lambda n=number, p=path: fail(n, p)) == 2
        assert words in capsys.readouterr().err
    # /proc takes no files, not even root's
    check(["init", "recipe", "mine", "--out", "/proc/1/here"], capsys)
    check(["data", "fake", "folder", "/proc/here"], capsys)


def test_a_full_accelerator_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    def fail() -> int:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")

    assert guard(fail) == 2
    said = capsys.readouterr().err
    assert "--data.batch_size" in said
    assert "more" not in said
    with pytest.raises(RuntimeError):  # any other is a bug of ours
        guard(lambda: (_ for _ in ()).throw(RuntimeError("x")))


def test_quiet_holds_back_and_gives_out_where_it_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def command(code: int) -> int:
        sys.stdout.write("result\n")
        sys.stderr.write("progress\n")
        return code

    assert quietly(lambda: command(0)) == 0
    assert capsys.readouterr() == ("result\n", "")
    assert quietly(lambda: command(0), silent=True) == 0
    assert capsys.readouterr() == ("", "")
    assert quietly(lambda: command(2), silent=True) == 2
    assert capsys.readouterr() == ("", "result\nprogress\n")
    assert main(["predct", "--quiet"]) == 2
    assert "did you mean predict" in capsys.readouterr().err


def test_no_colour_in_a_pipe() -> None:
    done = subprocess.run([sys.executable, "-m", "lightning_har.cli.main", "--help"], capture_output=True, check=True)
    assert b"\x1b[" not in done.stdout + done.stderr
