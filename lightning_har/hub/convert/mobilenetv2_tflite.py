"""Quantized MobileNetV2 from its .tflite file, with its own codes, scales and zero points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lightning_har.hub.convert.googlenet import imagenet_names
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.nets.backbones.mobilenetv2_quant import QuantizedMobileNetV2, quantized_state_dict
from lightning_har.spec import Sampling
from lightning_har.weights.matching import strict_load


def convert(files: Sequence[Path]) -> CNNRNNModule:
    """The module from the one .tflite file: frame features as in study E, their average over time, ImageNet's classes.

    Raises:
        WeightsError: It is damaged, or another network.
    """
    module = CNNRNNModule(1001, "mobilenetv2_quant", "avg", pretrained=False, num_frames=25, dropout=0.0)
    backbone = module.net.backbone
    assert isinstance(backbone, QuantizedMobileNetV2)
    strict_load(backbone, quantized_state_dict(files[0]), what=str(files[0]))
    weight, bias = float_classifier(backbone)
    head = module.net.head.fc
    assert isinstance(head, torch.nn.Linear)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    module.eval_sampling = Sampling("uniform", crop="full")
    module.class_names = ("background", *imagenet_names())
    return module


def float_classifier(backbone: QuantizedMobileNetV2) -> tuple[Tensor, Tensor]:
    """The file's classifier on features (codes / 255), (1001, 1280) and (1001,), float32.

    The file rounds the averaged codes and its logits to whole codes; these do not.
    """
    layer = backbone.classifier
    feature_scale, logit_scale = backbone.scale_bits.view(torch.float32).double().unbind()
    zero_feature, zero_weight, _ = layer.zero_points.double().unbind()
    weight_scale = layer.multiplier_bits.view(torch.float32).double() * logit_scale / feature_scale
    codes = (layer.weight.double() - zero_weight).flatten(1)
    # Sums of whole numbers, exact in any order, so that every machine writes the same bytes.
    offset = layer.bias.double() - codes.sum(1) * zero_feature
    # real feature = (255 · feature - zero point) · scale
    return (codes * (weight_scale * feature_scale * 255)).float(), (offset * (weight_scale * feature_scale)).float()
