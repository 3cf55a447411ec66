from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from edge_models import clips, cnn_rnn
from torch import nn

from lightning_har.edge import qat as qat_file
from lightning_har.edge.export import export
from lightning_har.edge.qat import QuantizationAwareTraining, _round_weight
from lightning_har.spec import InputSpec


def fit(module, *callbacks, epochs=2, ckpt_path=None, **kwargs):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(
        **(quiet | {"enable_checkpointing": False, "max_epochs": epochs, "callbacks": list(callbacks)} | kwargs)
    )
    batches = torch.utils.data.DataLoader([clips(4, seed=s) for s in range(2)], batch_size=None)
    trainer.fit(module, batches, batches, ckpt_path=ckpt_path)
    return trainer


def test_weights_are_rounded_in_training_and_float_afterwards():
    module = cnn_rnn("avg", freeze_backbone=False, lr=1e-3)
    keys = list(module.state_dict())
    layer = module.net.backbone.net.layer4[0].conv1  # 9 × 256 weights for an output channel
    seen = []

    class See(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            def hook(m, inputs):
                seen.append(torch.unique(m.weight[0]).numel() <= 255)

            self.handle = layer.register_forward_pre_hook(hook)  # after the callback's own

        def on_train_batch_end(self, *args):
            self.handle.remove()

    before = layer.weight.detach().clone()
    assert torch.unique(before[0]).numel() > 255
    qat = QuantizationAwareTraining()
    fit(module, qat, See(), epochs=2, num_sanity_val_steps=0)
    assert len(seen) >= 4
    assert all(seen)
    assert not qat.active
    assert isinstance(layer.weight, nn.Parameter)
    assert not torch.equal(layer.weight, before), "the gradient did not pass the rounding"
    assert list(module.state_dict()) == keys
    video = clips(2)["video"]
    module.eval()
    assert torch.equal(module(video), module(video))
    assert not layer._forward_pre_hooks


def test_the_rounded_network_differs_and_one_step_of_a_scale_is_all():
    layer = nn.Linear(64, 8)
    rounded = _round_weight(layer.weight)
    step = layer.weight.detach().abs().amax(1, keepdim=True) / 127
    assert not torch.equal(rounded, layer.weight)
    assert ((rounded - layer.weight).abs() <= step / 2 + 1e-7).all()
    assert torch.allclose((rounded / step).round(), rounded / step, atol=1e-3)


def test_distillation_is_added_to_the_loss_and_taken_off():
    losses: dict[bool, list[float]] = {True: [], False: []}
    for distill, told in losses.items():
        module = cnn_rnn("avg", freeze_backbone=False, dropout=0.0, lr=0.0)

        class Tell(pl.Callback):
            def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, told=told):
                told.append(float(outputs["loss"].detach()))

        fit(module, QuantizationAwareTraining(distill=distill), Tell(), epochs=1, num_sanity_val_steps=0)
        assert not {"training_step", "training_outputs"} & set(vars(module))
    assert len(losses[True]) == 2
    # The teacher is the same network, unrounded and with its running statistics: so not equal.
    assert all(with_term - without > 1e-6 for with_term, without in zip(losses[True], losses[False], strict=True))


def two_streams_apart():
    from lightning_har.modules.two_stream import TwoStreamModule

    torch.manual_seed(0)
    arguments = {"backbone": "resnet10t", "num_segments": 2, "pretrained": False, "input_size": 32, "dropout": 0.0}
    return TwoStreamModule(4, "tsn", arguments, loss="apart")


def s3d_with_an_auxiliary_classifier():
    from lightning_har.modules.s3d import S3DModule

    torch.manual_seed(0)
    return S3DModule(4, "v3", num_frames=49, input_size=96, dropout=0.0)


@pytest.mark.parametrize(
    "build",
    [
        lambda: cnn_rnn("avg", dropout=0.0, mixup=1.0),
        two_streams_apart,
        pytest.param(s3d_with_an_auxiliary_classifier, marks=pytest.mark.slow),
    ],
    ids=["mixup", "two streams", "auxiliary"],
)
def test_the_distillation_term_counts_once_and_whole(build, monkeypatch):
    """Though the labels' loss is computed of several outputs, or with shares."""
    losses = []
    for term in (0.0, 100.0):
        monkeypatch.setattr(qat_file, "distillation", lambda s, t, temperature, term=term: s.sum() * 0 + term)
        torch.manual_seed(1)
        module = build().train()
        batch = clips(4)
        if not isinstance(module.spec, InputSpec):
            shapes = {k: (4, s.channels, s.num_frames, *s.size) for k, s in module.spec.items()}
            batch["video"] = {k: torch.randint(0, 256, shape, dtype=torch.uint8) for k, shape in shapes.items()}
        elif module.spec.size != (64, 64):
            shape = (2, 3, module.spec.num_frames, *module.spec.size)
            batch = {**clips(2), "video": torch.randint(0, 256, shape, dtype=torch.uint8)}
        qat = QuantizationAwareTraining(distill=True)
        qat._begin(module)
        torch.manual_seed(1)
        losses.append(float(module.training_step(batch, 0)["loss"].detach()))
        qat._end()
    assert losses[1] - losses[0] == pytest.approx(100, abs=1e-2)


def statistics(module):
    return {n: b.clone() for n, b in module.named_buffers() if n.endswith(("running_mean", "running_var"))}


def test_batch_norms_that_have_seen_data_stay_as_they_will_be_deployed():
    module = cnn_rnn("avg", freeze_backbone=False, lr=1e-3)
    before = statistics(module)
    norm = next(m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    fit(module)
    weights = {n: p.detach().clone() for n, p in module.named_parameters() if "bn" in n}
    ordinary = statistics(module)
    assert all(not torch.equal(ordinary[n], before[n]) for n in before), "training without rounding is ordinary"
    fit(module, QuantizationAwareTraining(), epochs=1)
    after = statistics(module)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[n], ordinary[n]) for n in after)
    assert any(not torch.equal(p, weights[n]) for n, p in module.named_parameters() if n in weights)
    assert norm.training == module.training


def test_batch_norms_of_converted_weights_stay_though_they_have_counted_nothing():
    module = cnn_rnn("avg", freeze_backbone=False, lr=1e-3)
    for norm in (m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        norm.num_batches_tracked.zero_()
    before = statistics(module)
    qat = QuantizationAwareTraining()
    fit(module, qat, epochs=1)
    after = statistics(module)
    assert all(torch.equal(after[n], before[n]) for n in after)
    other = cnn_rnn("gru", freeze_backbone=False)  # with other batch norms
    fit(other, qat, epochs=1)


def test_batch_norms_of_a_network_that_begins_with_rounding_learn(tmp_path):
    module = cnn_rnn("avg", freeze_backbone=False, lr=1e-3)
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
    trainer = fit(module, QuantizationAwareTraining(), enable_checkpointing=True, default_root_dir=tmp_path, epochs=1)
    first = statistics(module)
    assert all(int(norm.num_batches_tracked) == 2 for norm in norms)
    # Resumed, they have seen data; and go on.
    fit(module, QuantizationAwareTraining(), ckpt_path=trainer.checkpoint_callback.best_model_path)
    assert all(not torch.equal(first[n], x) for n, x in statistics(module).items())


def test_resuming_keeps_the_ranges(tmp_path):
    qat = QuantizationAwareTraining(distill=True)
    module = cnn_rnn("gru")
    trainer = fit(module, qat, enable_checkpointing=True, default_root_dir=tmp_path)
    ranges = qat.state_dict()["ranges"]
    assert ranges["head.fc"][0] <= 0 <= ranges["head.fc"][1]
    path = trainer.checkpoint_callback.best_model_path or trainer.checkpoint_callback.last_model_path
    stored = torch.load(path, weights_only=True)
    assert any("QuantizationAwareTraining" in key for key in stored["callbacks"])
    again = QuantizationAwareTraining(distill=True)
    more = cnn_rnn("gru")
    assert fit(more, again, epochs=3, ckpt_path=path).current_epoch == 3
    assert set(again.state_dict()["ranges"]) == set(ranges)


@pytest.mark.slow
def test_what_was_trained_so_exports(tmp_path):
    module = cnn_rnn("gru", freeze_backbone=False, lr=1e-4)
    fit(module, QuantizationAwareTraining(), epochs=1)
    report = export(module, tmp_path, int8=True, calibration=[clips(4, seed=s) for s in range(3)], kind="frames")
    assert report.agreement >= 0.75


def test_weights_are_left_on_the_grid_they_were_trained_on(tmp_path):
    from lightning_har.edge.rounding import weight_scales
    from lightning_har.modules import load_checkpoint

    module = cnn_rnn("avg", freeze_backbone=False, lr=1e-3)
    trainer = fit(module, QuantizationAwareTraining(), epochs=1, enable_checkpointing=True, default_root_dir=tmp_path)
    weight = module.net.backbone.net.conv1[0].weight.detach()
    assert torch.equal(_round_weight(weight), weight)
    scales = weight_scales(weight)
    torch.testing.assert_close(scales, weight.flatten(1).abs().amax(1) / 127, rtol=1e-5, atol=0)
    saved = load_checkpoint(trainer.checkpoint_callback.best_model_path)
    assert torch.equal(saved.net.backbone.net.conv1[0].weight, weight)


def test_resuming_goes_on_from_the_unrounded_weights(tmp_path):
    module = cnn_rnn("avg", freeze_backbone=False, lr=1e-3)
    trainer = fit(module, QuantizationAwareTraining(), epochs=1, enable_checkpointing=True, default_root_dir=tmp_path)
    path = trainer.checkpoint_callback.best_model_path
    (state,) = [v for k, v in torch.load(path, weights_only=True)["callbacks"].items() if "Quantization" in k]
    kept = state["unrounded"]["backbone.net.conv1.0"]
    seen = []

    class See(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(pl_module.net.backbone.net.conv1[0].weight.detach().clone())

    more = cnn_rnn("avg", freeze_backbone=False, lr=1e-3)
    fit(more, QuantizationAwareTraining(), See(), ckpt_path=path)
    assert torch.equal(seen[0], kept)
    assert not torch.equal(_round_weight(kept), kept)


def test_the_ranges_of_a_frozen_backbone_follow_the_data():
    module = cnn_rnn("avg")
    layer = module.net.backbone.net.layer4[0].conv1
    qat = QuantizationAwareTraining()
    seen = []

    class See(pl.Callback):
        def on_train_batch_end(self, *args):
            seen.append(qat._layers["backbone.net.layer4.0.conv1"].range)

    fit(module, qat, See(), epochs=1, num_sanity_val_steps=0)
    assert not layer.training
    assert seen[0] != seen[1]


class Interrupt(pl.Callback):
    """Ctrl-C in the middle of the only epoch, and the checkpoint that a run writes then."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        raise KeyboardInterrupt

    def on_exception(self, trainer, pl_module, exception):
        trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("saved_first", [True, False])
def test_what_was_interrupted_in_an_epoch_goes_on_with_rounding(tmp_path, saved_first):
    path = tmp_path / "last.ckpt"
    callbacks = [QuantizationAwareTraining(distill=True), Interrupt(path)]
    module = cnn_rnn("avg", freeze_backbone=False, lr=1e-3)
    with pytest.raises(SystemExit):
        fit(module, *(reversed(callbacks) if saved_first else callbacks), epochs=1)
    (state,) = [v for k, v in torch.load(path, weights_only=True)["callbacks"].items() if "Quantization" in k]
    name = "backbone.net.conv1.0"
    kept = module.net.get_submodule(name).weight.detach().clone()
    teacher = state["teacher"][f"{name}.weight"]
    assert not torch.equal(teacher, kept), "a step was made"
    seen = []

    class See(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            assert qat.active
            seen.append(pl_module.net.get_submodule(name).weight.detach().clone())

    more, qat = cnn_rnn("avg", freeze_backbone=False, lr=1e-3), QuantizationAwareTraining(distill=True)
    fit(more, qat, See(), ckpt_path=path)
    assert torch.equal(seen[0], kept)
    assert len(seen) == 3, "the rest of the first epoch, and the second"
    weight = more.net.get_submodule(name).weight.detach()
    assert torch.equal(_round_weight(weight), weight)


def test_a_callback_that_is_used_again_begins_anew(tmp_path):
    qat = QuantizationAwareTraining(distill=True)
    module = cnn_rnn("avg", freeze_backbone=False, lr=0.0)
    trainer = fit(module, qat, epochs=1, enable_checkpointing=True, default_root_dir=tmp_path)
    fit(module, qat, ckpt_path=trainer.checkpoint_callback.best_model_path)
    assert qat.state_dict()["teacher"] is not None
    fit(cnn_rnn("gru"), qat, epochs=1)  # the other's teacher would not fit
    assert "head.fc" in qat.state_dict()["ranges"]


def test_an_infinite_activation_does_not_widen_a_range_for_good():
    layer = nn.Linear(4, 2)
    rounding = qat_file._Rounding(layer, None, layer)
    x = torch.tensor([[-1.0, 0.0, 1.0, 3.0]])
    assert torch.equal(rounding._round_input(x * torch.inf, training=True).isnan().sum(), torch.tensor(1))
    assert rounding.range is None
    rounding._round_input(x, training=True)
    rounding._round_input(torch.where(x == 3, torch.inf, x), training=True)
    assert rounding.range == (-1.0, 3.0)
