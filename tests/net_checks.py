"""What the tests of every network share: weights by formula, and checks on gradients and export."""

import math

import torch
from torch import nn


def fill(module: nn.Module) -> nn.Module:
    """Weights from a formula instead of a random generator, so that golden numbers outlive one.

    Each tensor is a low-discrepancy sequence: kernels keep the activations' scale, statistics stay near (0, 1).
    """
    with torch.no_grad():
        for index, (name, tensor) in enumerate(sorted(module.state_dict().items())):
            if not tensor.is_floating_point():
                continue
            steps = torch.arange(1, tensor.numel() + 1, dtype=torch.float64)
            values = ((steps * 0.7548776662466927 + index * 0.5698402909980532) % 1 - 0.5).reshape(tensor.shape)
            if tensor.ndim > 1:
                values *= math.sqrt(24 / tensor[0].numel())
            elif name.endswith(("running_var", "weight")):
                values = 1 + 0.4 * values
            else:
                values = 0.2 * values
            tensor.copy_(values)
    return module.eval()


def wave(*shape: int) -> torch.Tensor:
    """An input from a formula, in [-1, 1]."""
    n = math.prod(shape)
    return torch.sin(torch.arange(n, dtype=torch.float64) * 0.37).reshape(shape).float()


def parameters_without_gradient(module: nn.Module, loss: torch.Tensor) -> list[str]:
    """Names of the parameters that a loss does not reach."""
    loss.backward()
    return [n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]


def export_difference(net: nn.Module, example: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference of logits between the network and its export with a free batch size."""
    net.eval()
    program = torch.export.export(net, (example,), dynamic_shapes=({0: torch.export.Dim("batch", max=64)},))
    with torch.no_grad():
        return (program.module()(other) - net(other)).abs().max().item()
