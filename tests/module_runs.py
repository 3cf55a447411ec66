"""Small modules, batches for them, and a Trainer that says nothing: what tests of several subjects share."""

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from lightning_har import CNNRNNModule, TSNModule

SIZE, T = 32, 3
SMALL = {"backbone": "test_resnet", "pretrained": False, "input_size": SIZE}


def tsn(num_classes=4, **kwargs):
    torch.manual_seed(0)
    return TSNModule(num_classes, num_segments=T, **SMALL, **kwargs)


def cnn_rnn(num_classes=4, **kwargs):
    torch.manual_seed(0)
    return CNNRNNModule(num_classes, num_frames=T, hidden=8, **{**SMALL, **kwargs})


def clips(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def loader(size=8, views=None, heads=None, batch_size=4, padding=None):
    """Batches as a data module makes them."""

    def collate(indices):
        shape = (len(indices), *((views,) if views else ()), 3, T, SIZE, SIZE)
        label = torch.tensor(indices) % 4
        batch = {
            "video": clips(*shape, seed=indices[0]),
            "label": {h: label % k for h, k in heads.items()} if heads else label,
            "id": [str(i) for i in indices],
            "path": [f"{i}.mp4" for i in indices],
            "failures": [],
        }
        if padding:
            batch["is_padding"] = torch.tensor([i in padding for i in indices])
        return batch

    return DataLoader(range(size), batch_size, collate_fn=collate)


def trainer(**kwargs):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(**{**quiet, "enable_checkpointing": False, "max_epochs": 1, **kwargs})
