"""Train three small recognisers on rendered human actions, on a laptop's CPU, in minutes.

The actions come in pairs that only the order of frames tells apart (sit down / stand up, open / close a door,
pick up / put down). A recurrent network (``gru``) can learn the order; the average of all frames (``avg``) and one
frame (``single``) cannot. The table at the end shows it: ``order_pairs_top1``.

    lightning run recipes/quickstart.py

The backbone is the first part of a MobileNetV2 of half the usual width, trained from scratch: nothing is downloaded.
"""

from functools import partial

from lightning_har.bench.predictions import Predictions
from lightning_har.data.synthetic import ORDER_PAIRS, SyntheticActionsDataModule
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.run import run
from lightning_har.spec import Sampling


def order_pairs(predictions: Predictions) -> dict[str, float]:
    """Top-1, over all classes, on the clips of the pairs that only order tells apart."""
    return {"order_pairs_top1": predictions.top1_within([name for pair in ORDER_PAIRS for name in pair])}


if __name__ == "__main__":
    run(
        module=partial(
            CNNRNNModule,
            backbone="mobilenetv2_050",
            cut_after="blocks.4",
            pretrained=False,
            freeze_backbone=False,
            hidden=128,
            batch_norm=False,
            num_frames=8,
            input_size=64,
            dropout=0.2,
            optimizer="adamw",
            lr=4e-3,
            weight_decay=0.01,
            schedule="cosine",
            warmup_epochs=1.5,
        ),
        data=partial(
            SyntheticActionsDataModule,
            train_clips=80,
            val_clips=8,
            test_clips=16,
            size=64,
            batch_size=16,
            train_sampling=Sampling("uniform", crop="full"),
        ),
        trainer={"max_epochs": 9},
        variants={name: {"module.temporal": name} for name in ("gru", "single", "avg")},
        extra_metrics=order_pairs,
    )
