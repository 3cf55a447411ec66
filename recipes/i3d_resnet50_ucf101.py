"""I3D with ResNet50 on UCF101. Study D (TSN and I3D as a tutorial), section 5.1.

    lightning run recipes/i3d_resnet50_ucf101.py --data.root /data/UCF-101

Reported: the study shows its curves as pictures only, without numbers.

From the study: no pretrained weights, SGD at 0.001, momentum 0.9, weight decay 1e-4, batch 5, 100 epochs of a capped
number of iterations so that a run fits in three or four hours on one T4; the learning rate falls to a tenth at epochs
40, 70 and 90. Not given, and chosen here: split 1, a tenth of whose training list, whole groups of clips, is held out
for validation; dropout 0.5. The clip is that of GluonCV's network, which the study calls: 32 frames, every second. The
schedule is that of its longest described run, TSN with VGG16.
"""

from functools import partial

from lightning_har.data.ucf101 import UCF101DataModule
from lightning_har.modules.i3d import I3DModule
from lightning_har.run import run

REPORTED = {"on": "UCF101"}

if __name__ == "__main__":
    run(
        module=partial(
            I3DModule,
            backbone="resnet50",
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
        smoke={"module.num_frames": 8, "module.input_size": 64},
    )
