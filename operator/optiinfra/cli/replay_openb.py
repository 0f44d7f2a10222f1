"""Reads lists of nodes and pods in the columns of the openb traces (Alibaba cluster-trace-gpu-v2023), plain or gzip.

Everything is checked at this door, and every refusal names file, line and column. Memory is MiB in the files and bytes
behind this door. Columns that are not needed are not read.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from optiinfra.domain.placement.arrivals import Arrival
from optiinfra.domain.placement.cluster import Node
from optiinfra.domain.placement.request import MOST_GPUS, WHOLE_GPU, PlacementError, Request
from optiinfra.errors import OptiInfraError

MOST_NODES: Final = 20_000
MOST_PODS: Final = 500_000
LONGEST_LINE: Final = 1 << 16
_MOST_CPU: Final = 1 << 30
_MOST_MEMORY: Final = 1 << 40
_NODE_COLUMNS: Final = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
_POD_COLUMNS: Final = ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli")


class ListError(OptiInfraError):
    """A list that cannot be used; the message names the line and what is expected there."""


def read_nodes(path: Path) -> list[Node]:
    """Read nodes in the order of the file. Raises ListError."""
    found: list[Node] = []
    names: set[str] = set()
    for where, row in _rows(path, _NODE_COLUMNS, most=MOST_NODES):
        gpus = _number(row, "gpu", where, MOST_GPUS)
        found.append(
            Node(
                _name(row, "sn", where, names),
                _number(row, "cpu_milli", where, _MOST_CPU),
                _number(row, "memory_mib", where, _MOST_MEMORY) << 20,
                gpus,
                row["model"].strip() if gpus else "",
            )
        )
    return found


def read_pods(path: Path) -> list[Arrival]:
    """Read pods in the order of the file. Raises ListError."""
    found: list[Arrival] = []
    names: set[str] = set()
    for where, row in _rows(path, _POD_COLUMNS, most=MOST_PODS):
        gpus = _number(row, "num_gpu", where, MOST_GPUS)
        milli = _number(row, "gpu_milli", where, WHOLE_GPU) if gpus else 0
        models = {one.strip() for one in (row.get("gpu_spec") or "").split("|")} - {""} if gpus else set()
        name = _name(row, "name", where, names)
        cpu, memory = _number(row, "cpu_milli", where, _MOST_CPU), _number(row, "memory_mib", where, _MOST_MEMORY)
        try:
            request = Request(cpu, memory << 20, gpus, milli, tuple(sorted(models)))
        except PlacementError as error:
            raise ListError(f"{where}: {error}") from error
        found.append(Arrival(name, request))
    return found


def _rows(path: Path, columns: tuple[str, ...], *, most: int) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield where a row stands and its cells; all named columns are there and none is missing."""
    try:
        opened: IO[bytes] = gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[assignment]  # noqa: SIM115  closed by the with below; GzipFile reads like a file
        with opened, io.TextIOWrapper(opened, encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(_bounded(text, path.name))
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise ListError(f"{path.name}: no column {', '.join(missing)}; expected are {','.join(columns)}")
            count = 0
            for row in reader:
                count += 1
                where = f"{path.name}, line {reader.line_num}"
                if count > most:
                    raise ListError(f"{where}: more than {most} rows; cut the list")
                if any(row[name] is None for name in columns):
                    raise ListError(f"{where}: fewer cells than columns")
                yield where, row
            if not count:
                raise ListError(f"{path.name}: no rows under the header; at least one is needed")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise ListError(f"{path.name} cannot be read: {error}; name a .csv or .csv.gz file") from error


def _bounded(text: io.TextIOWrapper, name: str) -> Iterator[str]:
    while line := text.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise ListError(f"{name}: a line is longer than {LONGEST_LINE} characters")
        yield line


def _number(row: dict[str, str], column: str, where: str, most: int) -> int:
    text = row[column].strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 15) or int(text) > most:
        raise ListError(f"{where}: {column} {text[:32]!r}: a whole number from 0 to {most} is expected")
    return int(text)


def _name(row: dict[str, str], column: str, where: str, names: set[str]) -> str:
    name = row[column].strip()
    if not name or name in names:
        raise ListError(f"{where}: {column} {name[:64]!r}: a name that no other row has is expected")
    names.add(name)
    return name
