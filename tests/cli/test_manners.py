"""Every command as a new user would call it wrongly: a message of a few lines, never a traceback."""

import argparse
import contextlib
import errno
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_leaves import all_leaves, calls

from lightning_har._lightning import Trainer
from lightning_har.cli.main import COMMANDS, guard, main, quietly
from lightning_har.data.fake import write_fake_folder
from lightning_har.data.features import FeatureDataModule
from lightning_har.modules.cnn_rnn import CNNRNNModule

ALONE = {"demo", "doctor"}
"""Commands that need no arguments; demo needs a model, and says so."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what a new user may name by mistake."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "directory").mkdir()  # no word of ours, as folder is to `data fake`
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    (tmp_path / "recipe.py").write_text("print('not a recipe')")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo").mkdir()
    monkeypatch.setenv("LIGHTNING_HAR_ZOO", str(tmp_path / "zoo"))  # nothing is asked of the network
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
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
    time.sleep(60)

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


FULL = """
import resource, sys
from lightning_har.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, 2**14))  # what is longer does not fit, as on a full disk
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="limits of Unix")
def test_no_space(tmp_path: Path) -> None:
    """A checkpoint that does not fit ends a run with a message."""
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "folder.py"
    command = [sys.executable, "-c", FULL, "run", str(recipe), "--smoke", "--out", "new"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr


FULL_DISK = {  # a command, and the bytes that no file may pass; what opens clips has 8 KiB of shared memory
    "data fake folder out": 256,
    "data fake features out": 256,
    "data fake epic_kitchens out": 256,
    "data show clips --picture out.png": 2**13,
    "data check clips --report out.csv --workers 0": 256,
    "data stats clips --picture out.png --workers 0": 256,
    "data split clips --out out.csv": 256,
    "data flow clips --out out --method lucas_kanade --workers 0": 256,
    "data prepare folder clips --reencode out --workers 0": 256,
    "data shards clips --out out --workers 0": 256,
    "show samples clips --out out.png": 2**13,
    "show confusion run --out out.png": 256,
    "show curves run --out out.svg": 256,
    "show gradcam clips/wave/wave_00.mp4 --model run --out out.png": 2**13,
    "extract --model mobilenetv2_035 --weights none --frames 8 --size 32 --data clips --out out --num-workers 0": 2**13,
    "predict clips/wave/wave_00.mp4 --model run --annotate out.mp4": 2**13,
    "test run --data clips --out out --num-workers 0": 2**13,
    "export --model run --out out": 2**14,
    "bundle --model run --out out": 2**14,
    "zoo convert mine run/best.ckpt --unverified --out out": 2**14,
    "zoo publish published --zoo zoo": 2**14,
    "init model mine --out .": 256,
}
ONE_BY_ONE = """
import contextlib, io, json, pathlib, resource, shutil, sys
from lightning_har.cli.main import main
for line, limit in json.load(sys.stdin).items():
    said = io.StringIO()
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            code = main(line.split())
    except BaseException as error:
        code = repr(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    left = [path for path in pathlib.Path().iterdir() if path.stem in ("out", "mine", "test_mine")]
    print(json.dumps([line, code, said.getvalue(), [path.name for path in left if path.is_file()]]), flush=True)
    for path in left:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="limits of Unix")
def test_no_space_for_what_a_command_writes(tmp_path: Path) -> None:
    """A file that does not fit ends each command that writes with one message and its remedy."""
    ended = one_by_one(FULL_DISK, tmp_path)
    remedy = "; make room, or write to another disk"
    wrong = [
        (line, code, said)
        for line, code, said, _ in ended
        if code != 2 or not said.splitlines()[-1].startswith("error: ") or not said.endswith(f"{remedy}\n")
    ]
    assert not wrong, "\n".join(map(str, wrong))
    halves = {name for *_, left in ended for name in left} - {"out.csv"}  # what was checked stays checked
    assert halves == set()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="/proc takes no files, not even root's")
def test_no_permission_for_what_a_command_writes(tmp_path: Path) -> None:
    """One message each, which names the place that was given."""
    lines = {}
    for line in FULL_DISK:
        words = [f"/proc/{word}" if word.split(".")[0] == "out" else word for word in line.split()]
        lines[" ".join([*words[:-1], "/proc"] if words[-1] in (".", "zoo") else words)] = -1
    ended = one_by_one(lines, tmp_path)
    named = re.compile(r"error: /proc/\S*(out|published|mine)\S* ?.*: No such file or directory$")
    wrong = [(line, code, said) for line, code, said, _ in ended if code != 2 or not named.match(said.splitlines()[-1])]
    assert not wrong, "\n".join(map(str, wrong))


def one_by_one(lines: dict[str, int], folder: Path) -> list[tuple[str, int | str, str, list[str]]]:
    """Each command, its exit code, what it said, and the files that it left; those without their package left out."""
    write_fake_folder(folder / "clips", clips=3)
    (folder / "run").mkdir()
    (folder / "zoo").mkdir()
    save_run(folder / "run").save_pretrained(folder / "published")
    for name, line in (("onnxscript", "export"), ("onnxruntime", "bundle"), ("webdataset", "data shards")):
        if importlib.util.find_spec(name) is None:
            lines = {k: v for k, v in lines.items() if not k.startswith(line)}
    done = subprocess.run(
        [sys.executable, "-c", ONE_BY_ONE], input=json.dumps(lines), capture_output=True, text=True, cwd=folder
    )
    ended = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line for line, *_ in ended] == list(lines), done.stderr
    return ended


def save_run(folder: Path) -> CNNRNNModule:
    """A run's folder: a checkpoint, predictions and curves."""
    module = CNNRNNModule(2, backbone="mobilenetv2_035", temporal="avg", pretrained=False, num_frames=2, input_size=32)
    module.class_names = ("clap", "wave")
    save_checkpoint(module, folder / "best.ckpt")
    row = "{0},{0}.mp4,action,clap,{1},0.9,,\n"
    head = "id,path,head,label,predicted,score,top5,error\n"
    (folder / "predictions.csv").write_text(head + row.format("a", "clap") + row.format("b", "wave"))
    (folder / "metrics.csv").write_text("epoch,train_loss,val_loss,val_top1\n0,1.0,1.2,0.1\n1,0.5,0.9,0.4\n")
    return module


def save_checkpoint(module: CNNRNNModule, path: Path) -> None:
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path, weights_only=True)


def test_shared_memory_that_is_full_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise RuntimeError("unable to resize file </torch_1_2_3> to the right size: No space left on device (28)")

    assert guard(fail) == 2
    said = capsys.readouterr().err
    assert "--data.num_workers" in said
    assert len(said.splitlines()) == 2


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


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything is right: clips, a run, features, and a run on such."""
    folder = tmp_path_factory.mktemp("good")
    write_fake_folder(folder / "clips", clips=3)
    (folder / "run").mkdir()
    save_run(folder / "run")
    FeatureDataModule.fake(folder / "features")
    heads = CNNRNNModule(2, backbone=None, feature_dim=16, temporal="avg")
    heads.class_names = ("clap", "wave")
    save_checkpoint(heads, folder / "heads.ckpt")
    return folder


CLIP = "clips/wave/wave_00.mp4"
EXTRACT = "extract --model mobilenetv2_035 --weights none --size 32 --data clips --out out"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("data check clips --workers -1", "'-1' is no whole number"),
        ("data check clips --time-limit -1", "no number above 0"),
        ("data stats clips --workers -1", "'-1' is no whole number"),
        ("data shards clips --out out --workers -1", "'-1' is no whole number"),
        ("data shards clips --out out --size nan", "no number above 0"),
        ("data flow clips --out out --workers -1", "'-1' is no whole number"),
        ("data flow clips --out out --bound 0", "no number above 0"),
        ("data prepare folder clips --reencode out --workers -1", "'-1' is no whole number"),
        ("data prepare folder clips --reencode out --short-side 0", "'0' is no positive"),
        ("data split clips --out out.csv --seed -1", "'-1' is no whole number"),
        (f"{EXTRACT} --num-workers -1", "'-1' is no whole number"),
        (f"{EXTRACT} --frames 0", "'0' is no positive"),
        ("test run --data clips --out out --num-workers -1", "'-1' is no whole number"),
        ("run RECIPE --data.root clips --data.num_workers -1 --out TMP/out", "num_workers is -1"),
        (f"predict {CLIP} --model run --top many", "'many' is no positive"),
        ("edge-bench run --repeat 0", "'0' is no positive"),
        (f"{EXTRACT} --device gpuu", "--device gpuu cannot be used"),
        ("data flow clips --out out --method raft --device gpuu", "--device gpuu cannot be used"),
        ("demo --model run --device gpuu", "--device gpuu cannot be used"),
        ("test run --data clips --out out --trainer.accelerator gpuu", "Trainer refuses"),
        ("run RECIPE --data.root clips --trainer.accelerator gpuu --out out", "Trainer refuses"),
        (f"predict {CLIP} --model run --annotate out", "no video by its suffix"),
        (f"predict {CLIP} --model run --annotate out.txt", "no video by its suffix"),
        (f"predict {CLIP} --model run --annotate out.gif", "no video by its suffix"),
        (f"predict {CLIP} --model run --annotate gone/out.mp4", "in a folder that exists"),
        (f"predict {CLIP} --model run --annotate {CLIP}", "would replace the video"),
        ("data show clips --picture out.txt", "no picture by its suffix"),
        ("data show clips --picture out", "no picture by its suffix"),
        ("data stats clips --picture out.txt", "no picture by its suffix"),
        ("edge-bench run --plot out.abc", "no picture by its suffix"),
        ("edge-bench run --csv gone/out.csv", "in a folder that exists"),
        ("data check features:features", "give the clips"),
        ("data stats features:features", "give the clips"),
        ("data flow features:features --out out", "give the clips"),
        ("data shards features:features --out out", "give the clips"),
        (f"predict {CLIP} --model heads.ckpt", "takes stored features"),
        (f"predict {CLIP} --model heads.ckpt --windows", "takes stored features"),
        (f"show gradcam {CLIP} --model heads.ckpt --out out.png", "takes stored features"),
        ("test heads.ckpt --data clips --out out", "--data features:DIR"),
    ],
)
def test_wrong_values_for_what_is_right(
    line: str,
    words: str,
    good: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each is refused with its remedy, and writes nothing beside what is there."""
    monkeypatch.chdir(good)
    before = {path: path.stat().st_mtime_ns for path in good.rglob("*") if path.is_file()}
    recipe = Path(__file__).resolve().parents[2] / "recipes" / "folder.py"
    line = line.replace("RECIPE", str(recipe)).replace("TMP", str(tmp_path))
    assert words in check(line.split(), capsys)
    assert {path: path.stat().st_mtime_ns for path in good.rglob("*") if path.is_file()} == before
    assert not (good / "out").exists()


def test_a_device_without_its_driver(
    good: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("CUDA is here")
    monkeypatch.chdir(good)
    said = check([*EXTRACT.split(), "--device", "cuda"], capsys)
    assert "--device cuda cannot be used here" in said
    assert "give cpu" in said


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
