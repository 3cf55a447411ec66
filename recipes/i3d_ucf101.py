"""I3D on UCF101, RGB. Study A (edge-scaled I3D and TSN), section 5.1.

    lightning run recipes/i3d_ucf101.py --data.root /data/UCF-101

Reported (table 1): 78.21 % top-1.

From the study: Inception-v1, ImageNet filters inflated, pixels in [0, 1], 25 frames a second (UCF101's own rate), Adam
at 0.002, batch 16. Not given there, and chosen here: clips of 64 frames, as the I3D paper trains; 50 epochs, of which
the best by validation is kept; split 1, a tenth of whose training list, whole groups of clips, is held out for
validation; one clip from the middle of a test video.
"""

from functools import partial

from lightning_har.data.ucf101 import UCF101DataModule
from lightning_har.modules.i3d import I3DModule
from lightning_har.run import run

REPORTED = {"on": "UCF101", "top1": {"table 1": 0.7821}}

if __name__ == "__main__":
    run(
        module=partial(
            I3DModule,
            backbone="inception_v1",
            modality="rgb",
            pretrained=True,
            num_frames=64,
            value_range=(0.0, 1.0),
            lr=2e-3,
        ),
        data=partial(UCF101DataModule, batch_size=16),
        trainer={"max_epochs": 50},
        smoke={"module.num_frames": 16, "module.input_size": 64},
    )
