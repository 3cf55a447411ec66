from torch import nn
from torchvision.models import mobilenet_v2

from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.nets.size import count_parameters


def test_parameters_count_once_and_frozen_apart() -> None:
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 2)
    module = nn.ModuleList([first, first, second])
    second.requires_grad_(False)
    assert count_parameters(module) == (9 + 8, 9)


def test_integer_weights_count_as_frozen_parameters() -> None:
    module = CNNRNNModule(
        7, backbone="mobilenetv2_quant", temporal="single", head_width=512, pretrained=False, num_frames=2
    )
    head = 1280 * 512 + 512 + 2 * 512 + 512 * 7 + 7
    # torchvision's, but for the classifier's background class and the batch norms, folded into one bias a channel.
    twin = mobilenet_v2(weights=None, num_classes=1001)
    folded = sum(p.numel() for p in twin.features.parameters()) - sum(
        p.numel() for name, p in twin.features.named_parameters() if name.endswith("bias")
    )
    classifier = sum(p.numel() for p in twin.classifier.parameters())
    assert count_parameters(module) == (folded + classifier + head, head)
