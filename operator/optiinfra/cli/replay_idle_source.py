"""Reading the samples of GPUs: `time_s,gpu,duty,memory_bytes[,power_watts][,sm_active]`, plain or gzip.

Rows may come in any order and twice; an empty cell is not known. Whatever else is wrong ends the reading with one
sentence that names the line, the column and what is expected there: a replay of half a file would look like a result.
"""

import csv
import gzip
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Final, TextIO

import numpy as np

from optiinfra.domain.idle.replay import History
from optiinfra.errors import OptiInfraError

NEEDED: Final = ("time_s", "gpu", "duty", "memory_bytes")
OPTIONAL: Final = ("power_watts", "sm_active")
MOST_BYTES: Final = 2 << 30
"""Unpacked."""
MOST_ROWS: Final = 20_000_000
MOST_GPUS: Final = 20_000
_LONGEST_LINE: Final = 4096
_LONGEST_NAME: Final = 253
_RATIOS: Final = frozenset({"duty", "sm_active"})
_ROUNDING: Final = 1.001
_CHUNK: Final = 100_000


class SamplesError(OptiInfraError):
    """A file of samples that cannot be used; the message names the line and what is expected there."""


def read_samples(path: Path, *, told: Callable[[int], None] = lambda _bytes: None) -> History:
    """Read a file; `told` hears how many bytes of it were read since. Raises SamplesError."""
    names: dict[str, int] = {}
    values: dict[str, list[np.ndarray[tuple[int], np.dtype[np.float64]]]] = {
        name: [] for name in ("time_s", "gpu", *NEEDED[2:], *OPTIONAL)
    }
    buffered: dict[str, list[float]] = {name: [] for name in values}
    count = 0
    try:
        with closing(_open(path)) as text:
            lines = csv.reader(_bounded(text, path, told))
            places = _header(next(lines, []), path)
            for cells in lines:
                if not cells:
                    continue
                where = f"{path.name}, line {lines.line_num}"
                if len(cells) != len(places):
                    raise SamplesError(f"{where}: {len(cells)} cells, {len(places)} are expected as in the header")
                _row(dict(zip(places, cells, strict=True)), buffered, names, where)
                count += 1
                if count > MOST_ROWS:
                    raise SamplesError(f"{where}: more than {MOST_ROWS} rows; cut the file or thin it out")
                if count % _CHUNK == 0:
                    _flush(buffered, values)
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise SamplesError(f"{path.name} cannot be read: {error}; name a .csv or .csv.gz file") from error
    except UnicodeDecodeError as error:
        raise SamplesError(f"{path.name} is not text: {error.reason}; a CSV file in UTF-8 is expected") from error
    if not count:
        raise SamplesError(f"{path.name}: no samples; rows below the header {','.join(NEEDED)} are expected")
    _flush(buffered, values)
    return history(tuple(names), {name: np.concatenate(parts) for name, parts in values.items()})


def history(gpus: tuple[str, ...], columns: dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]) -> History:
    """Sort samples by GPU and time, and join rows of the same moment: the larger value counts, a known one at that."""
    owner, time = columns["gpu"].astype(np.intp), columns["time_s"]
    order = np.lexsort((time, owner))
    owner, time = owner[order], time[order]
    new = np.ones(len(time), dtype=np.bool_)
    new[1:] = (owner[1:] != owner[:-1]) | (time[1:] != time[:-1])
    begin = np.flatnonzero(new)
    merged = {name: np.fmax.reduceat(columns[name][order], begin) for name in (*NEEDED[2:], *OPTIONAL)}
    owner, time = owner[begin], time[begin]
    return History(
        gpus=gpus,
        start=np.searchsorted(owner, np.arange(len(gpus) + 1)),
        time=time,
        duty=np.minimum(merged["duty"], 1.0),
        memory=merged["memory_bytes"],
        power=merged["power_watts"],
        sm_active=np.minimum(merged["sm_active"], 1.0),
    )


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open("r", encoding="utf-8-sig", newline="")


def _bounded(text: IO[str], path: Path, told: Callable[[int], None]) -> Iterator[str]:
    total = 0
    unsaid = 0
    while line := text.readline(_LONGEST_LINE + 1):
        if len(line) > _LONGEST_LINE:
            raise SamplesError(f"{path.name}: a line longer than {_LONGEST_LINE} characters; CSV is expected")
        total += len(line)
        unsaid += len(line)
        if total > MOST_BYTES:
            raise SamplesError(f"{path.name}: more than {MOST_BYTES >> 30} GiB unpacked; cut the file")
        if unsaid > 1 << 20:
            told(unsaid)
            unsaid = 0
        yield line
    told(unsaid)


def _header(cells: list[str], path: Path) -> tuple[str, ...]:
    places = tuple(cell.strip() for cell in cells)
    expected = ",".join(NEEDED) + "".join(f"[,{name}]" for name in OPTIONAL)
    for name in NEEDED:
        if name not in places:
            raise SamplesError(f"{path.name}, line 1: no column {name}; the header {expected} is expected")
    twice = next((name for name in places if places.count(name) > 1), None)
    if twice is not None:
        raise SamplesError(f"{path.name}, line 1: column {twice[:64]} is there twice; remove one")
    return places


def _row(cells: dict[str, str], buffered: dict[str, list[float]], names: dict[str, int], where: str) -> None:
    gpu = cells["gpu"].strip()
    if not gpu or len(gpu) > _LONGEST_NAME:
        raise SamplesError(f"{where}: gpu: a name of 1 to {_LONGEST_NAME} characters is expected")
    time = _number(cells["time_s"], "time_s", where)
    if math.isnan(time):
        raise SamplesError(f"{where}: time_s is empty; a number of seconds is expected")
    place = names.setdefault(gpu, len(names))
    if len(names) > MOST_GPUS:
        raise SamplesError(f"{where}: more than {MOST_GPUS} GPUs; split the file by GPU")
    buffered["time_s"].append(time)
    buffered["gpu"].append(place)
    for name in (*NEEDED[2:], *OPTIONAL):
        text = cells.get(name)
        value = math.nan if text is None else _number(text, name, where)
        if value < 0.0:
            raise SamplesError(f"{where}: {name} {value:g} is negative; leave the cell empty where it is not known")
        if name in _RATIOS and value > _ROUNDING:
            raise SamplesError(f"{where}: {name} {value:g} is not a share of 0 to 1; divide per cent by 100")
        buffered[name].append(value)


def _number(text: str, name: str, where: str) -> float:
    text = text.strip()
    if not text or text.lower() == "nan":
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if math.isinf(value) or abs(value) > 1e18:
        raise SamplesError(f"{where}: {name} {text[:32]!r} is not a number; an empty cell means not known")
    return value


def _flush(
    buffered: dict[str, list[float]], values: dict[str, list[np.ndarray[tuple[int], np.dtype[np.float64]]]]
) -> None:
    for name, held in buffered.items():
        values[name].append(np.array(held, dtype=np.float64))
        held.clear()
