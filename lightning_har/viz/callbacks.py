"""The pictures as Lightning callbacks: written beside the logs, and shown in TensorBoard where it is the logger.

    Trainer(callbacks=[SamplePictures(), GradCAMPictures(), ClassPictures()])

A picture goes to ``pictures/NAME.png`` in the folder of the first logger that has one (CSVLogger, TensorBoardLogger),
else in the Trainer's ``default_root_dir``.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_har._lightning import Callback
from lightning_har.errors import ConfigError
from lightning_har.nets.backbones import Backbone
from lightning_har.spec import InputSpec
from lightning_har.types import Batch, Video
from lightning_har.viz.activation import STUDY_C_LAYERS, maximize_activation, save_features
from lightning_har.viz.bars import save_class_bars, save_most_confused
from lightning_har.viz.confusion import save_confusion_matrix
from lightning_har.viz.curves import save_curves
from lightning_har.viz.gradcam import grad_cam, save_grad_cam
from lightning_har.viz.grids import save_clips


def pictures_folder(trainer: Any) -> Path:
    """Where the pictures of a Trainer go; made where missing."""
    base = next((logger.log_dir for logger in trainer.loggers if getattr(logger, "log_dir", None)), None)
    folder = Path(base or trainer.default_root_dir) / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def log_picture(trainer: Any, name: str, draw: Callable[[Path], None]) -> Path | None:
    """Draw a picture and show it to the loggers that take pictures.

    Args:
        trainer: Whose loggers are told, at its global step.
        name: The file's stem, and the picture's name in TensorBoard.
        draw: Writes the PNG it is given the path of.

    Returns:
        The PNG; None in all processes but the first.
    """
    if not trainer.is_global_zero:
        return None
    path = pictures_folder(trainer) / f"{name}.png"
    draw(path)
    for logger in trainer.loggers:
        add_image = getattr(logger.experiment, "add_image", None)
        if add_image is not None:
            from torchvision.io import ImageReadMode, decode_image

            add_image(name, decode_image(str(path), ImageReadMode.RGB), trainer.global_step)
    return path


class SamplePictures(Callback):  # type: ignore[misc]
    """``samples``: what the network is fed, from the first training batch.

    Args:
        clips: At most so many.
        frames: Of each clip, at most.
    """

    def __init__(self, clips: int = 6, frames: int = 8) -> None:
        self._clips, self._frames = clips, frames
        self._done = False

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        """Draw the first batch that has clips."""
        if self._done or not batch["id"] or pl_module.spec is None:
            return
        self._done = True
        video, titles = _first(batch["video"], self._clips), _titles(batch, pl_module)
        log_picture(
            trainer,
            "samples",
            lambda path: save_clips(
                video, path, titles=titles[: self._clips], spec=pl_module.spec, frames=self._frames
            ),
        )


class GradCAMPictures(Callback):  # type: ignore[misc]
    """``gradcam``: where and when the network sees its verdict, in the first validation batch.

    Args:
        clips: At most so many.
        every_n_epochs: How often.
        layer: See ``grad_cam``.
    """

    def __init__(self, clips: int = 3, every_n_epochs: int = 1, layer: str | None = None) -> None:
        if every_n_epochs < 1:
            raise ConfigError(f"every_n_epochs is {every_n_epochs}; it must be at least 1")
        self._clips, self._every, self._layer = clips, every_n_epochs, layer
        self._video: Video | None = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse a module whose input is no picture.

        Raises:
            ConfigError: It takes flow alone.
        """
        if isinstance(pl_module.spec, InputSpec) and pl_module.spec.modality != "rgb":
            raise ConfigError("GradCAMPictures draws over RGB frames; this module takes flow alone")

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep the first clips."""
        if self._video is None and batch["id"] and pl_module.spec is not None:
            self._video = _first(batch["video"], self._clips)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Draw."""
        if self._video is None or trainer.sanity_checking or trainer.current_epoch % self._every:
            return
        video = self._video
        rgb = video["rgb"] if isinstance(video, Mapping) else video
        # Validation runs in inference mode, whose tensors can have no gradient; these clips are copies.
        with torch.inference_mode(False):
            copied: Video = {m: x.clone() for m, x in video.items()} if isinstance(video, Mapping) else video.clone()
            cam = grad_cam(pl_module, copied, layer=self._layer)
        names = _names(pl_module, None)
        log_picture(trainer, "gradcam", lambda path: save_grad_cam(rgb, cam, path, class_names=names))


class ClassPictures(Callback):  # type: ignore[misc]
    """``confusion``, ``classes`` and ``confused``: the test, class by class; of several heads, each with its name.

    Args:
        classes: Only these in the confusion matrix; None draws all.
    """

    def __init__(self, classes: Sequence[str] | None = None) -> None:
        self._classes = classes
        self._counts: dict[str, Tensor] = {}

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to count."""
        self._counts = {}

    def on_test_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Count the batch."""
        if outputs is None:
            return
        logits, labels = _by_head(outputs["logits"]), _by_head(outputs["label"])
        for head, x in logits.items():
            k, label = x.shape[1], labels[head].cpu()
            said, known = x.argmax(1).cpu(), label >= 0
            cells = torch.bincount(label[known] * k + said[known], minlength=k * k).reshape(k, k)
            self._counts[head] = self._counts.get(head, torch.zeros_like(cells)) + cells

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Gather from all processes, and draw."""
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, self._counts)
            heads = dict.fromkeys(head for one in gathered for head in one)
            self._counts = {head: sum(one[head] for one in gathered if head in one) for head in heads}
        for head, counts in self._counts.items():
            suffix = "" if len(self._counts) == 1 else f"_{head}"
            names = _names(pl_module, head) or [str(k) for k in range(len(counts))]
            self._draw(trainer, counts, names, suffix)

    def _draw(self, trainer: Any, counts: Tensor, names: Sequence[str], suffix: str) -> None:
        log_picture(
            trainer,
            f"confusion{suffix}",
            lambda path: save_confusion_matrix(counts, names, path, classes=self._classes),
        )
        if bool(counts.any()):
            log_picture(trainer, f"classes{suffix}", lambda path: save_class_bars(counts, names, path))
        log_picture(trainer, f"confused{suffix}", lambda path: save_most_confused(counts, names, path))


class CurvePictures(Callback):  # type: ignore[misc]
    """``curves``: loss and top-1, drawn again after each epoch; the numbers go to ``curves.csv`` beside it."""

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Add the epoch, and draw."""
        found = {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith(("train_", "val_"))}
        self._rows.append({"epoch": trainer.current_epoch, **found})
        log_picture(trainer, "curves", self._draw)

    def _draw(self, path: Path) -> None:
        table = path.with_suffix(".csv")
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(n for row in self._rows for n in row)), restval="")
            writer.writeheader()
            writer.writerows(self._rows)
        save_curves(table, path)


class FeaturePictures(Callback):  # type: ignore[misc]
    """``features``: what channels of the 2D backbone look for, when training has ended.

    Args:
        layers: See ``save_features``; by default study C's blocks of a MobileNetV2.
        channels: Pictures of each layer.
        steps: Of the ascent.
    """

    def __init__(self, layers: Sequence[str] = STUDY_C_LAYERS, channels: int = 6, steps: int = 96) -> None:
        self._layers, self._channels, self._steps = layers, channels, steps

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Try a step on each layer, so that what cannot be drawn is said before the training, not after it.

        Raises:
            ConfigError: The module has no 2D backbone, or that has no such layer or channels.
        """
        for layer in self._layers:
            maximize_activation(_backbone(pl_module), layer, [self._channels - 1], steps=1)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Draw."""
        backbone = _backbone(pl_module)
        with torch.inference_mode(False), torch.enable_grad():
            log_picture(
                trainer,
                "features",
                lambda path: save_features(backbone, path, self._layers, channels=self._channels, steps=self._steps),
            )


def _backbone(module: Any) -> Backbone:
    backbone = getattr(module.net, "backbone", None)
    if not isinstance(backbone, Backbone):
        raise ConfigError(f"{type(module).__name__} has no 2D backbone; FeaturePictures is for TSN and CNN-RNN")
    return backbone


def _first(video: Video, count: int) -> Video:
    """The first clips of a batch on the CPU, one view of each."""
    if isinstance(video, Mapping):
        return {name: _one_view(clip[:count]) for name, clip in video.items()}
    return _one_view(video[:count])


def _one_view(clip: Tensor) -> Tensor:
    return (clip[:, 0] if clip.ndim == 6 else clip).cpu()


def _by_head(values: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(values) if isinstance(values, Mapping) else {"action": values}


def _names(module: Any, head: str | None) -> Sequence[str] | None:
    names = module.class_names
    if isinstance(names, Mapping):
        found: Sequence[str] | None = names.get(head) if head else next(iter(names.values()))
        return found
    return names  # type: ignore[no-any-return]


def _titles(batch: Batch, module: Any) -> list[str]:
    files = [Path(path).name for path in batch["path"]]
    if "label" not in batch:
        return files
    heads = _by_head(batch["label"])
    told = []
    for i, file in enumerate(files):
        words = []
        for head, label in heads.items():
            names, k = _names(module, head), int(label[i])
            words.append("no label" if k < 0 else names[k] if names else f"class {k}")
        told.append(f"{' '.join(words)}  {file}")
    return told
