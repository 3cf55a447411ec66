"""Grad-CAM over time: where, and when, a recogniser saw the class that it names.

Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV
2017, equations 1 and 2. Of a 3D network the channel weights are averaged over time too; of a 2D network that looks at
every frame, each frame has weights of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_har.errors import ConfigError
from lightning_har.modules.base import ActionRecognizer
from lightning_har.types import Video

_HEADS = {"head", "logits", "classifier", "aux", "temporal", "neck", "dropout", "input_dropout"}


@dataclass(frozen=True)
class CAM:
    """What ``grad_cam`` found.

    Attributes:
        maps: (B, T, H, W) float in [0, 1] on the CPU; 1 is the strongest place of the clip. All 0 where nothing
            speaks for the class.
        classes: (B,) int64, the classes explained.
        scores: (B,) their softmax probabilities.
        layer: Name of the layer that was looked at.
    """

    maps: Tensor
    classes: Tensor
    scores: Tensor
    layer: str


def grad_cam(
    module: ActionRecognizer,
    video: Video,
    *,
    target: Sequence[int] | Tensor | None = None,
    head: str | None = None,
    layer: str | None = None,
    modality: str = "rgb",
) -> CAM:
    """Explain the logits of a class by places in space and time.

    Args:
        module: Any recogniser that takes clips. It is run in eval mode and left as it was.
        video: (B, C, T, H, W), uint8 or normalised, or a dict of such.
        target: Classes to explain, one a clip; None takes the predicted ones.
        head: Of a module with several heads, the one to explain; None takes the first.
        layer: A submodule of ``module.net`` by its name, whose output is a map; None takes the last map before the
            network pools over space.
        modality: Of a module that takes several, the stream to explain.

    Returns:
        Maps of the clip's own T, H and W, interpolated linearly.

    Raises:
        ConfigError: No such layer or head; a layer without a map; a network that has no gradient (quantized ones) or
            no map (on cached features).
    """
    if module.spec is None:
        raise ConfigError("this module takes cached features, which have no places; Grad-CAM needs clips")
    clip = video[modality] if isinstance(video, Mapping) else video
    scope: nn.Module = getattr(module.net, modality) if isinstance(module.spec, Mapping) else module.net
    prefix = f"{modality}." if scope is not module.net else ""
    device = next(module.parameters()).device
    moved: Video = {m: x.to(device) for m, x in video.items()} if isinstance(video, Mapping) else video.to(device)
    with _evaluating(module, scope):
        name = _relative(layer, prefix) or _last_map(module, scope, moved)
        found, logits = _forward(module, scope, moved, name)
        if isinstance(logits, dict):
            wanted = head or next(iter(logits))
            if wanted not in logits:
                raise ConfigError(f"no head {wanted!r}; the module has {', '.join(logits)}")
            logits = logits[wanted]
        chosen = logits.argmax(1) if target is None else torch.as_tensor(target, device=device)
        if chosen.shape != logits.shape[:1] or bool((chosen < 0).any() | (chosen >= logits.shape[1]).any()):
            raise ConfigError(
                f"target has shape {tuple(chosen.shape)}; give a class from 0 to {logits.shape[1] - 1} for each of "
                f"{len(logits)} clips"
            )
        picked = logits.gather(1, chosen[:, None]).sum()
        gradient = torch.autograd.grad(picked, found, allow_unused=True)[0] if picked.requires_grad else None
    if gradient is None:
        raise ConfigError(
            f"no gradient reaches {prefix}{name} of {type(module.net).__name__}: a network in integers, or a layer "
            "that the class does not depend on; give another layer"
        )
    maps = _weigh(found.detach().float(), gradient.float(), len(logits))
    size = (int(clip.shape[2]), int(clip.shape[3]), int(clip.shape[4]))
    maps = F.interpolate(maps[:, None], size, mode="trilinear", align_corners=False)[:, 0]
    strongest = maps.amax((1, 2, 3), keepdim=True)
    scores = logits.detach().float().softmax(1).gather(1, chosen[:, None])[:, 0]
    return CAM((maps / strongest.clamp_min(1e-12)).cpu(), chosen.cpu(), scores.cpu(), f"{prefix}{name}")


def save_grad_cam(
    video: Tensor,
    cam: CAM,
    path: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    frames: int = 8,
) -> None:
    """Draw clips with their maps laid over them, and below each frame how strongly it speaks for the class.

    Args:
        video: (B, 3, T, H, W) uint8, as it was fed.
        cam: From ``grad_cam``.
        path: PNG to write.
        class_names: In label order; None shows numbers.
        frames: At most so many, evenly spread.

    Raises:
        ConfigError: A video that is not uint8 RGB, or not the one that was explained.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[1] != 3:
        raise ConfigError(f"the video is {tuple(video.shape)} {video.dtype}; give uint8 (B, 3, T, H, W)")
    if (video.shape[0], *video.shape[2:]) != tuple(cam.maps.shape):
        raise ConfigError(f"the video is {tuple(video.shape)}, the maps are {tuple(cam.maps.shape)} of another clip")
    count, total = video.shape[0], video.shape[2]
    shown = torch.linspace(0, total - 1, min(frames, total)).round().long().tolist()
    figure = Figure(figsize=(1.5 * len(shown) + 0.3, 2.15 * count + 0.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subfigures(count, 1, squeeze=False)
    for row in range(count):
        panel = panels[row, 0]
        k = int(cam.classes[row])
        name = class_names[k] if class_names else f"class {k}"
        panel.suptitle(f"{name}  {float(cam.scores[row]):.0%}", fontsize=10)
        axes = panel.subplots(2, len(shown), squeeze=False, gridspec_kw={"height_ratios": [6, 1]})
        # The mean over space says when, the picture above says where.
        when = cam.maps[row].mean((1, 2))
        when = when / when.max().clamp_min(1e-12)
        for column, t in enumerate(shown):
            image = overlay(video[row, :, t], cam.maps[row, t])
            axes[0, column].imshow(image.permute(1, 2, 0).numpy())
            axes[0, column].set_axis_off()
            axes[1, column].barh([0], [float(when[t])], color="#c0392b")
            axes[1, column].set(xlim=(0, 1), xticks=[], yticks=[])
            axes[1, column].set_xlabel(f"frame {t}", fontsize=7)
    figure.savefig(path)


def overlay(frame: Tensor, heat: Tensor) -> Tensor:
    """A frame with a map over it, blue to red; where the map is 0 the frame shows unchanged.

    Args:
        frame: (3, H, W) uint8.
        heat: (H, W) in [0, 1].

    Returns:
        (3, H, W) uint8.
    """
    from matplotlib import colormaps

    colour = torch.from_numpy(colormaps["turbo"](heat.numpy())[..., :3]).permute(2, 0, 1).float() * 255
    share = heat[None] * 0.55 + (heat[None] > 0.05) * 0.1
    return (frame.float() * (1 - share) + colour * share).round().clamp(0, 255).to(torch.uint8)


@contextlib.contextmanager
def _evaluating(module: ActionRecognizer, scope: nn.Module) -> Iterator[None]:
    """Eval mode with gradients: a frozen backbone's maps need them too, and cuDNN's recurrent layers refuse them."""
    training = {name: part.training for name, part in module.named_modules()}
    frozen = bool(getattr(scope, "freeze", False))
    module.eval()
    if frozen:
        setattr(scope, "freeze", False)  # noqa: B010 - mypy takes it for a submodule
    try:
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        if frozen:
            setattr(scope, "freeze", True)  # noqa: B010
        for name, part in module.named_modules():
            part.training = training[name]


def _relative(layer: str | None, prefix: str) -> str | None:
    return layer.removeprefix(prefix) if layer else None


def _last_map(module: ActionRecognizer, scope: nn.Module, video: Video) -> str:
    """The last submodule, outside the head, whose output has more than one place."""
    last = ""

    def note(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            nonlocal last
            if isinstance(output, Tensor) and output.ndim in (4, 5) and min(output.shape[-2:]) > 1:
                last = name

        return hook

    names = [(n, m) for n, m in scope.named_modules() if n and n.split(".")[0] not in _HEADS]
    hooks = [part.register_forward_hook(note(name)) for name, part in names]
    try:
        with torch.no_grad():
            module(video)
    finally:
        for hook in hooks:
            hook.remove()
    if not last:
        raise ConfigError(f"{type(scope).__name__} has no layer with a map; give larger frames, or layer=")
    # A block whose last child this is gives the same map, with its shortcut.
    return last


def _forward(module: ActionRecognizer, scope: nn.Module, video: Video, name: str) -> tuple[Tensor, Any]:
    """The layer's output, cut off from what is before it, and the logits that follow from it."""
    try:
        part = scope.get_submodule(name)
    except AttributeError:
        import difflib

        near = difflib.get_close_matches(name, [n for n, _ in scope.named_modules()], 3)
        raise ConfigError(f"the network has no layer {name!r}; nearest: {', '.join(near) or 'none'}") from None
    found: list[Tensor] = []

    def cut(_: nn.Module, __: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim not in (4, 5):
            raise ConfigError(f"layer {name} gives no map (B, C, [T,] H, W); give a convolutional one")
        found.append(output.detach().requires_grad_())
        return found[-1].clone()  # which the next layer may change in place

    hook = part.register_forward_hook(cut)
    try:
        logits = module(video)
    finally:
        hook.remove()
    if not found:
        raise ConfigError(f"layer {name} was not used in the forward pass; give another")
    return found[-1], logits


def _weigh(found: Tensor, gradient: Tensor, batch: int) -> Tensor:
    """(B, t, h, w): the ReLU of the channels, each by the mean of its gradient."""
    over = (2, 3, 4) if found.ndim == 5 else (2, 3)
    maps: Tensor = F.relu((gradient.mean(over, keepdim=True) * found).sum(1))
    return maps if found.ndim == 5 else maps.unflatten(0, (batch, -1))
