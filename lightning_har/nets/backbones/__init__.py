"""2D feature extractors: frames in, feature vectors or maps out.

``build_backbone`` knows timm's models by their timm names, BN-Inception and the quantized MobileNetV2 of
study E. Whatever it returns has the attributes of ``Backbone``.
"""

from __future__ import annotations

import difflib
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_har.errors import ConfigError, WeightsError
from lightning_har.spec import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["Backbone", "build_backbone", "freeze_until"]


class Backbone(nn.Module):
    """A timm network without its classifier.

    Attributes:
        name: What ``build_backbone`` takes to build the same architecture again, without weights.
        num_features: D.
        input_size: (H, W) its weights were trained at.
        value_range, mean, std, channel_order: Its preprocessing, as in InputSpec.
    """

    value_range: tuple[float, float] = (0.0, 1.0)
    channel_order: Literal["rgb", "bgr"] = "rgb"

    def __init__(self, net: nn.Module, name: str, num_features: int, input_size: tuple[int, int]) -> None:
        super().__init__()
        # The layout that oneDNN and cuDNN compute 2D convolutions in: nothing is reordered between layers.
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.name = name
        self.num_features = num_features
        self.input_size = input_size
        self.mean: tuple[float, ...] = IMAGENET_MEAN
        self.std: tuple[float, ...] = IMAGENET_STD

    def train(self, mode: bool = True) -> Backbone:
        """Training mode for all but frozen batch norms, whose statistics are frozen with their parameters."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and not any(p.requires_grad for p in module.parameters()):
                module.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), normalised, to features (N, D)."""
        features: Tensor = self.net(x)
        return features

    def forward_map(self, x: Tensor) -> Tensor:
        """(N, C, H, W), normalised, to the last feature maps (N, D, h, w)."""
        maps: Tensor = self.net.forward_features(x)  # type: ignore[operator]
        return maps


class CutBackbone(Backbone):
    """A network cut after a named block; its features are that block's maps, averaged."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), normalised, to features (N, D)."""
        return self.forward_map(x).mean((2, 3))


def build_backbone(
    name: str, *, pretrained: bool | str = True, in_channels: int = 3, cut_after: str | None = None
) -> Backbone:
    """A 2D network as a feature extractor.

    Args:
        name: A timm model ("resnet50", "mobilenetv2_100", "vgg16", "inception_v3", ...), "bn_inception",
            "mobilenetv2_quant" (study E's, in its own integers), or "mobilenetv2_100.tflite" (timm's with
            TensorFlow's padding, what dequantized TFLite weights need).
        pretrained: True fetches the published weights; a path reads them from disk: .tflite, .safetensors, or
            a PyTorch file (read as tensors only); False leaves them random.
        in_channels: C. Other than 3, the first layer's weights are averaged over RGB and spread (TSN,
            section 3.2, cross-modality initialisation).
        cut_after: A block's name, e.g. "blocks.3"; everything after it is dropped.

    Returns:
        The extractor, in training mode.

    Raises:
        ConfigError: Unknown name or block; the message has the nearest. A network that cannot be cut, or that takes
            RGB alone.
        WeightsError: The weights cannot be fetched or do not fit; the message says which and what to do.
    """
    if cut_after and name in ("bn_inception", "mobilenetv2_quant"):
        raise ConfigError(f"{name} cannot be cut, but cut_after is {cut_after!r}; leave it out, or take a timm model")
    if in_channels != 3 and name == "mobilenetv2_quant":
        raise ConfigError(f"{name} takes RGB, not {in_channels} channels; take mobilenetv2_100, or another timm model")
    path = Path(pretrained) if isinstance(pretrained, str) else None
    if path is not None and not path.is_file():
        raise WeightsError(f"no weights at {path}; give a file, or pretrained=True to fetch, or False for none")
    if name == "bn_inception":
        from lightning_har.nets.backbones.bn_inception import bn_inception

        return bn_inception(pretrained=pretrained, in_channels=in_channels)
    if name == "mobilenetv2_quant":
        from lightning_har.nets.backbones.mobilenetv2_quant import mobilenetv2_quant

        return mobilenetv2_quant(pretrained)
    tflite = name.endswith(".tflite")
    if path is not None and path.suffix == ".tflite":
        if name.split(".")[0] != "mobilenetv2_100":
            raise WeightsError(
                f"{path} holds MobileNetV2 1.0; it does not fit backbone={name!r}. Use 'mobilenetv2_100'"
            )
        tflite = True
    plain = name.removesuffix(".tflite")
    net = _timm(plain, fetch=pretrained is True and in_channels == 3, in_channels=in_channels, same_padding=tflite)
    if pretrained is True and in_channels != 3:
        # timm spreads the first layer in its own way; TSN's is ours.
        rgb = _timm(plain, fetch=True, in_channels=3, same_padding=False)
        _load(net, rgb.state_dict(), in_channels, name)
    config = net.pretrained_cfg
    size = config["input_size"][1:]
    backbone = Backbone(net, name, net.head_hidden_size, (size[0], size[1]))
    backbone.mean, backbone.std = tuple(config["mean"]), tuple(config["std"])
    if tflite:
        backbone.name = "mobilenetv2_100.tflite"
        # The file's own input quantization: (code - 128) / 128.
        backbone.value_range, backbone.mean, backbone.std = (-1.0, 127 / 128), (0.0,), (1.0,)
    if path is not None:
        _load(net, _read(path), in_channels, str(path))
    return _cut(backbone, cut_after, in_channels) if cut_after else backbone


def freeze_until(backbone: nn.Module, until: bool | str) -> None:
    """Stop the gradient to a backbone, or to its first part.

    Args:
        backbone: As built above.
        until: True freezes all; False nothing; a module's name (as in ``named_modules``, "blocks.3" or
            "layer2") freezes everything up to and including it, in order of definition. The statistics of frozen
            batch norms stay as they are.

    Raises:
        ConfigError: No module of that name.
    """
    if until is False:
        return
    if until is True:
        backbone.requires_grad_(False)
        return
    net = getattr(backbone, "net", backbone)
    names = [n for n, _ in net.named_modules() if n]
    if until not in names:
        near = difflib.get_close_matches(until, names, 3) or names[:5]
        raise ConfigError(f"the backbone has no block {until!r}; nearest: {', '.join(near)}")
    last = max(i for i, n in enumerate(names) if n == until or n.startswith(f"{until}."))
    for module_name in names[: last + 1]:
        module = net.get_submodule(module_name)
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)


def _timm(name: str, *, fetch: bool, in_channels: int, same_padding: bool) -> Any:
    import timm

    from lightning_har.weights.fetch import hub_or_cache

    base = name.split(".")[0]
    if not timm.is_model(base):
        near = difflib.get_close_matches(base, timm.list_models(), 4, cutoff=0.5)
        raise ConfigError(
            f"no backbone {name!r}; nearest: {', '.join(near) or 'none'}. "
            "All: timm.list_models(), 'bn_inception', 'mobilenetv2_quant'"
        )
    options = {"pad_type": "same"} if same_padding else {}
    unreached = None
    try:
        with hub_or_cache() if fetch else nullcontext() as unreached:
            return timm.create_model(name, pretrained=fetch, num_classes=0, in_chans=in_channels, **options)
    except Exception as e:  # whatever the hub client raises means the same to the user
        if not fetch:
            raise ConfigError(f"timm cannot build {name!r}: {e}") from e
        config = timm.get_pretrained_cfg(name)
        source = (config and (config.hf_hub_id or config.url)) or "timm has none"
        reason = unreached or f"{type(e).__name__}: {str(e).splitlines()[0] if str(e) else 'no reason given'}"
        raise WeightsError(
            f"cannot fetch the pretrained weights of {name!r} ({source}): {reason}. "
            "Use pretrained=False, or pretrained='path/to/weights' for a local file"
        ) from e


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".tflite":
        from lightning_har.weights.mobilenetv2_tflite import mobilenetv2_state_dict

        return mobilenetv2_state_dict(path)
    if path.suffix == ".safetensors":
        from lightning_har.weights.safetensors_io import load_safetensors

        return load_safetensors(path)
    from lightning_har.weights.torch_io import load_state_dict

    return load_state_dict(path)


def _load(net: Any, state: dict[str, Tensor], in_channels: int, what: str) -> None:
    from lightning_har.weights.matching import strict_load

    config = net.pretrained_cfg
    head = config["classifier"]
    prefixes = tuple(f"{h}." for h in ([head] if isinstance(head, str) else head))
    prefixes += ("AuxLogits.",)  # Inception-v3's training aid, absent here
    first = config["first_conv"]
    key = f"{first if isinstance(first, str) else first[0]}.weight"
    if in_channels != 3 and key in state:
        state[key] = spread_first_layer(state[key], in_channels)
    strict_load(net, state, head_prefixes=prefixes, drop_head=True, what=what)


def spread_first_layer(weight: Tensor, in_channels: int) -> Tensor:
    """RGB weights for another modality: averaged over RGB, repeated over the new channels.

    TSN (Wang et al. 2016), section 3.2, which repeats the mean as it is. Here it is also divided by C / 3, so that
    activations keep their scale for a network without batch norm, or with a frozen one; in training batch norm takes
    that factor out again.

    Args:
        weight: (O, 3, k, k).
        in_channels: C.

    Returns:
        (O, C, k, k).
    """
    mean = weight.mean(1, keepdim=True)
    return mean.expand(-1, in_channels, *weight.shape[2:]).contiguous() * (weight.shape[1] / in_channels)


def _cut(backbone: Backbone, block: str, in_channels: int) -> CutBackbone:
    net = backbone.net
    names = [n for n, _ in net.named_modules() if n]
    if block not in names:
        near = difflib.get_close_matches(block, names, 4) or names[:5]
        raise ConfigError(f"{backbone.name} has no block {block!r}; nearest: {', '.join(near)}")
    parent = net
    for depth, part in enumerate(block.split(".")):
        if depth and not isinstance(parent, nn.Sequential):
            raise ConfigError(
                f"{block!r} lies inside a block; cut after a whole one, such as {block.rpartition('.')[0]!r}"
            )
        children = [n for n, _ in parent.named_children()]
        for later in children[children.index(part) + 1 :]:
            if isinstance(parent, nn.Sequential):
                delattr(parent, later)
            else:  # the network's own forward calls it by name
                setattr(parent, later, nn.Identity())
        parent = parent.get_submodule(part)
    with torch.no_grad():
        maps = net.eval().forward_features(torch.zeros(1, in_channels, *backbone.input_size))  # type: ignore[operator]
    cut = CutBackbone(net.train(), backbone.name, maps.shape[1], backbone.input_size)
    cut.value_range, cut.mean, cut.std = backbone.value_range, backbone.mean, backbone.std
    return cut
