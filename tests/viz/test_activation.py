from pathlib import Path

import pytest
import torch
from PIL import Image

from lightning_har.errors import ConfigError
from lightning_har.nets.backbones import build_backbone
from lightning_har.viz.activation import maximize_activation, mobilenetv2_block, save_features


def test_blocks_are_those_of_the_network() -> None:
    backbone = build_backbone("mobilenetv2_035", pretrained=False)
    names = [mobilenetv2_block(n) for n in range(17)]
    assert names == [f"blocks.{i}.{j}" for i, stage in enumerate(backbone.net.blocks) for j in range(len(stage))]
    with pytest.raises(ConfigError, match="0 to 16"):
        mobilenetv2_block(17)


def mean_activation(backbone, layer: str, channel: int, picture: torch.Tensor) -> float:
    found = []
    hook = backbone.net.get_submodule(layer).register_forward_hook(lambda *a: found.append(a[2]))
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (backbone.mean, backbone.std))
    with torch.no_grad():
        backbone.eval()(((picture[None]) - mean) / std)
    hook.remove()
    return float(found[0][0, channel].mean())


def test_the_picture_excites_its_channel_more_than_another(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = build_backbone("mobilenetv2_035", pretrained=False).train()
    pictures = maximize_activation(backbone, "blocks.1.0", [0, 3], size=48, steps=100)
    assert pictures.shape == (2, 3, 48, 48)
    assert 0 <= float(pictures.min()) < float(pictures.max()) <= 1
    assert backbone.training
    assert all(p.grad is None for p in backbone.parameters())
    for channel, mine, other in ((0, 0, 1), (3, 1, 0)):
        own = mean_activation(backbone, "blocks.1.0", channel, pictures[mine])
        assert own > mean_activation(backbone, "blocks.1.0", channel, pictures[other])
        assert own > mean_activation(backbone, "blocks.1.0", channel, torch.rand(3, 48, 48))
    again, other = (maximize_activation(backbone, "blocks.1.0", [0, 3], size=48, steps=3, seed=s) for s in (0, 1))
    torch.testing.assert_close(again, maximize_activation(backbone, "blocks.1.0", [0, 3], size=48, steps=3))
    assert not torch.allclose(again, other)
    save_features(backbone, tmp_path / "f.png", ["blocks.0.0", "blocks.1.0"], channels=2, size=32, steps=2)
    with Image.open(tmp_path / "f.png") as picture:
        assert picture.height > 300


@pytest.mark.parametrize(
    ("layer", "channels", "message"),
    [("blocks.1.9", [0], "nearest: blocks.1"), ("blocks.1.0", [999], "channels 0 to"), ("classifier", [0], "no maps")],
)
def test_wrong_arguments(layer: str, channels: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        maximize_activation(build_backbone("mobilenetv2_035", pretrained=False), layer, channels, size=32, steps=1)
