"""A trained module to files that run without PyTorch, compared with it before anyone believes them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_har.edge._quiet import quiet
from lightning_har.edge.calibration import Calibration, Clips, check_finite, collect, inputs_of
from lightning_har.edge.graphs import Graph, Kind, build_graphs, default_kind, example_video, head_names
from lightning_har.edge.quantize_onnx import quantize_onnx
from lightning_har.edge.quantize_pt2e import quantize_pt2e
from lightning_har.edge.rounding import round_and_correct_bias
from lightning_har.edge.runtime import Recognizer, open_graph
from lightning_har.errors import ConfigError, HarError, WeightsError
from lightning_har.modules.base import ActionRecognizer
from lightning_har.types import Video

Format = Literal["onnx", "executorch"]
Dynamic = Literal["batch", "time"]

SUFFIX = {"onnx": ".onnx", "executorch": ".pte"}
TOLERANCE = 1e-4
MOST_FRAMES = 64
"""Of an ExecuTorch graph whose time is open."""


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it compares with PyTorch.

    Attributes:
        format: "onnx" or "executorch".
        kind: How the network was cut; see ``edge.graphs``.
        int8: Whether weights and activations are 8-bit.
        files: By part.
        size_bytes: Of all files.
        max_error: Greatest difference of a logit from PyTorch's float.
        agreement: Share of clips with the same top-1 as PyTorch's float; None for a float export.
        clips: Clips that were compared.
        held_out: Whether those clips were not calibrated on.
    """

    format: str
    kind: str
    int8: bool
    files: dict[str, Path]
    size_bytes: int
    max_error: float
    agreement: float | None
    clips: int
    held_out: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, the files by name."""
        return {**asdict(self), "files": {part: path.name for part, path in self.files.items()}}

    def __str__(self) -> str:
        size = f"{self.size_bytes / 1e6:.2f} MB"
        what = f"{self.format} {'int8' if self.int8 else 'float32'}, {self.kind}: {size} in " + ", ".join(
            str(p) for p in self.files.values()
        )
        if self.agreement is None:
            return (
                f"{what}; logits within {self.max_error:.1e} of PyTorch's on {self.clips} random clips (allowed: "
                f"{TOLERANCE:.0e}, times the greatest logit where that is over 1)"
            )
        where = "held-out clips" if self.held_out else "the calibration clips themselves"
        return (
            f"{what}; top-1 as PyTorch's float on {self.agreement:.1%} of {self.clips} {where}, logits within "
            f"{self.max_error:.2g}"
        )


def export(
    module: ActionRecognizer,
    out: str | Path,
    *,
    format: Format = "onnx",
    int8: bool = False,
    calibration: Calibration | None = None,
    dynamic: Collection[Dynamic] = (),
    kind: Kind | None = None,
) -> ExportReport:
    """Export a module, run the file and compare it with PyTorch.

    The graph takes uint8 as decoders give it (B, C, T, H, W) and normalises inside; it gives logits, one output
    per head. The copy that is exported is in eval mode, on the CPU, in float32; the module is left as it is.

    Args:
        module: Trained.
        out: Folder.
        format: "onnx" (ONNX Runtime) or "executorch" (XNNPACK).
        int8: Quantize after training, statically; needs ``calibration``.
        calibration: A data module (training clips calibrate, validation clips are compared) or labelled batches.
        dynamic: Axes that stay open: "batch", "time"; in ExecuTorch up to 8 and 64.
        kind: How the network is cut: "clip", "frames" or "stream"; None takes "clip".

    Returns:
        What was written and measured.

    Raises:
        ConfigError: An operation that the format does not take (the layer is named, and the other format, if it
            does); an axis that cannot stay open; calibration data missing, unfit or without int8; a float export whose
            logits differ from PyTorch's by more than 1e-4 (times the largest, where that is over 1).
    """
    if format not in SUFFIX:
        raise ConfigError(f"format is {format!r}; it must be 'onnx' or 'executorch'")
    unknown = set(dynamic) - {"batch", "time"}
    if unknown:
        raise ConfigError(f"dynamic has {', '.join(sorted(unknown))}; it takes 'batch' and 'time'")
    if calibration is not None and not int8:
        raise ConfigError("calibration is for int8; ask for int8 too, or leave the calibration out")
    kind = kind or "clip"
    clips = collect(module, calibration) if int8 else None
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    files: dict[str, Path] = {}
    graphs = build_graphs(module, kind)
    known = {axis for graph in graphs for axes in graph.axes.values() for axis in axes.values()}
    if fixed := [axis for axis in dynamic if axis not in known]:
        raise ConfigError(
            f"kind={kind!r} keeps no {' or '.join(fixed)} open: a step takes one frame of one video; leave dynamic out"
        )
    for graph in graphs:
        path = out / f"{graph.name}{SUFFIX[format]}"
        inputs = None if clips is None else _rounded(graph, clips)
        try:
            _write(graph, path, format, inputs, tuple(dynamic))
        except _Unsupported as error:
            other: Format = "executorch" if format == "onnx" else "onnx"
            raise ConfigError(f"{error}. {_verdict(graph, other, inputs, tuple(dynamic))}") from error
        files[graph.name] = path
    start = [x.numpy() for name, x in graphs[0].inputs.items() if name.startswith("state_")]
    return _compare(module, files, format, kind, clips, start, tuple(dynamic))


# -- writing ---------------------------------------------------------------------------------------------------


class _Unsupported(ConfigError):
    """A format does not take a graph; whether the other does is not said yet."""


def _rounded(graph: Graph, clips: Clips) -> list[tuple[Tensor, ...]]:
    """What the graph sees of the clips that calibrate, its weights put on their grids."""
    check_finite(graph.net, inputs_of(graph, clips.fit[:2]), graph.name)
    inputs = list(inputs_of(graph, clips.fit))
    round_and_correct_bias(graph.net, inputs)
    return inputs


def _write(
    graph: Graph, path: Path, format: Format, inputs: list[tuple[Tensor, ...]] | None, dynamic: tuple[Dynamic, ...]
) -> None:
    """In int8 where there are inputs to calibrate on."""
    shapes = _dynamic_shapes(graph, dynamic, format)
    if format == "executorch":
        _write_executorch(graph, path, shapes, inputs)
    elif inputs is None:
        _write_onnx(graph, path, shapes)
    else:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / path.name
            program = _write_onnx(graph, source, shapes)
            try:
                quantize_onnx(source, path, inputs)
            except (HarError, OSError):
                raise
            except Exception as error:  # onnxruntime's quantizer raises whatever its parts raise
                raise _unsupported(graph, [program], "onnx in int8", error) from error


def _dynamic_shapes(graph: Graph, dynamic: tuple[Dynamic, ...], format: Format) -> Any:
    if not any(axis in dynamic for axes in graph.axes.values() for axis in axes.values()):
        return None
    # ExecuTorch plans its memory for the greatest size.
    most = {"batch": 8, "time": MOST_FRAMES} if format == "executorch" else {"batch": 4096, "time": 4096}
    dims = {name: torch.export.Dim(name, min=1, max=most[name]) for name in dynamic}
    shapes = tuple(
        {axis: dims[name] for axis, name in graph.axes.get(key, {}).items() if name in dims} for key in graph.inputs
    )
    # Networks that take any number of inputs have one parameter, *inputs.
    return (shapes,) if graph.name == "model" else shapes


def _example(graph: Graph, shapes: Any) -> tuple[Tensor, ...]:
    """Example inputs; where the batch stays open 2 of them, since torch.export takes a 1 for a constant."""
    if shapes is None:
        return tuple(graph.inputs.values())
    per_input = shapes[0] if graph.name == "model" else shapes
    return tuple(
        torch.cat((x, x)) if 0 in axes else x for x, axes in zip(graph.inputs.values(), per_input, strict=True)
    )


def _program(graph: Graph, net: torch.nn.Module, shapes: Any) -> Any:
    example = _example(graph, shapes)

    def trace() -> Any:
        with quiet(), torch.no_grad():
            return torch.export.export(net, example, dynamic_shapes=shapes)

    try:
        return trace()
    except Exception as error:  # torch.export raises whatever a traced network raises
        where = _failing_layer(net, trace) or f"the part {graph.name!r}"
        if shapes is None:
            raise ConfigError(
                f"torch.export cannot trace {where}: {_reason(error)}. Both formats are written from what it traces"
            ) from error
        raise ConfigError(
            f"{where} cannot keep these axes open: {_reason(error)}. A recurrent part is unrolled over its frames: fix "
            "the time, or export kind='stream', which takes any number of frames"
        ) from error


def _failing_layer(net: torch.nn.Module, trace: Callable[[], Any]) -> str | None:
    """The innermost layer in which tracing stops; None where it gets through all of them."""
    inside: list[str] = []
    handles = []
    for name, layer in net.named_modules():
        shown = f"{name or 'the network'} ({type(layer).__name__})"

        def enter(layer: torch.nn.Module, inputs: Any, shown: str = shown) -> None:
            inside.append(shown)

        def leave(layer: torch.nn.Module, inputs: Any, output: Any) -> None:
            inside.pop()

        handles += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]
    try:
        trace()
    except Exception:  # the same again
        return inside[-1] if inside else None
    finally:
        for handle in handles:
            handle.remove()
    return None


def _write_onnx(graph: Graph, path: Path, shapes: Any) -> Any:
    """Gives the traced program."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(_NEEDS["onnx"]) from error
    program = _program(graph, graph.net, shapes)
    try:
        with quiet():
            torch.onnx.export(
                program,
                (),
                str(path),
                dynamo=True,
                input_names=list(graph.inputs),
                output_names=list(graph.outputs),
                external_data=False,
                verbose=False,
            )
    except OSError as error:  # the file, not the network
        raise OSError(error.errno, error.strerror, str(path)) from error
    except Exception as error:
        # Some operators are what others were decomposed to.
        raise _unsupported(graph, [program, program.run_decompositions()], "onnx", error) from error
    _forget_traces(path)
    return program


def _forget_traces(path: Path) -> None:
    """The exporter writes beside each node the Python it came from: paths of this machine, a tenth of an int8 file."""
    import onnx

    model = onnx.load(path)
    for node in (*model.graph.node, *(n for function in model.functions for n in function.node)):
        del node.metadata_props[:]
    del model.metadata_props[:], model.graph.metadata_props[:]
    onnx.save(model, path)


def _write_executorch(graph: Graph, path: Path, shapes: Any, inputs: list[tuple[Tensor, ...]] | None) -> None:
    try:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
        from executorch.runtime import Runtime
    except ImportError as error:
        raise ConfigError(_NEEDS["executorch"]) from error
    what = "executorch" if inputs is None else "executorch in int8"
    program = _program(graph, graph.net, shapes)
    # Each step's graph has fewer of the operators that make no trouble than that of the step before.
    programs = [program]
    try:
        if inputs is not None:
            program = _program(graph, quantize_pt2e(program, inputs), shapes)
            programs.insert(0, program)
        with quiet():
            edge = to_edge_transform_and_lower(
                program,
                partitioner=[XnnpackPartitioner()],
                compile_config=EdgeCompileConfig(_check_ir_validity=False),
            )
            programs.insert(0, edge.exported_program())
            lowered = edge.to_executorch()
    except HarError:
        raise
    except Exception as error:
        raise _unsupported(graph, programs, what, error) from error
    # What no kernel is registered for is written all the same, and then not loaded.
    used = {
        f"{x.name}.{x.overload}" if x.overload else x.name
        for x in lowered.executorch_program.execution_plan[0].operators
    }
    if missing := used - set(Runtime.get().operator_registry.operator_names):
        lacks = RuntimeError(f"its runtime has no kernel for {', '.join(sorted(missing))}")
        raise _unsupported(graph, [lowered.exported_program()], what, lacks)
    path.write_bytes(lowered.buffer)


def _unsupported(graph: Graph, programs: list[Any], what: str, error: Exception) -> _Unsupported:
    """Name the layers of the first program that has the operators which the error names."""
    named = {_bare(m.group(1)) for m in re.finditer(rf"(?:{_NAMESPACES})(?:::|\.)(\w+)", _chain(error))}
    places: list[str] = []
    for program in programs:
        places = places or [
            _place(node, operator)
            for node in program.graph.nodes
            if (operator := _operator(node)) and _bare(operator.partition("::")[2]) in named
        ]
    places = list(dict.fromkeys(places))
    where = ", ".join(places[:4]) + f" and {len(places) - 4} more" * (len(places) > 4) or f"part {graph.name!r}"
    return _Unsupported(f"{what} does not take {where}: {_reason(error)}")


_NAMESPACES = "aten|prims|quantized_decomposed"


def _operator(node: Any) -> str:
    """Of a traced program's node, such as "aten::relu"; empty for what is none."""
    schema = getattr(node.target, "_schema", None) if node.op == "call_function" else None
    return str(schema.name) if schema is not None else ""


def _place(node: Any, operator: str) -> str:
    """Path and class of the layer that a node is of; of one of no layer, of the innermost next to it."""
    near = [list((n.meta.get("nn_module_stack") or {}).values()) for n in (node, *node.users, *node.all_input_nodes)]
    stack = near[0] if len(near[0]) > 1 else max(near, key=len)
    operator = operator.replace("::", ".")
    if not stack or not stack[-1][0]:
        return f"the network ({operator})"
    path, kind = stack[-1][:2]
    return f"{path} ({str(getattr(kind, '__name__', kind)).rpartition('.')[2]}: {operator})"


def _bare(operator: str) -> str:
    """Its name without what decompositions put around it: special_bessel_j0, bessel_j0; pdist, _pdist_forward."""
    return operator.replace("special_", "").removesuffix("_forward").replace("_", "")


_NEEDS = {
    "onnx": "ONNX export needs: pip install 'lightning-har[onnx]'",
    "executorch": "ExecuTorch export needs: pip install 'lightning-har[executorch]'",
}


def _verdict(graph: Graph, other: Format, inputs: list[tuple[Tensor, ...]] | None, dynamic: tuple[Dynamic, ...]) -> str:
    """Whether the other format takes it as it is asked for: written, loaded and run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"other{SUFFIX[other]}"
        try:
            _write(graph, path, other, inputs, dynamic)
            open_graph(path)([x.numpy() for x in graph.inputs.values()])
        except (_Unsupported, WeightsError, RuntimeError):  # refused when written, loaded or run
            return f"{other} does not take it either"
        except HarError as error:  # a package that is not there
            return f"Whether {other} does was not tried: {error}"
    return f"format={other!r} does"


def _chain(error: BaseException) -> str:
    texts, seen = [], error
    while seen is not None:
        texts.append(str(seen))
        seen = seen.__cause__  # type: ignore[assignment]
    return "\n".join(texts)


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".")


# -- comparing -------------------------------------------------------------------------------------------------


@torch.no_grad()
def _compare(
    module: ActionRecognizer,
    files: Mapping[str, Path],
    format: Format,
    kind: Kind,
    clips: Clips | None,
    state: list[np.ndarray[Any, Any]],
    dynamic: tuple[Dynamic, ...],
) -> ExportReport:
    try:
        graphs = {part: open_graph(path) for part, path in files.items()}
    except WeightsError as error:
        raise ConfigError(
            f"{format} wrote a graph that it cannot load ({error}); take the other format, or another kind"
        ) from error
    heads = head_names(module)
    specs = [module.spec] if not isinstance(module.spec, Mapping) else list(module.spec.values())
    frames = specs[0].num_frames if specs[0] is not None else 25
    recognizer = Recognizer(graphs, kind, frames, heads, state)
    # Others than that which was traced.
    shown = clips.check if clips is not None else [example_video(module, seed=1), example_video(module, seed=2)]
    training, device = module.training, next(module.parameters()).device
    module.eval()
    try:
        errors, agreed, greatest = [], [], 0.0
        for clip in shown:
            expected = _logits(module, clip, device)
            given = _run(recognizer, graphs, clip)
            for x, y in zip(given, expected, strict=True):
                errors.append(float(np.abs(x - y).max()))
                greatest = max(greatest, float(np.abs(y).max()))
            agreed.append(all((x.argmax(-1) == y.argmax(-1)).all() for x, y in zip(given, expected, strict=True)))
        for what, clip in _other_sizes(module, dynamic, frames):
            expected = _logits(module, clip, device)
            try:
                given = _run(recognizer, graphs, clip)
            except Exception as error:  # the engine's own
                raise ConfigError(
                    f"the exported {format} graph does not take {what}, though the axis was to stay open: "
                    f"{_reason(error)}. Leave it out of dynamic"
                ) from error
            for x, y in zip(given, expected, strict=True):
                if x.shape != y.shape:
                    raise ConfigError(f"the exported {format} graph gives logits {x.shape} of {what}, not {y.shape}")
                if clips is None or not np.isfinite(x).all():  # int8 logits of noise say nothing else
                    errors.append(float(np.abs(x - y).max()))
                    greatest = max(greatest, float(np.abs(y).max()))
    finally:
        module.train(training)
    size = sum(path.stat().st_size for path in files.values())
    worst = float(np.max(errors))  # unlike Python's max, NaN wherever one is
    if not np.isfinite(worst):
        raise ConfigError(f"the exported {format} graph gives NaN or infinite logits")
    if clips is None and worst > TOLERANCE * max(1.0, greatest):
        raise ConfigError(
            f"the exported {format} graph's logits differ from PyTorch's by {worst:.2e}; allowed are {TOLERANCE:.0e} "
            f"(logits reach {greatest:.1f}). An export leaves its files for inspection, a bundle none"
        )
    agreement = None if clips is None else float(np.mean(agreed))
    held_out = clips.held_out if clips is not None else True
    return ExportReport(format, kind, clips is not None, dict(files), size, worst, agreement, len(shown), held_out)


def _logits(module: ActionRecognizer, clip: Video, device: torch.device) -> list[np.ndarray[Any, Any]]:
    """PyTorch's, (B, K) of each head."""
    logits = module({k: v.to(device) for k, v in clip.items()} if isinstance(clip, Mapping) else clip.to(device))
    return [x.float().cpu().numpy() for x in (logits.values() if isinstance(logits, dict) else (logits,))]


def _other_sizes(module: ActionRecognizer, dynamic: tuple[Dynamic, ...], frames: int) -> Iterator[tuple[str, Video]]:
    """For each open axis a clip of another size than was traced, and its size in words."""
    if "batch" in dynamic:
        yield "a batch of 3", example_video(module, batch_size=3, seed=3)
    if "time" in dynamic:
        other = 2 * frames if frames <= MOST_FRAMES // 2 else frames // 2
        yield f"{other} frames", example_video(module, num_frames=other, seed=3)


def _run(recognizer: Recognizer, graphs: Mapping[str, Any], clip: Video) -> list[np.ndarray[Any, Any]]:
    """(B, K) of each head, the way the runtime does it, which takes one clip at a time from "frames" and "stream"."""
    if recognizer.kind == "clip":
        values = clip.values() if isinstance(clip, Mapping) else (clip,)
        out: list[np.ndarray[Any, Any]] = graphs["model"]([x.numpy() for x in values])
        return out
    assert isinstance(clip, Tensor)
    if clip.shape[0] > 1:
        features = [graphs["frame"]([frame.contiguous().numpy()])[0] for frame in clip.unbind(2)]
        out = graphs["head"]([np.stack(features, 1)])
        return out
    logits = recognizer.clip(clip[0].permute(1, 2, 3, 0).numpy())
    return [x[None] for x in logits.values()]


__all__ = ["ExportReport", "default_kind", "export"]
