"""RGB and flow, fused late, as a LightningModule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import Unpack

from lightning_har.errors import ConfigError, WeightsError
from lightning_har.modules.base import ActionRecognizer
from lightning_har.modules.i3d import I3DModule
from lightning_har.modules.options import TrainingOptions
from lightning_har.modules.tsn import TSNModule
from lightning_har.nets.two_stream import TwoStream
from lightning_har.types import Batch, Logits, NumClasses, Video

WEIGHTS = torch.linspace(0, 1, 21)
"""Weights of flow that validation tries."""


class TwoStreamModule(ActionRecognizer):
    """Two networks of one family, on RGB and on flow, and an average of their scores.

    Simonyan and Zisserman (NIPS 2014), section 2; for I3D, Carreira and Zisserman (CVPR 2017).

    Trained apart, as the papers do: train ``I3DModule(modality="rgb")`` and ``I3DModule(modality="flow")``, give both
    checkpoints here, and validate once (``Trainer.validate`` chooses the weight) before testing. Trained jointly:
    give none and fit this module.

    Args:
        num_classes: K, or classes by head.
        family: "i3d" or "tsn".
        arguments: For both networks' modules, such as ``{"backbone": "resnet50", "pretrained": False}``.
        rgb_checkpoint: Of the RGB module, trained by itself. Read once, when the module is built; its weights are
            then in this module's checkpoints.
        flow_checkpoint: Likewise of the flow module.
        weight: Of flow, in [0, 1].
        choose_weight: Let each validation set the weight to the one of 21 with the best top-1 (summed over heads).
        average: "logits" or "probabilities".
        loss: "joint", of the fused scores; or "apart", each stream's own: they share no parameters, so that they learn
            as if each were trained by itself on the same batches.
        training: See ``TrainingOptions``.

    Raises:
        ConfigError: Unknown family or loss, weight outside [0, 1].
        WeightsError: A checkpoint of another architecture or other classes.
    """

    net: TwoStream

    def __init__(
        self,
        num_classes: NumClasses,
        family: Literal["i3d", "tsn"] = "i3d",
        arguments: Mapping[str, Any] | None = None,
        rgb_checkpoint: str | None = None,
        flow_checkpoint: str | None = None,
        weight: float = 0.5,
        choose_weight: bool = True,
        average: Literal["logits", "probabilities"] = "logits",
        loss: Literal["joint", "apart"] = "joint",
        **training: Unpack[TrainingOptions],
    ) -> None:
        families: dict[str, Callable[..., ActionRecognizer]] = {"i3d": I3DModule, "tsn": TSNModule}
        if family not in families:
            raise ConfigError(f"family is {family!r}; it must be 'i3d' or 'tsn'")
        if loss not in ("joint", "apart"):
            raise ConfigError(f"loss is {loss!r}; it must be 'joint' or 'apart'")
        streams = {}
        for modality, checkpoint in (("rgb", rgb_checkpoint), ("flow", flow_checkpoint)):
            options = dict(arguments or {})
            if checkpoint is not None:
                options["pretrained"] = False
            stream = families[family](num_classes, modality=modality, **options)
            if checkpoint is not None:
                _load_stream(stream, checkpoint)
            streams[modality] = stream
        specs = {modality: stream.spec for modality, stream in streams.items()}
        super().__init__(
            TwoStream(streams["rgb"].net, streams["flow"].net, weight, average, features=not num_classes),
            specs,  # type: ignore[arg-type]
            num_classes,
            train_sampling=streams["rgb"].train_sampling,
            eval_sampling=streams["rgb"].eval_sampling,
            **training,
        )
        # What is read from here on are this module's own checkpoints.
        self.hparams["rgb_checkpoint"] = self.hparams["flow_checkpoint"] = None
        self.hparams["arguments"] = {**(arguments or {}), "pretrained": False}
        self._choose = choose_weight
        self._apart = loss == "apart"
        self._hits: Tensor | None = None

    @classmethod
    def offline(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor arguments under which neither network fetches or reads weights."""
        of_both = {**(arguments.get("arguments") or {}), "pretrained": False}
        return {**super().offline(arguments), "rgb_checkpoint": None, "flow_checkpoint": None, "arguments": of_both}

    def training_outputs(self, video: Video) -> list[tuple[Logits, float]]:
        """The fused logits; with each stream's own where those make the loss."""
        if not self._apart:
            return super().training_outputs(video)
        assert isinstance(video, Mapping)
        rgb, flow = self.net.forward_streams(video)
        return [(self.net.fuse(rgb, flow), 0.0), (rgb, 1.0), (flow, 1.0)]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and metrics of a batch; counts what every weight would get right."""
        super().validation_step(batch, batch_idx)
        if not self._choose or not batch["id"]:
            return
        video: Video = batch["video"]
        assert isinstance(video, Mapping)
        first = next(iter(video.values()))
        if first.ndim == 6:  # of several views the first is enough to choose by
            video = {modality: clip[:, 0] for modality, clip in video.items()}
        rgb, flow = self.net.forward_streams(self._prepare(video))  # type: ignore[arg-type]
        hits = self._count(rgb, flow, batch)
        self._hits = hits if self._hits is None else self._hits + hits

    def _count(self, rgb: Logits, flow: Logits, batch: Batch) -> Tensor:
        rgb_by_head, labels = self._by_head(rgb, batch["label"])
        flow_by_head, _ = self._by_head(flow, batch["label"])
        chosen = self.net.weight.clone()
        hits = []
        for weight in WEIGHTS:
            self.net.set_weight(float(weight))
            fused = {h: self.net.fuse(rgb_by_head[h], flow_by_head[h]) for h in rgb_by_head}
            right = [(x.argmax(1) == labels[h]).sum() for h, x in fused.items() if isinstance(x, Tensor)]
            hits.append(torch.stack(right).sum())
        self.net.weight.copy_(chosen)
        return torch.stack(hits)

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's metrics (at the weight so far), then take the weight that got most right."""
        super().on_validation_epoch_end()
        # A rank without a sample takes part too: the sum waits for it.
        own = torch.zeros(len(WEIGHTS), device=self.device) if self._hits is None else self._hits.float()
        self._hits = None
        if not self._choose or self.trainer.sanity_checking:
            return
        hits = self.trainer.strategy.reduce(own, reduce_op="sum")
        if hits.any():
            best = torch.nonzero(hits == hits.max()).flatten()
            # Of equals the one nearest to an even share.
            weight = WEIGHTS[best[(WEIGHTS[best.cpu()] - 0.5).abs().argmin()].cpu()]
            self.net.set_weight(float(weight))
            self.log("val_flow_weight", float(weight))


def _load_stream(stream: ActionRecognizer, checkpoint: str) -> None:
    from lightning_har.modules import load_checkpoint
    from lightning_har.weights.matching import strict_load

    trained = load_checkpoint(checkpoint)
    if trained.num_classes != stream.num_classes or trained.spec != stream.spec:
        raise WeightsError(
            f"{checkpoint} has {trained.num_classes} classes and takes {trained.spec}; this stream has "
            f"{stream.num_classes} and takes {stream.spec}. Give the checkpoint of the same family and arguments"
        )
    strict_load(stream.net, trained.net.state_dict(), what=checkpoint)
