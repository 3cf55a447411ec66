"""A bundle at work: a file, a camera or a stream in, labels out. Needs onnxruntime, numpy and av alone.

Bundles carry a copy of this file and of those it imports, so it imports nothing that imports torch.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightning_har.errors import ConfigError, DataError, WeightsError
from lightning_har.spec import InputSpec, Sampling

Array: TypeAlias = NDArray[Any]
Graph: TypeAlias = Callable[[Sequence[Array]], list[Array]]

MANIFEST = "bundle.json"
FORMAT_VERSION = 1
CAPTION = "caption "
"""Before each name in captions.npz: numpy takes no array named "file"."""


@dataclass(frozen=True)
class Bundle:
    """What ``bundle.json`` says, its files checked.

    Attributes:
        folder: Where it lies.
        name: Of the model.
        format: "onnx" or "executorch".
        kind: "clip": one graph takes a clip. "frames": one graph per frame, one over the features of a clip.
            "stream": one step from frame and state to logits and state.
        spec: Of its input.
        sampling: Which frames of a file make its clip, and how they are cropped.
        heads: Names of the logits, in the graph's order.
        labels: Class names by head.
        graphs: File names by part.
        report: What the export measured.
    """

    folder: Path
    name: str
    format: str
    kind: str
    spec: InputSpec
    sampling: Sampling
    heads: tuple[str, ...]
    labels: dict[str, tuple[str, ...]]
    graphs: dict[str, str]
    report: dict[str, Any] = field(default_factory=dict)


def load_bundle(folder: str | Path) -> Bundle:
    """Read a bundle and check every file of it against its digest.

    Raises:
        DataError: No bundle; a file missing or altered, by name; a newer format.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{folder} is no bundle: cannot read {MANIFEST} ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}; make the bundle again") from error
    if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
        given = values.get("format_version") if isinstance(values, dict) else type(values).__name__
        raise DataError(f"{path} has format {given}; this runner reads {FORMAT_VERSION}: make the bundle again")
    digest = values.pop("digest", None)
    if digest != digest_of(values):
        raise DataError(f"{path} was altered: its digest does not match; make the bundle again")
    for name, expected in values["files"].items():
        try:
            found = sha256(folder / name)
        except OSError as error:
            raise DataError(f"{folder / name} is missing from the bundle; copy the whole folder again") from error
        if found != expected:
            raise DataError(
                f"{folder / name} was altered: SHA-256 is {found[:12]}…, {MANIFEST} says {expected[:12]}…; "
                "copy the folder again, or make the bundle again"
            )
    return Bundle(
        folder,
        values["name"],
        values["format"],
        values["kind"],
        InputSpec.from_dict(values["input_spec"]),
        Sampling.from_dict(values["sampling"]),
        tuple(values["heads"]),
        {head: tuple(names) for head, names in values["labels"].items()},
        values["graphs"],
        values.get("report", {}),
    )


def sha256(path: Path) -> str:
    """Digest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_of(values: Mapping[str, Any]) -> str:
    """Digest of JSON values, whatever their order in a file."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


# -- graphs ----------------------------------------------------------------------------------------------------


def open_graph(path: str | Path, threads: int = 1) -> Graph:
    """An exported graph as a function from arrays to arrays.

    Args:
        path: .onnx, or .pte for ExecuTorch.
        threads: Of one call. ExecuTorch has one pool for all its graphs: the last opened says how large it is.

    Raises:
        WeightsError: The engine refuses the file; or, when called, what it is given.
        ConfigError: The engine is not installed.
    """
    return _open_executorch(Path(path), threads) if str(path).endswith(".pte") else _open_onnx(Path(path), threads)


def _open_onnx(path: Path, threads: int) -> Graph:
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise ConfigError("onnxruntime is not installed: pip install onnxruntime") from error
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin between two frames take the cores from the decoder.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads == 1 else "1")
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise WeightsError(f"{path}: onnxruntime cannot load it: {error}") from error
    names = [i.name for i in session.get_inputs()]

    def call(inputs: Sequence[Array]) -> list[Array]:
        try:
            out: list[Array] = session.run(None, dict(zip(names, inputs, strict=True)))
        except Exception as error:
            raise WeightsError(f"{path}: onnxruntime cannot run it: {error}") from error
        return out

    return call


def _open_executorch(path: Path, threads: int) -> Graph:
    try:
        import torch
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
        from executorch.runtime import Runtime, Verification
    except ImportError as error:
        raise ConfigError(
            "executorch is not installed: pip install executorch (its Python part needs torch)"
        ) from error
    # One pool serves every program of the process, and nothing may run while it is set; PyTorch's own is another.
    _unsafe_reset_threadpool(threads)
    try:
        program = Runtime.get().load_program(path, verification=Verification.Minimal)
        method = program.load_method("forward")
    except RuntimeError as error:
        raise WeightsError(f"{path}: executorch cannot load it: {error}") from error
    if method is None:
        raise WeightsError(f"{path}: executorch finds no method 'forward' in it")

    def call(inputs: Sequence[Array]) -> list[Array]:
        try:
            out = method.execute([torch.from_numpy(np.ascontiguousarray(x)) for x in inputs])
        except RuntimeError as error:
            raise WeightsError(f"{path}: executorch cannot run it: {error}") from error
        return [x.numpy().copy() for x in out]  # the next call writes into the same memory

    return call


# -- recognition -----------------------------------------------------------------------------------------------


class Recognizer:
    """Logits from frames.

    Args:
        graphs: By part: "model" for kind "clip"; "frame" and "head" for "frames"; "step" for "stream".
        kind: See ``Bundle``.
        num_frames: T of a clip, and of the window that follows a camera.
        heads: Names of the logits.
        state: What "stream" starts from.

    Frames are uint8 (H, W, 3), RGB, of the network's size.
    """

    def __init__(
        self,
        graphs: Mapping[str, Graph],
        kind: str,
        num_frames: int,
        heads: Sequence[str],
        state: Sequence[Array] = (),
    ) -> None:
        self._graphs = dict(graphs)
        self.kind = kind
        self.num_frames = num_frames
        self.heads = tuple(heads)
        self._start = list(state)
        self._state = list(state)
        self._window: deque[Array] = deque(maxlen=num_frames)

    @classmethod
    def from_bundle(cls, bundle: Bundle, threads: int = 1) -> Recognizer:
        """Load a bundle's graphs."""
        state: list[Array] = []
        if bundle.kind == "stream":
            with np.load(bundle.folder / "state.npz") as stored:
                state = [stored[f"state_{i}"] for i in range(len(stored.files))]
        graphs = {part: open_graph(bundle.folder / file, threads) for part, file in bundle.graphs.items()}
        frames = bundle.sampling.num_frames or bundle.spec.num_frames
        return cls(graphs, bundle.kind, frames, bundle.heads, state)

    def clip(self, frames: Array) -> dict[str, Array]:
        """Logits (K,) by head of a clip, uint8 (T, H, W, 3)."""
        if self.kind == "clip":
            video = np.ascontiguousarray(frames.transpose(3, 0, 1, 2))[None]
            return self._named(self._graphs["model"]([video]))
        if self.kind == "frames":
            features = np.stack([self._features(frame) for frame in frames], 1)
            return self._named(self._graphs["head"]([features]))
        state = list(self._start)
        for frame in frames:
            out = self._graphs["step"]([_to_batch(frame), *state])
            state = out[len(self.heads) :]
        return self._named(out)

    def push(self, frame: Array) -> dict[str, Array] | None:
        """The next frame of a camera: logits by head; None until the first window is full.

        A "stream" remembers everything since ``reset``; the others see the last T frames.
        """
        if self.kind == "stream":
            out = self._graphs["step"]([_to_batch(frame), *self._state])
            self._state = out[len(self.heads) :]
            return self._named(out)
        self._window.append(self._features(frame) if self.kind == "frames" else frame)
        if len(self._window) < self.num_frames:
            return None
        if self.kind == "frames":
            return self._named(self._graphs["head"]([np.stack(list(self._window), 1)]))
        return self.clip(np.stack(list(self._window)))

    def reset(self) -> None:
        """Forget all frames."""
        self._window.clear()
        self._state = list(self._start)

    def time_frames(self, stopwatch: Stopwatch) -> None:
        """Time each pass of a frame from now on; "clip" sees none alone."""
        part = {"frames": "frame", "stream": "step"}.get(self.kind)
        if part is None:
            return
        graph = self._graphs[part]

        def timed(inputs: Sequence[Array]) -> list[Array]:
            with stopwatch:
                return graph(inputs)

        self._graphs[part] = timed

    def _features(self, frame: Array) -> Array:
        return self._graphs["frame"]([_to_batch(frame)])[0]

    def _named(self, out: Sequence[Array]) -> dict[str, Array]:
        return {head: x[0] for head, x in zip(self.heads, out, strict=False)}


def _to_batch(frame: Array) -> Array:
    return np.ascontiguousarray(frame.transpose(2, 0, 1))[None]


def softmax(logits: Array) -> Array:
    """Along the last axis."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    out: Array = shifted / shifted.sum(-1, keepdims=True)
    return out


# -- frames ----------------------------------------------------------------------------------------------------


def resize_plan(height: int, width: int, spec: InputSpec, sampling: Sampling) -> tuple[int, int]:
    """(H, W) to resize a frame to before the crop of the network's size is cut from its middle."""
    if sampling.crop == "full":
        return spec.size
    side = sampling.short_side or round(min(spec.size) / 0.875)
    factor = max(side / min(height, width), spec.size[0] / height, spec.size[1] / width)
    return max(round(height * factor), spec.size[0]), max(round(width * factor), spec.size[1])


def crop_middle(frames: Array, spec: InputSpec) -> Array:
    """(..., H, W, 3) to the network's size."""
    top, left = (frames.shape[-3] - spec.size[0]) // 2, (frames.shape[-2] - spec.size[1]) // 2
    return frames[..., top : top + spec.size[0], left : left + spec.size[1], :]


class Converter:
    """A decoded frame, of any size and pixel format, as the network takes it: uint8 (H, W, 3), RGB, upright."""

    def __init__(self, spec: InputSpec, sampling: Sampling) -> None:
        from av.video.reformatter import Interpolation, VideoReformatter

        self._scaler = VideoReformatter()
        self._how = Interpolation.BILINEAR
        self.spec, self.sampling = spec, sampling

    def __call__(self, frame: Any) -> Array:
        """Convert an ``av.VideoFrame``."""
        turns = round(frame.rotation / 90) % 4
        shown = (frame.width, frame.height) if turns % 2 else (frame.height, frame.width)
        h, w = resize_plan(*shown, self.spec, self.sampling)
        if turns % 2:
            h, w = w, h
        rgb = self._scaler.reformat(frame, width=w, height=h, format="rgb24", interpolation=self._how)
        return crop_middle(upright(rgb.to_ndarray(), frame), self.spec)


def read_clip(path: str | Path, spec: InputSpec, sampling: Sampling) -> Array:
    """The frames of a file that make its clip, uint8 (T, H, W, 3): the first of the protocol's clips, centre crop.

    Raises:
        DecodeError: The file cannot be read.
    """
    from dataclasses import replace

    from lightning_har.data.decode import open_video
    from lightning_har.data.sampling import plan

    one = replace(sampling, num_clips=1, random=False, num_frames=sampling.num_frames or spec.num_frames)
    video = open_video(path)
    try:
        indices = plan(video.num_frames, one)[0]
        frames = video.read(indices, lambda h, w: resize_plan(h, w, spec, sampling))
    finally:
        video.close()
    return crop_middle(frames, spec)


# -- measures --------------------------------------------------------------------------------------------------


def peak_memory() -> int | None:
    """Most bytes this process ever had resident; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        try:
            import resource
        except ImportError:
            return None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    # Not getrusage: a child begins with its parent's ru_maxrss.
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


ENERGY = Path("/sys/class/powercap/intel-rapl:0/energy_uj")


def energy() -> float | None:
    """Joules that the processor's package has used, from any time on; None where that may not be read."""
    try:
        return int(ENERGY.read_text()) / 1e6
    except (OSError, ValueError):
        return None


class Stopwatch:
    """Times of a repeated piece of work, in milliseconds.

    Attributes:
        times: The last 10,000.
        count: Of all.
    """

    def __init__(self) -> None:
        self.times: deque[float] = deque(maxlen=10_000)
        self.count = 0
        self._start = 0.0

    def __enter__(self) -> Stopwatch:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.times.append(1000 * (time.perf_counter() - self._start))
        self.count += 1

    def percentiles(self) -> dict[str, float]:
        """p50, p95 and p99; empty without times."""
        if not self.times:
            return {}
        values = np.percentile(np.array(self.times), (50, 95, 99))
        return {f"p{q}_ms": round(float(v), 3) for q, v in zip((50, 95, 99), values, strict=True)}


def top(logits: Mapping[str, Array], bundle: Bundle, k: int = 3) -> list[tuple[str, float]]:
    """The k likeliest labels of each head, with their probabilities."""
    found = []
    for head, x in logits.items():
        p = softmax(x.astype(np.float64))
        names = bundle.labels.get(head) or tuple(str(i) for i in range(len(p)))
        prefix = "" if len(logits) == 1 else f"{head}: "
        found += [(prefix + names[i], float(p[i])) for i in np.argsort(-p)[:k]]
    return found


def upright(image: Array, frame: Any) -> Array:
    """The picture (H, W, 3) of an ``av.VideoFrame``, turned as its rotation flag says."""
    return np.rot90(image, round(frame.rotation / 90) % 4)
