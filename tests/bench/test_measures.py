import platform
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from lightning_har.bench.cost import count_macs, example_video, select
from lightning_har.bench.latency import measure_latency, measure_reading
from lightning_har.bench.memory import PeakMemory, _Sampler
from lightning_har.spec import InputSpec


class Last(nn.Module):
    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.part(x.float())[0]


@pytest.mark.parametrize(("kind", "gates"), [(nn.GRU, 3), (nn.LSTM, 4)])
def test_macs_of_recurrent_layers_are_counted(kind: type[nn.Module], gates: int) -> None:
    frames, width, units = 7, 20, 11
    module = Last(kind(width, units, batch_first=True))
    assert count_macs(module, torch.zeros(1, frames, width)) == frames * gates * units * (width + units)


def test_macs_of_a_3d_convolution() -> None:
    module = nn.Sequential(nn.Conv3d(3, 8, (3, 5, 5), padding=(1, 2, 2)))
    module.train()
    assert count_macs(module, torch.zeros(2, 3, 4, 6, 6)) == 2 * 4 * 6 * 6 * 8 * 3 * 3 * 5 * 5
    assert module.training


def test_example_and_select_follow_the_spec() -> None:
    spec = {
        "rgb": InputSpec(4, (8, 6)),
        "flow": InputSpec(5, (8, 6), modality="flow", mean=(0.5,), std=(1.0,)),
    }
    video = example_video(spec, 3)
    assert {name: tuple(clip.shape) for name, clip in video.items()} == {
        "rgb": (3, 3, 4, 8, 6),
        "flow": (3, 2, 5, 8, 6),
    }
    assert select(video, slice(1))["flow"].shape[0] == 1


def test_peak_memory_sees_what_was_freed() -> None:
    with PeakMemory() as small:
        pass
    with PeakMemory() as large:
        block = torch.ones(64, 1024, 1024)
        del block
    assert small.peak_bytes is not None
    assert large.peak_bytes is not None
    assert large.peak_bytes - small.peak_bytes > 200 * 2**20


def test_sampled_memory_sees_it_too() -> None:
    sampler = _Sampler()
    block = torch.ones(64, 1024, 1024)
    time.sleep(0.1)
    with_block = sampler.stop()
    del block
    sampler = _Sampler()
    without = sampler.stop()
    assert with_block is not None
    assert without is not None
    assert with_block - without > 200 * 2**20


def test_the_peak_is_told_while_it_grows() -> None:
    with PeakMemory() as peak:
        before = peak.so_far()
        block = torch.ones(64, 1024, 1024)
        del block
        after = peak.so_far()
    assert before is not None
    assert after is not None
    assert after - before > 200 * 2**20
    assert peak.peak_bytes is not None
    assert peak.peak_bytes >= after


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to give memory back")
def test_what_the_c_library_keeps_is_given_back() -> None:
    """In a process of its own: the heap of one that has run other tests lies otherwise."""
    lines = """
import torch
from lightning_har.bench.memory import _status_bytes, give_back
blocks = [torch.ones(16, 1024) for _ in range(4096)]  # 64 KiB each, too small for pages of their own
kept = blocks[-1]
del blocks
before = _status_bytes("VmRSS")
give_back()
print(before - _status_bytes("VmRSS"), float(kept.sum()))
"""
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    given_back, kept = done.stdout.split()
    assert int(given_back) > 100 * 2**20
    assert float(kept) == 16 * 1024


def test_nothing_is_reset_on_cuda_before_anything_ran_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch refuses it before CUDA is initialised, which a run's training does first."""
    initialised: list[bool] = []

    def reset(device: torch.device) -> None:
        if not initialised:
            raise RuntimeError("Invalid device argument 0: did you call init?")
        initialised.append(True)

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: bool(initialised))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2**30)
    with PeakMemory("cuda") as first:
        initialised.append(True)
    assert first.peak_bytes == 2**30
    with PeakMemory("cuda"):
        assert len(initialised) == 2, "the peak of what ran before"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_peak_memory_on_cuda_in_a_process_that_has_not_used_it() -> None:
    lines = """
import torch
from lightning_har.bench.memory import PeakMemory
with PeakMemory("cuda:0") as large:
    block = torch.ones(64, 1024, 1024, device="cuda:0")
    del block
with PeakMemory("cuda:0") as small:
    pass
print(large.peak_bytes - small.peak_bytes)
"""
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 256 * 2**20


def test_latency_times_the_pass() -> None:
    class Sleeps(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.01)
            return x

    found = measure_latency(Sleeps(), torch.zeros(1, 2), batch=torch.zeros(4, 2), budget_s=0.05)
    assert 10 <= found["p50_ms"] <= found["p95_ms"] < 200
    assert 20 < found["clips_per_s"] <= 400


def test_reading_times_each_video() -> None:
    class Sleeps:
        def __init__(self) -> None:
            self.read: list[int] = []

        def __len__(self) -> int:
            return 3

        def __getitem__(self, i: int) -> None:
            self.read.append(i)
            time.sleep(0.01 if len(self.read) > 1 else 0.3)  # the first, which warms up, counts for nothing

    videos = Sleeps()
    found = measure_reading(videos, budget_s=0.05)
    assert 10 <= found["p50_ms"] <= found["p95_ms"] < 200
    assert 5 < found["clips_per_s"] <= 100
    assert videos.read[:4] == [0, 1, 2, 0]
