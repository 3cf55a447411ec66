"""Draws the docs' photographs, docs/images/{samples,gradcam,features,demo}.png.

    lightning run recipes/quickstart.py --variant gru --out RUN
    python docs/pictures.py RUN MOBILENET.tflite

The second argument is the quantized MobileNetV2 of the card mobilenetv2-quantized-imagenet.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from lightning_har.data.synthetic import SyntheticActionsDataModule
from lightning_har.modules import load_checkpoint
from lightning_har.nets.backbones import build_backbone
from lightning_har.viz.activation import STUDY_C_BLOCKS, save_features
from lightning_har.viz.gradcam import grad_cam, save_grad_cam
from lightning_har.viz.grids import save_samples

IMAGES = Path(__file__).parent / "images"


def main(run: str, weights: str) -> None:
    """Draw them."""
    module = load_checkpoint(Path(run) / "best.ckpt")
    with tempfile.TemporaryDirectory() as folder:
        data = SyntheticActionsDataModule(train_clips=4, val_clips=1, test_clips=1, root=folder, batch_size=3)
        data.spec, data.eval_sampling = module.spec, module.eval_sampling
        data.train_sampling = module.train_sampling
        data.num_workers = 0
        save_samples(data, IMAGES / "samples.png", clips=4)
        data.setup("test")
        video = next(iter(data.test_dataloader()))["video"]
        save_grad_cam(video, grad_cam(module, video), IMAGES / "gradcam.png", class_names=module.class_names)
    backbone = build_backbone("mobilenetv2_100", pretrained=weights)
    save_features(backbone, IMAGES / "features.png", titles=[f"block {n}" for n in STUDY_C_BLOCKS])


if __name__ == "__main__":
    main(*sys.argv[1:])
