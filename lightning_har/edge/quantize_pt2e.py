"""Float networks to int8 graphs for ExecuTorch and Inductor, by torchao's PT2E flow: export, calibrate, convert."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_har.edge._quiet import quiet
from lightning_har.edge.rounding import weight_scales
from lightning_har.errors import ConfigError

Backend = Literal["xnnpack", "x86"]


def quantize_pt2e(
    program: torch.export.ExportedProgram,
    inputs: Iterable[tuple[Tensor, ...]],
    backend: Backend = "xnnpack",
) -> nn.Module:
    """Quantize with torchao's PT2E flow: static, weights int8 per channel.

    Args:
        program: Of ``torch.export.export``, of a network in eval mode.
        inputs: Calibration values.
        backend: "xnnpack" for ExecuTorch; "x86" for Inductor on x86 with VNNI (``torch.compile`` the result).

    Returns:
        The quantized graph, a module.

    Raises:
        ConfigError: torchao or executorch is not installed, an unknown backend, or there are no inputs.
    """
    try:
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    except ImportError as error:
        raise ConfigError("this needs torchao: pip install 'lightning-har[executorch]'") from error
    quantizer = _quantizer(backend)
    with quiet(), torch.no_grad():
        graph: Any = program.module()
        prepared = prepare_pt2e(graph, quantizer)
        count = 0
        for values in inputs:
            prepared(*values)
            count += 1
        if not count:
            raise ConfigError("int8 needs calibration data; there is none")
        converted: nn.Module = convert_pt2e(prepared)
    return converted


def _quantizer(backend: Backend) -> Any:
    if backend == "xnnpack":
        try:
            from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
                XNNPACKQuantizer,
                get_symmetric_quantization_config,
            )
        except ImportError as error:
            raise ConfigError("this needs executorch: pip install 'lightning-har[executorch]'") from error

        class Quantizer(XNNPACKQuantizer):  # type: ignore[misc]
            def annotate(self, model: Any) -> Any:
                model = super().annotate(model)
                _clip_first(model)
                _share_codes(model)
                return model

        quantizer = Quantizer().set_global(_with_steps(get_symmetric_quantization_config(is_per_channel=True)))
        return quantizer.set_filter_function(_is_worth_eight_bits)
    if backend == "x86":
        from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
            X86InductorQuantizer,
            get_default_x86_inductor_quantization_config,
        )

        return X86InductorQuantizer().set_global(_with_steps(get_default_x86_inductor_quantization_config()))
    raise ConfigError(f"backend is {backend!r}; it must be 'xnnpack' or 'x86'")


def _is_worth_eight_bits(node: Any) -> bool:
    """Not so sums and products that are no feature maps (B, C, ...), nor those with constants, as of a normalisation.

    Each would round once more. They cost next to nothing in float; a network that scales whole maps (a hard-swish that
    is written out, a layer scale) pays for it with some time.
    """
    aten = torch.ops.aten
    if node.target not in (aten.add.Tensor, aten.add_.Tensor, aten.mul.Tensor, aten.mul_.Tensor):
        return True
    return node.meta["val"].ndim >= 4 and all(x.op != "get_attr" for x in node.all_input_nodes)


def _clip_first(model: Any) -> None:
    """Let the codes of a convolution with ReLU6 be those of what ReLU6 leaves, which XNNPACK computes in one with it.

    The quantizer knows ReLU alone: it would spread 256 codes over all that ReLU6 then cuts off.
    """
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    aten = torch.ops.aten
    products = {aten.conv1d.default, aten.conv2d.default, aten.linear.default}
    for node in model.graph.nodes:
        if node.target not in {aten.hardtanh.default, aten.hardtanh_.default, aten.relu6.default, aten.relu6_.default}:
            continue
        source = node.args[0]
        known = source.meta.get(Q_ANNOTATION_KEY)
        if source.target in products and len(source.users) == 1 and known is not None and known.output_qspec:
            clipped = QuantizationAnnotation(output_qspec=known.output_qspec, _annotated=True)
            node.meta[Q_ANNOTATION_KEY], known.output_qspec = clipped, None


def _share_codes(model: Any) -> None:
    """Let what only reshapes have its input's codes; XNNPACK refuses to load a reshape whose two sides differ.

    The quantizer does so itself, but not past an unflatten or unsqueeze.
    """
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, SharedQuantizationSpec
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    aten = torch.ops.aten
    reshaping = {
        *(aten.unflatten.int, aten.unsqueeze.default, aten.squeeze.dim, aten.flatten.using_ints, aten.view.default),
        *(aten.reshape.default, aten.permute.default, aten.transpose.int, aten.dropout.default),
        aten.feature_dropout.default,
    }
    for node in model.graph.nodes:
        if node.target not in reshaping or Q_ANNOTATION_KEY in node.meta:
            continue
        source = node.args[0]
        known = source.meta.get(Q_ANNOTATION_KEY)
        if known is not None and known.output_qspec is not None:
            shared = SharedQuantizationSpec(source)
            node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation({source: shared}, shared, _annotated=True)


def _with_steps(config: Any) -> Any:
    """A quantizer's settings with ``weight_scales`` for the weights' steps."""
    from torchao.quantization.pt2e.observer import PerChannelMinMaxObserver

    class Steps(PerChannelMinMaxObserver):  # type: ignore[misc]
        min_val: Tensor
        max_val: Tensor

        def forward(self, x: Tensor) -> Tensor:
            if not self.min_val.numel():
                half = weight_scales(x.movedim(self.ch_axis, 0)) * (self.quant_max - self.quant_min) / 2
                self.min_val, self.max_val = -half, half
            return x

    observer = Steps.with_args(eps=2**-24)
    return dataclasses.replace(config, weight=dataclasses.replace(config.weight, observer_or_fake_quant_ctr=observer))
