"""The networks of benchmarks/scfd_finetune.py, on maps that are made up."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from videos import write_video

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("scfd_finetune")

    def stages(weights):
        torch.manual_seed(0)
        return nn.Conv2d(3, 96, 16, 16), nn.Conv2d(96, 1280, 2, 2), (0.0, 1.0)

    monkeypatch.setattr(module, "stages", stages)
    yield module
    for name in ("scfd_finetune", "scfd_nested", "scfd_features"):
        sys.modules.pop(name, None)


def test_a_mirror_turns_the_pictures_and_the_sign_of_x(script):
    shown = np.zeros((1, 1, 2, 3), np.uint8)
    shown[0, 0] = [[1, 2, 3], [200, 5, 6]]
    assert script.mirrored(shown, "rgb").tolist() == [[[[200, 5, 6], [1, 2, 3]]]]
    assert script.mirrored(shown, "flow").tolist() == [[[[56, 5, 6], [255, 2, 3]]]]  # 128 is no motion
    still = np.full((1, 1, 2, 3), 128, np.uint8)
    assert (script.mirrored(still, "flow") == still).all()


def test_maps_are_those_of_the_frames_and_go_on_after_a_stop(script, tmp_path, monkeypatch):
    pytest.importorskip("cv2")
    paths = [write_video(tmp_path / f"{n}.mp4", n) for n in (3, 30)]
    whole = script.maps(paths, Path("w"), tmp_path)
    assert {s: m.shape for s, m in whole.items()} == dict.fromkeys(("rgb", "flow"), (2, 2, 13, 96, 14, 14))
    kept = {s: np.array(m) for s, m in whole.items()}
    front = script.stages(None)[0]
    picture = script.pictures(paths[1])[0]["rgb"][4]
    expected = front(torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255)[0]
    np.testing.assert_allclose(kept["rgb"][1, 0, 2], expected.detach().numpy(), atol=2e-3)
    assert (kept["rgb"][0, 0, 3:] == kept["rgb"][0, 0, 2]).all()  # three frames, the last repeated
    (tmp_path / "maps-2.json").write_text("1")
    whole["rgb"][1] = 0
    second = script.pictures(paths[1])
    monkeypatch.setattr(script, "pictures", {paths[1]: second}.__getitem__)  # the first is not asked for
    again = script.maps(paths, Path("w"), tmp_path)
    assert all((again[s] == kept[s]).all() for s in kept)


def test_the_network_learns_what_can_be_learnt_and_the_test_clips_have_no_say(script, monkeypatch):
    monkeypatch.setattr(script, "EPOCHS", 20)
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 20)
    maps = rng.standard_normal((40, 2, 4, 96, 4, 4)).astype(np.float16)
    maps += labels[:, None, None, None, None, None].astype(np.float16) * 0.5
    train, test = np.arange(30), np.arange(30, 40)
    said = script.finetuned(maps, labels, train, test, Path("w"), seed=0)
    assert said.shape == (10,)
    assert ((said > 0.5) == labels[test]).mean() > 0.8
    turned = labels.copy()
    turned[test] = 1 - turned[test]
    np.testing.assert_array_equal(script.finetuned(maps, turned, train, test, Path("w"), seed=0), said)


def test_the_shifted_network_tells_orders_apart(script, monkeypatch):
    class Block(nn.Module):  # a residual block as timm writes MobileNet's
        def __init__(self):
            super().__init__()
            self.has_skip = True
            self.conv_pw, self.bn1 = nn.Conv2d(96, 96, 1), nn.BatchNorm2d(96)

        def forward(self, x):
            return x + self.bn1(self.conv_pw(x)).relu()

    def stages(weights):
        torch.manual_seed(0)
        return nn.Identity(), nn.Sequential(Block(), nn.Conv2d(96, 1280, 2, 2)), (0.0, 1.0)

    monkeypatch.setattr(script, "stages", stages)
    clip = torch.randn(1, script.SEGMENTS, 96, 4, 4)
    for shifted in (False, True):
        net = script.Tail(Path("w"), shifted).eval()
        with torch.inference_mode():
            same = torch.allclose(net(clip), net(clip.flip(1)), atol=1e-5)
        assert same != shifted
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((12, 2, 13, 96, 4, 4)).astype(np.float16)
    monkeypatch.setattr(script, "EPOCHS", 1)
    labels = np.tile([0, 1], 6)
    said = script.finetuned(maps, labels, np.arange(8), np.arange(8, 12), Path("w"), seed=0, shifted=True)
    assert said.shape == (4,)
