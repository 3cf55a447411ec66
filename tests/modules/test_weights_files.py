"""``pretrained=path`` of the 3D modules: every layout lands in its place, and what does not fit is named."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from bundle_writer import write_bundle

from lightning_har import I3DModule, S3DModule
from lightning_har.errors import ConfigError, WeightsError
from lightning_har.modules import load_checkpoint
from lightning_har.nets.i3d import I3D
from lightning_har.nets.inflate import inflate_weight
from lightning_har.weights.matching import strict_load
from lightning_har.weights.tf_bundle import read_index


def random_state(net, seed=0):
    """A state dict of other numbers."""
    generator = torch.Generator().manual_seed(seed)
    return {
        k: torch.rand(v.shape, generator=generator) if v.is_floating_point() else torch.ones_like(v)
        for k, v in net.state_dict().items()
    }


def saved(state, path):
    torch.save(state, path)
    return str(path)


def differing(module, expected, head):
    """Names whose tensors are not the expected ones, but the head's; and whether the head is new."""
    own = module.net.state_dict()
    body = {k for k in own if not k.startswith(head)}
    assert body == {k for k in expected if not k.startswith(head)}
    return [k for k in body if not torch.equal(own[k], expected[k])]


@pytest.fixture(scope="module")
def port():
    return random_state(I3D(400, 3))


# -- I3D ---------------------------------------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize(("folder", "modality"), [("rgb_imagenet", "rgb"), ("flow_imagenet", "flow")])
def test_i3d_takes_the_authors_checkpoint(shared, tmp_path, folder, modality):
    index = shared / "data/annotations/kinetics/i3d_checkpoints" / folder / "model.ckpt.index"
    if not index.is_file():
        pytest.skip(f"{index} is not there")
    # The names and shapes of the real index; with data of ours, and so its checksums.
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(entry.shape, np.float32) for name, entry in read_index(index).items()}
    write_bundle(tmp_path / "model.ckpt", tensors)
    root = "RGB" if modality == "rgb" else "Flow"
    module = I3DModule(7, modality=modality, pretrained=str(tmp_path / "model.ckpt.index"))
    own = module.net.state_dict()
    stem = tensors[f"{root}/inception_i3d/Conv3d_1a_7x7/conv_3d/w"]
    assert torch.equal(own["Conv3d_1a_7x7.conv3d.weight"], torch.from_numpy(stem).permute(4, 3, 0, 1, 2))
    odd = tensors[f"{root}/inception_i3d/Mixed_5b/Branch_2/Conv3d_0a_3x3/conv_3d/w"]
    assert torch.equal(own["Mixed_5b.b2b.conv3d.weight"], torch.from_numpy(odd).permute(4, 3, 0, 1, 2))
    assert own["logits.conv3d.weight"].shape[0] == 7
    assert module.spec.modality == modality


def test_i3d_takes_the_ports_checkpoint_and_drops_the_head_alone(port, tmp_path):
    module = I3DModule(7, pretrained=saved(port, tmp_path / "rgb_imagenet.pt"))
    assert differing(module, port, "logits.") == []
    assert module.net.state_dict()["logits.conv3d.weight"].shape[0] == 7


def test_i3d_for_flow_from_rgb_weights(port, tmp_path):
    module = I3DModule(7, modality="flow", pretrained=saved(port, tmp_path / "rgb.pt"))
    stem = "Conv3d_1a_7x7.conv3d.weight"
    assert differing(module, port, "logits.") == [stem]
    expected = port[stem].mean(1, keepdim=True).expand(-1, 2, -1, -1, -1) * 1.5
    torch.testing.assert_close(module.net.state_dict()[stem], expected)


def test_i3d_inflates_googlenet(tmp_path):
    googlenet = torchvision.models.googlenet(init_weights=False, aux_logits=True)
    state = random_state(googlenet)
    own = I3DModule(7, pretrained=saved(state, tmp_path / "googlenet.pth")).net.state_dict()
    expected = inflate_weight(state["inception4e.branch3.1.conv.weight"], 3)
    assert torch.equal(own["Mixed_4f.b2b.conv3d.weight"], expected)
    assert torch.equal(own["Conv3d_1a_7x7.bn.running_var"], state["conv1.bn.running_var"])


@pytest.mark.parametrize("modality", ["rgb", "flow"])
@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv2_035", "resnet50"])
def test_inflated_networks_take_2d_weights(backbone, modality, tmp_path):
    state = random_state(timm.create_model(backbone))
    path = saved(state, tmp_path / "2d.pth")
    module = I3DModule(7, backbone=backbone, modality=modality, pretrained=path)
    own = module.net.net.state_dict()
    first = "conv_stem.weight" if backbone.startswith("mobilenet") else "conv1.weight"
    for name, value in own.items():
        given = state[name]
        if name == first and modality == "flow":
            given = given.mean(1, keepdim=True).expand(-1, 2, -1, -1) * 1.5
        expected = inflate_weight(given, value.shape[2]) if given.ndim == 4 else given
        torch.testing.assert_close(value, expected, msg=name)
    assert {k for k in state if k not in own} == {k for k in state if k.startswith(("fc.", "classifier."))}


def test_an_inflated_network_has_its_backbones_preprocessing_and_loads_again(tmp_path):
    module = I3DModule(3, backbone="mobilenetv2_100.tflite", pretrained=False, num_frames=4, input_size=32).eval()
    assert module.spec.value_range == (-1.0, 127 / 128)
    assert module.spec.mean == (0.0,)
    checkpoint = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "pytorch-lightning_version": "2.5.0",
    }
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "m.ckpt")
    clip = torch.randint(0, 256, (1, 3, 4, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(load_checkpoint(tmp_path / "m.ckpt")(clip), module(clip))


# -- S3D ---------------------------------------------------------------------------------------------------


def test_s3d_takes_torchvisions_weights(tmp_path):
    state = random_state(torchvision.models.video.s3d(num_classes=400))
    module = S3DModule(7, pretrained=saved(state, tmp_path / "s3d.pth"))
    assert differing(module, state, "classifier.") == []
    assert module.net.state_dict()["classifier.1.weight"].shape[0] == 7


def test_s3d_v3_has_no_published_weights(tmp_path):
    with pytest.raises(ConfigError, match="no published weights for S3D v3"):
        S3DModule(7, variant="v3", pretrained=str(tmp_path / "s3d.pth"))


# -- what does not fit -------------------------------------------------------------------------------------


def broken(state, how):
    state = dict(state)
    if how == "missing":
        del state["Mixed_4c.b1b.conv3d.weight"]
    elif how == "left over":
        state["Mixed_9z.b0.conv3d.weight"] = torch.zeros(1)
    else:
        state["Mixed_4c.b1b.conv3d.weight"] = torch.zeros(224, 112, 1, 1, 1)
    return state


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", ["Mixed_4c.b1b.conv3d.weight", "missing"]),
        ("left over", ["Mixed_9z.b0.conv3d.weight", "left over"]),
        ("shape", ["Mixed_4c.b1b.conv3d.weight", "(224, 112, 3, 3, 3)", "(224, 112, 1, 1, 1)"]),
    ],
)
def test_what_does_not_fit_is_named(port, tmp_path, how, words):
    path = saved(broken(port, how), tmp_path / "x.pt")
    with pytest.raises(WeightsError) as error:
        I3DModule(7, pretrained=path)
    assert [w for w in words if w not in str(error.value)] == []


@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (I3DModule, {}),
        (I3DModule, {"backbone": "resnet18"}),
        (I3DModule, {"backbone": "resnet50"}),
        (S3DModule, {}),
    ],
)
def test_weights_of_another_network(build, arguments, tmp_path):
    path = saved(random_state(timm.create_model("resnet34")), tmp_path / "resnet34.pth")
    with pytest.raises(WeightsError) as error:
        build(7, pretrained=path, **arguments)
    message = str(error.value)
    expected = {"resnet18": "layer1.2.bn1.bias", "resnet50": "layer1.0.bn3.bias"}.get(arguments.get("backbone"))
    if build is S3DModule:
        expected = "bn1.bias"
    elif expected is None:
        expected = "no tensor for Conv3d_1a_7x7.conv3d.weight"
    assert expected in message


@pytest.mark.parametrize("build", [I3DModule, S3DModule])
def test_a_missing_file_is_named(build, tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pth"):
        build(7, pretrained=str(tmp_path / "none.pth"))


def test_a_missing_file_of_an_inflated_network(tmp_path):
    with pytest.raises(WeightsError, match=r"no weights at .*none\.pth"):
        I3DModule(7, backbone="resnet18", pretrained=str(tmp_path / "none.pth"))


def test_nothing_is_loaded_in_part(port, tmp_path):
    """An error leaves no half-filled network behind: strict loading comes last."""
    module = I3DModule(400, pretrained=False)
    before = {k: v.clone() for k, v in module.net.state_dict().items()}
    with pytest.raises(WeightsError, match=r"logits\.conv3d\.weight \(expected \(400, 1024, 1, 1, 1\), given \(7,"):
        strict_load(module.net, {**port, "logits.conv3d.weight": torch.zeros(7, 1024, 1, 1, 1)})
    assert all(torch.equal(v, before[k]) for k, v in module.net.state_dict().items())
