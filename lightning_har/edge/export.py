"""A trained module to files that run without PyTorch, compared with it before anyone believes them."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lightning_har.edge.calibration import Calibration, Clips, check_finite, check_shapes, collect, inputs_of
from lightning_har.edge.graphs import Graph, Kind, build_graphs
from lightning_har.edge.parity import TOLERANCE, compare
from lightning_har.edge.refusal import Unsupported, smallest_layer
from lightning_har.edge.rounding import round_and_correct_bias
from lightning_har.edge.runtime import open_graph
from lightning_har.edge.writers import SUFFIX, Dynamic, Format, write
from lightning_har.errors import ConfigError, HarError, WeightsError
from lightning_har.modules.base import ActionRecognizer


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
    if clips is not None:
        check_shapes(module, clips, any_time=kind == "stream" or "time" in dynamic)
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
            write(graph, path, format, inputs, tuple(dynamic))
        except Unsupported as error:
            other: Format = "executorch" if format == "onnx" else "onnx"
            verdict = _verdict(graph, other, inputs, tuple(dynamic))
            raise ConfigError(f"{_with_layer(error, graph, format, inputs)}. {verdict}") from error
        files[graph.name] = path
    start = [x.numpy() for name, x in graphs[0].inputs.items() if name.startswith("state_")]
    parity = compare(module, files, format, kind, clips, start, tuple(dynamic))
    size = sum(path.stat().st_size for path in files.values())
    return ExportReport(
        format, kind, int8, files, size, parity.max_error, parity.agreement, parity.clips, parity.held_out
    )


def _rounded(graph: Graph, clips: Clips) -> list[tuple[Tensor, ...]]:
    """What the graph sees of the clips that calibrate, its weights put on their grids."""
    check_finite(graph.net, inputs_of(graph, clips.fit[:2]), graph.name)
    inputs = list(inputs_of(graph, clips.fit))
    round_and_correct_bias(graph.net, inputs)
    return inputs


class _Alone(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Tensor) -> tuple[Any, ...]:
        out = self.layer(*inputs)
        return out if isinstance(out, tuple) else (out,)


def _with_layer(
    error: Unsupported, graph: Graph, format: Format, inputs: list[tuple[Tensor, ...]] | None
) -> Unsupported:
    """A refusal with the layer that it is for; where the exporter did not tell, each is written alone."""
    if error.layers:
        return error

    def fails(layer: nn.Module, values: tuple[Tensor, ...]) -> bool:
        alone = Graph("layer", _Alone(layer), {f"input_{i}": x for i, x in enumerate(values)}, (), graph.feed)
        with tempfile.TemporaryDirectory() as folder:
            try:
                write(alone, Path(folder) / f"layer{SUFFIX[format]}", format, None if inputs is None else [values], ())
            except Unsupported:
                return True
            except HarError:  # it cannot be traced alone
                return False
        return False

    values = tuple(graph.inputs.values()) if inputs is None else inputs[0]
    return Unsupported(error.what, error.part, error.reason, smallest_layer(graph.net, values, fails))


def _verdict(graph: Graph, other: Format, inputs: list[tuple[Tensor, ...]] | None, dynamic: tuple[Dynamic, ...]) -> str:
    """Whether the other format takes it as it is asked for: written, loaded and run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"other{SUFFIX[other]}"
        try:
            write(graph, path, other, inputs, dynamic)
            open_graph(path)([x.numpy() for x in graph.inputs.values()])
        except (Unsupported, WeightsError, RuntimeError):  # refused when written, loaded or run
            return f"{other} does not take it either"
        except HarError as error:  # a package that is not there
            return f"Whether {other} does was not tried: {error}"
    return f"format={other!r} does"
