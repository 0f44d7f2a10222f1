"""Recorded pages from wherever they lie: a tar archive (plain or gzip), one page's file, or a folder.

Everything comes from outside and is bounded: members, bytes of one, bytes in all. Nothing is ever written, so that a
member's path is only a name. A member that is too large or no regular file is told with the reason; an archive that is
cut short gives what came before the cut. Folders name replicas.
"""

import gzip
import io
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from statistics import median
from typing import IO, Final

from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.errors import OptiInfraError

MOST_MEMBERS: Final = 10_000
MOST_BYTES: Final = 8 * 1024 * 1024
"""Of one page; as large as the parser takes."""
MOST_BYTES_IN_ALL: Final = 1024 * 1024 * 1024
ASSUMED_INTERVAL: Final = Seconds(5.0)
"""Between pages that carry no usable times, where nobody says: the operator's own scrape interval."""
_LATEST: Final = 1e12
_GZIP: Final = b"\x1f\x8b"
_TAR_SIGN: Final = b"ustar"
_TAR_SIGN_AT: Final = 257
_DIGITS: Final = re.compile(r"(\d+)")


class PagesError(OptiInfraError):
    """What was named holds no pages that can be analysed. The message says what and why."""


@dataclass(frozen=True, slots=True)
class RecordedPage:
    """One member."""

    name: str
    time: UnixTime
    """Its modification time, until `clocked` says otherwise."""
    content: bytes
    problem: str = ""
    """Why there is no content."""

    @property
    def replica(self) -> str:
        """The folder it lies in; empty at the top."""
        folder = PurePosixPath(self.name).parent.as_posix()
        return "" if folder == "." else folder


def read(path: Path) -> Iterator[RecordedPage]:
    """Yield the pages of an archive in its own order, those of a folder in name order.

    Raises:
        PagesError: it cannot be opened, or is larger than what is read.
    """
    try:
        if path.is_dir():
            yield from _of_folder(path)
            return
        with path.open("rb") as file:
            yield from _of_file(file, path)
    except OSError as error:
        raise PagesError(f"{path}: {error.strerror or error}") from error


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key of a name: by its numbers where it has some, so that page 10 follows page 9."""
    parts = _DIGITS.split(name)
    return tuple((0, int(part), "") if index % 2 else (1, 0, part) for index, part in enumerate(parts) if part)


def clock(names: Sequence[str], times: Sequence[UnixTime], *, interval: Seconds | None) -> tuple[list[UnixTime], str]:
    """Return the time of each page, given in name order, and where it is from: "modified", "interval" or "assumed".

    Modification times are believed where they rise with the names, in each folder by itself. Where they are equal, or
    in no order, pages of a folder follow each other at the interval from 0 on.
    """
    if all(_rising([times[index] for index in folder], interval) for folder in _folders(names)):
        return list(times), "modified"
    return counted(names, interval=interval), "assumed" if interval is None else "interval"


def counted(names: Sequence[str], *, interval: Seconds | None) -> list[UnixTime]:
    """Return times that follow each other at the interval, in each folder from 0 on."""
    step = ASSUMED_INTERVAL if interval is None else interval
    times = [UnixTime(0.0)] * len(names)
    for folder in _folders(names):
        for place, index in enumerate(folder):
            times[index] = UnixTime(place * step)
    return times


def _folders(names: Sequence[str]) -> list[list[int]]:
    found: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        found.setdefault(PurePosixPath(name).parent.as_posix(), []).append(index)
    return list(found.values())


def spacing(times: Sequence[UnixTime]) -> Seconds:
    """Return the usual time between two scrapes of one replica; the assumed one where there is but one."""
    gaps = [later - earlier for earlier, later in pairwise(sorted(set(times)))]
    return Seconds(median(gaps)) if gaps else ASSUMED_INTERVAL


def _rising(times: Sequence[UnixTime], interval: Seconds | None) -> bool:
    """Tell whether times are those of scrapes: in order, and not all those of one unpacking."""
    if any(later < earlier for earlier, later in pairwise(times)):
        return False
    span = times[-1] - times[0]
    if len(times) > 1 and span <= 0.0:
        return False
    # Files that were copied carry the times of the copy, a few milliseconds apart.
    return interval is None or span >= 0.1 * interval * (len(times) - 1)


def _of_folder(path: Path) -> Iterator[RecordedPage]:
    seen = total = 0
    for file in sorted(path.rglob("*"), key=lambda one: natural(one.relative_to(path).as_posix())):
        name = file.relative_to(path).as_posix()
        if file.is_symlink() or not file.is_file() or _hidden(name):
            continue
        seen += 1
        if seen > MOST_MEMBERS:
            raise PagesError(f"{path}: more than {MOST_MEMBERS} files; analyse a part of them")
        facts = file.stat()
        page = RecordedPage(name, UnixTime(facts.st_mtime), b"")
        if facts.st_size > MOST_BYTES:
            yield replace(page, problem=_too_large(facts.st_size))
            continue
        total += facts.st_size
        if total > MOST_BYTES_IN_ALL:
            raise PagesError(f"{path}: more than {MOST_BYTES_IN_ALL >> 20} MiB; analyse a part of it")
        with file.open("rb") as source:
            yield _whole(page, source)


def _of_file(file: IO[bytes], path: Path) -> Iterator[RecordedPage]:
    packed = _peek(file, 0, len(_GZIP)) == _GZIP
    source = _Counted(gzip.GzipFile(fileobj=file) if packed else file, path)
    buffered = io.BufferedReader(source)
    try:
        start = buffered.peek(_TAR_SIGN_AT + len(_TAR_SIGN))
        if start[_TAR_SIGN_AT : _TAR_SIGN_AT + len(_TAR_SIGN)] == _TAR_SIGN:
            yield from _of_archive(buffered, path)
            return
        page = RecordedPage(path.name, UnixTime(path.stat().st_mtime), b"")
        content = buffered.read(MOST_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise PagesError(f"{path}: not a whole gzip file ({error})") from error
    yield _sized(page, content)


def _of_archive(source: IO[bytes], path: Path) -> Iterator[RecordedPage]:
    seen = 0
    try:
        # As a stream: a member is read when it passes, and nothing is looked up twice.
        with tarfile.open(fileobj=source, mode="r|") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if member.isdir() or _hidden(name):
                    continue
                seen += 1
                if seen > MOST_MEMBERS:
                    raise PagesError(f"{path}: more than {MOST_MEMBERS} members; analyse a part of them")
                # An extended header may carry any number.
                time = float(member.mtime)
                page = RecordedPage(name, UnixTime(time if 0.0 <= time < _LATEST else 0.0), b"")
                content = archive.extractfile(member) if member.isreg() else None
                if content is None:
                    yield replace(page, problem="not a regular file")
                elif member.size > MOST_BYTES:
                    yield replace(page, problem=_too_large(member.size))
                else:
                    yield _sized(page, content.read(MOST_BYTES + 1))
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        if not seen:
            raise PagesError(f"{path}: not a tar archive that can be read ({error})") from error
        yield RecordedPage(
            f"{path.name} after {seen} members", UnixTime(0.0), b"", f"the archive is cut short ({error})"
        )


def _whole(page: RecordedPage, source: IO[bytes]) -> RecordedPage:
    try:
        stream = gzip.GzipFile(fileobj=source) if _peek(source, 0, len(_GZIP)) == _GZIP else source
        return _sized(page, stream.read(MOST_BYTES + 1))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        return replace(page, problem=f"not a whole gzip file ({error})")


def _sized(page: RecordedPage, content: bytes) -> RecordedPage:
    if len(content) > MOST_BYTES:
        return replace(page, problem=_too_large(len(content)))
    return replace(page, content=content)


def _too_large(size: float) -> str:
    return f"larger than {MOST_BYTES >> 20} MiB ({size / 2**20:.0f} MiB)"


def _hidden(name: str) -> bool:
    """Tell whether a file is a desktop's or an editor's own (.DS_Store, ._page.txt)."""
    return PurePosixPath(name).name.startswith(".")


def _peek(file: IO[bytes], at: int, size: int) -> bytes:
    file.seek(at)
    found = file.read(size)
    file.seek(0)
    return found


class _Counted(io.RawIOBase):
    """Counts what is unpacked, so that a small file cannot become an endless one."""

    def __init__(self, source: IO[bytes] | gzip.GzipFile, path: Path) -> None:
        super().__init__()
        self._source = source
        self._path = path
        self._total = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed names a wider buffer
        found = self._source.read(len(buffer))
        self._total += len(found)
        if self._total > MOST_BYTES_IN_ALL:
            raise PagesError(f"{self._path}: unpacks to more than {MOST_BYTES_IN_ALL >> 20} MiB; analyse a part of it")
        buffer[: len(found)] = found
        return len(found)
