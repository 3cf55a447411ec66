"""TSN with VGG16 on UCF101. Study D (TSN and I3D as a tutorial), section 4.1.

    lightning run recipes/tsn_vgg16_ucf101.py --data.root /data/UCF-101

Reported: training accuracy about 0.80 with 200 iterations an epoch, about 0.70 with 100; none on test videos.

From the study: no pretrained weights, 3 segments, SGD at 0.001, momentum 0.9, weight decay 1e-4, batch 5, 100 epochs of
a capped number of iterations so that a run fits in three or four hours on one T4; the learning rate falls to a tenth at
epochs 40, 70 and 90 (200 iterations), or 50 and 90 (100). Not given, and chosen here: split 1, a tenth of whose
training list, whole groups of clips, is held out for validation; dropout 0.5.
"""

from functools import partial

from lightning_har.data.ucf101 import UCF101DataModule
from lightning_har.modules.tsn import TSNModule
from lightning_har.run import run

REPORTED = {
    "on": "UCF101, its training clips",
    "iterations_200/train_top1": {"section 4.1, about": 0.80},
    "iterations_100/train_top1": {"section 4.1, about": 0.70},
}

if __name__ == "__main__":
    run(
        module=partial(
            TSNModule,
            backbone="vgg16",
            num_segments=3,
            pretrained=False,
            dropout=0.5,
            optimizer="sgd",
            lr=1e-3,
            momentum=0.9,
            weight_decay=1e-4,
            schedule="step",
            milestones=(40, 70, 90),
        ),
        data=partial(UCF101DataModule, batch_size=5),
        trainer={"max_epochs": 100, "limit_train_batches": 200},
        variants={
            "iterations_200": {},
            "iterations_100": {"trainer.limit_train_batches": 100, "module.milestones": (50, 90)},
        },
        # One step: 134 million weights, their gradients and momentum take long to move and to store.
        smoke={
            "module.input_size": 64,
            "trainer.limit_train_batches": 1,
            "trainer.limit_val_batches": 1,
        },
    )
