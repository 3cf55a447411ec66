"""Graphs to ONNX and ExecuTorch files, in float or in int8."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lightning_har.edge._quiet import quiet
from lightning_har.edge.graphs import Graph
from lightning_har.edge.integers import integer_operators
from lightning_har.edge.quantize_onnx import quantize_onnx
from lightning_har.edge.quantize_pt2e import quantize_pt2e
from lightning_har.edge.refusal import failing_layer, reason, unsupported
from lightning_har.edge.runtime import open_graph
from lightning_har.errors import ConfigError, HarError, WeightsError

Format = Literal["onnx", "executorch"]
Dynamic = Literal["batch", "time"]

SUFFIX = {"onnx": ".onnx", "executorch": ".pte"}
MOST_FRAMES = 64
"""Of an ExecuTorch graph whose time is open."""

_NEEDS = {
    "onnx": "ONNX export needs: pip install 'lightning-har[onnx]'",
    "executorch": "ExecuTorch export needs: pip install 'lightning-har[executorch]'",
}


def write(
    graph: Graph, path: Path, format: Format, inputs: list[tuple[Tensor, ...]] | None, dynamic: tuple[Dynamic, ...]
) -> None:
    """Write a graph, in int8 where there are inputs to calibrate on, and load it once.

    Args:
        graph: Its weights already on their grids where it becomes int8.
        path: Of the file.
        format: "onnx" or "executorch".
        inputs: Calibration values; None for float.
        dynamic: Axes that stay open.

    Raises:
        Unsupported: The format does not take it.
        ConfigError: It cannot be traced, or the packages are not installed.
    """
    shapes = _dynamic_shapes(graph, dynamic, format)
    if format == "executorch":
        write_executorch(graph, path, shapes, inputs)
    elif inputs is None:
        write_onnx(graph, path, shapes)
    else:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / path.name
            program = write_onnx(graph, source, shapes)
            try:
                quantize_onnx(source, path, inputs)
            except (HarError, OSError):
                raise
            except Exception as error:  # onnxruntime's quantizer raises whatever its parts raise
                raise unsupported(graph, [program], "onnx in int8", error) from error
    try:
        open_graph(path)
    except WeightsError as error:  # an exporter may write what its engine refuses
        path.unlink()
        what = format if inputs is None else f"{format} in int8"
        raise unsupported(graph, [], what, error) from error


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
        where = failing_layer(net, trace) or f"the part {graph.name!r}"
        if shapes is None:
            raise ConfigError(
                f"torch.export cannot trace {where}: {reason(error)}. Both formats are written from what it traces"
            ) from error
        raise ConfigError(
            f"{where} cannot keep these axes open: {reason(error)}. A recurrent part is unrolled over its frames: fix "
            "the time, or export kind='stream', which takes any number of frames"
        ) from error


def write_onnx(graph: Graph, path: Path, shapes: Any = None) -> Any:
    """Write a graph in float.

    Args:
        graph: What to write.
        path: Of the file.
        shapes: ``dynamic_shapes`` of ``torch.export.export``.

    Returns:
        The traced program.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(_NEEDS["onnx"]) from error
    program = _program(graph, integer_operators(graph.net), shapes)
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
        raise unsupported(graph, [program, program.run_decompositions()], "onnx", error) from error
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


def write_executorch(
    graph: Graph, path: Path, shapes: Any = None, inputs: list[tuple[Tensor, ...]] | None = None
) -> None:
    """Write a graph for XNNPACK.

    Args:
        graph: What to write.
        path: Of the file.
        shapes: ``dynamic_shapes`` of ``torch.export.export``.
        inputs: Calibration values, for int8.
    """
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
        raise unsupported(graph, programs, what, error) from error
    # What no kernel is registered for is written all the same, and then not loaded.
    used = {
        f"{x.name}.{x.overload}" if x.overload else x.name
        for x in lowered.executorch_program.execution_plan[0].operators
    }
    if missing := used - set(Runtime.get().operator_registry.operator_names):
        lacks = RuntimeError(f"its runtime has no kernel for {', '.join(sorted(missing))}")
        raise unsupported(graph, [lowered.exported_program()], what, lacks)
    path.write_bytes(lowered.buffer)
