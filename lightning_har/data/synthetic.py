"""The embedded data set: an articulated figure performs twelve actions before a camera, rendered to H.264 files.

Three pairs of actions differ only in the order of their frames, and one pair only in speed. The data is frozen
(``DATA_VERSION``): it was fixed before any model was trained on it.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from lightning_har._files import cache_directory, whole_file
from lightning_har.data._clips import DATA_VERSION, ENCODER, FPS, Parameters, make, plan
from lightning_har.data._motion import ACTIONS, ORDER_PAIRS, SPEED_PAIR
from lightning_har.data._scene import render_clip
from lightning_har.data.datamodule import ActionDataModule
from lightning_har.data.manifest import Manifest
from lightning_har.errors import ConfigError, DataError

__all__ = [
    "ACTIONS",
    "DATA_VERSION",
    "ENCODER",
    "FPS",
    "ORDER_PAIRS",
    "SPEED_PAIR",
    "SyntheticActionsDataModule",
    "generate",
    "render_clip",
]

_FINISHED = "finished.json"


def generate(
    root: str | Path | None = None,
    *,
    clips_per_class: tuple[int, int, int] = (40, 8, 16),
    size: int = 96,
    seed: int = 0,
    num_workers: int | None = None,
) -> Path:
    """Renders the data set, once; a second call only looks for the marker that the first one left.

    A generation that was stopped goes on where it was, and several may run in one folder at once: every file is
    renamed into place when it is whole.

    Args:
        root: Folder of the data set; None is a folder for these parameters in ``$LIGHTNING_HAR_CACHE``, else in
            ``~/.cache/lightning_har``.
        clips_per_class: Clips of each of the ``ACTIONS`` in train, val and test.
        size: Height and width in pixels, even.
        seed: The same seed gives the same frames.
        num_workers: Processes; None takes one per core.

    Returns:
        ``manifest.csv``, with the columns id, path, start, stop, label, split, group, num_frames and fps. The
        group is the actor; no actor is in two splits.

    Raises:
        ConfigError: Impossible parameters.
        DataError: ``root`` holds other data, cannot be written, or a worker failed.
    """
    if len(clips_per_class) != 3 or min(clips_per_class) < 0 or not sum(clips_per_class):
        raise ConfigError(f"clips_per_class is {clips_per_class}; give how many for train, val and test")
    if size < 32 or size % 2:
        raise ConfigError(f"size is {size}; it must be even (H.264 in 4:2:0) and at least 32")
    parameters = Parameters((clips_per_class[0], clips_per_class[1], clips_per_class[2]), size, seed)
    folder = _default_root(parameters) if root is None else Path(root)
    manifest, finished = folder / "manifest.csv", folder / _FINISHED
    started = folder / "parameters.json"
    wanted = parameters.to_json()
    for file in (started, finished):
        if file.exists() and file.read_text() != wanted:
            raise DataError(
                f"{folder} holds synthetic clips of other parameters ({file.read_text()}, wanted {wanted}); "
                "remove it or give another root"
            )
    if finished.exists() and manifest.exists():
        return manifest
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(started, wanted)
        _make_all(folder, parameters, num_workers or os.cpu_count() or 1)
        _write(manifest, _table(parameters))
        _write(finished, wanted)
    except OSError as error:
        raise DataError(f"the synthetic clips cannot be written to {folder}: {error}; give another root") from error
    return manifest


def _default_root(parameters: Parameters) -> Path:
    digest = hashlib.sha256(parameters.to_json().encode()).hexdigest()[:12]
    return cache_directory() / f"synthetic-{DATA_VERSION}-{digest}"


def _write(path: Path, text: str) -> None:
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def _table(parameters: Parameters) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", "path", "start", "stop", "label", "split", "group", "num_frames", "fps"])
    for c in plan(parameters):
        writer.writerow([c.id, c.path, "", "", c.action, c.split, f"actor-{c.actor:03d}", c.num_frames, FPS])
    return out.getvalue()


def _make_all(root: Path, parameters: Parameters, num_workers: int) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    missing = [clip for clip in plan(parameters) if not (root / clip.path).exists()]
    if not missing:
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("Rendering synthetic clips", total=len(plan(parameters)))
        workers = min(num_workers, len(missing))
        for _ in make(root, parameters) if workers < 2 else _work(root, parameters, workers):
            progress.advance(task)


def _work(root: Path, parameters: Parameters, workers: int) -> Iterator[str]:
    """The ids of the clips as worker processes finish them.

    Fresh interpreters that import NumPy and PyAV alone: forking one that runs torch's threads may hang, and
    spawning through multiprocessing would import the user's script again.
    """
    import selectors
    import tempfile

    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lightning_har.data._clips"]
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        for number in range(workers):
            errors = stack.enter_context(tempfile.TemporaryFile())
            process = subprocess.Popen(
                command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment
            )
            stack.enter_context(process)
            stack.callback(process.kill)  # runs before the wait in Popen.__exit__; no harm when it has ended
            task = {"root": str(root), "parameters": parameters.to_json(), "share": [number, workers]}
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(task).encode())
            process.stdin.close()
            selector.register(process.stdout, selectors.EVENT_READ, (process, errors))
        while selector.get_map():
            for key, _ in selector.select():
                line = key.fileobj.readline()  # type: ignore[union-attr]
                if line:
                    yield line.decode().strip()
                    continue
                selector.unregister(key.fileobj)
                worker, complaints = key.data
                if worker.wait() != 0:
                    complaints.seek(0)
                    said = complaints.read().decode(errors="replace").strip().splitlines()
                    reason = said[-1] if said else f"exit code {worker.returncode}"  # not the worker's traceback
                    raise DataError(f"rendering the synthetic clips failed in a worker process: {reason}")


class SyntheticActionsDataModule(ActionDataModule):
    """Rendered clips of twelve human actions, made on first use.

    Args:
        train_clips: Clips of each class to train on; its first 100 are by different actors.
        val_clips: Clips of each class to validate on; 20 actors.
        test_clips: Clips of each class to test on; 40 actors, none of whom is in train or val.
        size: Height and width of the videos in pixels. (What the network gets is its InputSpec's.)
        data_seed: Of the rendering; ``seed`` is for loading and does not change the files.
        root: Where the files are kept, see ``generate``.
        **kwargs: ``ActionDataModule``'s.
    """

    def __init__(
        self,
        *,
        train_clips: int = 40,
        val_clips: int = 8,
        test_clips: int = 16,
        size: int = 96,
        data_seed: int = 0,
        root: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.clips_per_class = (train_clips, val_clips, test_clips)
        self.size = size
        self.data_seed = data_seed
        self.root = root

    @staticmethod
    def smoke_arguments(folder: Path) -> dict[str, Any]:
        """Arguments for a recipe's ``--smoke``: clips so few and small that they are rendered in seconds."""
        return {"train_clips": 2, "val_clips": 1, "test_clips": 1, "size": 64, "root": str(folder), "num_workers": 0}

    @property
    def class_names(self) -> tuple[str, ...]:
        """The actions in label order, known before anything is rendered."""
        return ACTIONS

    @property
    def num_classes(self) -> int:
        """How many actions."""
        return len(ACTIONS)

    def prepare_data(self) -> None:
        """Render what is missing."""
        self._generate()

    def load_manifests(self) -> dict[str, Manifest]:
        """Render what is missing, and read the manifest. The classes are in the order of ``ACTIONS``."""
        return Manifest.from_csv(self._generate(), class_names=ACTIONS).by_split()

    def _generate(self) -> Path:
        return generate(self.root, clips_per_class=self.clips_per_class, size=self.size, seed=self.data_seed)
