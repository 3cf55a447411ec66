"""Goes on with a download that was killed, where the hub's client would begin anew.

``huggingface_hub`` (2.x) gives every download a file of its own in the repository's ``blobs``, called
``<etag>.<random>.incomplete``, which no later call looks at. The etag of a large file is its SHA-256. So the longest of
these is copied, completed, held against that, and put where the client looks first; the client then finds it there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from importlib.util import find_spec
from pathlib import Path

from lightning_har.errors import WeightsError
from lightning_har.weights.fetch import digests, download, hub_problem


def resume(
    repository: str, file: str, *, revision: str | None, endpoint: str | None, token: str | None, cache_dir: Path | None
) -> None:
    """Complete what a killed process left of a file in the client's cache; without any, nothing is asked.

    Whatever goes wrong here is left to the client, which fetches the file whole.

    Args:
        repository: "owner/name".
        file: In it; large enough to be kept apart (LFS).
        revision: Branch, tag or commit; None is the main branch.
        endpoint: Of the hub; None takes the client's.
        token: For private repositories.
        cache_dir: The client's; None takes its default.
    """
    from filelock import FileLock, Timeout
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
    blobs = cache / f"models--{repository.replace('/', '--')}" / "blobs"
    if constants.HF_HUB_OFFLINE or not any(blobs.glob("*.incomplete")) or hub_problem():
        return
    try:
        url = hf_hub_url(repository, file, revision=revision, endpoint=endpoint)
        told = get_hf_file_metadata(url, token=token)
    except Exception:  # the client will meet the same, and say it
        return
    by_xet = find_spec("hf_xet") is not None and not constants.HF_HUB_DISABLE_XET
    if told.etag is None or len(told.etag) != 64 or (told.xet_file_data is not None and by_xet):
        return  # not of a large file; or by Xet, and what that leaves need not be the file's beginning
    blob, lock = blobs / told.etag, cache / ".locks" / blobs.parent.name / f"{told.etag}.lock"
    with contextlib.suppress(OSError, Timeout, WeightsError):
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=0):  # the client's own; held, somebody is downloading the file now
            left = {part: part.stat() for part in blobs.glob(f"{told.etag}.*.incomplete")}
            longest = max(left, key=lambda part: left[part].st_size, default=None)
            if blob.exists() or longest is None or not left[longest].st_size:
                return
            # A copy, under such a name itself: on file systems whose locks do not hold it may be another's to finish.
            own = blobs / f"{told.etag}.{uuid.uuid4().hex[:8]}.incomplete"
            shutil.copyfile(longest, own)
            download(told.location, own, f"{repository}/{file}")
            if digests(own).sha256 != told.etag:
                own.unlink()
                return
            os.replace(own, blob)
            for part, status in left.items():
                now = part.stat()
                if (now.st_size, now.st_mtime_ns) == (status.st_size, status.st_mtime_ns):
                    part.unlink()
