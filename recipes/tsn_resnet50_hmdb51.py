"""TSN with ResNet50 on HMDB51. Study D (TSN and I3D as a tutorial), section 4.2.

    lightning run recipes/tsn_resnet50_hmdb51.py --data.root /data/hmdb51

Reported: the study shows its curves as pictures only, without numbers.

From the study: no pretrained weights, 3 segments, SGD at 0.001, momentum 0.9, weight decay 1e-4, batch 5, 100 epochs of
a capped number of iterations so that a run fits in three or four hours on one T4; the learning rate falls to a tenth at
epochs 40, 70 and 90. Not given, and chosen here: split 1, a tenth of whose training list, whole groups of clips, is
held out for validation; dropout 0.5. The schedule is that of its longest described run, TSN with VGG16.
"""

from functools import partial

from lightning_har.data.hmdb51 import HMDB51DataModule
from lightning_har.modules.tsn import TSNModule
from lightning_har.run import run

REPORTED = {"on": "HMDB51"}

if __name__ == "__main__":
    run(
        module=partial(
            TSNModule,
            backbone="resnet50",
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
        data=partial(HMDB51DataModule, batch_size=5),
        trainer={"max_epochs": 100, "limit_train_batches": 200},
        smoke={"module.input_size": 64},
    )
