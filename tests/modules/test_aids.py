"""Mixing, distillation, recomputed activations, the weight of two streams."""

import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_har import TSNModule, TwoStreamModule
from lightning_har.errors import ConfigError, WeightsError
from lightning_har.modules.aids import distillation, mix

SMALL = {"backbone": "test_resnet", "pretrained": False, "input_size": 32}


def batch_of(video, label):
    ids = [str(i) for i in range(len(label))]
    return {"video": video, "label": label, "id": ids, "path": ids, "failures": []}


def fit(module, batches, **kwargs):
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, **kwargs,
    )  # fmt: skip
    loader = DataLoader(batches, batch_size=None)
    trainer.fit(module, loader, loader)
    return trainer


def test_mixup_is_linear_and_cutmix_takes_a_box():
    torch.manual_seed(0)
    video = torch.arange(4.0).view(4, 1, 1, 1, 1).expand(4, 3, 2, 8, 8)
    label = torch.arange(4)
    mixed, other, share = mix(video, label, mixup=1.0, cutmix=0.0)
    torch.testing.assert_close(mixed[:, 0, 0, 0, 0], share * label + (1 - share) * other)
    mixed, other, share = mix(video, label, mixup=0.0, cutmix=1.0)
    foreign = mixed == other.view(4, 1, 1, 1, 1)
    moved = other != label
    assert foreign[moved].float().mean() == pytest.approx(1 - share)
    assert (foreign[:, :, :1] == foreign).all()  # the same box in all frames
    same, none, one = mix(video, label, 0.0, 0.0)
    assert same is video
    assert none is None
    assert one == 1.0


def test_two_modalities_are_mixed_alike():
    video = {"rgb": torch.rand(4, 3, 2, 8, 8), "flow": torch.rand(4, 2, 2, 8, 8)}
    label = {"verb": torch.arange(4), "noun": torch.arange(4)}
    mixed, other, share = mix(video, label, mixup=1.0, cutmix=0.0)
    assert torch.equal(other["verb"], other["noun"])
    for m, clip in video.items():
        torch.testing.assert_close(mixed[m], share * clip + (1 - share) * clip[other["verb"]])


def test_distillation_is_least_where_the_student_agrees():
    teacher = torch.randn(5, 4)
    assert distillation(teacher + 3.0, teacher, 4.0) == pytest.approx(0.0, abs=1e-5)
    student = torch.randn(5, 4)
    p, q = (teacher / 2).softmax(1), (student / 2).softmax(1)
    expected = 4 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(distillation(student, teacher, 2.0), expected)


def test_a_teacher_is_learnt_from_and_not_saved(tmp_path):
    torch.manual_seed(0)
    data = [batch_of(torch.randint(0, 256, (4, 3, 3, 32, 32), dtype=torch.uint8), torch.arange(4))]
    teacher = TSNModule(4, **SMALL)
    fit(teacher, data).save_checkpoint(tmp_path / "teacher.ckpt")
    student = TSNModule(4, teacher=str(tmp_path / "teacher.ckpt"), teacher_weight=1.0, lr=0.0, dropout=0.0, **SMALL)
    trainer = fit(student, data)
    with torch.no_grad():  # at lr 0, in the mode and state of the only step
        x = student._prepare(data[0]["video"])
        target = teacher.eval().net(x)
        expected = distillation(student.train().net(x), target, 4.0)
    assert float(trainer.callback_metrics["train_loss"]) == pytest.approx(float(expected), rel=1e-3)
    assert not [k for k in student.state_dict() if "teacher" in k]
    with pytest.raises(ConfigError, match="They must agree"):
        fit(TSNModule(3, teacher=str(tmp_path / "teacher.ckpt"), **SMALL), data)


def test_recomputed_stages_have_the_same_gradients():
    x, y = torch.randn(2, 3, 3, 32, 32), torch.tensor([0, 1])
    grads = []
    for stages in ((), ("backbone.net.layer1", "backbone.net.layer3")):
        torch.manual_seed(0)
        module = TSNModule(4, dropout=0.0, checkpoint_stages=stages, **SMALL)
        F.cross_entropy(module(x), y).backward()
        grads.append([p.grad for p in module.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(ConfigError, match="no submodule 'layer9'"):
        TSNModule(4, checkpoint_stages=["layer9"], **SMALL)


def test_validation_chooses_the_weight_of_flow(monkeypatch):
    module = TwoStreamModule(2, "tsn", SMALL)
    label = torch.tensor([0, 1, 0, 1])
    right, wrong = F.one_hot(label, 2).float(), F.one_hot(1 - label, 2).float()
    # Flow is right by 1, RGB wrong by 2: only a weight of flow above 2/3 is right.
    monkeypatch.setattr(module.net, "forward_streams", lambda video: (2 * wrong, right))
    monkeypatch.setattr(module.net, "forward", lambda video: module.net.fuse(2 * wrong, right))
    video = {
        "rgb": torch.zeros(4, 3, 3, 32, 32, dtype=torch.uint8),
        "flow": torch.zeros(4, 2, 15, 32, 32, dtype=torch.uint8),
    }
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    loader = DataLoader([batch_of(video, label)], batch_size=None)
    logged = trainer.validate(module, loader, verbose=False)[0]
    assert logged["val_top1"] == 0.0
    assert float(module.net.weight) == pytest.approx(0.7)
    assert trainer.validate(module, loader, verbose=False)[0]["val_top1"] == 1.0


def test_streams_trained_apart_are_fused_from_their_checkpoints(tmp_path):
    data = {
        "rgb": torch.randint(0, 256, (4, 3, 3, 32, 32), dtype=torch.uint8),
        "flow": torch.randint(0, 256, (4, 2, 15, 32, 32), dtype=torch.uint8),
    }
    paths, alone = {}, {}
    for modality, video in data.items():
        torch.manual_seed(0)
        module = TSNModule(2, modality=modality, **SMALL)
        paths[modality] = str(tmp_path / f"{modality}.ckpt")
        fit(module, [batch_of(video, torch.tensor([0, 1, 0, 1]))]).save_checkpoint(paths[modality])
        with torch.no_grad():
            alone[modality] = module.eval()(video)
    both = TwoStreamModule(
        2, "tsn", SMALL, rgb_checkpoint=paths["rgb"], flow_checkpoint=paths["flow"], weight=0.25
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(both(data), 0.75 * alone["rgb"] + 0.25 * alone["flow"])
    with pytest.raises(WeightsError, match=r"has 2 classes .* this stream has 3"):
        TwoStreamModule(3, "tsn", SMALL, rgb_checkpoint=paths["rgb"], flow_checkpoint=paths["flow"])
