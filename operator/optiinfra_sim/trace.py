"""Request traces: Azure's LLM inference trace format in, shaped arrivals out.

A trace row is a moment, a number of prompt tokens and a number of generated tokens. Shaping is stated, never
hidden: time compression plays more seconds of the trace per second, the load factor (constant, or points over
time joined by straight lines) thins or multiplies the requests. Lengths are never changed. Pure but for reading
the file; the little jitter of multiplied requests comes from a fixed seed, so that a scenario repeats exactly.
"""

import csv
import gzip
import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from optiinfra_sim.blocks import Content
from optiinfra_sim.errors import TraceError

MAX_REQUESTS = 2_000_000
MAX_TOKENS = 1_000_000
COPY_SPREAD_SECONDS = 2.0
COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request of a trace: seconds from its beginning, prompt and generated tokens; the rest as in a Request."""

    at: float
    prompt: int
    output: int
    limit: int = 0
    content: Content = ()
    answer: int = 0
    adapter: str = ""
    external: int = 0


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """The load factor at one moment of the shaped time."""

    at: float
    factor: float


def read_trace(path: Path) -> list[Arrival]:
    """All requests of an Azure trace (plain or gzip), the first one at second 0."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
                return _parse(lines, name=path.name)
        with path.open(encoding="utf-8", newline="") as lines:
            return _parse(lines, name=path.name)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TraceError(f"trace {path.name} cannot be read: {error}") from error


def _parse(lines: Iterable[str], *, name: str) -> list[Arrival]:
    rows = csv.reader(lines)
    header = next(rows, [])
    if tuple(column.strip() for column in header) != COLUMNS:
        raise TraceError(f"trace {name}: the first line must read {','.join(COLUMNS)}")
    arrivals: list[Arrival] = []
    start: float | None = None
    previous = 0.0
    for line, row in enumerate(rows, start=2):
        if len(arrivals) >= MAX_REQUESTS:
            raise TraceError(f"trace {name}: more than {MAX_REQUESTS} requests, cut it")
        try:
            stamp, prompt, output = row
            # Azure writes 100 ns digits, Python reads microseconds.
            moment = datetime.fromisoformat(stamp.strip()[:26]).replace(tzinfo=UTC).timestamp()
            arrival = Arrival(moment - (moment if start is None else start), int(prompt), int(output))
        except ValueError as error:
            raise TraceError(f"trace {name} line {line}: {error}") from error
        start = moment if start is None else start
        if not (0 < arrival.prompt <= MAX_TOKENS and 0 < arrival.output <= MAX_TOKENS):
            raise TraceError(f"trace {name} line {line}: token counts must lie in 1..{MAX_TOKENS}")
        if arrival.at < previous:
            raise TraceError(f"trace {name} line {line}: earlier than the line before it")
        previous = arrival.at
        arrivals.append(arrival)
    if not arrivals:
        raise TraceError(f"trace {name}: no requests")
    return arrivals


def load_factor(points: Sequence[LoadPoint], at: float) -> float:
    """The factor at one moment: straight lines between the points, constant outside them."""
    if at <= points[0].at:
        return points[0].factor
    for left, right in itertools.pairwise(points):
        if at <= right.at:
            share = (at - left.at) / (right.at - left.at)
            return left.factor + share * (right.factor - left.factor)
    return points[-1].factor


def shape(
    arrivals: Sequence[Arrival],
    *,
    start: float = 0.0,
    duration: float,
    compression: float = 1.0,
    load: Sequence[LoadPoint],
    seed: int = 1,
) -> list[Arrival]:
    """Cut ``duration`` seconds of trace time from ``start``, play them ``compression`` times as fast, scale the load.

    Of every request as many copies arrive as the load factor says, fractions carried over to the next one; the
    copies follow within a few seconds, because users do not press their keys in the same millisecond.
    """
    jitter = random.Random(seed)  # noqa: S311 - repeatable spread of copies, nothing secret
    shaped: list[Arrival] = []
    owed = 0.0
    end = duration / compression
    for arrival in arrivals:
        if not start <= arrival.at < start + duration:
            continue
        at = (arrival.at - start) / compression
        owed += load_factor(load, at)
        for copy in range(int(owed)):
            spread = jitter.uniform(0.0, COPY_SPREAD_SECONDS) if copy else 0.0
            shaped.append(Arrival(min(at + spread, end), arrival.prompt, arrival.output))
        owed -= int(owed)
    shaped.sort(key=lambda arrival: arrival.at)
    return shaped
