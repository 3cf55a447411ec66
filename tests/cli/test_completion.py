import shlex
import shutil
import subprocess

import pytest

from lightning_har.cli.completion import options
from lightning_har.cli.main import COMMANDS, main


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


def test_every_command_and_its_options_are_known() -> None:
    found = options()
    assert set(found) == set(COMMANDS)
    assert {"--model", "--top", "--json"} <= set(found["predict"])
    assert {"recipe", "model", "dataset"} <= set(found["init"])
    assert "download" in found["zoo"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not there")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pre"], {"predict"}),
        (["predict", "--mod"], {"--model"}),
        (["init", "mod"], {"model"}),
        (["--vers"], {"--version"}),
    ],
)
def test_bash_completes(words: list[str], expected: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    line = " ".join(["lightning-har", *words])
    code = f"""{script("bash", capsys)}
COMP_WORDS=({line}); COMP_CWORD={len(words)}; _lightning_har; printf '%s\\n' "${{COMPREPLY[@]}}" """
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, cwd="/", check=True)
    assert set(done.stdout.split()) == expected


def test_every_line_for_fish_is_closed(capsys: pytest.CaptureFixture[str]) -> None:
    """Its quotes, which are the shell's own kinds; an apostrophe in a description once opened one."""
    lines = [shlex.split(line) for line in script("fish", capsys).splitlines()]
    assert all(words[:3] == ["complete", "-c", "lightning-har"] for words in lines)
    told = {words[words.index("-a") + 1]: words[-1] for words in lines if "-d" in words}
    assert told == COMMANDS


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_it(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, capsys)
    assert "predict" in text
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not there to parse it")
    done = subprocess.run([shell, "-n"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not there to complete in it")
@pytest.mark.parametrize(("typed", "expected"), [("pre", "predict"), ("data sh", "shards show"), ("zoo li", "list")])
def test_fish_completes(typed: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = f'{script("fish", capsys)}\ncomplete -C "lightning-har {typed}"'
    done = subprocess.run(["fish", "--no-config", "-c", code], capture_output=True, text=True, cwd="/", check=True)
    found = {line.split("\t")[0] for line in done.stdout.splitlines()}
    assert set(expected.split()) <= found
    assert all(name.startswith(typed.split()[-1]) for name in found)
