"""I3D on UCF101, optical flow. Study A (edge-scaled I3D and TSN), section 5.1.

    lightning-har data flow ucf101:/data/UCF-101 --method lucas_kanade --out /data/UCF-101-flow
    lightning run recipes/i3d_flow_ucf101.py --data.root /data/UCF-101 --data.flow_root /data/UCF-101-flow

Reported: nothing of flow alone; with RGB, see i3d_twostream_ucf101.py.

From the study: as i3d_ucf101.py, with Lucas-Kanade flow (OpenCV) in two channels, x and y, normalised to [0, 1]. Chosen
here besides: what the first layer's RGB filters become for two channels (their mean).
"""

from functools import partial

from lightning_har.data.ucf101 import UCF101DataModule
from lightning_har.modules.i3d import I3DModule
from lightning_har.run import run

REPORTED = {"on": "UCF101"}

if __name__ == "__main__":
    run(
        module=partial(
            I3DModule,
            backbone="inception_v1",
            modality="flow",
            pretrained=True,
            num_frames=64,
            value_range=(0.0, 1.0),
            lr=2e-3,
        ),
        data=partial(UCF101DataModule, batch_size=16),
        trainer={"max_epochs": 50},
        smoke={"module.num_frames": 16, "module.input_size": 64},
    )
