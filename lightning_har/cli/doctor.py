"""``lightning-har doctor``: is everything there that the library needs, and what to do where it is not."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from lightning_har.data.decode import Decoder

Status = Literal["ok", "note", "problem"]

EPILOG = """\
A note tells of something optional that is missing; a problem keeps the library from working.

examples:
  lightning-har doctor
  lightning-har doctor --offline --json

exit codes: 0 no problems; 1 there are problems
"""

_OPTIONAL = {
    "torchcodec": (["torchcodec"], "a second decoder"),
    "flow": (["cv2"], "optical flow"),
    "ray": (["ray", "pyarrow"], "work on several machines"),
    "webdataset": (["webdataset"], "writing shards"),
    "onnx": (["onnx", "onnxscript", "onnxruntime"], "ONNX export and the edge runtime"),
    "executorch": (["executorch", "torchao"], "ExecuTorch export"),
    "litert": (["ai_edge_litert"], "LiteRT as a reference"),
    "demo": (["gradio"], "lightning-har demo"),
}
"""By extra, the modules that it is for, whichever package they came in, and what for."""
_LEAST_DISK_GB = 2.0
_LEAST_SHM_GB = 1.0


@dataclass(frozen=True)
class Check:
    """One thing looked at.

    Attributes:
        name: What.
        status: "ok", "note" (optional) or "problem".
        found: What is there.
        remedy: What to do; empty where nothing is.
    """

    name: str
    status: Status
    found: str
    remedy: str = ""


def add_parser(subparsers: Any) -> None:
    """Add ``doctor`` to the commands."""
    parser = subparsers.add_parser(
        "doctor",
        help="check the installation, and say what to do",
        description="Check versions, decoder, accelerator, disk and hub, and say what to do.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    parser.add_argument("--offline", action="store_true", help="do not ask the hub")
    parser.set_defaults(function=main)


def main(args: argparse.Namespace) -> int:
    """Check; 1 where there are problems."""
    checks = []
    for check in examine(offline=args.offline):
        checks.append(check)
        if not args.json:
            mark = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}[check.status]
            print(f"{mark}  {check.name}: {check.found}", flush=True)
            if check.remedy:
                print(f"         -> {check.remedy}")
    problems = [check for check in checks if check.status == "problem"]
    if args.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    elif problems:
        print(f"\n{len(problems)} problems: {', '.join(check.name for check in problems)}")
    else:
        print("\nno problems")
    return 1 if problems else 0


def examine(*, offline: bool = False) -> Iterator[Check]:
    """Every check, one after another.

    Args:
        offline: Leave the hub out.
    """
    yield from _versions()
    yield _command()
    yield from (_attempt(f.__doc__ or "", f) for f in (_pyav, _accelerator))
    yield from _disk()
    if not offline:
        yield _hub()
    yield from _extras()


def _attempt(name: str, check: Callable[[], Check]) -> Check:
    """What a broken package raises when it is imported or used is what a doctor is for."""
    try:
        return check()
    except Exception as error:
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        return Check(name, "problem", told, f"reinstall: {_pip()} install --force-reinstall lightning-har")


def _pip() -> str:
    return f"{sys.executable} -m pip"


def _versions() -> Iterator[Check]:
    """Python and every required package, against what the library asks for."""
    from packaging.requirements import Requirement

    from lightning_har._version import __version__

    yield Check("lightning-har", "ok", f"{__version__} on Python {platform.python_version()}, {platform.platform()}")
    try:
        wanted = importlib.metadata.requires("lightning-har") or []
    except importlib.metadata.PackageNotFoundError:
        yield Check("packages", "problem", "lightning-har is not installed", f"{_pip()} install -e . in the checkout")
        return
    good = []
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = requirement.name
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(name, "problem", "not installed", f"{_pip()} install '{name}{requirement.specifier}'")
            continue
        if requirement.specifier.contains(version, prereleases=True):
            good.append(f"{name} {version}")
        else:
            remedy = f"{_pip()} install '{name}{requirement.specifier}'"
            yield Check(name, "problem", f"{version}; {requirement.specifier} is needed", remedy)
    yield Check("packages", "ok", ", ".join(good))


def _command() -> Check:
    """Whose ``lightning`` is first on the path: lightning-sdk has one too."""
    here = Path(sys.executable).parent / "lightning"
    found = shutil.which("lightning")
    if found is None:
        return Check(
            "command lightning", "note", "not on the PATH", f"activate the environment, or call {here.parent}/lightning"
        )
    if "lightning_har" in Path(found).read_text(errors="replace"):
        return Check("command lightning", "ok", found)
    return Check("command lightning", "note", f"{found} is another package's", "use `lightning-har run` instead")


def _pyav() -> Check:
    """decoder"""  # noqa: D403, D415 - the check's name
    import av

    if not _decodes("pyav"):
        return Check("decoder", "problem", f"PyAV {av.__version__} decodes wrongly", f"{_pip()} install --upgrade av")
    return Check("decoder", "ok", f"PyAV {av.__version__} wrote and read H.264")


def _decodes(decoder: Decoder) -> bool:
    """Whether the first and the last frame of a video that is written here come out as they went in."""
    import av
    import numpy as np

    from lightning_har.data.decode import open_video

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.mp4"
        with av.open(str(path), "w") as writer:
            stream = writer.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for i in range(8):
                writer.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 30 * i, np.uint8))))
            writer.mux(stream.encode(None))
        video = open_video(path, decoder, 1)
        frames = video.read(np.array([0, 7]))
        video.close()
    dark, bright = frames[0].mean(), frames[1].mean()
    return frames.shape == (2, 48, 64, 3) and bool(bright - dark > 150)


def _accelerator() -> Check:
    """accelerator"""  # noqa: D403, D415 - the check's name
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        if float((torch.ones(8, device="cuda") * 2).sum()) != 16:
            return Check("accelerator", "problem", f"{name} computes wrongly", "look at the driver: nvidia-smi")
        return Check("accelerator", "ok", f"{count} × {name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    if torch.backends.mps.is_available():
        return Check("accelerator", "ok", "Apple's GPU (mps)")
    threads = f"the CPU, {torch.get_num_threads()} of {os.cpu_count()} cores"
    if shutil.which("nvidia-smi"):
        return Check(
            "accelerator",
            "problem",
            f"{threads}: there is an NVIDIA driver, but torch {torch.__version__} finds no GPU",
            "install the torch build for your driver's CUDA version: https://pytorch.org/get-started/locally",
        )
    return Check(
        "accelerator", "note", f"{threads}; no GPU", "small networks on frozen features train well without one"
    )


def _disk() -> Iterator[Check]:
    """Room for runs, for the cache, and for what loader workers share."""
    from lightning_har._files import cache_directory

    places = {
        "disk, here": Path.cwd(),
        "disk, cache": cache_directory(),
        "disk, temporary": Path(tempfile.gettempdir()),
    }
    for name, folder in places.items():
        there = next(p for p in (folder, *folder.parents) if p.exists())
        free = shutil.disk_usage(there).free / 1e9
        if not os.access(there, os.W_OK):
            remedy = "set LIGHTNING_HAR_CACHE to a folder of yours" if "cache" in name else "work in a folder of yours"
            yield Check(name, "problem", f"{there} cannot be written to", remedy)
        elif free < _LEAST_DISK_GB:
            yield Check(name, "problem", f"{free:.1f} GB free at {there}", "make room, or use another disk")
        else:
            yield Check(name, "ok", f"{free:.0f} GB free at {there}")
    shared = Path("/dev/shm")
    if shared.is_dir():
        size = shutil.disk_usage(shared).total / 1e9
        if size < _LEAST_SHM_GB:
            remedy = "docker run --shm-size=8g, or --data.num_workers 0"
            yield Check("shared memory", "note", f"{size:.2f} GB: loader workers may be killed", remedy)
        else:
            yield Check("shared memory", "ok", f"{size:.1f} GB")


def _hub() -> Check:
    """The zoo's place, asked for one small answer."""
    import urllib.error
    import urllib.request

    from lightning_har.errors import HarError
    from lightning_har.weights.hub import endpoint, find_zoo

    try:
        zoo = find_zoo()
    except HarError as error:
        return Check("hub", "problem", str(error), "correct or unset LIGHTNING_HAR_ZOO")
    if zoo.folder is not None:
        return Check("hub", "ok", f"the zoo is a folder: {zoo.folder}")
    address = endpoint() or "https://huggingface.co"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Check("hub", "note", "HF_HUB_OFFLINE is set: only what the cache has", "unset it to download")
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=5):
            return Check("hub", "ok", address)
    except urllib.error.HTTPError as error:  # it answered
        return Check("hub", "ok", f"{address} (answers {error.code})")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Check(
            "hub",
            "note",
            f"{address} cannot be reached: {reason}",
            "needed only to download: set HTTPS_PROXY, HF_ENDPOINT for a mirror, or LIGHTNING_HAR_ZOO=FOLDER",
        )


def _torchcodec_decodes() -> bool:
    from lightning_har.errors import HarError

    try:
        return _decodes("torchcodec")
    except HarError:
        return False


def _extras() -> Iterator[Check]:
    """What is optional."""
    packages = importlib.metadata.packages_distributions()
    for extra, (modules, purpose) in _OPTIONAL.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing:
            told = f"not installed: {', '.join(missing)}, for {purpose}"
            yield Check(f"extra {extra}", "note", told, f"{_pip()} install 'lightning-har[{extra}]'")
            continue
        found = {name for module in modules for name in packages.get(module, [])}
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in sorted(found))
        if extra == "torchcodec" and not _torchcodec_decodes():
            remedy = "it wants FFmpeg's libraries (`apt install ffmpeg`) and the torch of its release; PyAV neither"
            yield Check(f"extra {extra}", "note", f"{versions} is there and reads no video", remedy)
            continue
        yield Check(f"extra {extra}", "ok", f"{versions or 'installed'}: {purpose}")
