"""TSN with BN-Inception on UCF101, RGB. Study A (edge-scaled I3D and TSN), sections 4 and 5.2.

    lightning run recipes/tsn_bninception_ucf101.py --data.root /data/UCF-101

Reported: (table 2) 84.48 % top-1 at batch 128; (table 3) 84.54 % at batch 32.

From the study: ImageNet weights, 3 segments with one random frame each, consensus by average, SGD, batch 128; at test
time 25 segments with one crop. Not given there, and taken from the TSN paper (section 3.2 and its released settings):
learning rate 0.001, a tenth from epoch 30 and a hundredth from epoch 60 of 80, momentum 0.9, weight decay 5e-4, dropout
0.8, batch norms frozen but for the first. Chosen here: split 1, a tenth of whose training list, whole groups of clips,
is held out for validation; the best epoch by validation is kept.
"""

from functools import partial

from lightning_har.data.ucf101 import UCF101DataModule
from lightning_har.modules.tsn import TSNModule
from lightning_har.run import run
from lightning_har.spec import Sampling

REPORTED = {"on": "UCF101", "top1": {"table 2": 0.8448, "table 3, batch 32": 0.8454}}

if __name__ == "__main__":
    run(
        module=partial(
            TSNModule,
            backbone="bn_inception",
            num_segments=3,
            consensus="avg",
            pretrained=True,
            partial_bn=True,
            dropout=0.8,
            optimizer="sgd",
            lr=1e-3,
            momentum=0.9,
            weight_decay=5e-4,
            schedule="step",
            milestones=(30, 60),
        ),
        data=partial(
            UCF101DataModule,
            batch_size=128,
            eval_sampling=Sampling("segments", num_frames=25, crop="center"),
        ),
        trainer={"max_epochs": 80},
        smoke={"module.input_size": 64},
    )
