"""Train three small recognisers on rendered human actions, on a laptop's CPU, in minutes.

The actions come in pairs that only the order of frames tells apart (sit down / stand up, open / close a door,
pick up / put down). A recurrent network (``gru``) can learn the order; the average of all frames (``avg``) and one
frame (``single``) cannot. The table at the end shows it: ``order_pairs_top1``.

    lightning run recipes/quickstart.py

The backbone is a MobileNetV2 of a third of the usual width, trained from scratch: nothing is downloaded.
"""

from functools import partial

from lightning_har.bench.predictions import Predictions
from lightning_har.data.synthetic import ORDER_PAIRS, SyntheticActionsDataModule
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.run import run


def order_pairs(predictions: Predictions) -> dict[str, float]:
    """Top-1, over all classes, on the clips of the pairs that only order tells apart."""
    return {"order_pairs_top1": predictions.top1_within([name for pair in ORDER_PAIRS for name in pair])}


if __name__ == "__main__":
    run(
        module=partial(
            CNNRNNModule,
            backbone="mobilenetv2_035",
            pretrained=False,
            freeze_backbone=False,
            hidden=128,
            num_frames=8,
            input_size=64,
            dropout=0.2,
            optimizer="adamw",
            lr=2e-3,
            weight_decay=0.01,
            schedule="cosine",
        ),
        data=partial(SyntheticActionsDataModule, batch_size=16, num_workers=1),
        trainer={"max_epochs": 12},
        variants={name: {"module.temporal": name} for name in ("gru", "single", "avg")},
        extra_metrics=order_pairs,
    )
