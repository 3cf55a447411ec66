"""Puts a state dict into a network, and says exactly what does not fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from lightning_har.errors import WeightsError

_SHOWN = 5


def strict_load(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    head_prefixes: Iterable[str] = (),
    drop_head: bool = False,
    what: str = "the weights",
) -> list[str]:
    """Load every tensor into its place, or explain why not. Nothing is left out but a head, on request.

    Args:
        module: Takes the tensors, in place.
        state: Tensors by the names of ``module.state_dict()``.
        head_prefixes: Names that begin with one of these belong to the head.
        drop_head: Leave the state's head out; the module keeps its own. Otherwise the head must fit too.
        what: What the weights are, to begin an error with: a name, a path.

    Returns:
        The names that were dropped, sorted; empty unless ``drop_head``.

    Raises:
        WeightsError: Tensors are missing, left over or of another shape; all three are named, with the shapes
            expected and given. The module is then unchanged.
    """
    prefixes = tuple(head_prefixes)
    own = module.state_dict()
    dropped = sorted(name for name in state if drop_head and name.startswith(prefixes)) if prefixes else []
    given = {name: tensor for name, tensor in state.items() if name not in set(dropped)}
    expected = {name for name in own if not (drop_head and prefixes and name.startswith(prefixes))}
    check_fit(
        {name: own[name].shape for name in expected},
        {name: tensor.shape for name, tensor in given.items()},
        network=type(module).__name__,
        head_prefixes=prefixes,
        what=what,
    )
    module.load_state_dict({**own, **given})
    return dropped


def check_fit(
    expected: Mapping[str, tuple[int, ...]],
    given: Mapping[str, tuple[int, ...]],
    *,
    network: str,
    head_prefixes: tuple[str, ...] = (),
    what: str = "the weights",
    remedy: str | None = None,
) -> None:
    """Compare names and shapes.

    Args:
        expected: Shapes by name, of the network.
        given: Shapes by name, of the weights.
        network: The network's name, for the message.
        head_prefixes: Names that begin with one of these belong to the head.
        what: What the weights are, to begin an error with.
        remedy: To end it with; None says which arguments to look at.

    Raises:
        WeightsError: Tensors are missing, left over or of another shape; all three are named.
    """
    problems = []
    missing = sorted(expected.keys() - given.keys())
    extra = sorted(given.keys() - expected.keys())
    shapes = [
        f"{name} (expected {tuple(expected[name])}, given {tuple(given[name])})"
        for name in sorted(expected.keys() & given.keys())
        if tuple(expected[name]) != tuple(given[name])
    ]
    if missing:
        problems.append(f"{len(missing)} missing: {_some(missing)}")
    if extra:
        problems.append(f"{len(extra)} left over: {_some(extra)}")
    if shapes:
        problems.append(f"{len(shapes)} of another shape: {_some(shapes)}")
    if problems:
        remedy = remedy or _remedy([*missing, *extra, *shapes], head_prefixes)
        raise WeightsError(f"{what} do not fit {network}: {'; '.join(problems)}. {remedy}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _remedy(names: list[str], prefixes: tuple[str, ...]) -> str:
    if prefixes and all(name.startswith(prefixes) for name in names):
        return "Only the head differs: build with the weights' own num_classes, or ask for a new head."
    return "Check that the network and its arguments are the ones the weights were trained with."
