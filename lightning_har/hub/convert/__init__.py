"""From a published file to a module of this library: a source layout a file.

A converter's ``convert(files)`` takes the files in the order of the card's ``upstream`` and gives the module with its
weights, preprocessing, evaluation protocol and class names. That the files are what they claim to be was checked.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

from lightning_har.errors import ConfigError
from lightning_har.modules.base import ActionRecognizer


def converter(name: str) -> Callable[[Sequence[Path]], ActionRecognizer]:
    """The converter in the file of that name here.

    Raises:
        ConfigError: There is none.
    """
    known = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    if name not in known:
        raise ConfigError(f"no converter {name!r}; there are: {', '.join(known)}")
    found: Callable[[Sequence[Path]], ActionRecognizer] = importlib.import_module(f"{__name__}.{name}").convert
    return found
