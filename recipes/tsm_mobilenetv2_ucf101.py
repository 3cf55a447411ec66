"""TSM on MobileNetV2, UCF101: a 2D network whose channels move along time (Lin et al., ICCV 2019). Ours.

    lightning run recipes/tsm_mobilenetv2_ucf101.py --data.root /data/UCF-101

8 segments, an eighth of the channels shifted each way in every residual block; ImageNet weights. No study reports it.
``--module.temporal_shift causal`` shifts only from the past, for recognition frame by frame.
"""

from functools import partial

from lightning_har.data.ucf101 import UCF101DataModule
from lightning_har.modules.tsn import TSNModule
from lightning_har.run import run

if __name__ == "__main__":
    run(
        module=partial(
            TSNModule,
            backbone="mobilenetv2_100",
            num_segments=8,
            temporal_shift=True,
            pretrained=True,
            dropout=0.5,
            optimizer="sgd",
            lr=5e-3,
            momentum=0.9,
            weight_decay=5e-4,
            schedule="cosine",
        ),
        data=partial(UCF101DataModule, batch_size=32),
        trainer={"max_epochs": 30, "gradient_clip_val": 20.0},
        smoke={"module.input_size": 64},
    )
