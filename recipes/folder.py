"""Your own clips: a folder with a folder of clips per class, or a CSV with the columns ``path,label``.

    lightning run recipes/folder.py --data.root clips/

ImageNet features of every frame by a frozen MobileNetV2, and a GRU over them: the right size for some hundred clips
on a CPU. ``--module.freeze_backbone false`` trains the backbone too, which wants more clips and a GPU;
``--module.pretrained PATH`` takes the weights from a file instead of the hub.
"""

from functools import partial

from lightning_har.data.folder import VideoFolderDataModule
from lightning_har.modules.cnn_rnn import CNNRNNModule
from lightning_har.run import run

if __name__ == "__main__":
    run(
        module=partial(
            CNNRNNModule,
            backbone="mobilenetv2_100",
            temporal="gru",
            freeze_backbone=True,
            hidden=256,
            num_frames=16,
            lr=1e-3,
        ),
        data=partial(VideoFolderDataModule, batch_size=8, on_error="skip"),
        trainer={"max_epochs": 20},
        monitor="val_loss",
    )
