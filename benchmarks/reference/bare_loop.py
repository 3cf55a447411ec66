"""The plainest training loop: the same network, loss and optimizer as a recipe, nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def train(
    net: nn.Module,
    batches: Sequence[tuple[Tensor, Tensor]],
    *,
    mean: Tensor,
    std: Tensor,
    lr: float,
    steps: int,
    device: torch.device,
) -> list[float]:
    """Adam and cross-entropy on uint8 clips.

    Args:
        net: Takes (B, 3, T, H, W), normalised, and gives logits.
        batches: Clips (B, 3, T, H, W) uint8 and labels (B,), on the CPU; used in turn.
        mean: (3,), of values in [0, 1].
        std: (3,).
        lr: Learning rate.
        steps: Steps to take.
        device: Where ``net`` is.

    Returns:
        Seconds of each step, from the batch's arrival to the end of the update.
    """
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    scale = (1 / (255 * std)).view(1, 3, 1, 1, 1).to(device)
    shift = (-mean / std).view(1, 3, 1, 1, 1).to(device)
    net.train()
    seconds = []
    for step in range(steps):
        begin = time.perf_counter()
        video, label = batches[step % len(batches)]
        clip = video.to(device, non_blocking=True).float().mul_(scale).add_(shift)
        loss = F.cross_entropy(net(clip), label.to(device, non_blocking=True))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return seconds
