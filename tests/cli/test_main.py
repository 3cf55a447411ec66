import subprocess
import sys
from pathlib import Path

import pytest

from lightning_har.cli import lightning, main
from lightning_har.errors import DataError


def test_help_is_quick_and_loads_no_torch() -> None:
    code = (
        "import sys, time\n"
        "from lightning_har.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'av', 'pytorch_lightning'} & set(sys.modules), 'too much was imported'\n"
        "print('seconds', time.process_time())"  # of work, interpreter included: a busy machine changes nothing
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "predict" in done.stdout
    assert float(done.stdout.rsplit("seconds", 1)[1]) < 0.5


def test_importing_the_package_is_quick() -> None:
    code = "import sys, time, lightning_har; assert 'torch' not in sys.modules; print(time.process_time())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.5


@pytest.mark.parametrize("command", list(main.COMMANDS))
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main.main([command, "--help"])
    assert end.value.code == 0
    assert "example" in capsys.readouterr().out


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["predct", "x.mp4"]) == 2
    assert "did you mean predict" in capsys.readouterr().err


def test_no_command_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([]) == 2
    assert "COMMAND" in capsys.readouterr().out


def test_guard_turns_errors_into_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(error: BaseException) -> int:
        raise error

    assert main.guard(lambda: 1) == 1
    assert main.guard(lambda: fail(DataError("no clips in x"))) == 2
    assert main.guard(lambda: fail(KeyboardInterrupt("go on with --resume x"))) == 130
    assert main.guard(lambda: fail(PermissionError(13, "Permission denied", "/x/report.json"))) == 2
    shown = capsys.readouterr().err.splitlines()
    assert shown == ["error: no clips in x", "go on with --resume x", "error: /x/report.json: Permission denied"]
    with pytest.raises(DataError):
        main.guard(lambda: fail(DataError("x")), debug=True)
    with pytest.raises(ZeroDivisionError):  # a bug of ours keeps its traceback
        main.guard(lambda: fail(ZeroDivisionError()))


def test_unknown_recipe_names_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "quickstart.py").write_text("")
    monkeypatch.chdir(tmp_path)
    for wrong in ("recipes/quikstart.py", "quickstart", "recipes/quickstart"):
        assert main.main(["run", wrong]) == 2
        assert "did you mean recipes/quickstart.py?" in capsys.readouterr().err
    (tmp_path / "notes.txt").write_text("x")
    assert main.main(["run", "notes.txt"]) == 2
    assert "not a recipe" in capsys.readouterr().err


def test_a_recipe_runs_as_a_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "beside.py").write_text("x = 5")
    recipe = tmp_path / "recipe.py"
    recipe.write_text("import sys, beside\nif __name__ == '__main__':\n    print(sys.argv, beside.x)")
    before = list(sys.argv), list(sys.path)
    assert lightning.main(["run", str(recipe), "--a", "1"]) == 0
    assert capsys.readouterr().out.strip() == f"{[str(recipe), '--a', '1']} 5"
    assert (sys.argv, sys.path) == before


def test_other_subcommands_belong_to_the_sdk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lightning, "_sdk_command", lambda: None)
    assert lightning.main(["login"]) == 2
    assert "pip install lightning-sdk" in capsys.readouterr().err
    monkeypatch.undo()

    info = tmp_path / "lightning_sdk-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lightning-sdk\nVersion: 9.9\n")
    (info / "entry_points.txt").write_text("[console_scripts]\nlightning = fake_sdk_entry:go\n")
    (tmp_path / "fake_sdk_entry.py").write_text("import sys\ndef go():\n    print('sdk', sys.argv)\n    return 3")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["lightning"])
    assert lightning.main(["login", "--now"]) == 3
    assert "sdk ['lightning', 'login', '--now']" in capsys.readouterr().out
