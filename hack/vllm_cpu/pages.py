"""Recorded metric pages: one text file a scrape in a tar.gz, a member's modification time being the scrape time.

The format of the recordings that ship with the project, which `optiinfra analyze engine` reads.
"""

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_BYTES: Final = 4 * 1024 * 1024
"""A page of this engine has 50 KB."""


@dataclass(frozen=True)
class Page:
    """One scrape."""

    time: float
    """Unix time."""
    text: bytes


def write(path: Path, pages: Sequence[Page], *, prefix: str) -> None:
    """Write the pages in order; their names sort in that order too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # PAX keeps fractions of a second.
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        for number, page in enumerate(pages):
            member = tarfile.TarInfo(f"{prefix}_{number:04d}.txt")
            member.size, member.mtime, member.mode = len(page.text), page.time, 0o644
            archive.addfile(member, io.BytesIO(page.text))
