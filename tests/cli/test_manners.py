"""Every command as a new user would call it wrongly: a message of a few lines, never a traceback."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_leaves import all_leaves, calls
from cli_runs import check, main_code

from lightning_har.cli.main import COMMANDS, main, quietly
from lightning_har.data.fake import write_fake_folder

ALONE = {"demo", "doctor"}
"""Commands that need no arguments; demo needs a model, and says so."""


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_no_arguments_and_unknown_options(command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if command not in ALONE or command == "demo":
        code = main_code([command])
        said = capsys.readouterr()
        assert code == 2
        assert "error: " in said.err or "examples:" in said.out  # what is missing, or the help
    assert "frobnicate" in check([command, "--frobnicate"], capsys) or command not in ALONE


@pytest.mark.parametrize("command", sorted(all_leaves()))
def test_wrong_paths(command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For everything that the command insists on; whatever commands there are."""
    tried = 0
    for wrong in ("/no/such/place", "directory", "empty.mp4", "text.mp4", "bad.csv", "bad.ckpt"):
        for line in calls(command, all_leaves()[command], wrong):
            if wrong in line and not command.startswith("init"):  # to init they are names, which may be right
                check(line, capsys)
                tried += 1
            elif command == "demo":
                check(["demo", "--model", wrong, "--port", "0x"], capsys)
    assert tried or command.split()[0] in (*ALONE, "init", "completion") or command == "zoo list"


@pytest.mark.parametrize("command", sorted(all_leaves()))
def test_every_action_says_what_it_takes(command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith(f"usage: lightning-har {command}")
    examples = told.partition("example")[2] or told.partition("pictures of")[2]
    assert f"lightning-har {command} " in examples or f"lightning-har {command}\n" in examples
    if command != "run":  # what follows a recipe is the recipe's
        said = check([*next(calls(command, all_leaves()[command], "text.mp4")), "--frobnicate"], capsys)
        assert "--frobnicate" in said


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


@pytest.mark.parametrize("line", ["--help", "zoo list", "data check clips --workers 0"])
def test_no_colour_in_a_pipe(line: str, place: Path) -> None:
    """Neither in help, nor in tables, nor in a bar."""
    write_fake_folder(place / "clips", clips=3)
    command = [sys.executable, "-m", "lightning_har.cli.main", *line.split()]
    environment = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "TTY_COMPATIBLE")}
    done = subprocess.run(command, capture_output=True, check=True, env=environment)
    assert done.stdout
    assert b"\x1b[" not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("line", ["data check clips --workers 0", "run RECIPE --smoke"])
def test_a_terminal_is_told_how_long_it_takes(line: str, place: Path) -> None:
    """On a terminal: what is done of how much, and the time left."""
    import pty

    write_fake_folder(place / "clips", clips=3)
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "folder.py"
    command = [sys.executable, "-m", "lightning_har.cli.main", *line.replace("RECIPE", str(recipe)).split()]
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "160", "TERM": "xterm"}
    child = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # what Linux says at the end
        while part := os.read(ours, 65536):
            shown += part
    os.close(ours)
    assert child.wait() == 0, shown.decode()
    text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown).decode()
    assert re.search(r"\d+/\d+ \d:\d\d:\d\d left (-|\d):(--|\d\d):(--|\d\d)", text), text
