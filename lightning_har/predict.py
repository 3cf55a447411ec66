"""What a module says of video files: the action in each, or what happens when in a long one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_har._lightning import Trainer, interruptible, quiet_lightning
from lightning_har.data.datamodule import EVAL_SAMPLING
from lightning_har.data.decode_pyav import PyAVVideo
from lightning_har.data.folder import VideoFilesDataModule
from lightning_har.data.parallel import progress
from lightning_har.data.windows import Window, merge_windows, sliding_windows, window_batches
from lightning_har.errors import ConfigError, DecodeError
from lightning_har.modules.base import ActionRecognizer
from lightning_har.progress import RunProgress
from lightning_har.spec import InputSpec, Sampling
from lightning_har.types import Batch, Logits


def require_clips(module: ActionRecognizer) -> None:
    """Refuse a model that cannot look at video.

    Raises:
        ConfigError: It was trained on stored features.
    """
    if module.spec is None:
        raise ConfigError(
            "this model takes stored features, not video: put it behind the network that computed them with "
            "`lightning-har join`, or score it on some with `lightning-har test MODEL --data features:DIR`"
        )


def predict(
    module: ActionRecognizer, files: Sequence[str | Path], *, top: int = 5, batch_size: int = 1
) -> list[dict[str, Any]]:
    """The best classes of every file.

    Args:
        module: Recogniser with its class names and evaluation sampling.
        files: Videos.
        top: Classes of each.
        batch_size: Videos at a time.

    Returns:
        In order, ``{"file", "predictions": [{"label", "score"}, ...]}`` with softmax scores, best first; with several
        heads, ``predictions`` is such a list by head; ``{"file", "error"}`` for a file that cannot be read.

    Raises:
        ConfigError: The model takes features, not video.
    """
    require_clips(module)
    data = VideoFilesDataModule(
        files,
        class_names=module.class_names,
        spec=module.spec,
        eval_sampling=module.eval_sampling,
        batch_size=batch_size,
        on_error="skip",
    )
    with quiet_lightning():
        trainer = _trainer(RunProgress()) if len(files) > 1 and sys.stderr.isatty() else _trainer()
        with interruptible(trainer):
            batches = trainer.predict(module, datamodule=data)
    said: dict[str, dict[str, Any]] = {}
    for batch in batches or []:
        for failure in batch["failures"]:
            said[failure.path] = {"error": failure.reason}
        if not batch["id"]:
            continue
        scores = _scores(batch["logits"])
        for i, path in enumerate(batch["path"]):
            ranked = {head: _ranked(x[i], _names(module, head, x.shape[1]), top) for head, x in scores.items()}
            said[path] = {"predictions": ranked if isinstance(batch["logits"], dict) else ranked["action"]}
    return [{"file": str(file), **said[str(file)]} for file in files]


def predict_windows(
    module: ActionRecognizer,
    files: Sequence[str | Path],
    seconds: float = 2.0,
    stride: float | None = None,
    *,
    threshold: float = 0.0,
    top: int = 5,
    batch_size: int = 1,
) -> list[dict[str, Any]]:
    """What happens when in every file, by windows that slide over it.

    A file is read a few windows at a time: in memory are the frames of one batch, and the scores of all windows.

    Args:
        module: Recogniser of RGB video, with its class names and evaluation sampling.
        files: Videos of any length.
        seconds: Length of a window.
        stride: Seconds from one window to the next; None is half a window.
        threshold: Stretches whose best class has a lower mean score belong to no segment.
        top: Classes of each window.
        batch_size: Windows at a time.

    Returns:
        In order, ``{"file", "seconds", "windows": [{"start", "stop", "predictions"}, ...], "segments": [{"start",
        "stop", "label", "score"}, ...]}``, times in seconds from the first frame on, ``predictions`` as ``predict``
        gives them; with several heads, ``segments`` is such a list by head. ``{"file", "error"}`` for a file that
        cannot be read to its end.

    Raises:
        ConfigError: The model does not take RGB frames; windows that would leave gaps.
    """
    spec, sampling = module.spec, module.eval_sampling or EVAL_SAMPLING
    require_clips(module)
    if not isinstance(spec, InputSpec) or spec.modality != "rgb" or not isinstance(sampling, Sampling):
        raise ConfigError("--windows reads RGB frames from the file; this model takes optical flow")
    sampling = replace(sampling, num_clips=1, random=False)
    entries: list[dict[str, Any]] = []
    with quiet_lightning():
        trainer = _trainer()
        for file in files:
            try:
                with PyAVVideo(file) as video:
                    times = video.times()
                    windows = sliding_windows(len(times) - 1, video.fps, seconds, stride)
                    with progress(Path(file).name, len(windows)) as advance, interruptible(trainer):
                        batches = window_batches(video, windows, spec, sampling, batch_size)
                        outputs = trainer.predict(module, dataloaders=_told(batches, advance))
            except DecodeError as error:
                entries.append({"file": str(file), "error": str(error)})
                continue
            entries.append({"file": str(file), **_along(module, windows, times, outputs, threshold, top)})
    return entries


def _told(batches: Iterator[Batch], advance: Callable[[int], None]) -> Iterator[Batch]:
    for batch in batches:
        yield batch
        advance(len(batch["id"]))


def _along(
    module: ActionRecognizer,
    windows: Sequence[Window],
    times: NDArray[np.float64],
    outputs: Sequence[Mapping[str, Any]],
    threshold: float,
    top: int,
) -> dict[str, Any]:
    """What ``predict_windows`` says of a file."""
    by_batch = [_scores(batch["logits"]) for batch in outputs]
    scores = {head: torch.cat([batch[head] for batch in by_batch]) for head in by_batch[0]}
    names = {head: _names(module, head, x.shape[1]) for head, x in scores.items()}
    several = isinstance(outputs[0]["logits"], dict)

    def span(start: float, stop: float) -> dict[str, float]:
        return {"start": round(float(start), 3), "stop": round(float(stop), 3)}

    rows: list[dict[str, Any]] = []
    for i, window in enumerate(windows):
        ranked = {head: _ranked(x[i], names[head], top) for head, x in scores.items()}
        when = span(times[window.start], times[window.stop])
        rows.append({**when, "predictions": ranked if several else ranked["action"]})
    segments = {
        head: [
            {**span(s.start, s.stop), "label": names[head][s.label], "score": round(s.score, 6)}
            for s in merge_windows(windows, x.numpy(), times, threshold=threshold)
        ]
        for head, x in scores.items()
    }
    seconds = round(float(times[-1]), 3)
    return {"seconds": seconds, "windows": rows, "segments": segments if several else segments["action"]}


def _trainer(*callbacks: Any) -> Any:
    quiet: dict[str, Any] = {
        "callbacks": list(callbacks),
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(**quiet)


def _scores(logits: Logits) -> dict[str, Tensor]:
    """Softmax by head, on the CPU; a single head is "action"."""
    by_head = logits if isinstance(logits, dict) else {"action": logits}
    return {head: x.float().softmax(dim=1).cpu() for head, x in by_head.items()}


def _names(module: ActionRecognizer, head: str, count: int) -> Sequence[str]:
    names = module.class_names
    of_head = names.get(head) if isinstance(names, dict) else names
    return of_head or [str(k) for k in range(count)]


def _ranked(scores: Any, names: Sequence[str], top: int) -> list[dict[str, Any]]:
    values, classes = scores.topk(min(top, len(names)))
    pairs = zip(classes.tolist(), values.tolist(), strict=True)
    return [{"label": names[k], "score": round(score, 6)} for k, score in pairs]
