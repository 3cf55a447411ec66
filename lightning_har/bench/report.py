"""The record of a run: its types, the machine and checkout it names, and a table."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from typing_extensions import TypedDict

from lightning_har._files import whole_file
from lightning_har.bench.cost import Cost
from lightning_har.bench.latency import Latency

if TYPE_CHECKING:
    from rich.table import Table

SCHEMA_VERSION = 1

_REPORTED_PACKAGES = (
    "lightning-har",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "lightning",
    "timm",
    "torchmetrics",
    "av",
    "numpy",
)


class Protocol(TypedDict):
    """On what, and how, the score was taken.

    ``coverage`` is, by split, how many clips the official list has and how many of them were on disk (Kinetics,
    EPIC-KITCHENS, MSR DailyActivity3D); None of data that is whole or refused. Memory and speed hold for
    ``batch_size`` (videos, on each device), ``precision`` (the Trainer's) and ``num_workers`` (processes that read for
    training; for the test where nothing is trained).
    """

    data: str
    split: str
    file_list_sha256: str | None
    sampling: dict[str, Any] | None
    views: int
    crop: str
    coverage: dict[str, Any] | None
    batch_size: int
    precision: str
    num_workers: int


class Files(TypedDict):
    """Videos of the test split that the score covers, and those that could not be read."""

    scored: int
    skipped: int


class Memory(TypedDict):
    """Peaks, as ``bench.memory.PeakMemory`` defines them; None where not measured."""

    train_peak_bytes: int | None
    test_peak_bytes: int | None


class Report(TypedDict):
    """``report.json``. ``metrics[split][head]["clip" | "video"]`` maps names to numbers.

    ``latency`` is the network's, ``reading`` that of decoding and preparing one video by one process; ``note`` is
    what has to be said of the numbers, if anything.
    """

    schema_version: int
    recipe: str
    commit: str | None
    versions: dict[str, str]
    hardware: dict[str, Any]
    seed: int | None
    protocol: Protocol
    files: Files
    metrics: dict[str, dict[str, dict[str, dict[str, float]]]]
    cost: Cost
    memory: Memory
    latency: Latency | None
    reading: Latency | None
    note: str | None
    runs: list[dict[str, Any]]


def versions() -> dict[str, str]:
    """Python and the packages that shape a result, as installed."""
    found = {"python": platform.python_version()}
    for name in _REPORTED_PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware(device: torch.device | str = "cpu") -> dict[str, Any]:
    """The machine, and the accelerator that the run used."""
    device = torch.device(device)
    return {
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of the checkout this package runs from; "-dirty" is added where tracked files are changed.

    None where the package is installed rather than checked out, or git is missing.
    """
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # An environment inside some other repository must not report that repository's commit.
    if git("ls-files", "--error-unmatch", "report.py") is None:
        return None
    head = git("rev-parse", "HEAD")
    return f"{head}-dirty" if head and git("status", "--porcelain", "--untracked-files=no") else head


def write_report(report: Report, path: Path) -> None:
    """Write strict JSON: a NaN or an infinite number becomes null. The file comes whole or, on a full disk, not."""
    with whole_file(path) as part:
        part.write_text(json.dumps(_finite(report), indent=2) + "\n")


def read_report(path: Path) -> Report:
    """Read what ``write_report`` wrote."""
    return cast(Report, json.loads(path.read_text()))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def results_table(reports: Mapping[str, Report]) -> Table:
    """Runs side by side: scores of the test videos, and what each costs.

    Args:
        reports: By the name that its row shall bear.
    """
    from rich import box
    from rich.table import Table

    heads = sorted({head for report in reports.values() for head in report["metrics"].get("test", {})})
    found = dict.fromkeys(name for r in reports.values() for head in heads for name in _video_metrics(r, head))
    shown: list[str] = [name for name in ("top1", "top5", "f1_macro") if name in found]
    shown += [name for name in found if name.endswith("_top1")]
    table = Table(title="test, per video", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("model")
    for name in (*shown, "params", "MACs", "train memory", "latency"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, report in reports.items():
        latency, memory = report["latency"], report["memory"]["train_peak_bytes"]
        for head in heads:
            values = _video_metrics(report, head)
            table.add_row(
                name if len(heads) == 1 else f"{name} ({head})",
                *(f"{values[n]:.3f}" if n in values else "–" for n in shown),
                _quantity(report["cost"]["parameters"]),
                _quantity(report["cost"]["macs"]),
                f"{memory / 2**20:.0f} MiB" if memory else "–",
                f"{latency['p50_ms']:.1f} ms" if latency else "–",
            )
    return table


def _video_metrics(report: Report, head: str) -> dict[str, float]:
    levels = report["metrics"].get("test", {}).get(head, {})
    values = levels.get("video") or levels.get("clip") or {}
    return {name: value for name, value in values.items() if value is not None}


def _quantity(number: int | None) -> str:
    if number is None:
        return "–"
    for power, letter in ((9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.2f} {letter}"
    return str(number)
