"""Many files at once: a pool of processes, or Ray, with a progress bar; a worker that dies names its file."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, TypeVar

from lightning_har.errors import ConfigError

Engine: TypeAlias = Literal["processes", "ray"]
Item = TypeVar("Item")
Result = TypeVar("Result")


class Died(Exception):
    """A worker process ended without an answer: the item crashes what reads it, or memory ran out."""


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
) -> Iterator[tuple[Item, Result | Died]]:
    """Apply a function to items in other processes; results come as they are ready.

    Args:
        function: Must pickle: a function of a module, or a partial of one.
        items: Must pickle too.
        workers: Processes; None takes one per core, 0 works in this process.
        engine: "ray" sends the items to a Ray cluster, the local one where none is connected.

    Yields:
        (item, result); the result is ``Died`` where the process that worked on the item was killed or crashed.

    Raises:
        ConfigError: No such engine, or Ray is not installed.
        Exception: Whatever the function raises.
    """
    if engine == "ray":
        yield from _map_ray(function, items)
    elif engine != "processes":
        raise ConfigError(f"engine is {engine!r}; it must be 'processes' or 'ray'")
    elif workers == 0:
        for item in items:
            yield item, function(item)
    else:
        yield from _map_processes(function, items, workers or os.cpu_count() or 1)


def _pool(workers: int) -> ProcessPoolExecutor:
    # Not forked: the parent may hold the threads of torch and FFmpeg, with their locks.
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))


def _map_processes(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[tuple[Item, Result | Died]]:
    waiting = iter(items)
    while True:
        flying: dict[Future[Result], Item] = {}
        suspects: list[Item] = []
        with _pool(workers) as pool:
            try:
                for item in waiting:
                    flying[pool.submit(function, item)] = item
                    if len(flying) < 2 * workers:
                        continue
                    yield from _landed(flying, suspects)
                    if suspects:
                        break
                while flying and not suspects:
                    yield from _landed(flying, suspects)
            except BrokenProcessPool:
                suspects.append(item)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if not suspects:
            return
        # One of them broke the pool, which takes the others along: each again, alone.
        for suspect in dict.fromkeys([*suspects, *flying.values()]):
            with _pool(1) as single:
                try:
                    yield suspect, single.submit(function, suspect).result()
                except BrokenProcessPool:
                    yield (
                        suspect,
                        Died("the process that worked on it died: it may crash the decoder, or memory ran out"),
                    )


def _landed(flying: dict[Future[Result], Item], suspects: list[Item]) -> Iterator[tuple[Item, Result | Died]]:
    for future in wait(flying, return_when=FIRST_COMPLETED).done:
        item = flying.pop(future)
        try:
            result = future.result()
        except BrokenProcessPool:
            suspects.append(item)
            continue
        yield item, result


def _map_ray(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result | Died]]:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("engine='ray' needs Ray: pip install lightning-har[ray]") from error
    if not ray.is_initialized():
        ray.init(logging_level="ERROR", include_dashboard=False)
    remote: Any = ray.remote(max_retries=0)(function)
    flying: dict[Any, Item] = {}
    limit = 4 * max(int(ray.cluster_resources().get("CPU", 1)), 1)
    waiting = iter(items)
    more = True
    while more or flying:
        while more and len(flying) < limit:
            try:
                item = next(waiting)
            except StopIteration:
                more = False
                break
            flying[remote.remote(item)] = item
        if not flying:
            break
        done, _ = ray.wait(list(flying), num_returns=1)
        item = flying.pop(done[0])
        try:
            yield item, ray.get(done[0])
        except ray.exceptions.WorkerCrashedError as error:
            yield item, Died(f"the Ray worker that worked on it died: {error}")
