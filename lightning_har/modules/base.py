"""The one step that every recogniser shares: loss, metrics, views, checkpoints."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from typing_extensions import Unpack

from lightning_har._lightning import LightningModule
from lightning_har._version import __version__
from lightning_har.errors import ConfigError, WeightsError
from lightning_har.modules.aids import distillation, mix, recompute
from lightning_har.modules.metrics import IGNORE as IGNORE
from lightning_har.modules.metrics import metrics_by_head
from lightning_har.modules.optimizers import build_optimizer, build_schedule
from lightning_har.modules.options import DEFAULTS, TrainingOptions
from lightning_har.nets.preprocess import check_clip, normalize
from lightning_har.spec import InputSpec, Sampling
from lightning_har.types import Batch, ClassNames, Logits, NumClasses, Video, listing, to_class_names
from lightning_har.weights.matching import check_fit

if TYPE_CHECKING:
    from typing_extensions import Self

    from lightning_har.weights.card import Card


class ActionRecognizer(LightningModule):
    """Base of all modules: a network, its InputSpec, and one way to train and test it.

    A subclass builds the network in its constructor, from plain arguments, and calls this one. Everything
    else (steps, metrics, optimizer, checkpoints, views) is here, once.

    Args:
        net: The network: normalised clips to logits.
        spec: What it eats; a dict by modality for several; None where it takes features (B, T, D).
        num_classes: K, or classes by head; the logits are then a dict. 0: ``forward`` gives features.
        train_sampling: The training protocol this architecture was published with.
        eval_sampling: The evaluation protocol likewise.
        training: See ``TrainingOptions``.

    Raises:
        ConfigError: Of several heads one bears a name that is taken; an option does not fit.

    Attributes:
        class_names: Names in label order (or a dict of such by head), kept in checkpoints; the recipe runner
            sets them from the data.
        options: The training options, with their defaults.
        saved_options: The arguments, with defaults, of what wrote the checkpoint that was read last; None before.
    """

    def __init__(
        self,
        net: nn.Module,
        spec: InputSpec | Mapping[str, InputSpec] | None,
        num_classes: NumClasses,
        *,
        train_sampling: Sampling | None = None,
        eval_sampling: Sampling | None = None,
        **training: Unpack[TrainingOptions],
    ) -> None:
        super().__init__()
        unknown = set(training) - set(DEFAULTS)
        if unknown:
            raise TypeError(f"unexpected argument {', '.join(sorted(unknown))}; known: {', '.join(DEFAULTS)}")
        self.options: TrainingOptions = {**DEFAULTS, **training}
        self.save_hyperparameters(ignore=("net", "spec", "train_sampling", "eval_sampling"), logger=False)
        self.net = net
        self.spec = spec
        self.num_classes = num_classes
        self.train_sampling = train_sampling
        self.eval_sampling = eval_sampling
        self.class_names: ClassNames | None = None
        self._heads = dict(num_classes) if isinstance(num_classes, Mapping) else {"action": num_classes}
        taken = sorted({"action", "joint"} & set(self._heads))
        if taken and len(self._heads) > 1:
            raise ConfigError(
                f"a head cannot be called {taken[0]!r} beside others: so the score of all heads at once is called; "
                "give it another name"
            )
        self._teacher: ActionRecognizer | None = None
        self._saved_by: str | None = None
        self.saved_options: Mapping[str, Any] | None = None
        self._check_weights()
        recompute(net, self.options["checkpoint_stages"])
        if num_classes:
            self.metrics = nn.ModuleDict(
                {name: metrics_by_head(self._heads, self.options["topk"]) for name in _METRIC_SETS}
            )
            # Not Lightning's own mean, which over ranks rounds the mean number of samples down.
            self.losses = nn.ModuleDict({name: MeanMetric(math.nan) for name in ("train_", "val_", "test_")})
            heads = self._heads if len(self._heads) > 1 else ()  # one head's loss is the loss
            self.head_losses = nn.ModuleDict(
                {name: nn.ModuleDict({head: MeanMetric(math.nan) for head in heads}) for name in _METRIC_SETS}
            )

    # -- forward -------------------------------------------------------------------------------------------

    def forward(self, video: Video) -> Logits:
        """Clips to logits, never softmax.

        Args:
            video: (B, C, T, H, W), uint8 or already normalised float; a dict of such by modality; or features
                (B, T, D) where the network takes them.

        Returns:
            (B, K), or a dict of such by head; with ``num_classes=0``, features (B, D).

        Raises:
            ConfigError: Wrong rank, channel count, modality or integer type, naming expected and given.
        """
        logits: Logits = self.net(self._prepare(video))
        return logits

    def forward_views(
        self,
        views: Video | Iterable[Video],
        view_batch_size: int | None = None,
        average: Literal["logits", "probabilities"] = "logits",
    ) -> Logits:
        """Several views of each video to one prediction, a few views at a time.

        Args:
            views: (B, V, C, T, H, W), or a dict of such; or an iterable of chunks of that shape, which are taken
                one after another so that the whole never is in memory.
            view_batch_size: Views of each video that pass the network together; None takes one.
            average: Mean of logits (TSN), or of probabilities; the result is then the logarithm of the mean,
                whose softmax is the mean.

        Returns:
            (B, K), or a dict of such.
        """
        if average not in ("logits", "probabilities"):
            raise ConfigError(f"average is {average!r}; it must be 'logits' or 'probabilities'")
        total: dict[str, Tensor] = {}
        count = 0
        named = True
        for logits in self._stream(views, view_batch_size):
            named = isinstance(logits, dict)
            for name, x in (logits if isinstance(logits, dict) else {"": logits}).items():
                x = x.softmax(-1) if average == "probabilities" else x
                total[name] = total[name] + x.sum(1) if name in total else x.sum(1)
            count += x.shape[1]
        if not count:
            raise ConfigError("forward_views got no views")
        mean = {name: x / count for name, x in total.items()}
        if average == "probabilities":
            mean = {name: x.clamp_min(torch.finfo(x.dtype).tiny).log() for name, x in mean.items()}
        return mean if named else mean[""]

    def _stream(self, views: Video | Iterable[Video], size: int | None) -> Iterator[Logits]:
        """Logits (B, v, K) of v views at a time."""
        for chunk in [views] if isinstance(views, Tensor | Mapping) else views:
            first = next(iter(chunk.values())) if isinstance(chunk, Mapping) else chunk
            rank = 4 if self.spec is None else 6
            if first.ndim != rank:
                raise ConfigError(
                    f"views are (B, V, C, T, H, W), rank {rank}; got rank {first.ndim}, shape {tuple(first.shape)}"
                )
            for start in range(0, first.shape[1], size or 1):
                part = _map(chunk, functools.partial(_slice, start=start, stop=start + (size or 1)))
                shape = part.shape[:2] if isinstance(part, Tensor) else next(iter(part.values())).shape[:2]
                logits = self(_map(part, functools.partial(torch.flatten, start_dim=0, end_dim=1)))
                yield _map_logits(logits, functools.partial(torch.unflatten, dim=0, sizes=tuple(shape)))

    def _prepare(self, video: Video) -> Video:
        if self.spec is None:
            if isinstance(video, Mapping) or video.ndim != 3 or not video.is_floating_point():
                given = sorted(video) if isinstance(video, Mapping) else f"{tuple(video.shape)} {video.dtype}"
                raise ConfigError(f"this network takes float features (B, T, D), got {given}")
            return video
        dtype = next(self.net.parameters()).dtype
        if isinstance(self.spec, InputSpec):
            if isinstance(video, Mapping):
                if self.spec.modality not in video:
                    raise ConfigError(f"this network takes {self.spec.modality}; the batch has {sorted(video)}")
                video = video[self.spec.modality]
            check_clip(video, self.spec)
            return normalize(video, self.spec, dtype)
        if not isinstance(video, Mapping) or not set(self.spec) <= set(video):
            given = sorted(video) if isinstance(video, Mapping) else "one clip"
            raise ConfigError(f"this network takes a dict of clips for {sorted(self.spec)}, got {given}")
        for modality, spec in self.spec.items():
            check_clip(video[modality], spec)
        return {modality: normalize(video[modality], spec, dtype) for modality, spec in self.spec.items()}

    # -- steps ---------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any] | None:
        """Loss and metrics of a batch; None where every video of it failed."""
        if not batch["id"]:
            return None
        video, label = self._prepare(batch["video"]), batch["label"]
        video, other, share = mix(video, label, self.options["mixup"], self.options["cutmix"])
        outputs = self.training_outputs(video)
        loss = torch.zeros((), device=self.device)
        for logits, weight in outputs:
            loss = loss + weight * share * self.loss(logits, label)
            if other is not None:
                loss = loss + weight * (1 - share) * self.loss(logits, other)
        if self._teacher is not None:
            part = self.options["teacher_weight"]
            with torch.no_grad():
                target = self._teacher.net(video)
            loss = (1 - part) * loss + part * distillation(outputs[0][0], target, self.options["temperature"])
        padding = batch.get("is_padding")
        size = len(batch["id"]) - (0 if padding is None else int(padding.sum()))
        self.losses["train_"].update(loss.detach(), size)  # type: ignore[operator]
        self._update("train", outputs[0][0], label)
        return {"loss": loss}

    def training_outputs(self, video: Video) -> list[tuple[Logits, float]]:
        """What the loss is computed from: logits, each with its weight; the first are the prediction.

        A network with auxiliary classifiers overrides this.

        Args:
            video: Normalised.
        """
        return [(self.net(video), 1.0)]

    def on_fit_start(self) -> None:
        """Training mode, and the teacher, if there is one."""
        if not self.training:
            # Loading gives a module in eval mode, and Lightning trains in the mode that it finds.
            self.train()
        if self.options["teacher"] is not None:
            from lightning_har.modules import load_checkpoint

            teacher = load_checkpoint(self.options["teacher"], map_location=self.device)
            if teacher.num_classes != self.num_classes or teacher.spec != self.spec:
                raise ConfigError(
                    f"the teacher {self.options['teacher']} has {teacher.num_classes} classes, takes {teacher.spec}; "
                    f"this module has {self.num_classes}, takes {self.spec}. They must agree"
                )
            # Around nn.Module's registration: the teacher is neither trained nor saved.
            object.__setattr__(self, "_teacher", teacher.to(self.device).requires_grad_(False))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and metrics of a batch."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any] | None:
        """Metrics per clip and per video; gives the videos' ids and logits to callbacks."""
        return self._evaluate(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The videos' ids, paths and logits."""
        logits = self._video_and_clip_logits(batch["video"])[0] if batch["id"] else None
        return {"id": batch["id"], "path": batch["path"], "logits": logits, "failures": batch["failures"]}

    def _evaluate(self, batch: Batch, split: str) -> dict[str, Any] | None:
        if not batch["id"]:
            return None
        video_logits, clip_logits = self._video_and_clip_logits(batch["video"])
        label = batch["label"]
        padding = batch.get("is_padding")
        out = {"id": batch["id"], "path": batch["path"], "logits": video_logits, "label": label}
        if padding is not None and bool(padding.any()):
            keep = ~padding
            video_logits = _map_logits(video_logits, lambda x: x[keep])
            clip_logits = _map_logits(clip_logits, lambda x: x[keep])
            label = {k: v[keep] for k, v in label.items()} if isinstance(label, Mapping) else label[keep]
            kept = keep.tolist()
            out = {
                "id": [i for i, k in zip(batch["id"], kept, strict=True) if k],
                "path": [p for p, k in zip(batch["path"], kept, strict=True) if k],
                "logits": video_logits,
                "label": label,
            }
            if not out["id"]:
                return None
        loss = self.loss(video_logits, label)
        self.losses[f"{split}_"].update(loss, len(out["id"]))  # type: ignore[operator]
        if split == "test":
            self._update("test_video", video_logits, label)
            views = next(iter(clip_logits.values())).shape[1] if isinstance(clip_logits, dict) else clip_logits.shape[1]
            flat = _map_logits(clip_logits, lambda x: x.flatten(0, 1))
            repeated = (
                {k: v.repeat_interleave(views) for k, v in label.items()}
                if isinstance(label, Mapping)
                else label.repeat_interleave(views)
            )
            self._update("test_clip", flat, repeated)
        else:
            self._update(split, video_logits, label)
        return out

    def _video_and_clip_logits(self, video: Video) -> tuple[Logits, Logits]:
        """(B, K) averaged over views, and (B, V, K)."""
        first = next(iter(video.values())) if isinstance(video, Mapping) else video
        if first.ndim == (4 if self.spec is None else 6):
            chunks = list(self._stream(video, None))
            if isinstance(chunks[0], dict):
                clip: Logits = {k: torch.cat([c[k] for c in chunks], 1) for k in chunks[0]}  # type: ignore[index]
            else:
                clip = torch.cat(chunks, 1)  # type: ignore[arg-type]
            return _map_logits(clip, lambda x: x.mean(1)), clip
        logits = self(video)
        return logits, _map_logits(logits, lambda x: x[:, None])

    # -- loss and metrics ----------------------------------------------------------------------------------

    def loss(self, logits: Logits, label: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Cross-entropy, summed over heads; samples labelled -1 do not count.

        Args:
            logits: (B, K), or by head.
            label: (B,) int64, or by head.

        Returns:
            A scalar.
        """
        logits_by_head, label_by_head = self._by_head(logits, label)
        return torch.stack([self._head_loss(h, x, label_by_head[h]) for h, x in logits_by_head.items()]).sum()

    def _head_loss(self, head: str, logits: Tensor, label: Tensor) -> Tensor:
        weight = self._class_weights(head)
        known = label != IGNORE
        if not bool(known.any()):
            return logits.sum() * 0.0  # the mean would be 0 / 0
        return F.cross_entropy(
            logits[known].float(),
            label[known],
            weight=None if weight is None else logits.new_tensor(weight, dtype=torch.float32),
            label_smoothing=self.options["label_smoothing"],
        )

    def _class_weights(self, head: str) -> Sequence[float] | None:
        weights = self.options["class_weights"]
        return weights.get(head) if isinstance(weights, Mapping) else weights

    def _check_weights(self) -> None:
        for head, classes in self._heads.items():
            weights = self._class_weights(head)
            if weights is not None and len(weights) != classes:
                raise ConfigError(f"class_weights has {len(weights)} values for the {classes} classes of {head!r}")

    def _by_head(
        self, logits: Logits, label: Tensor | Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Mapping[str, Tensor]]:
        if isinstance(logits, dict):
            if not isinstance(label, Mapping) or not set(logits) <= set(label):
                given = sorted(label) if isinstance(label, Mapping) else "one label column"
                raise ConfigError(f"this module has the heads {sorted(logits)}; the data gives {given}")
            return logits, label
        if isinstance(label, Mapping):
            if "action" not in label:
                raise ConfigError(f"this module has one head; the data gives labels for {sorted(label)}")
            label = label["action"]
        return {"action": logits}, {"action": label}

    def _update(self, name: str, logits: Logits, label: Tensor | Mapping[str, Tensor]) -> None:
        logits_by_head, label_by_head = self._by_head(logits, label)
        sets = self.metrics[f"{name}_"]
        for head, x in logits_by_head.items():
            sets[head].update(x.detach().float(), label_by_head[head])  # type: ignore[index,operator]
        if len(self._heads) > 1:
            heads = {h: x.detach() for h, x in logits_by_head.items()}
            sets["joint"].update(heads, {h: label_by_head[h] for h in heads})  # type: ignore[index,operator]
            for head, x in heads.items():
                known = int((label_by_head[head] != IGNORE).sum())
                if known:
                    loss = self._head_loss(head, x, label_by_head[head])
                    self.head_losses[f"{name}_"][head].update(loss, known)  # type: ignore[index,operator]

    @property
    def score_prefix(self) -> str:
        """What the names of the score that counts begin with, after the split's: "val_" + this + "top1"."""
        if len(self._heads) > 1:
            return "action_"  # right in all heads
        head = next(iter(self._heads))
        return "" if head == "action" else f"{head}_"  # the only head of a plain number of classes has no name

    def _log_metrics(self, *names: str) -> None:
        # Computing gathers from all ranks, so that a rank without a sample must take part.
        alone = self.trainer.world_size == 1
        split = names[0].partition("_")[0]
        loss = self.losses[f"{split}_"]
        assert isinstance(loss, MeanMetric)
        if loss.update_called or not alone:
            self.log(f"{split}_loss", loss.compute(), prog_bar=True)
        loss.reset()
        for name in names:
            for head, metrics in self.metrics[f"{name}_"].items():  # type: ignore[operator,union-attr]
                if not alone or any(m.update_called for m in metrics.values()):
                    label = f"{head}_" if len(self._heads) > 1 and head != "joint" else self.score_prefix
                    self.log_dict({f"{name}_{label}{key}": value for key, value in metrics.compute().items()})
                metrics.reset()
            for head, mean in self.head_losses[f"{name}_"].items():  # type: ignore[operator,union-attr]
                if mean.update_called or not alone:
                    self.log(f"{name}_{head}_loss", mean.compute())
                mean.reset()

    def on_train_epoch_end(self) -> None:
        """Log the epoch's metrics."""
        self._log_metrics("train")

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's metrics."""
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log clip and video metrics."""
        self._log_metrics("test_clip", "test_video")

    def configure_optimizers(self) -> Any:
        """The optimizer and schedule that the options name."""
        optimizer = build_optimizer(self)
        schedule = build_schedule(self, optimizer)
        return {"optimizer": optimizer, "lr_scheduler": schedule} if schedule else optimizer

    # -- checkpoints ---------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what prediction needs; the weights are inside, so that loading fetches none."""
        if "pretrained" in checkpoint.get("hyper_parameters", {}):
            checkpoint["hyper_parameters"]["pretrained"] = False
        cls = type(self)
        checkpoint["lightning_har"] = {
            "version": __version__,
            "class": cls.__name__,
            "module": cls.__module__,
            "class_names": self.class_names,
            "eval_sampling": self.eval_sampling.to_dict() if self.eval_sampling else None,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take class names and protocol back.

        Raises:
            ConfigError: The module's classes, such as its data's in a resumed run, are others; with both lists.
        """
        ours = checkpoint.get("lightning_har")
        if ours is None:
            return
        names, own = to_class_names(ours["class_names"]), to_class_names(self.class_names)
        if names is not None and own is not None and names != own:
            raise ConfigError(
                "the checkpoint's classes are not this module's, in this order; take the data that it was trained on, "
                f"or leave the checkpoint out.\nthe checkpoint: {listing(names)}\nthis module: {listing(own)}"
            )
        self._saved_by = ours["class"]
        self.saved_options = {**DEFAULTS, **checkpoint.get("hyper_parameters", {})}
        if names is not None:
            self.class_names = names
        if ours["eval_sampling"] is not None:
            self.eval_sampling = Sampling.from_dict(ours["eval_sampling"])

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As torch does, but with our words for what does not fit, and with what to do about it.

        Raises:
            WeightsError: Tensors are missing, left over or of another shape; the first of each are named.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError:
            own = self.state_dict()
            names = own.keys() | state_dict.keys() if strict else own.keys() & state_dict.keys()
            file = self._trainer.ckpt_path if self._trainer is not None else None
            what = f"the weights in {file}" if file else "the weights"
            if self._saved_by not in (None, type(self).__name__):
                what += f", of a {self._saved_by},"
            check_fit(
                _shapes(own, names),
                _shapes(state_dict, names),
                network=type(self).__name__,
                what=what,
                remedy=_REMEDY if file else None,
            )
            raise

    @classmethod
    def offline(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor arguments under which no other weights are fetched or read: those of a checkpoint are inside.

        A subclass whose further arguments name weights overrides this.
        """
        offline = dict(arguments)
        if "pretrained" in inspect.signature(cls.__init__).parameters:
            offline["pretrained"] = False
        else:
            offline.pop("pretrained", None)
        if "teacher" in offline:
            offline["teacher"] = None
        return offline

    @classmethod
    def from_pretrained(
        cls,
        id_or_path: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        num_classes: NumClasses | None = None,
        map_location: Any = None,
    ) -> Self:
        """A module from a checkpoint in safetensors: a folder, a name in the zoo, or "owner/name" on the hub.

        See ``lightning_har.load``, which finds the class itself.
        """
        from lightning_har.modules import pretrained

        module: Self = pretrained.load(  # type: ignore[assignment]
            id_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            num_classes=num_classes,
            map_location=map_location,
            cls=cls,
        )
        return module

    def save_pretrained(self, folder: str | Path, *, card: Card | None = None) -> Path:
        """Write model.safetensors, config.json and README.md; see ``lightning_har.modules.pretrained.save``."""
        from lightning_har.modules import pretrained

        return pretrained.save(self, folder, card)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        commit_message: str | None = None,
        token: str | None = None,
        card: Card | None = None,
    ) -> str:
        """Save and publish; gives the commit. See ``lightning_har.modules.pretrained.push_to_hub``."""
        from lightning_har.modules import pretrained

        return pretrained.push_to_hub(
            self, repo_id, private=private, commit_message=commit_message, token=token, card=card
        )

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, **kwargs: Any) -> Self:
        """Lightning's own, which here fetches nothing: the checkpoint holds all weights.

        Raises:
            WeightsError: They do not fit the module that the checkpoint's arguments, or those given, build.
        """
        kwargs.setdefault("weights_only", True)
        try:
            module: Self = super().load_from_checkpoint(checkpoint_path, **kwargs)  # type: ignore[misc]
        except WeightsError as error:
            raise WeightsError(f"{checkpoint_path}: {error}") from error
        return module


_REMEDY = (
    "Give the arguments and the data that they were trained with (a run's are in its config.yaml), or train anew "
    "without them."
)

# Suffixed, since a ModuleDict refuses the name of one of its methods ("train").
_METRIC_SETS = ("train_", "val_", "test_clip_", "test_video_")


def _shapes(state: Mapping[str, Any], names: Collection[str]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(getattr(value, "shape", ())) for name, value in state.items() if name in names}


def _map(video: Video, f: Any) -> Video:
    return {k: f(v) for k, v in video.items()} if isinstance(video, Mapping) else f(video)


def _map_logits(logits: Logits, f: Any) -> Logits:
    return {k: f(v) for k, v in logits.items()} if isinstance(logits, dict) else f(logits)


def _slice(x: Tensor, *, start: int, stop: int) -> Tensor:
    return x[:, start:stop]
