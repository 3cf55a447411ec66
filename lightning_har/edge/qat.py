"""Quantization-aware training as a callback: the network learns with the rounding it will be deployed with.

The forward pass of every convolution and linear layer rounds its weight (int8, symmetric, a scale per output
channel) and its input (uint8, a range per layer followed by a moving average); the gradient passes as if it had not
(straight-through, Jacob et al. 2018, section 3). Batch norms need no folding for this: they scale each output channel
by one number, which a scale per channel follows. Names, parameters and checkpoints of the module stay those of the
float network, and so does everything after training: what is exported is calibrated like any other.

torchao's PT2E flow for training would replace the module's network by a traced graph, and the module would lose its
submodules, and with them its learning rates, frozen parts and checkpoints; so it is used after training only.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from lightning_har._lightning import Callback
from lightning_har.edge.rounding import LAYERS
from lightning_har.errors import ConfigError
from lightning_har.modules.aids import distillation
from lightning_har.modules.base import ActionRecognizer
from lightning_har.types import Batch, Logits, Video

TEMPERATURE = 2.0
RANGE_MOMENTUM = 0.05


class QuantizationAwareTraining(Callback):  # type: ignore[misc]
    """Train with int8's rounding.

    Validation during training scores the rounded network. When training ends, and in every checkpoint, the weights are
    the rounded ones: a float network whose weights lie on int8's grid, where ``edge.export(..., int8=True)`` finds
    them. (What they were before rounding is in the checkpoint too, for resuming.)

    Batch norms that have seen data keep their statistics, as they will be deployed: a batch's own would be noise in
    what is to be learnt now (Krishnamoorthi 2018, section 3.2). Those of a network that begins here learn theirs.

    In several processes each follows the ranges of its own share of the data.

    Args:
        distill: Learn from the float network too, as training begins with it: the Kullback-Leibler divergence to its
            softened predictions (Hinton et al. 2015, temperature 2) is added to the loss that is stepped on (what is
            logged as train_loss stays that of the labels). Of several outputs it is the prediction that is compared:
            not an auxiliary classifier's, and of two streams their fusion.
    """

    def __init__(self, distill: bool = False) -> None:
        self.distill = distill
        self._layers: dict[str, _Rounding] = {}
        self._handles: list[Any] = []
        self._ranges: dict[str, tuple[float, float]] = {}
        self._teacher: nn.Module | None = None
        self._teacher_state: dict[str, Tensor] | None = None
        self._unrounded: dict[str, Tensor] = {}
        self._still: list[str] | None = None
        self._term: Tensor | None = None
        self._wrapped: ActionRecognizer | None = None

    @property
    def active(self) -> bool:
        """Whether the network rounds now."""
        return bool(self._layers)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse what it cannot train, and forget what was trained before; a checkpoint is read after this."""
        if stage == "fit" and not isinstance(pl_module, ActionRecognizer):
            raise ConfigError(f"QuantizationAwareTraining trains an ActionRecognizer, not {type(pl_module).__name__}")
        if stage == "fit":
            self._ranges, self._teacher_state, self._unrounded, self._still = {}, None, {}, None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin; not with an epoch, since one that was interrupted goes on without starting."""
        self._begin(pl_module)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Take the rounding off, and leave the weights as it had them."""
        for rounding in self._layers.values():
            weight = rounding.layer.weight
            weight.data.copy_(_round_weight(weight.data))
        self._end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Take the rounding off."""
        self._end()

    def state_dict(self) -> dict[str, Any]:
        """For resuming: the ranges so far, the weights before rounding, the still batch norms, and the teacher."""
        unrounded = {name: rounding.layer.weight.detach() for name, rounding in self._layers.items()}
        teacher = self._teacher_state if self._teacher is None else self._teacher.state_dict()
        return {"ranges": self._ranges_so_far(), "unrounded": unrounded, "still": self._still, "teacher": teacher}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back."""
        self._ranges = {name: (low, high) for name, (low, high) in state_dict["ranges"].items()}
        self._teacher_state = state_dict["teacher"]
        self._unrounded = state_dict.get("unrounded", {})
        self._still = state_dict.get("still")

    def _begin(self, module: ActionRecognizer) -> None:
        if self.distill:
            self._teacher = copy.deepcopy(module.net).eval().requires_grad_(False)
            if self._teacher_state is not None:
                self._teacher.load_state_dict(self._teacher_state)
            self._learn_from(self._teacher, module)
        for name, layer in module.net.named_modules():
            if isinstance(layer, LAYERS):
                rounding = _Rounding(layer, self._ranges.get(name), module)
                self._layers[name] = rounding
                if name in self._unrounded:
                    layer.weight.data.copy_(self._unrounded[name])
                self._handles.append(layer.register_forward_pre_hook(rounding.before))
                self._handles.append(layer.register_forward_hook(rounding.after, always_call=True))
        self._unrounded = {}
        norms = {n: m for n, m in module.net.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
        if self._still is None:
            self._still = [name for name, norm in norms.items() if _has_seen_data(norm)]
        for name in self._still:
            mode = _Still()
            self._handles.append(norms[name].register_forward_pre_hook(mode.before))
            self._handles.append(norms[name].register_forward_hook(mode.after, always_call=True))
        if not self._layers:
            raise ConfigError("this network has neither convolutions nor linear layers to quantize")
        names = list(self._layers)

        def give_rounded(module: nn.Module, weights: dict[str, Tensor], prefix: str, metadata: Any) -> None:
            """Checkpoints get the weights that are validated; those that train on are in this callback's own state."""
            for key in (f"{prefix}net.{name}.weight" for name in names):
                if key in weights:
                    weights[key] = _round_weight(weights[key])

        self._handles.append(module.register_state_dict_post_hook(give_rounded))

    def _end(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._ranges = self._ranges_so_far()
        # A checkpoint may still be written, of training that was interrupted.
        self._teacher_state = None if self._teacher is None else self._teacher.state_dict()
        self._handles, self._layers, self._teacher, self._term = [], {}, None, None
        if self._wrapped is not None:
            del self._wrapped.training_outputs, self._wrapped.training_step  # the class's own show again
            self._wrapped = None

    def _ranges_so_far(self) -> dict[str, tuple[float, float]]:
        seen = {name: rounding.range for name, rounding in self._layers.items() if rounding.range is not None}
        return seen or self._ranges

    def _learn_from(self, teacher: nn.Module, module: ActionRecognizer) -> None:
        """Compare each step's prediction with the teacher's, and add the term to the step's loss.

        There, and not where labels are compared: with mixup that happens twice, with an auxiliary classifier or two
        streams for each, and each time only a share counts.
        """
        outputs_of, step = module.training_outputs, module.training_step

        def training_outputs(video: Video) -> list[tuple[Logits, float]]:
            outputs = outputs_of(video)
            with torch.no_grad():
                target: Any = teacher(video)
            self._term = distillation(outputs[0][0], target, TEMPERATURE)
            return outputs

        def training_step(batch: Batch, batch_idx: int) -> dict[str, Any] | None:
            out = step(batch, batch_idx)
            term, self._term = self._term, None
            return out if out is None or term is None else {**out, "loss": out["loss"] + term}

        module.training_outputs = training_outputs  # type: ignore[method-assign]
        module.training_step = training_step  # type: ignore[method-assign]
        self._wrapped = module


def _has_seen_data(norm: nn.modules.batchnorm._BatchNorm) -> bool:
    """By its statistics: converted weights come without a count of batches."""
    mean, var = norm.running_mean, norm.running_var
    return mean is not None and var is not None and bool(mean.any() or (var != 1).any())


class _Still:
    """The hooks of a batch norm that is in eval mode during the forward pass only."""

    def __init__(self) -> None:
        self._mode = False

    def before(self, layer: nn.Module, inputs: Any) -> None:
        """Take the mode away."""
        self._mode, layer.training = layer.training, False

    def after(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        """Give it back."""
        layer.training = self._mode


class _Rounding:
    """The hooks of one layer. Its parameters are swapped during the forward pass only."""

    def __init__(self, layer: Any, known: tuple[float, float] | None, module: nn.Module) -> None:
        self.layer = layer
        self.range = known
        self._module = module
        self._kept: nn.Parameter | None = None

    def before(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Round the input, and the weight in place of which the layer finds the rounded one."""
        x, *rest = inputs
        weight = layer._parameters["weight"]
        assert weight is not None
        self._kept = weight
        # Past nn.Module's check, which would refuse a tensor that is no parameter.
        layer._parameters["weight"] = _round_weight(weight)  # type: ignore[assignment]
        # The range of a frozen layer, always in eval mode, is followed too.
        return (self._round_input(x, self._module.training), *rest)

    def after(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        """Give the layer its parameter back."""
        if self._kept is not None:
            layer._parameters["weight"], self._kept = self._kept, None

    def _round_input(self, x: Tensor, training: bool) -> Tensor:
        if training or self.range is None:
            least, greatest = torch.stack((x.detach().amin(), x.detach().amax())).float().tolist()
            # Zero, which pads, must have its own code.
            low, high = min(least, 0.0), max(greatest, 0.0)
            # A mean never recovers from an infinite value, which half precision gives now and then.
            if math.isfinite(least) and math.isfinite(greatest):
                m = 1.0 if self.range is None else RANGE_MOMENTUM
                before = self.range or (low, high)
                self.range = ((1 - m) * before[0] + m * low, (1 - m) * before[1] + m * high)
        if self.range is None:
            return x
        low, high = self.range
        scale = max(high - low, 1e-8) / 255
        zero = min(max(round(-low / scale), 0), 255)
        return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, 255).to(x.dtype)


def _round_weight(weight: Tensor) -> Tensor:
    flat = weight.detach().float().flatten(1).abs().amax(1)
    scale = flat.clamp_min(1e-8) / 127
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight.float(), scale, zero, 0, -127, 127).to(weight.dtype)
