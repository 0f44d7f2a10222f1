"""Where a load to replay comes from: what every source gives, and the simplest of them, a file.

The others are `replay_prometheus` and `replay_checkpoint`, which import far more and are imported when they are asked.
Everything from outside is bounded, and what cannot be used is one line that names the place and the remedy.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from optiinfra.domain.replay.past import Past, PastError, recorded
from optiinfra.errors import OptiInfraError

MOST_BYTES: Final = 256 << 20


class SourceError(OptiInfraError):
    """A load that cannot be had; the message names the place and what is expected there."""


@dataclass(frozen=True, slots=True)
class Source:
    """A load with what has to be said about it."""

    name: str
    past: Past
    notes: tuple[str, ...] = ()


def from_csv(path: Path) -> Source:
    """Read `time_s,work` on equal steps; an empty work is not known. Raises `SourceError`."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise SourceError(f"{path.name}: larger than {MOST_BYTES >> 20} MiB; cut the load")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path.name} cannot be read: {error}") from error
    rows = csv.reader(io.StringIO(text))
    header = [name.strip() for name in next(rows, [])]
    if header[:2] != ["time_s", "work"]:
        raise SourceError(f"{path.name}: the first line must read time_s,work")
    times, work = [], []
    for number, row in enumerate(rows, start=2):
        try:
            moment, value = float(row[0]), float(row[1]) if row[1].strip() else np.nan
        except (ValueError, IndexError) as error:
            raise SourceError(f"{path.name}, line {number}: two numbers are expected, time_s,work") from error
        if not np.isfinite(moment) or (row[1].strip() and not (np.isfinite(value) and value >= 0.0)):
            raise SourceError(f"{path.name}, line {number}: work must be a number that is not negative")
        times.append(moment)
        work.append(value)
    if len(times) < 2:
        raise SourceError(f"{path.name}: at least two rows are needed")
    between = np.diff(times)
    step = float(between[0])
    if step <= 0.0 or np.abs(between - step).max() > 1e-3 * step:
        line = int(np.abs(between - step).argmax()) + 3
        raise SourceError(f"{path.name}, line {line}: time_s must go up in equal steps ({step:g} s at the beginning)")
    try:
        return Source(path.name, recorded(np.array(work), step_s=step))
    except PastError as error:
        raise SourceError(f"{path.name}: {error}") from error
