"""Where the library keeps files of its own, and how a file appears whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_directory() -> Path:
    """``LIGHTNING_HAR_CACHE``, else ``lightning_har`` in the user's cache folder."""
    own = os.environ.get("LIGHTNING_HAR_CACHE")
    general = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(own).expanduser() if own else Path(general).expanduser() / "lightning_har"


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Where to write a file's content: it takes the file's name when the block ends, and goes if the block fails.

    A process that is killed leaves at most that hidden file.

    Args:
        path: The file, in a folder that exists. What is there is replaced.

    Yields:
        A name beside it of the same suffix, hidden, that no other process or machine has.

    Raises:
        OSError: It cannot be written; the error names it, not the hidden one.
    """
    path = Path(path)
    part = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        if error.filename == str(part):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        part.unlink(missing_ok=True)
