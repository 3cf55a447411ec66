"""Optimizers and schedules by the names that ``TrainingOptions`` has for them."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from lightning_har.errors import ConfigError

if TYPE_CHECKING:
    from lightning_har.modules.base import ActionRecognizer


def build_optimizer(module: ActionRecognizer) -> torch.optim.Optimizer:
    """The optimizer that a module's options name, over all its parameters that are not frozen.

    Args:
        module: The parameters of ``net.backbone``, where there is one, get a learning rate of their own.

    Raises:
        ConfigError: Every parameter is frozen, or no such optimizer.
    """
    o = module.options
    backbone = getattr(module.net, "backbone", None)
    backbone_ids = {id(p) for p in backbone.parameters()} if isinstance(backbone, nn.Module) else set()
    trained = [p for p in module.parameters() if p.requires_grad]
    if not trained:
        raise ConfigError("every parameter is frozen; there is nothing to train")
    groups = [
        {"params": [p for p in trained if id(p) not in backbone_ids], "lr": o["lr"]},
        {"params": [p for p in trained if id(p) in backbone_ids], "lr": o["lr"] * o["backbone_lr_scale"]},
    ]
    groups = [g for g in groups if g["params"]]
    optimizer: torch.optim.Optimizer
    if o["optimizer"] == "sgd":
        optimizer = torch.optim.SGD(groups, momentum=o["momentum"], weight_decay=o["weight_decay"])
    elif o["optimizer"] in ("adam", "adamw"):
        adam = torch.optim.AdamW if o["optimizer"] == "adamw" else torch.optim.Adam
        optimizer = adam(groups, weight_decay=o["weight_decay"])
    else:
        raise ConfigError(f"optimizer is {o['optimizer']!r}; it must be 'sgd', 'adam' or 'adamw'")
    optimizer.register_load_state_dict_pre_hook(functools.partial(_check_saved, module))
    return optimizer


_RESTORED = (
    *("optimizer", "lr", "backbone_lr_scale", "weight_decay", "momentum"),
    *("schedule", "milestones", "gamma", "patience"),
)
"""What a resumed run takes from the checkpoint's optimizer and schedule, whatever it is given."""


def _check_saved(module: ActionRecognizer, optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Refuse another optimizer's state, which torch would take: and stumble, or go on with other rates than given."""
    # The arguments of both: a script may have changed the options of either since.
    ours, theirs = {**module.options, **module.hparams}, module.saved_options or {}
    for name in _RESTORED:
        if name in theirs and _plain(ours[name]) != _plain(theirs[name]):
            raise ConfigError(
                f"{name} is {ours[name]!r}, but a resumed run goes on with what its checkpoint holds, "
                f"{theirs[name]!r}; leave {name} as it was (see the run's config.yaml), or train anew without it"
            )
    own, given = optimizer.param_groups, saved["param_groups"]
    if [len(g["params"]) for g in own] != [len(g["params"]) for g in given]:
        file = module.trainer.ckpt_path if module._trainer is not None else None
        raise ConfigError(
            f"the optimizer in {file or 'the checkpoint'} does not fit: this is of {_tensors(own)}, that of "
            f"{_tensors(given)}. Freeze the layers of the run that wrote it (see its config.yaml), or train anew "
            "without it"
        )


def _plain(value: Any) -> Any:
    """Lists and tuples, which a command line and a script do not tell apart, as tuples."""
    return tuple(value) if isinstance(value, list) else value


def _tensors(groups: Sequence[Mapping[str, Any]]) -> str:
    return f"{' + '.join(str(len(group['params'])) for group in groups)} tensors"


def build_schedule(module: ActionRecognizer, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """The schedule that a module's options name, as Lightning wants it; None for "none".

    Args:
        module: "cosine" ends with its trainer's last step.
        optimizer: Whose learning rates it moves.

    Raises:
        ConfigError: No such schedule, or "cosine" without an end.
    """
    o = module.options
    if o["schedule"] == "none":
        return None
    if o["schedule"] == "step":
        return {"scheduler": lr_scheduler.MultiStepLR(optimizer, list(o["milestones"]), o["gamma"])}
    if o["schedule"] == "cosine":
        epochs, total = module.trainer.max_epochs, float(module.trainer.estimated_stepping_batches)
        if not epochs or epochs < 1:
            raise ConfigError("schedule='cosine' ends at the last step; give the Trainer max_epochs")
        warmup = round(o["warmup_epochs"] / epochs * total)

        def share(step: int) -> float:
            if step < warmup:
                return float((step + 1) / warmup)
            return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(1.0, total - warmup))

        return {"scheduler": lr_scheduler.LambdaLR(optimizer, share), "interval": "step"}
    if o["schedule"] == "plateau":
        plateau = lr_scheduler.ReduceLROnPlateau(optimizer, factor=o["gamma"], patience=o["patience"])
        return {"scheduler": plateau, "monitor": "val_loss"}
    if o["schedule"] == "inverse_time":
        decay = o["gamma"]
        return {
            "scheduler": lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + decay * step)),
            "interval": "step",
        }
    raise ConfigError(
        f"schedule is {o['schedule']!r}; it must be 'none', 'step', 'cosine', 'plateau' or 'inverse_time'"
    )
