"""Peak memory of a piece of work: the allocator's on CUDA, the process's resident set on a CPU."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
from pathlib import Path
from types import TracebackType

import torch
from typing_extensions import Self

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class PeakMemory:
    """Measures the peak while its ``with`` block runs.

    On CUDA: the most bytes that PyTorch's allocator had given out on this device. Elsewhere: the resident
    set of this process (loader workers not counted), which includes Python and PyTorch themselves, some
    0.3 to 0.5 GB; the kernel's own high-water mark where it can be reset (Linux), else samples, 100 in a
    second.

    Args:
        device: Where the work runs.

    Attributes:
        peak_bytes: The peak; None before the block has ended, and where the system tells nothing (no /proc).
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.peak_bytes: int | None = None
        self._sampler: _Sampler | None = None

    def __enter__(self) -> Self:
        if self.device.type == "cuda":
            if torch.cuda.is_initialized():  # else PyTorch refuses, and there is no peak yet
                torch.cuda.reset_peak_memory_stats(self.device)
            return self
        if not _reset_high_water_mark():
            self._sampler = _Sampler()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.peak_bytes = self.so_far()
        if self._sampler is not None:
            self._sampler.stop()

    def so_far(self) -> int | None:
        """The peak up to now, inside of the block."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _status_bytes("VmHWM") if self._sampler is None else self._sampler.peak


def _reset_high_water_mark() -> bool:
    try:
        _CLEAR.write_text("5")  # proc(5): 5 resets VmHWM to the current size
    except OSError:
        return False
    return True


def _status_bytes(field: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def give_back() -> None:
    """Return to the system what is no longer used: what Python and the C library keep would hide the next peak."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # glibc's alone
        ctypes.CDLL(None).malloc_trim(0)


class _Sampler:
    def __init__(self) -> None:
        self.peak = _status_bytes("VmRSS")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while self.peak is not None and not self._done.wait(0.01):
            self.peak = max(self.peak, _status_bytes("VmRSS") or 0)

    def stop(self) -> int | None:
        self._done.set()
        self._thread.join()
        return self.peak
