"""MobileNetV2 and a GRU on UCF101, fine-tuned with int8's rounding: what study E leaves for later. Ours.

    lightning run recipes/mobilenetv2q_gru_ucf101_qat.py --data.root /data/UCF-101
    lightning-har export --model runs/... --int8 --calibration ucf101:/data/UCF-101 --out exported

mobilenetv2q_gru_ucf101.py with the backbone trained too, at a tenth of the head's learning rate, and with every
convolution and linear layer rounded as int8 will round it. The integer network of the study cannot be trained; this is
its float twin, from ImageNet weights, and ``--module.pretrained mobilenet_v2_1.0_224_quant.tflite`` starts it from the
study's own weights. No study reports a result.
"""

from functools import partial

from lightning_har.data.ucf101 import UCF101DataModule
from lightning_har.edge.qat import QuantizationAwareTraining
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.run import run

if __name__ == "__main__":
    run(
        module=partial(
            CNNRNNModule,
            backbone="mobilenetv2_100",
            temporal="gru",
            hidden=1280,
            reset="before",
            input_dropout=0.5,
            head_width=512,
            dropout=0.5,
            num_frames=25,
            freeze_backbone=False,
            pretrained=True,
            optimizer="adamw",
            lr=1e-4,
            backbone_lr_scale=0.1,
            weight_decay=0.01,
            schedule="cosine",
        ),
        data=partial(UCF101DataModule, batch_size=8, val_fraction=0.14),
        trainer={"max_epochs": 20, "callbacks": [QuantizationAwareTraining()]},
        monitor="val_loss",
        smoke={"module.num_frames": 4, "module.input_size": 64},
    )
