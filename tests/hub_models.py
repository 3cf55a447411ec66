"""A small checkpoint's network, for the tests of the zoo."""

import torch

import lightning_har as har

NAME = "tsn-tiny"


def tiny(num_classes=4, **kwargs):
    torch.manual_seed(0)
    arguments = {"backbone": "test_resnet", "pretrained": False, "input_size": 32, "num_segments": 3, **kwargs}
    module = har.TSNModule(num_classes, **arguments).eval()
    module.class_names = ("run", "jump", "wave", "sit")
    return module


def clip():
    return torch.randint(0, 256, (2, 3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
