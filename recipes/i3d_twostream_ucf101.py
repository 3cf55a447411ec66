"""I3D on UCF101, RGB and optical flow fused. Study A (edge-scaled I3D and TSN), section 5.1.

    lightning-har data flow ucf101:/data/UCF-101 --method lucas_kanade --out /data/UCF-101-flow
    lightning run recipes/i3d_twostream_ucf101.py --data.root /data/UCF-101 --data.flow_root /data/UCF-101-flow

Reported (table 1): 83.76 % top-1.

From the study: the networks of i3d_ucf101.py and i3d_flow_ucf101.py, trained apart, their scores fused. Here they train
side by side, each on a loss of its own: they share no parameter, so neither learns from the other, but both keep the
weights of one epoch. To give each its own best epoch, train them with the other two recipes and fuse the checkpoints:
``--module.rgb_checkpoint A/best.ckpt --module.flow_checkpoint B/best.ckpt --trainer.max_epochs 0``. Not given there,
and chosen here: the two weigh the same, and logits are averaged.
"""

from functools import partial

from lightning_har.data.ucf101 import UCF101DataModule
from lightning_har.modules.two_stream import TwoStreamModule
from lightning_har.run import run

REPORTED = {"on": "UCF101", "top1": {"table 1": 0.8376}}

if __name__ == "__main__":
    run(
        module=partial(
            TwoStreamModule,
            family="i3d",
            arguments={"backbone": "inception_v1", "num_frames": 64, "value_range": (0.0, 1.0)},
            loss="apart",
            choose_weight=False,
            lr=2e-3,
        ),
        data=partial(UCF101DataModule, batch_size=16),
        trainer={"max_epochs": 50},
        smoke={"module.arguments": {"num_frames": 16, "input_size": 64, "pretrained": False}},
    )
