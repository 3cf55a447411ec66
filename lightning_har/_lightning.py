"""Which of Lightning's two names to build on, and how it is called: quiet, refusing clearly, open to Ctrl-C.

``pytorch_lightning.Trainer`` refuses a ``lightning.pytorch`` module and the reverse, so ours must derive from
the package whose Trainer the user will call. ``LIGHTNING_HAR_BASE`` ("pytorch_lightning" or "lightning")
decides; else what is already imported; else what is installed, pytorch_lightning first.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lightning_har.errors import ConfigError

_NAMES = {"pytorch_lightning": "pytorch_lightning", "lightning": "lightning.pytorch"}


def _choose() -> str:
    wanted = os.environ.get("LIGHTNING_HAR_BASE")
    if wanted:
        if wanted not in _NAMES:
            raise ConfigError(f"LIGHTNING_HAR_BASE is {wanted!r}; it must be one of {', '.join(_NAMES)}")
        if not importlib.util.find_spec(wanted):
            raise ConfigError(f"LIGHTNING_HAR_BASE is {wanted!r}, which is not installed: pip install {wanted}")
        return wanted
    imported = [name for name, module in _NAMES.items() if module in sys.modules]
    if len(imported) == 1:
        return imported[0]
    for name in imported or _NAMES:
        if importlib.util.find_spec(name):
            return name
    raise ConfigError("Lightning is not installed: pip install pytorch-lightning")


base_name = _choose()

if TYPE_CHECKING:
    # The two packages have one interface.
    import pytorch_lightning as pl
    from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
else:
    pl = importlib.import_module(_NAMES[base_name])
    LightningModule = pl.LightningModule
    LightningDataModule = pl.LightningDataModule
    Callback = pl.Callback
    Trainer = pl.Trainer

__all__ = [
    "Callback",
    "LightningDataModule",
    "LightningModule",
    "Trainer",
    "base_name",
    "interruptible",
    "make_trainer",
    "pl",
    "quiet_lightning",
]


def make_trainer(**keywords: Any) -> Trainer:
    """A Trainer.

    Args:
        **keywords: Lightning's.

    Raises:
        ConfigError: It refuses them: no such accelerator here, no such precision.
    """
    try:
        return Trainer(**keywords)
    except (ValueError, ImportError, pl.utilities.exceptions.MisconfigurationException) as error:
        told = str(error).strip().splitlines()[0].rstrip(".!")
        raise ConfigError(
            f"Lightning's Trainer refuses its arguments: {told}; "
            "correct --trainer.accelerator, --trainer.precision or what it names"
        ) from error


@contextlib.contextmanager
def interruptible(trainer: Any) -> Iterator[None]:
    """Ctrl-C stays a KeyboardInterrupt, where a Trainer leaves with exit code 1 and answers no second one.

    Args:
        trainer: Whose fit, test or predict is called in the block.

    Raises:
        KeyboardInterrupt: Ctrl-C; SIGINT is then handled as before the block.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if not trainer.interrupted:
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None


_ANSWERED_WARNINGS = (
    ".*does not have many workers.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*number of training batches .* smaller than the logging.*",
    ".*LeafSpec.* is deprecated.*",
    ".*in eval mode at the start of training.*",  # a frozen backbone is meant to be
)


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without Lightning's notes on what it found and what it sells; its warnings stay, but for those we answer."""
    names = (base_name, "lightning.pytorch", "lightning.fabric", "lightning_fabric")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for answered in _ANSWERED_WARNINGS:
            warnings.filterwarnings("ignore", message=answered)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
