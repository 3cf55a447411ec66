"""One test for every model there is: a new one is added to the list and tested for free."""

import json
import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

import lightning_har as har
from lightning_har.modules import load_checkpoint
from lightning_har.modules.base import ActionRecognizer

GOLDEN = Path(__file__).with_name("golden.json")


class Model(NamedTuple):
    name: str
    build: type
    arguments: dict
    sizes: tuple[tuple[int, int], ...]
    """(frames, pixels): the smallest it takes, and another."""


def _tsn(name, backbone="test_resnet", sizes=((3, 32), (5, 48)), **kwargs):
    return Model(name, har.TSNModule, {"backbone": backbone, "pretrained": False, "dropout": 0.0, **kwargs}, sizes)


def _rnn(temporal, sizes=((8, 32), (5, 48)), name=None, **kwargs):
    arguments = {"backbone": "test_resnet", "pretrained": False, "freeze_backbone": False, "dropout": 0.0}
    arguments |= {"temporal": temporal, "hidden": 6, **kwargs}
    return Model(name or f"cnn_{temporal}", har.CNNRNNModule, arguments, sizes)


def _i3d(name, backbone, **kwargs):
    arguments = {"backbone": backbone, "pretrained": False, "dropout": 0.0, **kwargs}
    return Model(name, har.I3DModule, arguments, ((8, 32), (16, 48)))


MODELS = [
    _tsn("tsn"),
    _tsn("tsn_max", consensus="max"),
    _tsn("tsn_weighted", consensus="weighted"),
    _tsn("tsn_rgb_diff", modality="rgb_diff", sizes=((18, 32), (30, 48))),
    _tsn("tsn_flow", modality="flow", sizes=((15, 32), (25, 48))),
    _tsn("tsn_vgg16", "vgg16", sizes=((3, 32), (2, 64))),
    _tsn("tsn_bn_inception", "bn_inception", sizes=((3, 64), (2, 96))),
    _tsn("tsm_resnet18", "resnet18", temporal_shift=True, num_segments=4, sizes=((4, 32), (8, 48))),
    _tsn("tsm_mobilenetv2", "mobilenetv2_035", temporal_shift=True, num_segments=4, sizes=((4, 32), (8, 48))),
    _rnn("gru"),
    _rnn("lstm", head_width=8, input_dropout=0.0),
    _rnn("convlstm", sizes=((3, 128), (4, 160))),
    _rnn("convnet1d", num_frames=8, sizes=((8, 32), (12, 48))),
    _rnn("avg"),
    _rnn("max"),
    _rnn("moments"),
    _rnn("attention"),
    _rnn("single"),
    _rnn("gru", sizes=((2, 75), (3, 96)), backbone="inception_v3", name="cnn_inception_v3"),
    _i3d("i3d_inception_v1", "inception_v1"),
    _i3d("i3d_inception_v1_flow", "inception_v1", modality="flow"),
    _i3d("i3d_resnet50", "resnet50"),
    _i3d("i3d_densenet121", "densenet121"),
    _i3d("i3d_seresnet18", "legacy_seresnet18"),
    _i3d("i3d_mobilenetv2", "mobilenetv2_035"),
    Model("s3d_v1", har.S3DModule, {"dropout": 0.0}, ((8, 32), (16, 48))),
    Model("s3d_v3", har.S3DModule, {"variant": "v3", "dropout": 0.0}, ((49, 49), (56, 64))),
    Model("s3d_v3_inflated", har.S3DModule, {"variant": "v3", "conv1x7": "inflated", "dropout": 0.0}, ((49, 49),)),
    Model("s3d_v3_top_heavy", har.S3DModule, {"variant": "v3_top_heavy", "dropout": 0.0}, ((49, 49), (56, 64))),
    Model("x3d_xs", har.PyTorchVideoModule, {"name": "x3d_xs", "dropout": 0.0}, ((4, 32), (6, 64))),
    Model(
        "two_stream_tsn",
        har.TwoStreamModule,
        {"family": "tsn", "arguments": {"backbone": "test_resnet", "pretrained": False, "dropout": 0.0}},
        ((15, 32), (30, 48)),
    ),
]
BIG = {
    *("i3d_densenet121", "i3d_resnet50", "s3d_v3", "s3d_v3_inflated", "s3d_v3_top_heavy", "tsn_vgg16"),
    "cnn_inception_v3",
}
EACH = [pytest.param(m, id=m.name, marks=[pytest.mark.slow] if m.name in BIG else []) for m in MODELS]


def build(model, num_classes=5):
    torch.manual_seed(0)
    return model.build(num_classes, **model.arguments)


def noise(shape, seed):
    """Numbers in [-1, 1] that look random and are the same everywhere, without a generator."""
    n = torch.arange(math.prod(shape), dtype=torch.float64) + 1000.0 * seed
    return ((torch.sin(n * 12.9898 + 78.233) * 43758.5453) % 1 * 2 - 1).reshape(shape).float()


def clip_for(module, frames, pixels, batch=2):
    def one(spec, frames):
        return 2 * noise((batch, spec.channels, frames, pixels, pixels), 7)

    if isinstance(module.spec, dict):  # TSN takes five flow fields for each RGB frame
        return {m: one(s, frames * s.num_frames // module.spec["flow"].num_frames) for m, s in module.spec.items()}
    return one(module.spec, frames)


def fill(module):
    """Weights by a formula, of the size that keeps signals' size; so the golden outputs need no generator."""
    for i, (name, p) in enumerate(module.named_parameters()):
        if p.ndim > 1:
            p.data.copy_(noise(p.shape, i) * (6 / p[0].numel()) ** 0.5)
        elif name.endswith("weight"):
            p.data.copy_(1 + 0.2 * noise(p.shape, i))
        else:
            p.data.copy_(0.1 * noise(p.shape, i))


@pytest.mark.parametrize("model", EACH)
def test_forward_at_two_sizes_and_golden_output(model):
    module = build(model)
    fill(module)
    module.eval()
    with torch.no_grad():
        outputs = [module(clip_for(module, *size)) for size in model.sizes]
    assert all(y.shape == (2, 5) and y.isfinite().all() for y in outputs)
    # A golden output that does not depend on the input would show nothing.
    assert (outputs[0][0] - outputs[0][1]).abs().max() > 1e-2 * outputs[0].abs().max()
    golden = json.loads(GOLDEN.read_text())
    expected = torch.tensor(golden[model.name])
    scale = expected.abs().max()
    torch.testing.assert_close(outputs[0][0] / scale, expected / scale, atol=2e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_forward_at_its_own_input(model):
    """As the InputSpec says: every length and size that data modules, exports and benchmarks take it by."""
    module = build(model).eval()
    specs = module.spec if isinstance(module.spec, dict) else {module.spec.modality: module.spec}
    video = {
        m: torch.randint(0, 256, (1, s.channels, s.num_frames, *s.size), dtype=torch.uint8) for m, s in specs.items()
    }
    with torch.no_grad():
        logits = module(video)
    assert logits.shape == (1, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize("model", EACH)
def test_every_parameter_receives_a_gradient(model):
    module = build(model).train()
    frames, pixels = model.sizes[0]
    video = module._prepare(clip_for(module, frames, pixels, batch=4))
    label = torch.tensor([0, 1, 2, 3])
    sum(weight * module.loss(logits, label) for logits, weight in module.training_outputs(video)).backward()
    without = [n for n, p in module.named_parameters() if p.grad is None]
    assert not without, f"no gradient for {without}"


@pytest.mark.parametrize("model", EACH)
def test_save_load_same_logits(model, tmp_path):
    module = build(model).eval()
    checkpoint = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "pytorch-lightning_version": "2.5.0",
    }
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "m.ckpt")
    video = clip_for(module, *model.sizes[0])
    with torch.no_grad():
        torch.testing.assert_close(load_checkpoint(tmp_path / "m.ckpt")(video), module(video), atol=0, rtol=0)


@pytest.mark.parametrize("model", EACH)
def test_without_classes_there_are_features(model):
    module = build(model, num_classes=0).eval()
    with torch.no_grad():
        assert module(clip_for(module, *model.sizes[0])).shape == (2, module.net.num_features)


@pytest.mark.parametrize("model", EACH)
def test_exports(model):
    module = build(model).eval()
    video = module._prepare(clip_for(module, *model.sizes[0]))
    with torch.no_grad():
        program = torch.export.export(module.net, (video,))
        torch.testing.assert_close(program.module()(video), module.net(video), atol=1e-5, rtol=1e-4)


def test_every_module_class_is_in_the_list():
    exported = {v for v in (getattr(har, n) for n in har.__all__) if isinstance(v, type) and issubclass(v, nn.Module)}
    assert exported - {ActionRecognizer} == {m.build for m in MODELS}


def write_golden():
    """Write the golden outputs anew: ``python tests/modules/test_all_models.py``. Look at the difference."""
    out = {}
    for model in MODELS:
        module = build(model)
        fill(module)
        with torch.no_grad():
            out[model.name] = [round(float(v), 6) for v in module.eval()(clip_for(module, *model.sizes[0]))[0]]
    GOLDEN.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    write_golden()
