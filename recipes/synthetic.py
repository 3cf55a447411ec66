"""The quickstart's data at full size and length: a GRU that recognises the rendered actions of unseen actors.

lightning run recipes/synthetic.py
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
            temporal="gru",
            pretrained=False,
            freeze_backbone=False,
            hidden=256,
            batch_norm=False,
            num_frames=16,
            input_size=80,
            dropout=0.2,
            optimizer="adamw",
            lr=4e-3,
            weight_decay=0.01,
            schedule="cosine",
            warmup_epochs=2,
        ),
        data=partial(
            SyntheticActionsDataModule,
            train_clips=150,
            val_clips=20,
            test_clips=40,
            batch_size=16,
            # Frames at even distances: a random one in each stretch would hide whether a stride is slow or fast.
            train_sampling=Sampling("uniform", crop="full"),
        ),
        trainer={"max_epochs": 16},
        extra_metrics=order_pairs,
    )
