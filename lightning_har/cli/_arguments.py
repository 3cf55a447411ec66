"""What arguments of several commands must be: numbers within bounds, a device that is here, a file to write."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path

from lightning_har.errors import ConfigError

PICTURES = (".png", ".jpg", ".pdf", ".svg")
"""Suffixes of what matplotlib draws."""


def positive(text: str) -> int:
    """For argparse: a whole number from 1 on."""
    return _whole(text, 1, "positive whole number")


def whole(text: str) -> int:
    """For argparse: a whole number from 0 on."""
    return _whole(text, 0, "whole number from 0 on")


def above_zero(text: str) -> float:
    """For argparse: a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def check_device(text: str) -> None:
    """Refuse a device before anything is loaded for it.

    Raises:
        ConfigError: It is not here, or torch knows none of that name.
    """
    import torch

    try:
        (torch.ones(1, device=text) + 1).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # without CUDA in it, torch asserts
        told = str(error).strip().splitlines()[0]
        raise ConfigError(f"--device {text} cannot be used here ({told}); give cpu, cuda, cuda:1 or mps") from error


def check_output(option: str, path: str | Path, suffixes: Sequence[str] = (), what: str = "file") -> None:
    """Refuse a file that could not be written, before the work whose result it would hold.

    Args:
        option: As it is typed, for the message.
        path: The file.
        suffixes: Those that say how it is written; () where none does.
        what: What they make it, such as "picture".

    Raises:
        ConfigError: It has another suffix, is a folder, or lies in none that can be written to.
    """
    path = Path(path)
    if suffixes and path.suffix.lower() not in suffixes:
        raise ConfigError(f"{option} {path} is no {what} by its suffix; give {', '.join(suffixes)}")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{option} {path} cannot be written: give a file in a folder that exists and is yours")


def _whole(text: str, least: int, kind: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no {kind}")
    return value
