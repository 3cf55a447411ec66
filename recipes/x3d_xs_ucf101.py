"""X3D-XS on UCF101: the small end of Feichtenhofer's family (CVPR 2020). Ours; no study reports it.

    lightning run recipes/x3d_xs_ucf101.py --data.root /data/UCF-101 --module.pretrained x3d_xs.pyth

4 frames of 160 × 160, every twelfth; 3.8 M parameters. From scratch it wants more videos than UCF101 has, so give the
Kinetics-400 weights of pytorchvideo's model zoo by path.
"""

from functools import partial

from lightning_har.data.ucf101 import UCF101DataModule
from lightning_har.modules.pytorchvideo import PyTorchVideoModule
from lightning_har.run import run
from lightning_har.spec import Sampling

if __name__ == "__main__":
    run(
        module=partial(
            PyTorchVideoModule,
            name="x3d_xs",
            pretrained=False,
            optimizer="adamw",
            lr=5e-4,
            weight_decay=0.05,
            schedule="cosine",
            label_smoothing=0.1,
        ),
        data=partial(
            UCF101DataModule,
            batch_size=32,
            eval_sampling=Sampling("dense", time_stride=12, num_clips=4, crop="center"),
        ),
        trainer={"max_epochs": 40},
        smoke={"module.num_frames": 4, "module.input_size": 64},
    )
