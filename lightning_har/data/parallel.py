"""Many files at once: a pool of processes, or Ray, with a progress bar; a worker that dies names its file."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, TypeAlias, TypeVar

from lightning_har.errors import ConfigError

Engine: TypeAlias = Literal["processes", "ray"]
Item = TypeVar("Item")
Result = TypeVar("Result")


TOO_LONG = "took longer than"
"""How ``Died`` begins where time was up."""


class Died(Exception):
    """A worker process ended without an answer: the item crashes what reads it, memory ran out, or time was up."""


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr with the time left; what it yields advances it."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *times, console=Console(stderr=True), refresh_per_second=4) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)


def map_unordered(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int | None = None,
    engine: Engine = "processes",
    time_limit: float | None = None,
) -> Iterator[tuple[Item, Result | Died]]:
    """Apply a function to items in other processes; results come as they are ready.

    Args:
        function: Must pickle: a function of a module, or a partial of one.
        items: Must pickle too.
        workers: Processes; None takes one per core, 0 works in this process.
        engine: "ray" sends the items to a Ray cluster, the local one where none is connected.
        time_limit: Seconds for an item, after which its process is killed; None waits. Needs other processes:
            nothing stops a decoder that hangs in this one. Ray counts from when the item was sent.

    Yields:
        (item, result); the result is ``Died`` where the process that worked on the item crashed or was killed.

    Raises:
        ConfigError: No such engine, Ray is not installed, or processes cannot be started here.
        Exception: Whatever the function raises.
    """
    if engine == "ray":
        yield from _map_ray(function, items, time_limit)
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
    process.start()
    theirs.close()
    pipe.send(item)
    return pipe, _Worker(process, item)


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


def _map_ray(
    function: Callable[[Item], Result], items: Iterable[Item], time_limit: float | None
) -> Iterator[tuple[Item, Result | Died]]:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("engine='ray' needs Ray: pip install lightning-har[ray]") from error
    if not ray.is_initialized():
        ray.init(logging_level="ERROR", include_dashboard=False)
    remote: Any = ray.remote(max_retries=0)(function)
    flying: dict[Any, tuple[Item, float]] = {}
    cores = max(int(ray.cluster_resources().get("CPU", 1)), 1)
    limit = 4 * cores if time_limit is None else cores  # what waits for a core must not use up its time
    waiting = iter(items)
    more = True
    while more or flying:
        while more and len(flying) < limit:
            try:
                item = next(waiting)
            except StopIteration:
                more = False
                break
            deadline = time.monotonic() + (math.inf if time_limit is None else time_limit)
            flying[remote.remote(item)] = item, deadline
        if not flying:
            break
        next_deadline = min(deadline for _, deadline in flying.values())
        timeout = None if next_deadline == math.inf else max(next_deadline - time.monotonic(), 0)
        done, _ = ray.wait(list(flying), num_returns=1, timeout=timeout)
        for task in done:
            item, _ = flying.pop(task)
            try:
                yield item, ray.get(task)
            except ray.exceptions.WorkerCrashedError as error:
                yield item, Died(f"the Ray worker that worked on it died: {error}")
        for task, (item, deadline) in list(flying.items()):
            if deadline <= time.monotonic():
                ray.cancel(task, force=True)
                del flying[task]
                yield item, Died(f"{TOO_LONG} {time_limit:g} s")
