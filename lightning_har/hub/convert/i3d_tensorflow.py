"""I3D on Inception-v1 from its authors' TensorFlow checkpoint (github.com/deepmind/kinetics-i3d)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_har.hub.convert.i3d_port import i3d_inception
from lightning_har.modules.i3d import I3DModule
from lightning_har.nets.i3d import from_tf_names
from lightning_har.weights.tf_bundle import read_bundle


def convert(files: Sequence[Path]) -> I3DModule:
    """The module from ``model.ckpt.index`` and the data file beside it.

    Raises:
        WeightsError: A file is damaged, or holds another network.
    """
    index = next(path for path in files if path.suffix == ".index")
    return i3d_inception(from_tf_names(read_bundle(index.with_suffix(""))))
