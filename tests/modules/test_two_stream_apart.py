"""Two streams on a loss of their own each learn what each would learn alone."""

import pytest
import torch

from lightning_har import TSNModule, TwoStreamModule
from lightning_har.errors import ConfigError

SMALL = {"backbone": "mobilenetv2_035", "num_segments": 2, "pretrained": False, "input_size": 32, "dropout": 0.0}


@pytest.fixture
def batch():
    torch.manual_seed(0)
    video = {"rgb": torch.rand(4, 3, 2, 32, 32), "flow": torch.rand(4, 2, 10, 32, 32)}  # 5 frames of flow a segment
    return video, torch.tensor([0, 1, 2, 1])


def gradients(module, batch):
    video, label = batch
    module.train()
    module.zero_grad()
    sum(weight * module.loss(logits, label) for logits, weight in module.training_outputs(video)).backward()
    return {name: p.grad.clone() for name, p in module.net.named_parameters() if p.grad is not None}


def test_each_stream_learns_as_if_alone(batch):
    module = TwoStreamModule(3, "tsn", SMALL, loss="apart")
    both = gradients(module, batch)
    for modality in ("rgb", "flow"):
        alone = TSNModule(3, modality=modality, **SMALL)
        alone.net.load_state_dict(getattr(module.net, modality).state_dict())
        expected = gradients(alone, (batch[0][modality], batch[1]))
        assert expected
        for name, value in expected.items():
            torch.testing.assert_close(both[f"{modality}.{name}"], value)


def test_the_joint_loss_is_another(batch):
    torch.manual_seed(1)
    apart = TwoStreamModule(3, "tsn", SMALL, loss="apart")
    joint = TwoStreamModule(3, "tsn", SMALL, loss="joint")
    joint.load_state_dict(apart.state_dict())
    a, b = gradients(apart, batch), gradients(joint, batch)
    assert a.keys() == b.keys()
    assert any(not torch.allclose(a[name], b[name]) for name in a)


def test_what_is_predicted_is_the_fused_score(batch):
    module = TwoStreamModule(3, "tsn", SMALL, loss="apart").eval()
    outputs = module.training_outputs(batch[0])
    assert [weight for _, weight in outputs] == [0.0, 1.0, 1.0]
    torch.testing.assert_close(outputs[0][0], module.net(batch[0]))


def test_an_unknown_loss_is_refused():
    with pytest.raises(ConfigError, match="'joint' or 'apart'"):
        TwoStreamModule(3, "tsn", SMALL, loss="both")


def test_a_stream_that_is_missing_is_named(batch):
    video = {"rgb": batch[0]["rgb"], "depth": batch[0]["flow"]}
    with pytest.raises(ConfigError, match=r"clips for \['flow', 'rgb'\], got \['depth', 'rgb'\]"):
        TwoStreamModule(3, "tsn", SMALL)(video)
