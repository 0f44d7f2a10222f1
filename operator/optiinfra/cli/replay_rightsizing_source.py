"""Files of what containers used, `time_s,container,cpu_cores,memory_bytes`, and of what they were given.

Rows may come in any order, plain or gzipped; an empty field is not known. Where a container has several samples at one
moment (its pods), the largest stays, because a request is each pod's; how many were merged is told. Everything is
bounded, and what cannot be used is one line that names the place and the remedy: nothing is rounded or filled in.
"""

import csv
import gzip
import io
import math
import zlib
from array import array
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from optiinfra.domain.replay.sizing_figures import Capacity
from optiinfra.domain.replay.usage import Usage
from optiinfra.domain.right_sizing.usage import MOST_BYTES, MOST_CORES
from optiinfra.errors import OptiInfraError

COLUMNS: Final = ("time_s", "container", "cpu_cores", "memory_bytes")
PROVISIONED: Final = ("container", "cpu_cores", "memory_bytes")
MOST_ROWS: Final = 50_000_000
MOST_CONTAINERS: Final = 20_000
MOST_DAYS: Final = 3_660
LONGEST_LINE: Final = 4_096
LATEST: Final = 1e12


class UsageFileError(OptiInfraError):
    """A file that cannot be replayed; the message names the line and what is expected there."""


@dataclass(frozen=True, slots=True)
class UsageFile:
    """Containers by name, in the order in which they appear."""

    name: str
    containers: tuple[str, ...]
    usages: tuple[Usage, ...]
    merged: int
    """Samples left out because the same container had a larger one at the same moment."""

    @property
    def days(self) -> float:
        """From the first sample of all to the last."""
        times = [usage.time for usage in self.usages]
        return float(max(one[-1] for one in times) - min(one[0] for one in times)) / 86_400.0


@dataclass(slots=True)
class _Columns:
    time: "array[float]"
    cpu: "array[float]"
    memory: "array[float]"


def read_usage(path: Path) -> UsageFile:
    """Read a file of use. Raises UsageFileError."""
    found: dict[str, _Columns] = {}
    with _rows(path, COLUMNS) as rows:
        for number, row in rows:
            if number > MOST_ROWS:
                raise UsageFileError(f"{path.name}: more than {MOST_ROWS} rows; cut the file")
            try:
                moment, name, cores, used = row
                time = float(moment)
                cpu = float(cores) if cores else math.nan
                memory = float(used) if used else math.nan
            except ValueError:
                raise UsageFileError(_wrong(path, number, row)) from None
            if not (
                0.0 <= time < LATEST
                and name
                and (0.0 <= cpu <= MOST_CORES or not cores)
                and (0.0 <= memory <= MOST_BYTES or not used)
            ):
                raise UsageFileError(_wrong(path, number, row))
            of = found.get(name)
            if of is None:
                if len(found) >= MOST_CONTAINERS:
                    raise UsageFileError(f"{path.name}: more than {MOST_CONTAINERS} containers; cut the file")
                of = found[name] = _Columns(array("d"), array("d"), array("d"))
            of.time.append(time)
            of.cpu.append(cpu)
            of.memory.append(memory)
    if not found:
        raise UsageFileError(f"{path.name}: no rows; {','.join(COLUMNS)} is expected, a sample a line")
    read = [_usage(of) for of in found.values()]
    file = UsageFile(path.name, tuple(found), tuple(usage for usage, _ in read), sum(merged for _, merged in read))
    if file.days > MOST_DAYS:
        raise UsageFileError(
            f"{path.name}: time_s spans {file.days:.0f} days: seconds are expected, and ten years at most"
        )
    return file


def read_provisioned(path: Path, containers: tuple[str, ...]) -> list[Capacity | None]:
    """Read what each container was given; None for those not in the file. Raises UsageFileError."""
    known: dict[str, Capacity] = {}
    with _rows(path, PROVISIONED) as rows:
        for number, row in rows:
            try:
                name, cores, memory = row
                capacity = Capacity(float(cores), float(memory))
            except ValueError:
                capacity, name = Capacity(math.nan, math.nan), ""
            if not (0.0 < capacity.cpu_cores <= MOST_CORES and 0.0 < capacity.memory_bytes <= MOST_BYTES and name):
                raise UsageFileError(
                    f"{path.name}, line {number}: {','.join(PROVISIONED)} is expected, both amounts above 0"
                )
            if name in known:
                raise UsageFileError(f"{path.name}, line {number}: {name} a second time; name each container once")
            if len(known) >= MOST_CONTAINERS:
                raise UsageFileError(f"{path.name}: more than {MOST_CONTAINERS} containers; cut the file")
            known[name] = capacity
    return [known.get(name) for name in containers]


@contextmanager
def _rows(path: Path, header: tuple[str, ...]) -> Iterator[Iterator[tuple[int, list[str]]]]:
    """Rows below the header, with their line numbers; blank lines are left out."""
    try:
        raw = gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # noqa: SIM115  closed below
        with closing(io.TextIOWrapper(raw, encoding="utf-8", newline="")) as text:
            rows = csv.reader(_bounded(path, text))
            first = [name.strip() for name in next(rows, [])]
            if first != list(header):
                raise UsageFileError(f"{path.name}: the first line must read {','.join(header)}")
            yield ((number, row) for number, row in enumerate(rows, start=2) if row)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise UsageFileError(f"{path.name} cannot be read: {error}; name a .csv or .csv.gz file") from error


def _bounded(path: Path, text: io.TextIOWrapper) -> Iterator[str]:
    """Lines, none of them longer than is read at once."""
    number = 0
    while line := text.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise UsageFileError(f"{path.name}, line {number}: longer than {LONGEST_LINE} characters")
        yield line


def _usage(of: _Columns) -> tuple[Usage, int]:
    """Sort by time; of several samples of one moment the largest stays. Returns how many were merged away."""
    time, cpu, memory = (np.frombuffer(values, dtype=np.float64) for values in (of.time, of.cpu, of.memory))
    if (np.diff(time) > 0.0).all():
        return Usage(time, cpu, memory), 0
    order = np.argsort(time, kind="stable")
    time, cpu, memory = time[order], cpu[order], memory[order]
    first = np.flatnonzero(np.diff(time, prepend=-1.0))
    usage = Usage(time[first], np.fmax.reduceat(cpu, first), np.fmax.reduceat(memory, first))
    return usage, len(time) - len(first)


def _wrong(path: Path, number: int, row: list[str]) -> str:
    where = f"{path.name}, line {number}"
    if len(row) != len(COLUMNS):
        return f"{where}: {len(row)} fields; {','.join(COLUMNS)} is expected"
    for column, field, most in zip(COLUMNS, row, (LATEST, None, MOST_CORES, MOST_BYTES), strict=True):
        if most is None:
            if not field:
                return f"{where}: container is empty; name it"
            continue
        if not field and column != "time_s":
            continue
        try:
            value = float(field)
        except ValueError:
            value = math.nan
        if not 0.0 <= value <= most:
            shown = field[:40]
            return f"{where}: {column} {shown!r} must be a number from 0 to {most:g}; leave what is not known empty"
    return f"{where}: {','.join(COLUMNS)} is expected"
