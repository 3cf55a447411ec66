"""Heads over the frames of a frozen network: study E's GRU, LSTM and single frame, the average, and TSN.

The recipe that scfd.py has the harness measure, on features that are stored; it runs on clips, too, over a MobileNetV2:

    lightning run benchmarks/scfd_heads.py --data.root FOLDS.csv --data.fold 0 --module.pretrained WEIGHTS.tflite

25 frames spread evenly over the clip, the same in every epoch. Recurrent parts of 256 units with batch norm, dropout
0.5, Adam at 1e-3 with weight decay 1e-4, batches of 16, 30 epochs. The last epoch is tested: what is held out of the
training clips for validation is measured, and chooses nothing.

``tsn`` is TSN on a frozen backbone: in training one random frame of each of 3 segments, at test all 25, consensus by
average. Its classifier is linear, so that the average of the frames' logits is the logits of their average, which is
what is computed; what it shares with ``avg`` is the test, what differs is the training.
"""

from functools import partial

from lightning_har.data.folder import VideoFolderDataModule
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.run import run
from lightning_har.spec import Sampling

SEGMENTS = Sampling("segments", num_frames=3, random=True, crop="full")

if __name__ == "__main__":
    run(
        module=partial(
            CNNRNNModule,
            backbone="mobilenetv2_100",
            num_frames=25,
            hidden=256,
            dropout=0.5,
            optimizer="adam",
            lr=1e-3,
            weight_decay=1e-4,
        ),
        data=partial(VideoFolderDataModule, batch_size=16, train_sampling=Sampling("uniform", crop="full")),
        trainer={"max_epochs": 30},
        variants={
            "gru": {"module.temporal": "gru"},
            "lstm": {"module.temporal": "lstm"},
            "avg": {"module.temporal": "avg"},
            "single": {"module.temporal": "single"},
            "tsn": {"module.temporal": "avg", "data.train_sampling": SEGMENTS},
        },
        monitor=None,
        smoke={"module.num_frames": 4, "module.input_size": 64},
    )
