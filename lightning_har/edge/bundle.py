"""One folder that recognises actions on a device without PyTorch."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

import lightning_har
from lightning_har.edge.calibration import Calibration
from lightning_har.edge.export import ExportReport, Format, default_kind, export
from lightning_har.edge.graphs import Kind, head_names
from lightning_har.edge.runtime import FORMAT_VERSION, MANIFEST, digest_of, sha256
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
    "edge/live.py",
    "edge/runtime.py",
)

_RUN = '''\
"""Recognise actions: python run.py clip.mp4 | 0 | rtsp://..."""

import sys
from pathlib import Path

folder = Path(__file__).resolve().parent
sys.path.insert(0, str(folder))

from lightning_har.edge.live import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(folder=folder))
'''

_DOCKERFILE = """\
# docker build --platform linux/arm64 -t recognizer . && docker run --rm --device /dev/video0 recognizer 0
FROM --platform=linux/arm64 python:{python}-slim
WORKDIR /bundle
COPY requirements.txt .
RUN pip install --no-cache-dir --only-binary=:all: -r requirements.txt
COPY . .
ENTRYPOINT ["python", "run.py"]
"""


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
        ConfigError: A folder with files in it, a module without RGB input; and as ``export``.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty; give a new folder, so that nothing old gets into the bundle")
    spec = module.spec
    if not isinstance(spec, InputSpec) or spec.modality != "rgb":
        raise ConfigError("the bundle's runner feeds RGB frames; this module takes flow, features or two modalities")
    kind = kind or default_kind(module)
    report = export(module, out, format=format, int8=int8, calibration=calibration, kind=kind)
    sampling = (module.eval_sampling or Sampling()).with_defaults(spec)
    heads = head_names(module)
    labels = _labels(module, heads)
    if kind == "stream":
        from lightning_har.edge.streaming import StreamingRecognizer

        state = StreamingRecognizer(module).initial_state(1)
        np.savez(out / "state.npz", **{f"state_{i}": s.numpy() for i, s in enumerate(state)})  # type: ignore[arg-type]
    prefixes = [""] if len(heads) == 1 else [f"{h}: " for h in heads]
    texts = [p + n for p, h in zip(prefixes, heads, strict=True) for n in labels[h]]
    np.savez_compressed(out / "captions.npz", **draw_captions(texts))  # type: ignore[arg-type]
    _copy_runner(out)
    (out / "requirements.txt").write_text(_requirements(format))
    # The same Python: the requirements' floors may have no wheels for another.
    (out / "Dockerfile").write_text(_DOCKERFILE.format(python=f"{sys.version_info[0]}.{sys.version_info[1]}"))
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


def draw_captions(texts: list[str], height: int = 24) -> dict[str, np.ndarray[Any, np.dtype[np.uint8]]]:
    """Each text as a picture of white on black, uint8 (height, W), so that the device needs no font."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pictures = {}
    for text in texts:
        figure = Figure(figsize=(max(1, len(text)) * 0.16 + 0.2, height / 100), dpi=100, facecolor="black")
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
    (out / "run.py").write_text(_RUN)


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
