"""Ctrl-C ends every command with 130 and a word, whatever it is at."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_leaves import all_leaves
from cli_runs import save_run

from lightning_har.cli.main import main
from lightning_har.data.fake import write_fake_folder


@pytest.mark.parametrize("command", sorted(all_leaves()))
def test_ctrl_c_ends_with_130(
    command: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(self: argparse.ArgumentParser, *_: object, **__: object) -> argparse.Namespace:
        def interrupted(args: argparse.Namespace) -> int:
            raise KeyboardInterrupt

        return argparse.Namespace(function=interrupted)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    assert main(command.split()) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert main([*command.split(), "--quiet"]) == 130


STOPPED = """
import os, signal, sys, time
from lightning_har.data import datamodule

def stop(*_):
    os.kill(os.getpid(), signal.SIGINT)  # what the terminal does, while a clip is read
    time.sleep(5)

datamodule.open_video = stop
from lightning_har.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_ctrl_c_while_it_reads(tmp_path: Path) -> None:
    write_fake_folder(tmp_path / "clips", clips=3)
    save_run(tmp_path)
    for line in ("predict clips/wave --model best.ckpt", "test best.ckpt --data clips --out scored"):
        command = [sys.executable, "-c", STOPPED, *line.split()]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
        assert done.returncode == 130, done.stderr
        assert done.stderr.splitlines()[-1] == "interrupted"
        assert "Traceback" not in done.stderr


STOPPED_AT_ONCE = """
import os, signal, sys, time
from multiprocessing.context import SpawnProcess
start = SpawnProcess.start

def start_and_stop(self):
    start(self)
    time.sleep(SECONDS)  # and it imports what it needs
    os.killpg(0, signal.SIGINT)  # what the terminal does: to every process of the group

SpawnProcess.start = start_and_stop
from lightning_har.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="process groups of Unix")
@pytest.mark.parametrize("seconds", ["0", "0.02", "0.05", "0.1"])
def test_ctrl_c_while_processes_start(seconds: str, tmp_path: Path) -> None:
    write_fake_folder(tmp_path / "clips", clips=3)
    command = [
        sys.executable,
        "-c",
        STOPPED_AT_ONCE.replace("SECONDS", seconds),
        "data",
        "check",
        "clips",
        "--workers",
        "2",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=300, start_new_session=True, check=False
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == "interrupted"
    assert "Traceback" not in done.stderr
