"""What users asked of a service over weeks: rates out of ServeGen, lengths and unrest out of Azure's trace.

`traces/servegen-language.csv.gz` holds three services by windows of ten minutes over 8.4 days. A service played longer
goes on with the same hour of the week (a window without requests in the source is bridged by its neighbours); another
model starts elsewhere in it, and is scaled to the load that its fleet is built for. Within the windows the rate is
shaken as Azure's conversation trace shakes from minute to minute. Nothing else is made up, and nothing here is random
but for the seed. Refuses traces with other columns.
"""

import csv
import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from optiinfra_sim.errors import TraceError
from optiinfra_sim.trace import read_trace

Array: TypeAlias = npt.NDArray[np.float64]

SERVICES: Final = ("m-large", "m-mid", "m-small")
WINDOW_S: Final = 600.0
WEEK_S: Final = 7 * 86_400.0
_FOLDER: Final = Path(__file__).with_name("traces")
_COLUMNS: Final = ["service", "t", "requests_per_s", "prompt_tokens", "output_tokens"]


@dataclass(frozen=True, slots=True)
class Service:
    """One service of ServeGen; (windows,) each, windows of ten minutes."""

    requests_per_s: Array
    prompt_tokens: Array
    output_tokens: Array


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one model is asked; (points,) each."""

    requests_per_s: Array
    prompt_tokens: Array
    """Mean of the requests that arrive then."""
    output_tokens: Array


@dataclass(frozen=True, slots=True)
class Unrest:
    """Azure's conversation trace by minutes."""

    minutes: Array
    """(minutes,) requests of a minute over the mean; its mean is 1."""
    prompt_spread: float
    """Standard deviation of the logarithm of prompt lengths."""
    output_spread: float


@cache
def services() -> dict[str, Service]:
    """Return the bundled services by name; raise TraceError when the file is not as it should be."""
    path = _FOLDER / "servegen-language.csv.gz"
    rows = csv.reader(io.StringIO(gzip.decompress(path.read_bytes()).decode()))
    if next(rows) != _COLUMNS:
        raise TraceError(f"trace {path.name}: the first line must read {','.join(_COLUMNS)}")
    by_name: dict[str, list[list[float]]] = {name: [] for name in SERVICES}
    for name, _, *values in rows:
        by_name[name].append([float(value) for value in values])
    found = {}
    for name, table in by_name.items():
        columns = np.array(table)
        windows = np.arange(len(columns))
        told = columns[:, 0] > 0
        found[name] = Service(*(np.interp(windows, windows[told], column[told]) for column in columns.T))
    return found


@cache
def unrest() -> Unrest:
    """Return how Azure's requests stray within twenty minutes."""
    arrivals = read_trace(_FOLDER / "azure-conversation.csv.gz")
    counts = np.bincount([int(one.at // 60) for one in arrivals]).astype(np.float64)
    # The trace ends within its last minute.
    counts = counts[:-1] if len(counts) > 1 else counts
    return Unrest(
        minutes=counts / counts.mean(),
        prompt_spread=float(np.std(np.log([one.prompt for one in arrivals]))),
        output_spread=float(np.std(np.log([one.output for one in arrivals]))),
    )


def traffic(
    *, service: str, times: Array, offset_s: float, lengths: Sequence[float], draw: np.random.Generator
) -> Traffic:
    """Play one service at `times` (seconds from the beginning), from `offset_s` on within its week.

    The rate has a mean of 1 over `times`; `lengths` are the means of prompt and output tokens, around which both stray
    as the source's means do. Raises TraceError for an unknown service.
    """
    if service not in SERVICES:
        raise TraceError(f"no service {service}: choose of {', '.join(SERVICES)}")
    source = services()[service]
    at = ((times + offset_s) % WEEK_S) / WINDOW_S - 0.5
    windows = np.arange(len(source.requests_per_s))
    rate = np.interp(at, windows, source.requests_per_s)
    # The minutes of Azure's trace, each twenty of ours another turn of them: unrest without a period.
    own = unrest().minutes
    minute = (times // 60).astype(np.int64)
    turn = draw.integers(0, len(own), size=int(minute.max() // len(own)) + 1)
    rate = rate * own[(minute + turn[minute // len(own)]) % len(own)]
    prompt, output = (
        np.interp(at, windows, column) / column.mean() * mean
        for column, mean in zip((source.prompt_tokens, source.output_tokens), lengths, strict=True)
    )
    return Traffic(rate / rate.mean(), prompt, output)
