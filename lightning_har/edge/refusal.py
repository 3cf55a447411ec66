"""An exporter's refusal turned into words: which layer of the network it was, and why."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_har.edge.graphs import Graph
from lightning_har.errors import ConfigError

_NAMESPACES = "aten|prims|quantized_decomposed"


class Unsupported(ConfigError):
    """A format does not take a graph; whether the other does is not said yet.

    Args:
        what: Format and precision, in words.
        part: Name of the graph.
        reason: The exporter's.
        layers: Of the graph, where the exporter's words tell them.
    """

    def __init__(self, what: str, part: str, reason: str, layers: str = "") -> None:
        super().__init__(f"{what} does not take {layers or f'part {part!r}'}: {reason}")
        self.what, self.part, self.reason, self.layers = what, part, reason, layers


def unsupported(graph: Graph, programs: list[Any], what: str, error: Exception) -> Unsupported:
    """Name the layers of the first program that has the operators which the error names.

    Args:
        graph: What was to be written.
        programs: Traced ones (``torch.export.ExportedProgram``), the likeliest first.
        what: Format and precision, in words.
        error: The exporter's.

    Returns:
        To be raised.
    """
    named = {_bare(m.group(1)) for m in re.finditer(rf"(?:{_NAMESPACES})(?:::|\.)(\w+)", _chain(error))}
    places: list[str] = []
    for program in programs:
        places = places or [
            _place(node, operator)
            for node in program.graph.nodes
            if (operator := _operator(node)) and _bare(operator.partition("::")[2]) in named
        ]
    places = list(dict.fromkeys(places))
    layers = ", ".join(places[:4]) + f" and {len(places) - 4} more" * (len(places) > 4)
    return Unsupported(what, graph.name, reason(error), layers)


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


def _chain(error: BaseException) -> str:
    texts, seen = [], error
    while seen is not None:
        texts.append(str(seen))
        seen = seen.__cause__  # type: ignore[assignment]
    return "\n".join(texts)


def reason(error: BaseException) -> str:
    """The first line of what lies at the bottom of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".")


def smallest_layer(
    net: torch.nn.Module, inputs: tuple[Tensor, ...], fails: Callable[[torch.nn.Module, tuple[Tensor, ...]], bool]
) -> str:
    """The smallest layer that a format does not take alone either; empty where there is none.

    Args:
        net: Which it does not take.
        inputs: Of it; what each layer is given follows from them.
        fails: Whether it does not take a layer with these inputs.
    """
    given: dict[str, tuple[Tensor, ...]] = {}
    handles = []
    for name, layer in net.named_modules():

        def note(layer: torch.nn.Module, inputs: Any, name: str = name) -> None:
            if name and all(isinstance(x, Tensor) for x in inputs):
                given.setdefault(name, inputs)

        handles.append(layer.register_forward_pre_hook(note))
    try:
        with torch.no_grad():
            net(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    found, fine = "", tuple[str, ...]()
    for name, values in given.items():  # a layer stands before those within it
        if not name.startswith(found and f"{found}.") or name.startswith(fine):
            continue
        if fails(net.get_submodule(name), values):
            found = name
        else:
            fine = (*fine, f"{name}.")
    return found and f"{found} ({type(net.get_submodule(found)).__name__})"


def failing_layer(net: torch.nn.Module, trace: Callable[[], Any]) -> str | None:
    """The innermost layer in which tracing stops; None where it gets through all of them.

    Args:
        net: Which is traced.
        trace: Does so, and raises.
    """
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
