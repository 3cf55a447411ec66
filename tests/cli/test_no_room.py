"""A disk, a memory or an accelerator that is full, and a place that takes no files: one message, with the remedy."""

import errno
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import check, save_run

from lightning_har.cli.main import guard
from lightning_har.data.fake import write_fake_folder

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


def test_shared_memory_that_is_full_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise RuntimeError("unable to resize file </torch_1_2_3> to the right size: No space left on device (28)")

    assert guard(fail) == 2
    said = capsys.readouterr().err
    assert "--data.num_workers" in said
    assert len(said.splitlines()) == 2


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
