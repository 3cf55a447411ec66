"""Run a bundle as the device does."""

from __future__ import annotations

import os
import subprocess
import sys


def without_torch(*command, missing=(), **kwargs):
    """Run Python where importing torch or Lightning fails, as on the device; or what is missing there besides."""
    absent = ["torch", "torchvision", "pytorch_lightning", "lightning", "timm", "matplotlib", "onnx", *missing]
    block = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({absent}));"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", block, *map(str, command)],
        capture_output=True,
        text=True,
        env=env,
        timeout=120,
        **kwargs,
    )
