"""How a module is trained: the arguments that every module takes, and their defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from typing_extensions import TypedDict


class TrainingOptions(TypedDict, total=False):
    """How a module is trained; every module takes these as keyword arguments.

    Attributes:
        optimizer: "sgd", "adam" or "adamw".
        lr: Learning rate of the head, and of the backbone times ``backbone_lr_scale``.
        weight_decay: L2 penalty ("sgd", "adam") or decoupled decay ("adamw").
        momentum: For "sgd".
        backbone_lr_scale: Ratio of the backbone's learning rate to the head's.
        schedule: "step" multiplies lr by ``gamma`` at each epoch of ``milestones``; "cosine" falls to 0 at the
            last step; "plateau" multiplies by ``gamma`` after ``patience`` epochs without a lower val_loss;
            "inverse_time" is lr / (1 + gamma · step), Keras's decay.
        warmup_epochs: Over which "cosine" first rises from 0; networks trained from scratch want some.
        milestones: Epochs, for "step".
        gamma: Factor of "step" and "plateau", decay per step of "inverse_time".
        patience: Epochs, for "plateau".
        label_smoothing: In [0, 1).
        class_weights: One weight per class, or such a list per head.
        topk: The k of top-k accuracy; those not smaller than the number of classes are left out.
        mixup: Alpha of the beta distribution from which mixup (Zhang et al. 2018) draws its share; 0 for none.
        cutmix: Likewise for CutMix (Yun et al. 2019), the same box in all frames; with both, either by chance.
        teacher: A checkpoint whose softened predictions are learnt too (Hinton et al. 2015). It is read when
            training starts, not when the module is built, and is not part of the module.
        teacher_weight: Share of the teacher in the loss.
        temperature: Of teacher and student in their divergence.
        checkpoint_stages: Names of the network's submodules whose activations are computed again in the backward
            pass instead of kept. (Their batch norms then update twice a step.)
    """

    optimizer: Literal["sgd", "adam", "adamw"]
    lr: float
    weight_decay: float
    momentum: float
    backbone_lr_scale: float
    schedule: Literal["none", "step", "cosine", "plateau", "inverse_time"]
    warmup_epochs: float
    milestones: Sequence[int]
    gamma: float
    patience: int
    label_smoothing: float
    class_weights: Sequence[float] | Mapping[str, Sequence[float]] | None
    topk: Sequence[int]
    mixup: float
    cutmix: float
    teacher: str | None
    teacher_weight: float
    temperature: float
    checkpoint_stages: Sequence[str]


DEFAULTS: TrainingOptions = {
    "optimizer": "adam",
    "lr": 1e-3,
    "weight_decay": 0.0,
    "momentum": 0.9,
    "backbone_lr_scale": 1.0,
    "schedule": "none",
    "warmup_epochs": 0.0,
    "milestones": (),
    "gamma": 0.1,
    "patience": 5,
    "label_smoothing": 0.0,
    "class_weights": None,
    "topk": (1, 5),
    "mixup": 0.0,
    "cutmix": 0.0,
    "teacher": None,
    "teacher_weight": 0.5,
    "temperature": 4.0,
    "checkpoint_stages": (),
}
"""What an argument is that is not given."""
