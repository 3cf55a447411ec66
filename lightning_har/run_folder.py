"""A run's folder: where it is, what is noted in it and when, whether its run is done, and how a stopped one goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning_har._lightning import Callback, interruptible
from lightning_har.arguments import Arguments
from lightning_har.errors import ConfigError, WeightsError
from lightning_har.weights.torch_io import read_torch

BEST, LAST, CONFIG, REPORT = "best.ckpt", "last.ckpt", "config.yaml", "report.json"


def is_first_process() -> bool:
    """Whether this is the process that writes and prints, of those that a Trainer starts for further devices."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0 and int(os.environ.get("NODE_RANK", 0)) == 0


def default_folder(name: str) -> Path:
    """``runs/NAME/TIME``, the same in all processes of a run.

    Args:
        name: The recipe's.
    """
    # The processes that a Trainer starts for further devices call the script again, later.
    started = os.environ.get("LIGHTNING_HAR_STARTED") if not is_first_process() else None
    started = started or time.strftime("%Y-%m-%d_%H-%M-%S")
    os.environ["LIGHTNING_HAR_STARTED"] = started
    return Path("runs") / name / started


def find_place(args: Arguments, default: Path, variant: str) -> tuple[Path, Path | None]:
    """The run's folder, and the checkpoint to go on from, if any.

    Args:
        args: Of the run.
        default: The folder where none is given; of a recipe with variants, that of them all.
        variant: The variant's name; "" for the only model.

    Raises:
        ConfigError: The folder holds another run, or there is nothing to resume where ``--resume`` points.
    """
    resume = args.resume
    if resume is None:
        folder = (args.out or default) / variant
        if is_first_process() and any((folder / name).exists() for name in (LAST, REPORT)):
            raise ConfigError(f"{folder} already holds a run; give another --out, or --resume {folder}")
        return folder, None
    if not resume.exists():
        raise ConfigError(f"nothing to resume: {resume} does not exist")
    if resume.is_file():
        source, checkpoint = resume.parent, resume
    else:
        # The variant's own folder is given, or that of all variants, which may bear its name too.
        source = resume if resume.name == variant and not (resume / variant).is_dir() else resume / variant
        checkpoint = source / LAST
    if args.out is not None and (args.out / variant).resolve() != source.resolve():
        raise ConfigError(f"--resume goes on in {source}, where the best epoch so far is; leave out --out {args.out}")
    if not checkpoint.is_file():
        if variant:  # stopped before this variant's turn
            return source, None
        raise ConfigError(f"nothing to resume: {resume} has no {LAST}")
    if checkpoint.name == BEST:
        raise ConfigError(f"{checkpoint} holds weights only; resume from {checkpoint.with_name(LAST)}")
    _check_resumable(checkpoint)
    return source, checkpoint


def _check_resumable(checkpoint: Path) -> None:
    try:
        state = read_torch(checkpoint, mmap=False)
    except WeightsError as error:
        raise ConfigError(f"nothing to resume: {error}. --resume takes a run's folder, or its {LAST}") from error
    if not isinstance(state, dict) or "optimizer_states" not in state:
        raise ConfigError(f"{checkpoint} holds weights only; resume from a run's {LAST}")


def is_done(args: Arguments, folder: Path) -> bool:
    """Whether the folder that is to be resumed holds the report of a run with just these arguments."""
    import yaml

    if args.resume is None or not args.resume.is_dir() or not (folder / REPORT).is_file():
        return False
    # As values: a union of int and float may parse 2 as 2.0, by which of its two orders Python met first.
    kept = folder / CONFIG
    return kept.is_file() and bool(yaml.safe_load(kept.read_text()) == yaml.safe_load(args.yaml))


@contextlib.contextmanager
def made(folders: Sequence[Path]) -> Iterator[None]:
    """The folders are there in the block; of those that were not, whichever is empty at its end goes again.

    Raises:
        OSError: One cannot be made.
    """
    new = [path for folder in folders for path in (folder, *folder.parents) if not path.exists()]
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for path in sorted(new, key=lambda path: len(path.parts), reverse=True):
            with contextlib.suppress(OSError):  # it holds something, or has gone already
                path.rmdir()


class Notes(Callback):  # type: ignore[misc]
    """Notes in their folders what runs are planned, when the first of them begins, and not before.

    Arguments, data and a checkpoint that are refused have been by then, so that nothing is lost where nothing runs; a
    clip that cannot be read may still end a run that has begun. Each folder gets its ``config.yaml`` and loses the
    report of fewer epochs, which are now gone on with. All are noted before the first is trained: whoever resumes a
    stopped run finds those that wait.

    Args:
        planned: Each run's folder and the text of its ``config.yaml``.
    """

    def __init__(self, planned: Iterable[tuple[Path, str]]) -> None:
        self._planned = list(planned)

    @property
    def written(self) -> bool:
        """Whether a run has begun."""
        return not self._planned

    def on_sanity_check_start(self, trainer: Any, pl_module: Any) -> None:
        """A new run begins."""
        self.write()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """A run begins: one that is resumed skips the sanity check."""
        self.write()

    def write(self) -> None:
        """Write what is not written yet."""
        for folder, config in self._planned if is_first_process() else ():
            (folder / REPORT).unlink(missing_ok=True)
            (folder / CONFIG).write_text(config)
        self._planned.clear()


@contextlib.contextmanager
def resumable(trainer: Any, folder: Path, whole: Path, notes: Notes) -> Iterator[None]:
    """Ctrl-C, or SIGTERM, says how to go on: with the whole run, the variants that wait included.

    Args:
        trainer: Whose fit or test is called in the block.
        folder: The run's.
        whole: That of all variants.
        notes: Tell whether anything has begun.

    Raises:
        KeyboardInterrupt: With the message.
    """
    try:
        with _sigterm_is_ctrl_c(trainer), interruptible(trainer):
            yield
    except KeyboardInterrupt:
        if not (folder / LAST).is_file() and not any(whole.glob(f"*/{LAST}")):
            told = "stopped before the first step; nothing to resume"
        elif notes.written:
            told = f"stopped; go on with: --resume {whole}"
        else:
            told = "stopped before the first step; nothing has changed, so give the same command again"
        raise KeyboardInterrupt(f"\n{told}") from None


@contextlib.contextmanager
def _sigterm_is_ctrl_c(trainer: Any) -> Iterator[None]:
    """What a scheduler, ``docker stop`` and our benchmark send writes a checkpoint too, and writes it in peace."""
    if threading.current_thread() is not threading.main_thread():  # no other may set a handler
        yield
        return

    def stop(*_: Any) -> None:
        if not trainer.interrupted:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
