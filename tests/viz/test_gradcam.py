from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from lightning_har.errors import ConfigError
from lightning_har.modules.base import ActionRecognizer
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.modules.i3d import I3DModule
from lightning_har.modules.s3d import S3DModule
from lightning_har.modules.tsn import TSNModule
from lightning_har.modules.two_stream import TwoStreamModule
from lightning_har.spec import InputSpec
from lightning_har.viz.gradcam import grad_cam, overlay, save_grad_cam


class Brightness(nn.Module):
    """Class 1 is where and when it is bright: known by construction."""

    num_features = 1

    def __init__(self, time: bool) -> None:
        super().__init__()
        self.time = time
        self.conv = nn.Conv3d(3, 1, 1, bias=False) if time else nn.Conv2d(3, 1, 1, bias=False)
        nn.init.ones_(self.conv.weight)

    def forward(self, video):
        x = video if self.time else video.transpose(1, 2).flatten(0, 1)
        maps = self.conv(x)
        maps = maps if self.time else maps.unflatten(0, (len(video), -1)).transpose(1, 2)
        seen = maps.mean((2, 3, 4))
        return torch.cat((-seen, seen), 1)


class Recognizer(ActionRecognizer):
    def __init__(self, time: bool) -> None:
        spec = InputSpec(num_frames=4, size=(8, 8), mean=(0.0,), std=(1.0,))
        super().__init__(Brightness(time), spec, 2)


@pytest.mark.parametrize("time", [True, False])
def test_the_map_is_where_and_when_the_class_is(time: bool) -> None:
    video = torch.zeros(2, 3, 4, 8, 8, dtype=torch.uint8)
    video[0, :, 1, :4, 4:] = 200
    video[1, :, 3, 4:, :4] = 200
    cam = grad_cam(Recognizer(time), video, target=[1, 1])
    assert cam.layer == "conv"
    assert cam.maps.shape == (2, 4, 8, 8)
    expected = (video[:, 0] > 0).float()
    torch.testing.assert_close(cam.maps, expected)
    # What speaks for class 1 speaks against class 0.
    assert not grad_cam(Recognizer(time), video, target=[0, 0]).maps.any()


MODULES = {
    "tsn": lambda: TSNModule(3, "resnet18", pretrained=False, input_size=64),
    "frozen gru": lambda: CNNRNNModule(3, "mobilenetv2_035", pretrained=False, num_frames=3, input_size=64),
    "convlstm": lambda: CNNRNNModule(
        3, "mobilenetv2_035", "convlstm", hidden=4, pretrained=False, num_frames=2, input_size=128
    ),
    "i3d": lambda: I3DModule(3, pretrained=False, num_frames=8, input_size=64),
    "s3d": lambda: S3DModule(3, pretrained=False, num_frames=8, input_size=64),
    "heads": lambda: TSNModule({"verb": 3, "noun": 4}, "resnet18", pretrained=False, input_size=64),
}


@pytest.mark.parametrize("name", MODULES)
def test_every_family_has_maps_and_is_left_as_it_was(name: str) -> None:
    torch.manual_seed(0)
    module = MODULES[name]().train()
    for part in module.net.modules():  # a fresh network's maps may be all negative, whose ReLU is black
        if isinstance(part, (nn.Linear, nn.Conv3d)) and part.bias is not None:
            nn.init.uniform_(part.weight, 0, 0.1)
    video = torch.randint(0, 255, (2, 3, module.spec.num_frames, 64, 64), dtype=torch.uint8)
    if name == "convlstm":
        video = torch.randint(0, 255, (2, 3, 2, 128, 128), dtype=torch.uint8)
    modes = [part.training for part in module.modules()]
    before = {k: v.clone() for k, v in module.state_dict().items()}
    cam = grad_cam(module, video)
    assert cam.maps.shape == (2, *video.shape[2:])
    assert 0 <= float(cam.maps.min()) <= float(cam.maps.max()) <= 1.0001
    assert torch.isfinite(cam.maps).all()
    assert [part.training for part in module.modules()] == modes
    assert getattr(module.net, "freeze", None) == (True if "mobilenet" in str(module.hparams.get("backbone")) else None)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_a_stream_of_two() -> None:
    arguments = {"backbone": "resnet18", "input_size": 64, "pretrained": False}
    module = TwoStreamModule(3, family="tsn", arguments=arguments)
    video = {
        m: torch.randint(0, 255, (1, s.channels, s.num_frames, 64, 64), dtype=torch.uint8)
        for m, s in module.spec.items()
    }
    assert grad_cam(module, video, modality="rgb").layer == "rgb.backbone.net.layer4"
    assert grad_cam(module, video, modality="flow").maps.shape == (1, *video["flow"].shape[2:])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "convv"}, "nearest: conv"),
        ({"target": [2]}, "give a class from 0 to 1"),
        ({"target": [0, 0]}, "for each of 1 clips"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        grad_cam(Recognizer(True), torch.zeros(1, 3, 4, 8, 8, dtype=torch.uint8), **arguments)


def test_features_have_no_places() -> None:
    module = CNNRNNModule(3, None, feature_dim=8)
    with pytest.raises(ConfigError, match="no places"):
        grad_cam(module, torch.zeros(1, 4, 8))


def test_overlay_colours_only_what_is_hot() -> None:
    frame, heat = torch.full((3, 4, 4), 100, dtype=torch.uint8), torch.zeros(4, 4)
    heat[0, 0] = 1
    out = overlay(frame, heat)
    assert torch.equal(out[:, 1:], frame[:, 1:])
    assert out[0, 0, 0] > out[2, 0, 0] + 20  # red


def test_the_picture(tmp_path: Path) -> None:
    video = torch.zeros(2, 3, 4, 8, 8, dtype=torch.uint8)
    video[:, :, 1, :4] = 200
    cam = grad_cam(Recognizer(True), video, target=[1, 1])
    save_grad_cam(video, cam, tmp_path / "cam.png", class_names=["dark", "bright"], frames=3)
    with Image.open(tmp_path / "cam.png") as picture:
        assert picture.width > 400
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20
    with pytest.raises(ConfigError, match="another clip"):
        save_grad_cam(video[:1], cam, tmp_path / "x.png")
    with pytest.raises(ConfigError, match="uint8"):
        save_grad_cam(video.float(), cam, tmp_path / "x.png")
