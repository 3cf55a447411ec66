"""Run a bundle as the device does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time


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


def interrupted(*command, wait_for, then=0.3):
    """Run Python until Ctrl-C, some seconds after a word of it; its exit code and all that it said."""
    process = subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = ""
    for line in process.stdout:
        said += line
        if wait_for in line:
            break
    time.sleep(then)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    return process.returncode, said + rest
