"""What the official data sets share: where each comes from, and the reading of their annotation files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import TypedDict

from lightning_har.data.manifest import Manifest, raise_if
from lightning_har.errors import DataError


@dataclass(frozen=True)
class Archive:
    """A file that may be fetched without signing anything.

    Attributes:
        url: Where it lies.
        name: What it is called on disk.
        sha256: Of its content; None where nobody published a digest.
    """

    url: str
    name: str
    sha256: str | None = None


@dataclass(frozen=True)
class Source:
    """Where a data set comes from and how it lies on disk.

    Attributes:
        name: As ``lightning-har data`` takes it.
        title: As it is published.
        page: Its home page.
        size: What it takes on disk, in words.
        terms: Its licence, or what has to be signed.
        layout: The folder that the data module reads, a line per entry.
        archives: What ``lightning-har data download`` fetches; none where the publisher wants to be asked.
    """

    name: str
    title: str
    page: str
    size: str
    terms: str
    layout: tuple[str, ...]
    archives: tuple[Archive, ...] = ()

    def describe(self) -> str:
        """Where it comes from, how big it is, what to sign, how to lay it out; some lines."""
        how = (
            f"fetch it with: lightning-har data download {self.name} DIR"
            if self.archives
            else "its publisher wants to be asked; it cannot be fetched for you"
        )
        lines = [f"{self.title}: {self.page}", f"size: {self.size}", f"terms: {self.terms}", how, "layout:"]
        return "\n".join(f"  {line}" for line in [*lines, *(f"  {line}" for line in self.layout)])

    def absent(self, what: str) -> DataError:
        """The error for a data set that is not there, or not whole; ``what`` is missing."""
        return DataError(f"{what}\n{self.describe()}\n  to try things out: lightning-har data fake {self.name} DIR")


def first_present(root: Path, names: Iterable[str], source: Source, what: str) -> Path:
    """The first of several entries of a folder that exists.

    Raises:
        DataError: None does; the message tells where the data set comes from.
    """
    names = list(names)
    for name in names:
        if (root / name).exists():
            return root / name
    raise source.absent(f"{root.absolute()} holds no {what}: looked for {', '.join(names)}.")


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Numbered lines of a text file, stripped, empty ones left out. UTF-8, any line ends, a BOM or none.

    Raises:
        DataError: No such file, not UTF-8, or nothing in it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path.absolute()} does not exist") from None
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path}: is not a text file in UTF-8: {error}") from error
    # splitlines() would also cut at form feeds and the like, which a name may hold.
    lines = [(n, line.strip()) for n, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1)]
    lines = [(n, line) for n, line in lines if line]
    if not lines:
        raise DataError(f"{path}: is empty")
    return lines


def read_class_list(path: Path) -> tuple[str, ...]:
    """Class names, one a line, each perhaps after its number from 1.

    Raises:
        DataError: A name twice, or numbers that do not count from 1.
    """
    lines = read_lines(path)
    numbered = [line.split(maxsplit=1) for _, line in lines]
    if all(len(parts) == 2 and parts[0].isascii() and parts[0].isdigit() for parts in numbered):
        wrong = [
            f"line {n}: {line}"
            for (n, line), (k, _), i in zip(lines, numbered, range(1, len(lines) + 1), strict=True)
            if int(k) != i
        ]
        raise_if(wrong, f"{path}: {{count}} classes are not numbered from 1 in order")
        names = [name for _, name in numbered]
    else:
        names = [line for _, line in lines]
    twice = sorted({name for name in names if names.count(name) > 1})
    raise_if(twice, f"{path}: {{count}} classes are named twice")
    return tuple(names)


def require_files(manifest: Manifest, source: Source, split: str) -> None:
    """Refuse a data set whose videos are absent, all or in part.

    Raises:
        DataError: Names the first that are missing, and where they come from.
    """
    missing = manifest.missing_files()
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise source.absent(
            f"{len(missing)} of the {len({r.path for r in manifest})} videos of the {split} list are not in "
            f"{manifest.root.absolute()}: {shown}"
        )


class Coverage(TypedDict):
    """Clips of an official list, and those of them that are on disk."""

    listed: int
    on_disk: int


def keep_present(found: Mapping[str, Manifest], source: Source) -> tuple[dict[str, Manifest], dict[str, Coverage]]:
    """Of data sets that hardly anyone has whole: what is on disk, and how much of the list that is; printed too.

    Raises:
        DataError: A list has no video on disk at all.
    """
    kept, coverage = {}, {}
    for split, manifest in found.items():
        missing = set(manifest.missing_files())
        kept[split] = manifest.with_records(r for r in manifest if r.path not in missing)
        if not len(kept[split]):
            raise source.absent(
                f"none of the {len(manifest)} clips of the {split} list is in {manifest.root.absolute()}."
            )
        coverage[split] = Coverage(listed=len(manifest), on_disk=len(kept[split]))
    report_coverage(source.title, coverage)
    return kept, coverage


def report_coverage(title: str, coverage: Mapping[str, Coverage]) -> None:
    """Print, once over all ranks, how much of each list is on disk."""
    if int(os.environ.get("LOCAL_RANK", 0)):
        return
    parts = [
        f"{split} {c['on_disk']:,} of {c['listed']:,} ({100 * c['on_disk'] / c['listed']:.1f} %)"
        for split, c in coverage.items()
    ]
    print(f"{title}: on disk are {', '.join(parts)}", file=sys.stderr)  # noqa: T201
