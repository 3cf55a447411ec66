"""Many files at once: a pool of processes, or Ray, with a progress bar; a worker that dies names its file."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, NoReturn, TypeAlias, TypeVar

from lightning_har.errors import ConfigError

Engine: TypeAlias = Literal["processes", "ray"]
Item = TypeVar("Item")
Result = TypeVar("Result")


TOO_LONG = "took longer than"
"""How ``Died`` begins where time was up."""


class Died(Exception):
    """A worker process ended without an answer: the item crashes what reads it, memory ran out, or time was up."""


def bar(*columns: Any) -> Any:
    """Rich's progress on stderr: what, how far, time taken, time left, and more columns."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    how_far = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(*how_far, *times, *columns, console=Console(stderr=True), refresh_per_second=4)


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr with the time left; what it yields advances it."""
    with bar() as shown:
        task = shown.add_task(description, total=total)
        yield lambda count: shown.advance(task, count)


def map_unordered(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int | None = None,
    engine: Engine = "processes",
    time_limit: float | None = None,
    gpus: int = 0,
) -> Iterator[tuple[Item, Result | Died]]:
    """Apply a function to items in other processes; results come as they are ready.

    Args:
        function: Must pickle: a function of a module, or a partial of one; for Ray, of a module that is installed on
            its machines.
        items: Must pickle too.
        workers: Processes; None takes one per core, 0 works in this process (Ray: as None).
        engine: "ray" sends the items to a Ray cluster: the connected one, that of ``RAY_ADDRESS``, or one of this
            machine alone. Files must lie at the same place on all its machines.
        time_limit: Seconds for an item, after which its process is killed; None waits. Needs other processes:
            nothing stops a decoder that hangs in this one.
        gpus: For each process, on Ray; elsewhere all see all.

    Yields:
        (item, result); the result is ``Died`` where the process that worked on the item crashed or was killed.

    Raises:
        ConfigError: Fewer than 0 workers, no such engine, Ray is not installed, or processes cannot be started here.
        Exception: Whatever the function raises.
    """
    if workers is not None and workers < 0:
        raise ConfigError(f"workers is {workers}; it must be at least 0, which works in this process")
    if engine == "ray":
        yield from _map_ray(function, items, workers, time_limit, gpus)
    elif engine != "processes":
        raise ConfigError(f"engine is {engine!r}; it must be 'processes' or 'ray'")
    elif workers == 0:
        for item in items:
            yield item, function(item)
    else:
        yield from _map_processes(function, items, workers or os.cpu_count() or 1, time_limit)


@dataclass
class _Worker:
    """A process, and what it is at."""

    process: Any
    item: Any = None
    has_begun: bool = False
    deadline: float = math.inf


class _TracebackError(Exception):
    """Where in the worker it happened; the cause of what is raised here."""


def _work(pipe: Connection, function: Callable[[Item], Result]) -> None:
    """What a worker process does: items in; out None where it begins, then (result, error, traceback)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent answers it
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        pipe.send(None)  # the clock runs from here: to start and import takes its time too
        try:
            answer: tuple[Any, BaseException | None, str] = (function(item), None, "")
        except BaseException as error:
            answer = (None, error, traceback.format_exc())
        try:
            pipe.send(answer)
        except Exception as error:  # it does not pickle
            pipe.send((None, RuntimeError(f"the answer cannot be sent: {error}"), answer[2]))


def _map_processes(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, time_limit: float | None
) -> Iterator[tuple[Item, Result | Died]]:
    # Each process has a pipe of its own, so that one which ends or hangs says by itself which item it was at.
    waiting = iter(items)
    busy: dict[Connection, _Worker] = {}
    idle: list[tuple[Connection, _Worker]] = []
    try:
        while True:
            while len(busy) < workers:
                try:
                    item = next(waiting)
                except StopIteration:
                    break
                pipe, worker = _hand(item, idle, function)
                busy[pipe] = worker
            if not busy:
                return
            next_deadline = min(worker.deadline for worker in busy.values())
            timeout = None if next_deadline == math.inf else max(next_deadline - time.monotonic(), 0)
            ready = wait(list(busy), timeout)
            for pipe in list(busy):
                worker = busy[pipe]
                if pipe in ready:
                    try:
                        answer = pipe.recv()
                    except (EOFError, OSError):
                        del busy[pipe]
                        yield worker.item, Died(_end(pipe, worker))
                        continue
                    if answer is None:
                        worker.has_begun = True
                        worker.deadline = time.monotonic() + (math.inf if time_limit is None else time_limit)
                        continue
                    result, error, where = answer
                    if error is not None:
                        raise error from _TracebackError(f"\n{where}")
                    worker.deadline = math.inf
                    idle.append((pipe, worker))
                    del busy[pipe]
                    yield worker.item, result
                elif worker.deadline <= time.monotonic() and not pipe.poll():
                    del busy[pipe]
                    _kill(pipe, worker)
                    yield worker.item, Died(f"{TOO_LONG} {time_limit:g} s")
    finally:
        for pipe, worker in [*busy.items(), *idle]:
            _kill(pipe, worker)


def _hand(
    item: Item, idle: list[tuple[Connection, _Worker]], function: Callable[[Item], Result]
) -> tuple[Connection, _Worker]:
    """Give an item to a process that waits, or to a new one."""
    while idle:
        pipe, worker = idle.pop()
        try:
            pipe.send(item)
        except OSError:  # killed while it waited
            _kill(pipe, worker)
            continue
        worker.item = item
        return pipe, worker
    # Not forked: the parent may hold the threads of torch and FFmpeg, with their locks.
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, function), daemon=True)
    with _without_ctrl_c():
        process.start()
    theirs.close()
    pipe.send(item)
    return pipe, _Worker(process, item)


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """A process that starts in the block has Ctrl-C blocked while it imports; to this one it comes afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # the first process starts it, which would lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end(pipe: Connection, worker: _Worker) -> str:
    """How a process ended that gave no answer."""
    _kill(pipe, worker)
    code = worker.process.exitcode
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    if not worker.has_begun:
        raise ConfigError(
            f"a worker process ended before it began ({how}). A script that starts processes needs "
            "if __name__ == '__main__'; workers=0 starts none"
        )
    return f"the process that worked on it died ({how}): it may crash the decoder, or memory ran out"


def _kill(pipe: Connection, worker: _Worker) -> None:
    pipe.close()
    if worker.process.exitcode is None and worker.process.is_alive():
        worker.process.kill()
    worker.process.join()


class _Sealed:
    """A pickled function, opened in the process that will call it: the one between need not import what it needs."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        return _open, (self.content,)

    def __call__(self, item: Any) -> Any:
        return _open(self.content)(item)


def _open(content: bytes) -> Callable[[Any], Any]:
    try:
        function: Callable[[Any], Any] = pickle.loads(content)
    except (ImportError, AttributeError) as error:
        return partial(_refuse, f"Ray's machines lack what they are to run; install it there too: {error}")
    return function


def _refuse(why: str, item: object) -> NoReturn:
    raise ConfigError(why)


def _map_ray(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int | None,
    time_limit: float | None,
    gpus: int,
) -> Iterator[tuple[Item, Result | Died]]:
    """Ray hands shares of the items to its machines; there the pool above works on each, with one process."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ConfigError("engine='ray' needs Ray: pip install 'lightning-har[ray]'") from error
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    given = list(items)
    if not given:
        return

    # Pickled, so that Ray's tables hold bytes only, whatever the items and the results are.
    job = pickle.dumps(function)

    def work(row: dict[str, bytes]) -> Iterator[dict[str, Any]]:
        places, share = pickle.loads(row["share"])
        try:
            found = map_unordered(_Sealed(job), share, workers=1, time_limit=time_limit)
            for place, (_, result) in zip(places, found, strict=True):
                yield {"place": place, "answer": pickle.dumps(result)}
        except Exception as error:
            yield {"place": -1, "answer": pickle.dumps(error)}

    # A share is small enough to even out the machines, and large enough to be worth starting a process for.
    cores = max(int(ray.cluster_resources().get("CPU", 1)), 1)
    size = min(-(-len(given) // (2 * cores)), 64)
    shares = [range(i, min(i + size, len(given))) for i in range(0, len(given), size)]
    rows = [{"share": pickle.dumps((share, [given[i] for i in share]))} for share in shares]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).flat_map(
        work,
        compute=ray.data.TaskPoolStrategy(size=workers or None),
        num_cpus=None if gpus else 1,
        num_gpus=gpus or None,
    )
    dataset.context.enable_progress_bars = False
    dataset.context.target_max_block_size = 1  # each result is sent as soon as it is there
    done: set[int] = set()
    try:
        with closing(iter(dataset.iter_rows())) as answers:  # closed, it stops what Ray is at
            for row in answers:
                place, answer = row["place"], pickle.loads(row["answer"])
                if place < 0:
                    raise answer
                if place not in done:  # a machine that was lost is replaced by another, which begins anew
                    done.add(place)
                    yield given[place], answer
    except ray.exceptions.RayError as error:
        why = str(error).strip().splitlines()[-1]
        raise ConfigError(f"Ray failed; its machines need lightning-har installed as here. {why}") from error
