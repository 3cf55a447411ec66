"""I3D on MSR DailyActivity3D, RGB, from Kinetics-400 weights. Study A (edge-scaled I3D and TSN), section 5.1.

    lightning run recipes/i3d_msr_daily.py --data.root /data/MSRDailyActivity --module.pretrained model.ckpt.index

Reported (table 1): 56.00 % top-1.

The weights are DeepMind's: data/checkpoints/rgb_imagenet of github.com/deepmind/kinetics-i3d, two files of which the
.index is named; the PyTorch port's rgb_imagenet.pt will do as well.

From the study: those weights, with a new layer of 16 outputs; Adam at 0.002, batch 16. The study normalises pixels to
[0, 1]; the weights expect [-1, 1], which is what they get here. Not given there, and chosen here: the new layer takes
the place of the old one, and all layers are trained; 64 frames; 30 epochs, of which the best by validation is kept; the
split, see MSRDailyActivityDataModule; one of its five people to train on is held out for validation.
"""

from functools import partial

from lightning_har.data.msr_daily import MSRDailyActivityDataModule
from lightning_har.modules.i3d import I3DModule
from lightning_har.run import run

REPORTED = {"on": "MSR DailyActivity3D", "top1": {"table 1": 0.56}}

if __name__ == "__main__":
    run(
        module=partial(
            I3DModule,
            backbone="inception_v1",
            modality="rgb",
            pretrained="weights/kinetics-i3d/rgb_imagenet/model.ckpt.index",
            num_frames=64,
            lr=2e-3,
        ),
        data=partial(MSRDailyActivityDataModule, batch_size=16),
        trainer={"max_epochs": 30},
        smoke={"module.num_frames": 16, "module.input_size": 64},
    )
