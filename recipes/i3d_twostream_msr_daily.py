r"""I3D on MSR DailyActivity3D, RGB and optical flow fused, from Kinetics-400 weights. Study A, section 5.1.

    lightning run recipes/i3d_msr_daily.py --data.root D --module.pretrained rgb_imagenet/model.ckpt.index --out R
    lightning run recipes/i3d_msr_daily.py --data.root D --module.pretrained flow_imagenet/model.ckpt.index --out F \
        --data.flow_root D-flow --module.modality flow
    lightning run recipes/i3d_twostream_msr_daily.py --data.root D --data.flow_root D-flow \
        --module.rgb_checkpoint R/best.ckpt --module.flow_checkpoint F/best.ckpt

Reported (table 1): 57.76 % top-1.

Each stream starts from Kinetics weights of its own, so each is trained by i3d_msr_daily.py, and this recipe fuses and
tests them; it trains nothing (0 epochs). Without the two checkpoints it would test random weights, and refuses. Not
given in the study, and chosen here: the two weigh the same, and logits are averaged.
"""

from functools import partial

from lightning_har.data.msr_daily import MSRDailyActivityDataModule
from lightning_har.modules.two_stream import TwoStreamModule
from lightning_har.run import run

REPORTED = {"on": "MSR DailyActivity3D", "top1": {"table 1": 0.5776}}

if __name__ == "__main__":
    run(
        module=partial(
            TwoStreamModule,
            family="i3d",
            arguments={"backbone": "inception_v1", "num_frames": 64},
            rgb_checkpoint="weights/i3d_msr_daily/rgb.ckpt",
            flow_checkpoint="weights/i3d_msr_daily/flow.ckpt",
            choose_weight=False,
        ),
        data=partial(MSRDailyActivityDataModule, batch_size=16),
        trainer={"max_epochs": 0},
        smoke={
            "module.arguments": {"num_frames": 16, "input_size": 64, "pretrained": False},
            "module.rgb_checkpoint": None,
            "module.flow_checkpoint": None,
        },
    )
