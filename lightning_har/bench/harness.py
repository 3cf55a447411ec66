"""Recipes and checkpoints, one after another, each in a process of its own, under one protocol.

A process of its own gives each run its own memory peaks, and lets one that fails or is killed be a row that says why.
Every finished run leaves ``done.json`` in its folder; called again, the harness goes on where it was.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

from lightning_har.errors import ConfigError
from lightning_har.weights.fetch import digests

DONE, JOB = "done.json", "job.json"

Say = Callable[[str], None]
Reported = Mapping[str, Any]
"""A recipe's ``REPORTED``: "on" names the data; each other key a metric, perhaps after "variant/", with the figure
by where it stands in the study."""

_PATIENCE_S = 15
_OUT_OF_MEMORY = re.compile(
    r"out of (shared )?memory|can't allocate memory|cannot allocate memory|not enough memory|MemoryError|"
    r"ALLOC(ATION)?_FAILED|DataLoader worker .* killed by signal: Killed",  # of cuBLAS and cuDNN; of the kernel
    re.IGNORECASE,
)
_OURS = {"--seed": "--seeds", "--out": "--out", "--resume": "the same command again"}
"""What each job is called with by us, and how a benchmark is told it instead."""


class Target(NamedTuple):
    """What is to be measured.

    Attributes:
        name: Of its row.
        path: A recipe's file, or a checkpoint.
        is_recipe: Which of the two.
        reported: See ``Reported``; empty for a checkpoint.
    """

    name: str
    path: Path
    is_recipe: bool
    reported: Reported


@dataclass(frozen=True)
class Settings:
    """How all targets are run.

    Attributes:
        seeds: Each recipe is trained once with each.
        folds: And on each of these folds of the data, where given.
        data: Replaces the data of recipes; what checkpoints are tested on. None leaves recipes theirs.
        accelerator: As Lightning's Trainer takes it; None leaves the choice to each recipe.
        auto_batch: After running out of memory, look for the largest batch that fits and train with that.
        arguments: Further arguments of every recipe.
    """

    seeds: Sequence[int] = (0,)
    folds: Sequence[str] = ()
    data: str | None = None
    accelerator: str | None = None
    auto_batch: bool = False
    arguments: Sequence[str] = ()


@dataclass
class Job:
    """One run: a target with a seed; on a fold where there are folds, one variant where there are variants.

    Attributes:
        target: What runs.
        seed: Its seed.
        fold: The fold to test on.
        folder: Where it writes.
        variant: The one model of a recipe that has several.
        arguments: What every recipe of the benchmark is called with besides; nothing for a checkpoint.
        error: Why there is no result; None if there is one.
        note: What has to be said of the result.
        seconds: Wall-clock time, over all its attempts.
        attempts: The command lines that were called for it.
    """

    target: Target
    seed: int
    fold: str | None
    folder: Path
    variant: str | None = None
    arguments: Sequence[str] = ()
    error: str | None = None
    note: str | None = None
    seconds: float = 0.0
    attempts: list[list[str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of its row."""
        return self.target.name if self.variant is None else f"{self.target.name}/{self.variant}"


def find_targets(names: Sequence[str], recipes: str | Path = "recipes") -> list[Target]:
    """Recipes by path or by bare name, checkpoints by file or folder.

    Args:
        names: Such as ``recipes/i3d_ucf101.py``, ``i3d_ucf101``, ``runs/mine/best.ckpt``, ``runs/mine``.
        recipes: Where bare names are looked for.

    Raises:
        ConfigError: Unknown, with the nearest names; or two of the same name.
    """
    found = [_find(name, Path(recipes)) for name in names]
    for depth in (2, 3, 4):  # folders of runs are often called alike: by their seed, or by the time
        twice = _named_twice(found)
        found = [_named_longer(t, depth) if t.name in twice and not t.is_recipe else t for t in found]
    twice = _named_twice(found)
    if twice:
        raise ConfigError(f"two targets are called {twice[0]!r}; rename one, or measure them apart")
    return found


def _named_twice(targets: Sequence[Target]) -> list[str]:
    names = [t.name for t in targets]
    return sorted({name for name in names if names.count(name) > 1})


def _named_longer(target: Target, depth: int) -> Target:
    """With the names of folders around it."""
    path = target.path.absolute()
    place = path.parent if path.name == "best.ckpt" else path.with_suffix("")
    return target._replace(name="-".join(place.parts[-depth:]))


def _find(name: str, recipes: Path) -> Target:
    for path in (Path(name), recipes / f"{name}.py", recipes / name):
        if path.suffix == ".py" and path.is_file():
            return Target(path.stem, path, True, read_reported(path))
        if path.suffix == ".ckpt" and path.is_file():
            return Target(f"{path.parent.name}-{path.stem}", path, False, {})
        if path.is_dir() and (path / "best.ckpt").is_file():
            return Target(path.name, path / "best.ckpt", False, {})
        if path.is_dir() and (path / "model.safetensors").is_file():
            return Target(path.name, path, False, {})
    known = sorted(p.stem for p in recipes.glob("*.py"))
    near = difflib.get_close_matches(Path(name).stem, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known) or 'none'} in {recipes}/"
    raise ConfigError(f"no recipe or checkpoint {name!r}; {hint}")


def read_reported(recipe: Path) -> Reported:
    """A recipe's ``REPORTED``, read from its text without running it; empty if it has none.

    Raises:
        ConfigError: It is no plain literal.
    """
    for statement in ast.parse(recipe.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and any(getattr(t, "id", None) == "REPORTED" for t in statement.targets):
            try:
                value = ast.literal_eval(statement.value)
            except ValueError as error:
                raise ConfigError(f"{recipe}: REPORTED must be a plain dict, to be read without running it") from error
            if not isinstance(value, dict):
                raise ConfigError(f"{recipe}: REPORTED must be a dict, is a {type(value).__name__}")
            return value
    return {}


def plan(targets: Sequence[Target], out: Path, settings: Settings) -> list[Job]:
    """All runs, in order. A checkpoint is tested once on each fold: no seed changes it.

    Raises:
        ConfigError: A checkpoint without data to test it on; arguments that belong to the benchmark, or to nobody.
    """
    jobs = []
    given = {argument.split("=")[0] for argument in settings.arguments}
    for name in sorted(given & set(_OURS)):
        raise ConfigError(f"--args has {name}, which would be every run's; give the benchmark {_OURS[name]}")
    if settings.arguments and not any(t.is_recipe for t in targets):
        raise ConfigError("--args go to recipes, and there are none among these; `lightning-har test` takes its own")
    for target in targets:
        if not target.is_recipe and settings.data is None:
            raise ConfigError(f"{target.path} is a checkpoint; say with --data what to test it on")
        variants = _variants(target) if target.is_recipe and "--variant" not in given else []
        arguments = settings.arguments if target.is_recipe else ()
        for seed in settings.seeds if target.is_recipe else settings.seeds[:1]:
            for fold in settings.folds or (None,):
                for variant in variants or (None,):
                    parts = [f"seed{seed}", *([] if fold is None else [f"fold{fold}"]), *([variant] if variant else [])]
                    folder = out / "runs" / target.name / "-".join(parts)
                    jobs.append(Job(target, seed, fold, folder, variant, arguments))
    return jobs


def _variants(target: Target) -> list[str]:
    """The models of a recipe; each gets a process of its own, or its memory would be that of all before it.

    Only the recipe itself knows, so it is asked; one that does not speak of any is not. One that cannot be asked has
    none, and its run will say what is wrong with it.
    """
    if "variants" not in target.path.read_text(encoding="utf-8"):
        return []
    line = [sys.executable, "-m", "lightning_har.cli.main", "run", str(target.path), "--variants"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=_environment())
    return done.stdout.split() if done.returncode == 0 else []


def _environment() -> dict[str, str]:
    package = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))}


def run_job(job: Job, settings: Settings, say: Say) -> None:
    """Run it, if it is not done yet; the job's ``error`` and ``note`` then tell how it went.

    Args:
        job: From ``plan``.
        settings: The same.
        say: Takes lines of progress.

    Raises:
        ConfigError: Its folder holds a run with other settings.
        KeyboardInterrupt: Ctrl-C; what ran has been given the time to write its checkpoint.
    """
    label = f"{job.name} seed {job.seed}" + (f" fold {job.fold}" if job.fold is not None else "")
    _check_same(job, settings)
    done = job.folder / DONE
    if done.is_file() and _has_report(job):
        told = json.loads(done.read_text())
        job.note, job.seconds = told["note"], told["seconds"]
        say(f"{label}: done before")
        return
    say(f"{label}: running; its output is in {_log(job)}")
    started = time.monotonic()
    job.error = _attempt(job, settings)
    if job.error is not None and settings.auto_batch and job.target.is_recipe and _OUT_OF_MEMORY.search(job.error):
        _smaller_batch(job, settings, say)
    if job.error is None and not _has_report(job):
        job.error = f"it ended without a report; its output is in {_log(job)}"
    job.seconds = time.monotonic() - started
    if job.error is None:
        done.write_text(json.dumps({"note": job.note, "seconds": job.seconds, "attempts": job.attempts}, indent=1))
    say(f"{label}: {job.error.splitlines()[0] if job.error else job.note or 'done'} ({job.seconds:.0f} s)")


def _has_report(job: Job) -> bool:
    return any(job.folder.rglob("report.json"))


def command(job: Job, settings: Settings, *extra: str) -> list[str]:
    """The command line of a job's process."""
    python = [sys.executable, "-m", "lightning_har.cli.main"]
    trainer = [] if settings.accelerator is None else ["--trainer.accelerator", settings.accelerator]
    if not job.target.is_recipe:
        assert settings.data is not None
        given = [str(job.target.path), "--data", settings.data, "--out", str(job.folder)]
        fold = [] if job.fold is None else ["--data.fold", job.fold]
        return [*python, "test", *given, *fold, *trainer, *extra]
    given = [str(job.target.path), "--out", str(job.folder), "--seed", str(job.seed)]
    data = [] if settings.data is None else ["--on", settings.data]
    fold = [] if job.fold is None else ["--data.fold", job.fold]
    variant = [] if job.variant is None else ["--variant", job.variant]
    return [*python, "run", *given, *variant, *data, *fold, *trainer, *job.arguments, *extra]


def _check_same(job: Job, settings: Settings) -> None:
    """What ran with other settings is neither mixed with this nor overwritten."""
    file = job.target.path / "model.safetensors" if job.target.path.is_dir() else job.target.path
    now = {"command": command(job, settings)[1:], "sha256": digests(file).sha256}
    text = "text of the recipe" if job.target.is_recipe else "checkpoint in its place"
    path = job.folder.with_name(f"{job.folder.name}.{JOB}")
    if path.is_file():
        before = json.loads(path.read_text())
        for key, what in (("command", "another command"), ("sha256", f"another {text}")):
            if before.get(key, now[key]) != now[key]:  # older ones hold no checkpoint's
                raise ConfigError(f"{job.folder} was run with {what}; give another --out, or delete it")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(now, indent=1))


def _log(job: Job) -> Path:
    return job.folder.with_name(f"{job.folder.name}.log")


def _note(job: Job) -> Path:
    return job.folder.with_name(f"{job.folder.name}.note")


def _attempt(job: Job, settings: Settings, *extra: str) -> str | None:
    """Run the job, or go on with it where it was stopped; the error, or None."""
    if job.target.is_recipe and any(job.folder.rglob("last.ckpt")):
        if job.note is None and _note(job).is_file():
            job.note = _note(job).read_text()
        line = command(job, settings, *extra)
        at = line.index("--out")
        error = _call(job, [*line[:at], "--resume", str(job.folder), *line[at + 2 :]])
        if error is None:
            return None
    if not extra:
        job.note = None
        _note(job).unlink(missing_ok=True)
    return _call(job, command(job, settings, *extra), anew=True)


def _call(job: Job, line: list[str], *, anew: bool = False) -> str | None:
    job.attempts.append(line[1:])
    log = _log(job)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        _lock(file, job)
        if anew and job.folder.exists():  # not before the lock: it may be another's, at work in it
            shutil.rmtree(job.folder)
        begin = file.tell()
        file.write(f"$ {' '.join(line[1:])}\n".encode())
        file.flush()
        with subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=_environment()) as process:
            try:
                code = process.wait()
            except KeyboardInterrupt:
                _stop(process)
                raise KeyboardInterrupt("\nstopped; the same command goes on where it was") from None
    if code == 0:
        return None
    with log.open("rb") as file:
        file.seek(begin)
        said = file.read().decode(errors="replace")
    return _reason(code, said)


def _lock(log: IO[bytes], job: Job) -> None:
    """Refuse a run that another process is at: one that outlived a killed benchmark, or a second benchmark's.

    The process holds its log open, and with it the lock, for as long as it or a worker of its lives; workers take some
    seconds to see that it was killed. Windows has no such locks.
    """
    try:
        import fcntl
    except ImportError:
        return
    patience = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > patience:
                told = f"another process is still at {job.folder}; wait until it ends, or end it"
                raise ConfigError(told) from None
            time.sleep(0.2)
        else:
            return


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Wait for it to write its checkpoint: a terminal sends Ctrl-C to it too; who stops us alone does not.

    SIGTERM, since what a script starts in the background ignores Ctrl-C.
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=3)
        return
    process.terminate()
    process.wait()


def _reason(code: int, said: str) -> str:
    """What a failed process says of its failure, in a line or a few.

    Out of memory comes first: what fails after it, as a loader whose worker was killed does, speaks of other things.
    """
    if code in (-9, 137):
        return "killed by signal 9: out of memory, most likely"
    if code < 0:
        return f"killed by signal {-code}"
    lines = [line for line in said.splitlines() if line.strip()]
    starts = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    if starts:
        return "\n".join(lines[starts[-1] :]).removeprefix("error: ")[:2000]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    errors = [line for line in errors if _OUT_OF_MEMORY.search(line)] or errors
    told = errors[-1] if errors else lines[-1] if len(lines) > 1 else f"exit code {code}, without a word"
    killed = told.rstrip().endswith("by signal: Killed.")  # a worker, which Linux ends when memory is out
    return told[:2000] + ("out of memory, most likely" if killed else "")


# -- batches that fit --------------------------------------------------------------------------------------


def _smaller_batch(job: Job, settings: Settings, say: Say) -> None:
    """Find the largest batch of which two steps fit, and run the job with it."""
    import yaml

    configs = sorted(job.folder.rglob("config.yaml"))
    if not configs:
        return
    first = int(yaml.safe_load(configs[0].read_text())["data"]["batch_size"])
    fits, fails = 0, first
    while fails - fits > 1:
        size = fails // 2 if fits == 0 else (fits + fails) // 2
        error = _probe(job, settings, size)
        say(f"  batch {size}: {'fits' if error is None else error.splitlines()[0]}")
        if error is None:
            fits = size
        elif _OUT_OF_MEMORY.search(error):
            fails = size
        else:
            job.error = f"out of memory at batch {first}; at batch {size}: {error}"
            return
    if fits == 0:
        job.error = f"out of memory at batch {first}, and at every smaller one down to 1"
        return
    job.note = f"out of memory at batch {first}; the largest that fitted is {fits}"
    if job.folder.exists():
        shutil.rmtree(job.folder)
    _note(job).write_text(job.note)  # for whoever goes on after a stop
    error = _attempt(job, settings, "--data.batch_size", str(fits))
    job.error = None if error is None else f"{job.note}, but then: {error}"


def _probe(job: Job, settings: Settings, size: int) -> str | None:
    """Two steps of training, one of validation and test, in a folder that is then removed."""
    folder = job.folder.with_name(f"{job.folder.name}-batch{size}")
    shutil.rmtree(folder, ignore_errors=True)
    line = command(job, settings, "--data.batch_size", str(size), "--epochs", "1")  # over --trainer.max_epochs
    line[line.index("--out") + 1] = str(folder)
    for part in ("train", "val", "test"):
        line += [f"--trainer.limit_{part}_batches", "2" if part == "train" else "1"]
    try:
        return _call(job, line)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
