"""What every module shares: steps, metrics, views, heads, either Lightning."""

import subprocess
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch
from module_runs import SIZE, T, clips, cnn_rnn, loader, trainer, tsn
from sklearn.metrics import precision_recall_fscore_support

from lightning_har import CNNRNNModule, _lightning
from lightning_har.errors import ConfigError


@pytest.mark.parametrize("build", [tsn, cnn_rnn])
def test_views_streamed_equal_views_averaged(build):
    module = build().eval()
    views = clips(2, 5, 3, T, SIZE, SIZE)
    with torch.no_grad():
        each = torch.stack([module(views[:, v]) for v in range(5)], 1)
        for size in (None, 2, 5):
            torch.testing.assert_close(module.forward_views(views, size), each.mean(1), atol=1e-5, rtol=0)
        torch.testing.assert_close(module.forward_views(views.split(2, 1)), each.mean(1), atol=1e-5, rtol=0)
        probabilities = module.forward_views(views, average="probabilities").softmax(1)
        torch.testing.assert_close(probabilities, each.softmax(2).mean(1), atol=1e-5, rtol=0)


def test_views_are_never_held_together():
    module = tsn().eval()
    given, alive = [], []

    def chunks():
        for v in range(6):
            alive.append(sum(chunk() is not None for chunk in given))
            chunk = clips(1, 2, 3, T, SIZE, SIZE, seed=v)
            given.append(weakref.ref(chunk))
            yield chunk

    seen = []
    module.net.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[0]))
    with torch.no_grad():
        module.forward_views(chunks())
    assert seen == [1] * 12
    assert alive[0] == 0
    assert max(alive) == 1, "when the next chunk is asked for, no more than the last is held"


def test_metrics_equal_sklearn():
    module, data = tsn(), loader(views=3)
    logged = trainer().test(module, data, verbose=False)[0]
    module.eval()
    with torch.no_grad():
        views = [torch.stack([module(b["video"][:, v]) for v in range(3)], 1) for b in data]
    label = torch.cat([b["label"] for b in data])
    clip = torch.cat(views)
    for name, logits, y in (
        ("test_video", clip.mean(1), label),
        ("test_clip", clip.flatten(0, 1), label.repeat_interleave(3)),
    ):
        predicted = logits.argmax(1)
        p, r, f, _ = precision_recall_fscore_support(y, predicted, average="macro", zero_division=0)
        assert logged[f"{name}_top1"] == pytest.approx((predicted == y).float().mean())
        assert logged[f"{name}_precision_macro"] == pytest.approx(p)
        assert logged[f"{name}_recall_macro"] == pytest.approx(r)
        assert logged[f"{name}_f1_macro"] == pytest.approx(f)
        assert logged[f"{name}_num_predicted_classes"] == predicted.unique().numel()
    assert "test_video_top5" not in logged  # of four classes it would always be 1


def test_padding_counts_in_no_metric():
    plain = trainer().test(tsn(), loader(size=4), verbose=False)[0]
    padded = trainer().test(tsn(), loader(size=6, batch_size=4, padding={4, 5}), verbose=False)[0]
    assert padded == pytest.approx(plain)


def test_two_heads_and_their_joint_accuracy():
    heads = {"verb": 3, "noun": 2}
    module, data = cnn_rnn(heads), loader(heads=heads)
    logged = trainer().test(module, data, verbose=False)[0]
    module.eval()
    right = []
    with torch.no_grad():
        for b in data:
            logits = module(b["video"])
            assert {h: x.shape for h, x in logits.items()} == {"verb": (4, 3), "noun": (4, 2)}
            right.append(torch.stack([logits[h].argmax(1) == b["label"][h] for h in heads]).all(0))
    assert logged["test_video_action_top1"] == pytest.approx(torch.cat(right).float().mean())
    assert {"test_video_verb_top1", "test_video_noun_f1_macro"} <= set(logged)
    assert logged["test_video_verb_loss"] + logged["test_video_noun_loss"] == pytest.approx(logged["test_loss"])
    with pytest.raises(ConfigError, match="heads \\['noun', 'verb'\\]; the data gives one label column"):
        trainer().fit(cnn_rnn(heads), loader())
    with pytest.raises(ConfigError, match="heads \\['noun', 'verb'\\]; the data gives \\['other', 'verb'\\]"):
        trainer().fit(cnn_rnn(heads), loader(heads={"verb": 3, "other": 2}))


@pytest.mark.parametrize("name", ["action", "joint"])
def test_a_head_beside_others_leaves_the_joint_score_its_name(name):
    with pytest.raises(ConfigError, match=f"cannot be called '{name}' beside others"):
        cnn_rnn({"verb": 3, name: 2})
    assert cnn_rnn({name: 2}).num_classes == {name: 2}


@pytest.mark.parametrize("build", [tsn, cnn_rnn])
def test_every_parameter_is_trained(build):
    module = build(**({"freeze_backbone": False} if build is cnn_rnn else {}))
    module.loss(module(clips(4, 3, T, SIZE, SIZE)), torch.arange(4)).backward()
    without = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without, f"no gradient for {without}"


@pytest.mark.parametrize("build", [tsn, cnn_rnn])
def test_a_frozen_backbone_keeps_its_statistics_and_has_no_graph(build):
    module = build(freeze_backbone=True)
    before = {k: v.clone() for k, v in module.net.backbone.state_dict().items()}
    graph = []
    module.net.backbone.register_forward_hook(lambda *args: graph.append(args[2].requires_grad))
    trainer(max_epochs=2).fit(module, loader())
    assert not any(graph)
    for k, v in module.net.backbone.state_dict().items():
        assert torch.equal(v, before[k]), k


def test_freezing_up_to_a_block():
    module = tsn(freeze_backbone="conv1")
    frozen = {n.split(".")[0] for n, p in module.net.backbone.net.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1"}
    net = tsn(freeze_backbone="layer2").net.backbone.net
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net(torch.randn(4, 3, SIZE, SIZE))
    moved = {k.split(".")[0] for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"layer3", "layer4"}  # nor do the frozen blocks' statistics move
    with pytest.raises(ConfigError, match="no block 'conv9'; nearest: conv1"):
        tsn(freeze_backbone="conv9")


def test_partial_batch_norm():
    module = tsn(partial_bn=True)
    norms = [m for m in module.net.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms[0].training
    assert not any(n.training or n.weight.requires_grad for n in norms[1:])


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (torch.zeros(1, 3, SIZE, SIZE), "rank 5; got rank 4"),
        (torch.zeros(1, 2, T, SIZE, SIZE), "rgb clips of 3 channels at dimension 1; got 2"),
        (torch.zeros(1, 3, T, SIZE, SIZE, dtype=torch.int64), "must be uint8"),
        ({"flow": torch.zeros(1, 2, T, SIZE, SIZE)}, r"takes rgb; the batch has \['flow'\]"),
    ],
)
def test_wrong_clips_are_named(video, message):
    with pytest.raises(ConfigError, match=message):
        tsn()(video)


def test_integer_clip_equals_the_same_clip_normalised():
    module = tsn().eval()
    x = clips(1, 3, T, SIZE, SIZE)
    mean, std = (torch.tensor(v).view(3, 1, 1, 1) for v in (module.spec.mean, module.spec.std))
    torch.testing.assert_close(module(x), module((x / 255 - mean) / std), atol=1e-5, rtol=0)


def test_features_without_a_backbone():
    module = CNNRNNModule(4, backbone=None, feature_dim=6, temporal="gru", hidden=5, pretrained=False)
    assert module(torch.randn(2, 9, 6)).shape == (2, 4)
    with pytest.raises(ConfigError, match=r"float features \(B, T, D\)"):
        module(clips(2, 3, T, SIZE, SIZE))
    with pytest.raises(ConfigError, match="not both, not neither"):
        CNNRNNModule(4, backbone=None)


@pytest.mark.parametrize("build", [tsn, cnn_rnn])
def test_no_classes_gives_features(build):
    module = build(num_classes=0).eval()
    assert module(clips(2, 3, T, SIZE, SIZE)).shape == (2, module.net.num_features)


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        # SYSTEMS C and E, by Keras's count of trainable parameters
        ({"num_classes": 13, "temporal": "lstm", "hidden": 50}, 266_963),
        ({"num_classes": 13, "temporal": "convnet1d", "hidden": 100, "num_frames": 20}, 46_353),
        ({"num_classes": {"verb": 97, "noun": 300}, "temporal": "convnet1d", "hidden": 100, "num_frames": 20}, 85_137),
        ({"num_classes": 101, "temporal": "gru", "hidden": 1280, "reset": "before", "head_width": 512}, 10_545_509),
        ({"num_classes": 101, "temporal": "lstm", "hidden": 1280, "head_width": 512}, 13_823_589),
    ],
)
def test_heads_of_the_studies_have_their_parameters(arguments, count):
    with torch.device("meta"):
        module = CNNRNNModule(backbone=None, feature_dim=1280, pretrained=False, **arguments)
    assert sum(p.numel() for p in module.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("schedule", ["none", "step", "cosine", "plateau", "inverse_time"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_optimizers_and_schedules(optimizer, schedule):
    torch.manual_seed(0)
    module = tsn(optimizer=optimizer, schedule=schedule, lr=0.1, backbone_lr_scale=0.5, milestones=[1], gamma=0.25)
    fit = trainer(max_epochs=2)
    fit.fit(module, loader(), loader())
    head, backbone = fit.optimizers[0].param_groups
    assert backbone["lr"] == pytest.approx(head["lr"] * 0.5)
    # after two epochs of two steps
    expected = {"none": 0.1, "step": 0.025, "cosine": 0.0, "plateau": 0.1, "inverse_time": 0.1 / (1 + 0.25 * 4)}
    assert head["lr"] == pytest.approx(expected[schedule], abs=1e-9)


def test_options_that_do_not_exist():
    with pytest.raises(TypeError, match="learning_rate"):
        tsn(learning_rate=0.1)
    with pytest.raises(ConfigError, match="class_weights has 2 values for the 4 classes"):
        tsn(class_weights=[1.0, 2.0])


def test_class_weights_and_label_smoothing_by_their_formula():
    logits, label = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 0])
    weight, smooth = torch.tensor([1.0, 2.0, 0.5]), 0.2
    module = tsn(3, class_weights=weight.tolist(), label_smoothing=smooth)
    log_p = logits.log_softmax(1)
    # PyTorch's: every class's share carries the class's own weight; the mean is over the labels' weights.
    target = (1 - smooth) * torch.nn.functional.one_hot(label, 3) + smooth / 3
    expected = -(target * weight * log_p).sum() / weight[label].sum()
    torch.testing.assert_close(module.loss(logits, label), expected)
    heads = cnn_rnn({"verb": 3, "noun": 2}, class_weights={"verb": weight.tolist()})
    other = torch.randn(6, 2)
    verb = -(weight[label] * log_p[range(6), label]).sum() / weight[label].sum()
    noun = -other.log_softmax(1)[range(6), label % 2].mean()
    both = heads.loss({"verb": logits, "noun": other}, {"verb": label, "noun": label % 2})
    torch.testing.assert_close(both, verb + noun)


def test_unknown_labels_do_not_count():
    module = tsn()
    logits, label = torch.randn(4, 4), torch.tensor([0, -1, 2, -1])
    torch.testing.assert_close(module.loss(logits, label), module.loss(logits[::2], label[::2]))
    assert module.loss(logits, torch.full((4,), -1)) == 0


def test_a_failed_batch_is_stepped_over():
    batch = {"video": torch.zeros(0), "label": torch.zeros(0), "id": [], "path": [], "failures": []}
    assert tsn().training_step(batch, 0) is None
    assert tsn().test_step(batch, 0) is None


BOTH = """
import {first}
import lightning_har
from lightning_har import TSNModule
from lightning_har._lightning import base_name
assert base_name == {expected!r}, base_name
import torch
module = TSNModule(4, backbone="test_resnet", pretrained=False, input_size=32)
data = [dict(video=torch.zeros(2, 3, 3, 32, 32, dtype=torch.uint8), label=torch.tensor([0, 1]), id=["a", "b"],
             path=["a", "b"], failures=[])]
loader = torch.utils.data.DataLoader(data, batch_size=None)
import {trainer}
{trainer}.Trainer(fast_dev_run=1, accelerator="cpu", logger=False, enable_progress_bar=False).fit(module, loader)
"""
PACKAGES = {"pytorch_lightning": "pytorch_lightning", "lightning": "lightning.pytorch"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "environment", "expected"),
    [
        ("pytorch_lightning", None, "pytorch_lightning"),
        ("lightning.pytorch", None, "lightning"),
        ("lightning.pytorch", "pytorch_lightning", "pytorch_lightning"),
        ("pytorch_lightning", "lightning", "lightning"),
    ],
)
def test_both_lightnings(first, environment, expected, monkeypatch, tmp_path):
    pytest.importorskip("lightning.pytorch")
    if environment:
        monkeypatch.setenv("LIGHTNING_HAR_BASE", environment)
    else:
        monkeypatch.delenv("LIGHTNING_HAR_BASE", raising=False)
    code = BOTH.format(first=first, expected=expected, trainer=PACKAGES[expected])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("environment", "imported", "installed", "expected"),
    [
        (None, [], ["lightning", "pytorch_lightning"], "pytorch_lightning"),
        (None, [], ["lightning"], "lightning"),
        (None, ["lightning.pytorch"], ["lightning", "pytorch_lightning"], "lightning"),
        (None, ["lightning.pytorch", "pytorch_lightning"], ["lightning", "pytorch_lightning"], "pytorch_lightning"),
        ("lightning", ["pytorch_lightning"], ["lightning", "pytorch_lightning"], "lightning"),
        ("pytorch_lightning", ["lightning.pytorch"], ["lightning", "pytorch_lightning"], "pytorch_lightning"),
        ("lightning", [], ["pytorch_lightning"], "LIGHTNING_HAR_BASE is 'lightning', which is not installed"),
        ("keras", [], ["pytorch_lightning"], "LIGHTNING_HAR_BASE is 'keras'; it must be one of pytorch_lightning"),
        (None, [], [], "Lightning is not installed"),
    ],
)
def test_which_lightning(environment, imported, installed, expected, monkeypatch):
    def find_spec(name):
        return name if name in installed else None

    monkeypatch.setattr(_lightning, "sys", SimpleNamespace(modules=dict.fromkeys(imported)))
    monkeypatch.setattr(_lightning, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=find_spec)))
    monkeypatch.delenv("LIGHTNING_HAR_BASE", raising=False)
    if environment:
        monkeypatch.setenv("LIGHTNING_HAR_BASE", environment)
    if " " not in expected:
        assert _lightning._choose() == expected
        return
    with pytest.raises(ConfigError, match=expected):
        _lightning._choose()


def test_cosine_rises_first_where_asked():
    module = tsn(schedule="cosine", lr=1.0, warmup_epochs=1.0)
    seen = []
    module.on_train_batch_start = lambda *_: seen.append(module.optimizers().param_groups[0]["lr"])
    trainer(max_epochs=3).fit(module, loader())  # two steps an epoch
    assert seen == pytest.approx([0.5, 1.0, 1.0, 0.8535534, 0.5, 0.1464466])
