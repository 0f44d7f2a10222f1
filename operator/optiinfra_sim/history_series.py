"""One series of a played past, and how it is written: OpenMetrics text, columns for a TSDB, lines for VictoriaMetrics.

A past is too large for memory as text, so every form is written series by series, and cut into windows of time, as
blocks of a TSDB are: `promtool tsdb create-blocks-from openmetrics` reads a file once for each block that it makes.
"""

import io
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np

from optiinfra_sim.errors import EngineError
from optiinfra_sim.history_traffic import Array

SIMULATED: Final = "optiinfra_simulated"
BUFFER: Final = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One series: values at points first, first + stride, ... of the grid."""

    labels: tuple[tuple[str, str], ...]
    """With `__name__`; sorted."""
    first: int
    values: Array
    stride: int = 1

    @property
    def name(self) -> str:
        """Of the metric."""
        return dict(self.labels)["__name__"]

    def within(self, begin: int, end: int) -> "Series | None":
        """Return the part at points [begin, end), counted from `begin`; None where there is none."""
        skipped = max(0, -(-(begin - self.first) // self.stride))
        start = self.first + skipped * self.stride
        count = min(len(self.values) - skipped, -(-(end - start) // self.stride))
        if count < 1:
            return None
        return Series(self.labels, start - begin, self.values[skipped : skipped + count], self.stride)


def series(name: str, labels: Mapping[str, str], values: Array, *, first: int = 0, stride: int = 1) -> Series:
    """Return a series; labels without a value are left out, as Prometheus leaves them out."""
    told = {"__name__": name, **{key: value for key, value in labels.items() if value}}
    return Series(tuple(sorted(told.items())), first, values, stride)


def windows(times: Array, *, width_s: float) -> list[tuple[int, int]]:
    """Return the windows [begin, end) that a grid is cut into: at multiples of the width, as a TSDB cuts its blocks."""
    number = np.floor(times / width_s)
    begins = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist()]
    return list(zip(begins, [*begins[1:], len(times)], strict=True))


@dataclass(frozen=True, slots=True)
class Written:
    """What was written."""

    series: int
    samples: int


def write_columns(every: Iterable[Series], files: Sequence[IO[bytes]], *, times: Array, width_s: float) -> Written:
    """Write one file a window in the form that `hack/go/prometheus/backfill` reads, without the input's end mark."""
    cut = windows(times, width_s=width_s)
    if len(files) != len(cut):
        raise EngineError(f"{len(files)} files for {len(cut)} windows")
    for file, (begin, end) in zip(files, cut, strict=True):
        file.write(struct.pack("<I", end - begin))
        file.write((times[begin:end] * 1000).astype("<i8").tobytes())
    count = samples = 0
    for one in every:
        count += 1
        samples += len(one.values)
        text = "".join(f"{key}\0{value}\0" for key, value in one.labels).encode()
        head = struct.pack("<I", len(text)) + text
        for file, (begin, end) in zip(files, cut, strict=True):
            part = one.within(begin, end)
            if part is not None:
                file.write(head)
                file.write(struct.pack("<III", part.first, len(part.values), part.stride))
                file.write(part.values.astype("<f8").tobytes())
    for file in files:
        file.write(struct.pack("<I", 0))
    return Written(count, samples)


def end_columns(file: IO[bytes]) -> None:
    """Write the mark that ends the input."""
    file.write(struct.pack("<I", 0))


def write_open_metrics(
    every: Iterable[Series], folder: Path, *, times: Array, width_s: float
) -> tuple[list[Path], Written]:
    """Write one file a window, 0000.om and on; each ends as OpenMetrics must."""
    cut = windows(times, width_s=width_s)
    paths = [folder / f"{number:04}.om" for number in range(len(cut))]
    stamps = [f" {time:.0f}\n" for time in times.tolist()]
    count = samples = 0
    files = [path.open("w", encoding="utf-8", buffering=BUFFER) for path in paths]
    try:
        for one in every:
            count += 1
            samples += len(one.values)
            head = f"{_braced(one.labels)} "
            for file, (begin, end) in zip(files, cut, strict=True):
                part = one.within(begin, end)
                if part is not None:
                    own = stamps[begin + part.first : end : part.stride]
                    file.write(
                        "".join([f"{head}{_number(v)}{t}" for v, t in zip(part.values.tolist(), own, strict=False)])
                    )
        for file in files:
            file.write("# EOF\n")
    finally:
        for file in files:
            file.close()
    return paths, Written(count, samples)


def json_lines(every: Iterable[Series], *, times: Array) -> Iterator[bytes]:
    """Yield lines of VictoriaMetrics' /api/v1/import."""
    stamps = (times * 1000).astype(np.int64).tolist()
    for one in every:
        own = stamps[one.first :: one.stride][: len(one.values)]
        line = {"metric": dict(one.labels), "values": one.values.tolist(), "timestamps": own}
        yield json.dumps(line, separators=(",", ":")).encode() + b"\n"


def page(every: Iterable[Series]) -> bytes:
    """Return the newest value of each series as a page to scrape, without times."""
    text = io.StringIO()
    for one in every:
        text.write(f"{_braced(one.labels)} {_number(float(one.values[-1]))}\n")
    return text.getvalue().encode()


def _braced(labels: tuple[tuple[str, str], ...]) -> str:
    own = ",".join(f'{key}="{value}"' for key, value in labels if key != "__name__")
    return f"{dict(labels)['__name__']}{{{own}}}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
