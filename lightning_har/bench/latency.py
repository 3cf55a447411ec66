"""How long a forward pass takes, decoding apart."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from lightning_har.bench.cost import device_of, move
from lightning_har.types import Video


class Latency(TypedDict):
    """Percentiles over the timed passes of one clip, and clips per second in batches."""

    p50_ms: float
    p95_ms: float
    clips_per_s: float


def measure_latency(
    module: nn.Module,
    video: Video,
    *,
    batch: Video | None = None,
    budget_s: float = 5.0,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Latency:
    """Time forward passes on the module's own device.

    A pass covers the copy to the device, scaling, normalisation and the network; one pass before each series
    warms up. At least 3 passes are timed, then as many as fit the budget, at most 50.

    Args:
        module: Run in eval mode, without a graph.
        video: A clip with B = 1, on the CPU.
        batch: A batch for ``clips_per_s``; None takes ``video`` again.
        budget_s: Seconds for each of the two series.
        context: Entered anew for each pass, such as the autocast of a Trainer's ``precision_plugin.forward_context``.
    """
    training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            single = _times(module, video, budget_s, context)
            batched = single if batch is None else _times(module, batch, budget_s, context)
    finally:
        module.train(training)
    clips = _length(video if batch is None else batch)
    p50, p95 = _percentiles(single)
    return {"p50_ms": p50, "p95_ms": p95, "clips_per_s": clips * len(batched) / sum(batched)}


def measure_reading(dataset: Sequence[Any], budget_s: float = 2.0) -> Latency:
    """Time the reading of videos: opening, decoding, cropping, by this process alone. One read warms up.

    Args:
        dataset: Item ``i`` reads video ``i``; they are taken in turn.
        budget_s: Seconds; at least 3 videos are timed, at most 200.
    """
    dataset[0]
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 3 or (len(times) < 200 and time.perf_counter() - started < budget_s):
        begin = time.perf_counter()
        dataset[(len(times) + 1) % len(dataset)]
        times.append(time.perf_counter() - begin)
    p50, p95 = _percentiles(times)
    return {"p50_ms": p50, "p95_ms": p95, "clips_per_s": len(times) / sum(times)}


def _percentiles(times: Sequence[float]) -> tuple[float, float]:
    """Median and 95th percentile, in ms."""
    p50, p95 = torch.quantile(torch.tensor(times, dtype=torch.float64), torch.tensor([0.5, 0.95]).double()).tolist()
    return 1000 * p50, 1000 * p95


def _times(
    module: nn.Module, video: Video, budget_s: float, context: Callable[[], AbstractContextManager[Any]]
) -> list[float]:
    device = device_of(module)
    synchronize = _synchronizer(device)
    times: list[float] = []

    def forward() -> None:
        with context():
            module(move(video, device))
        synchronize()

    forward()
    started = time.perf_counter()
    while len(times) < 3 or (len(times) < 50 and time.perf_counter() - started < budget_s):
        begin = time.perf_counter()
        forward()
        times.append(time.perf_counter() - begin)
    return times


def _synchronizer(device: torch.device) -> Callable[[], None]:
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return lambda: None


def _length(video: Video) -> int:
    clip: Tensor = next(iter(video.values())) if isinstance(video, Mapping) else video
    return len(clip)
