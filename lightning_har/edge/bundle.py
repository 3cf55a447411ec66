"""One folder that recognises actions on a device without PyTorch."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import lightning_har
from lightning_har.edge.calibration import Calibration
from lightning_har.edge.export import ExportReport, export
from lightning_har.edge.graphs import Kind, default_kind, head_names
from lightning_har.edge.runtime import CAPTION, FORMAT_VERSION, MANIFEST, digest_of, sha256
from lightning_har.edge.writers import Format
from lightning_har.errors import ConfigError
from lightning_har.modules.base import ActionRecognizer
from lightning_har.spec import InputSpec, Sampling

# What the runner imports of this package; none of it imports torch.
_SOURCES = (
    "__init__.py",
    "_version.py",
    "errors.py",
    "spec.py",
    "data/__init__.py",
    "data/decode.py",
    "data/decode_pyav.py",
    "data/sampling.py",
    "edge/__init__.py",
    "edge/annotate.py",
    "edge/live.py",
    "edge/runtime.py",
    "edge/source.py",
)

_RUN = '''\
"""Recognise actions: python run.py clip.mp4 | 0 | rtsp://..."""

import hashlib
import json
import sys
from pathlib import Path

folder = Path(__file__).resolve().parent
sys.path.insert(0, str(folder))


def fault():
    """What is wrong with the runner's files, told before any of them runs, in the words of load_bundle."""
    path = folder / "bundle.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return f"{folder} is no bundle: cannot read {path.name} ({error.strerror})"
    except ValueError as error:
        return f"{path} is damaged: {error}; make the bundle again"
    digest = values.pop("digest", None) if isinstance(values, dict) else None
    if digest != hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest():
        return f"{path} was altered: its digest does not match; make the bundle again"
    for name, expected in values["files"].items():
        if not name.endswith(".py"):
            continue
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError:
            return f"{folder / name} is missing from the bundle; copy the whole folder again"
        if found != expected:
            return (
                f"{folder / name} was altered: SHA-256 is {found[:12]}…, {path.name} says {expected[:12]}…; "
                "copy the folder again, or make the bundle again"
            )
    return None


if __name__ == "__main__":
    try:
        if message := fault():
            print(f"error: {message}", file=sys.stderr)
            sys.exit(2)

        from lightning_har.edge.live import main

        sys.exit(main(folder=folder))
    except KeyboardInterrupt:
        sys.exit(130)
    except ImportError as error:
        print(f"error: {error}; pip install -r {folder / 'requirements.txt'}", file=sys.stderr)
        sys.exit(2)
'''

_DOCKERFILE = """\
# docker build --platform linux/arm64 -t recognizer . && docker run --rm --device /dev/video0 recognizer 0
FROM --platform=linux/arm64 python:{python}-slim
WORKDIR /bundle
COPY requirements.txt .
RUN pip install --no-cache-dir {wheels} -r requirements.txt
COPY . .
ENTRYPOINT ["python", "run.py"]
"""

# Wheels alone: there is no compiler in the image. executorch needs one package that has none; it is Python alone.
_WHEELS = {
    "onnx": "--only-binary=:all:",
    "executorch": "--only-binary=:all: --no-binary=antlr4-python3-runtime",
}


def bundle(
    module: ActionRecognizer,
    out: str | Path,
    *,
    format: Format = "onnx",
    int8: bool = False,
    calibration: Calibration | None = None,
    kind: Kind | None = None,
    name: str | None = None,
) -> ExportReport:
    """Make a bundle: the exported model, what it eats, its labels, and the runner itself.

    The graphs take as many frames as ``module.eval_sampling`` gives a clip, which may be more than in training.
    ``python OUT/run.py clip.mp4`` then needs onnxruntime, numpy and av alone. Every file's digest is in
    ``bundle.json``; the runner refuses a folder in which one is missing or altered.

    Args:
        module: Trained, with ``class_names``; one RGB input.
        out: New or empty folder.
        format: "onnx"; "executorch" makes a .pte, whose Python runner needs executorch, and that needs torch.
        int8: Quantize; needs ``calibration``.
        calibration: See ``export``.
        kind: How the network is cut; None takes "frames" where it can (each frame of a camera is seen once), else
            "clip". "stream" keeps a state and never forgets.
        name: Of the model, for reports; None takes the module's class.

    Raises:
        ConfigError: A folder with files in it, a module without RGB input; and as ``export``. What was written by
            then is removed.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty; give a new folder, so that nothing old gets into the bundle")
    spec = module.spec
    if not isinstance(spec, InputSpec) or spec.modality != "rgb":
        raise ConfigError(
            "the bundle's runner feeds RGB frames; this module takes flow, two modalities, or stored features "
            "(`lightning-har join` puts one behind the network that computed them)"
        )
    sampling = (module.eval_sampling or Sampling()).with_defaults(spec)
    assert sampling.num_frames is not None
    if sampling.num_frames != spec.num_frames:
        # A network may be tested on more frames than it was trained on; its graphs take what the runner samples.
        spec = replace(spec, num_frames=sampling.num_frames)
        module = copy.copy(module)
        module.spec = spec
    kind = kind or default_kind(module)
    with _all_or_nothing(out):
        report = export(module, out, format=format, int8=int8, calibration=calibration, kind=kind)
        heads = head_names(module)
        labels = _labels(module, heads)
        if kind == "stream":
            from lightning_har.edge.streaming import StreamingRecognizer

            state = StreamingRecognizer(module).initial_state(1)
            np.savez(out / "state.npz", **{f"state_{i}": s.cpu().float().numpy() for i, s in enumerate(state)})  # type: ignore[arg-type]
        prefixes = [""] if len(heads) == 1 else [f"{h}: " for h in heads]
        texts = [p + n for p, h in zip(prefixes, heads, strict=True) for n in labels[h]]
        pictures = {CAPTION + text: picture for text, picture in draw_captions(texts).items()}
        np.savez_compressed(out / "captions.npz", **pictures)  # type: ignore[arg-type]
        _copy_runner(out)
        (out / "requirements.txt").write_text(_requirements(format))
        # The same Python: the requirements' floors may have no wheels for another.
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        (out / "Dockerfile").write_text(_DOCKERFILE.format(python=python, wheels=_WHEELS[format]))
        values: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "name": name or type(module).__name__,
            "format": format,
            "kind": kind,
            "input_spec": spec.to_dict(),
            "sampling": sampling.to_dict(),
            "heads": list(heads),
            "labels": {h: list(n) for h, n in labels.items()},
            "graphs": {part: path.name for part, path in report.files.items()},
            "report": report.to_dict(),
            "files": {
                str(p.relative_to(out).as_posix()): sha256(p)
                for p in sorted(out.rglob("*"))
                if p.is_file() and "__pycache__" not in p.parts
            },
        }
        values["digest"] = digest_of(values)
        (out / MANIFEST).write_text(json.dumps(values, indent=1), encoding="utf-8")
    return report


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[None]:
    """Leave nothing behind where it fails, so that the next try finds the folder as this one did."""
    is_new = not folder.exists()
    try:
        yield
    except BaseException:
        for path in folder.iterdir() if folder.is_dir() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if is_new and folder.is_dir():
            folder.rmdir()
        raise


def draw_captions(texts: list[str]) -> dict[str, np.ndarray[Any, np.dtype[np.uint8]]]:
    """Each text as a picture of white on black, uint8 (24, W), so that the device needs no font."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pictures = {}
    for text in texts:
        figure = Figure(figsize=(max(1, len(text)) * 0.16 + 0.2, 0.24), dpi=100, facecolor="black")
        canvas = FigureCanvasAgg(figure)
        figure.text(4 / figure.bbox.width, 0.5, text, color="white", fontsize=11, va="center", parse_math=False)
        canvas.draw()
        grey = np.asarray(canvas.buffer_rgba())[..., 0]
        used = np.flatnonzero(grey.any(0))
        pictures[text] = np.ascontiguousarray(grey[:, : int(used[-1]) + 6 if used.size else 8])
    return pictures


def _labels(module: ActionRecognizer, heads: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    counts = {"logits": module.num_classes} if isinstance(module.num_classes, int) else dict(module.num_classes)
    names = module.class_names
    if names is None:
        return {head: tuple(f"class {i}" for i in range(counts[head])) for head in heads}
    return dict(names) if isinstance(names, dict) else {heads[0]: tuple(names)}


def _copy_runner(out: Path) -> None:
    package = Path(lightning_har.__file__).parent
    for name in _SOURCES:
        target = out / "lightning_har" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package / name, target)
    (out / "run.py").write_text(_RUN, encoding="utf-8")


def _requirements(format: Format) -> str:
    """The versions the bundle was made and checked with, as floors."""
    names = ["onnxruntime", "numpy", "av"] if format == "onnx" else ["executorch", "torch", "numpy", "av"]
    lines = []
    for name in names:
        try:
            lines.append(f"{name}>={version(name).split('+')[0]}")
        except PackageNotFoundError:
            lines.append(name)
    return "\n".join(lines) + "\n"
