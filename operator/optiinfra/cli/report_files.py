"""Writes patches into a folder, one file each, and never over a file that it did not write.

A file that it wrote begins with its mark; whatever else is there stands, and the run says so and ends.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from optiinfra.domain.report.report import Patch
from optiinfra.errors import OptiInfraError

MARK: Final = "# Written by optiinfra report; a later run of it replaces this file."


class ReportFileError(OptiInfraError):
    """A file that cannot be written; names it and what to do."""


def write_patches(folder: Path, patches: Sequence[Patch]) -> tuple[Path, ...]:
    """Write all patches, or none where one of them would replace a foreign file. Raises ReportFileError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for patch in patches:
            _check(folder / patch.file)
        return tuple(_written(folder / patch.file, f"{MARK}\n{patch.text}") for patch in patches)
    except OSError as error:
        raise ReportFileError(f"--patches: {error.filename or folder} cannot be written: {error.strerror}") from error


def can_write(path: Path) -> None:
    """Look whether a report can be written there, before minutes go into making it. Raises ReportFileError."""
    if not path.parent.is_dir():
        raise ReportFileError(f"--output: there is no folder {path.parent}: create it, or name a file in another one")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ReportFileError(f"--output: {path} cannot be written: name a file in a folder of yours")


def write_report(path: Path, text: str) -> None:
    """Write the report. Raises ReportFileError."""
    try:
        _written(path, text)
    except OSError as error:
        raise ReportFileError(f"--output: {error.filename or path} cannot be written: {error.strerror}") from error


def _check(path: Path) -> None:
    if not path.is_symlink() and not path.exists():
        return
    foreign = ReportFileError(
        f"--patches: {path} is there and was not written by this command: move it away or name another folder"
    )
    if path.is_symlink() or not path.is_file():
        raise foreign
    with path.open(encoding="utf-8", errors="replace") as file:
        if file.readline().rstrip("\n") != MARK:
            raise foreign


def _written(path: Path, text: str) -> Path:
    """Write beside and move into place, so that nobody finds half a file."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path
