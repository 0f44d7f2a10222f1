"""A load to replay from a Prometheus-compatible server: one number over time, and what else the server knows.

A query that gives several series is refused, because adding them up here would hide what they are. Points that are
missing or NaN stay unknown. So do those beside a gap: a rate whose window holds only a part of its samples is too low,
and would look like a load that falls before every gap and jumps after it.
"""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from optiinfra.cli.replay_sources import Source, SourceError
from optiinfra.cluster.errors import ClusterError
from optiinfra.cluster.prometheus import Prometheus, PrometheusServer, RangeAnswer
from optiinfra.cluster.prometheus_range import RangeQuery
from optiinfra.domain.replay.fluid import STEP_S, FloatArray
from optiinfra.domain.replay.past import PastError, recorded
from optiinfra.domain.units import Seconds, UnixTime

_WINDOW: Final = re.compile(r"\[\s*((?:\d+(?:ms|[smhdwy]))+)\s*(?::[^\]]*)?\]")
"""A range selector or a subquery of PromQL."""
_PART: Final = re.compile(r"(\d+)(ms|[smhdwy])")
_SECONDS: Final = {
    "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0, "y": 31_536_000.0,
}  # fmt: skip
_NAMED: Final = 5
"""Series that an error names."""


@dataclass(frozen=True, slots=True)
class Questions:
    """What a server is asked for; empty where there is no such query."""

    work: str
    ready: str = ""
    waiting: str = ""
    running: str = ""
    service: bool = False
    """Made for a service, not written by the user."""

    def option(self, name: str) -> str:
        """Say where a query is from."""
        if self.service:
            return f"--service, {name}"
        return "--query" if name == "work" else f"--{name}-query"

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(1 for query in (self.work, self.ready, self.waiting, self.running) if query)


def from_prometheus(
    server: PrometheusServer,
    questions: Questions,
    *,
    since: float,
    step: float,
    now: float | None = None,
    on_points: Callable[[int], None] | None = None,
) -> Source:
    """Ask for the last `since` seconds. Raises `SourceError`."""
    if since < 2 * step:
        raise SourceError(f"--since {since:g} s is less than two steps of {step:g} s")
    ratio = max(step, STEP_S) / min(step, STEP_S)
    if abs(ratio - round(ratio)) > 1e-6:
        raise SourceError(f"--step {step:g} s: a multiple or a part of {STEP_S:g} s is needed")
    # Whole steps since the epoch: the same question a minute later meets the server's caches.
    end = UnixTime(np.floor((time.time() if now is None else now) / step) * step)
    start = UnixTime(end - np.floor(since / step) * step)
    try:
        asked = RangeQuery(questions.work, start, end, Seconds(step))
    except ClusterError as error:
        raise SourceError(f"{questions.option('work')}: {error}") from error
    answers = asyncio.run(_ask(server, asked, questions, on_points))
    columns: dict[str, FloatArray | None] = {}
    notes = []
    for name, answer in answers.items():
        notes += [f"the server warns: {warning}" for warning in answer.warnings]
        columns[name] = _column(questions.option(name), answer, asked, needed=name == "work")
        if columns[name] is None:
            notes.append(f"the query for {name} gave nothing: it is not known")
    load = columns.pop("work")
    assert load is not None
    try:
        past = recorded(without_edges(load, steps=round(window_of(questions.work) / step)), step_s=step, **columns)
    except PastError as error:
        raise SourceError(f"{server.shown}: {error}") from error
    return Source(server.shown, past, tuple(dict.fromkeys(notes)))


async def _ask(
    server: PrometheusServer, asked: RangeQuery, questions: Questions, on_points: Callable[[int], None] | None
) -> dict[str, RangeAnswer]:
    answers = {}
    name = "work"
    try:
        async with Prometheus(server) as client:
            for name in ("work", "ready", "waiting", "running"):
                query = getattr(questions, name)
                if query:
                    answers[name] = await client.query_range(replace(asked, query=query), on_points=on_points)
    except ClusterError as error:
        raise SourceError(f"{questions.option(name)}: {error}") from error
    return answers


def _column(option: str, answer: RangeAnswer, asked: RangeQuery, *, needed: bool) -> FloatArray | None:
    """(points,): the one series of an answer; None where there is none and it is not needed."""
    series = answer.series
    if len(series) > 1:
        named = ", ".join(one.name for one in series[:_NAMED])
        more = f" and {len(series) - _NAMED} more" if len(series) > _NAMED else ""
        raise SourceError(f"{option}: {len(series)} series came back, one is needed; sum() them: {named}{more}")
    if not series or not len(series[0].values):
        numbers = sum(one.not_numbers for one in series)
        if not needed:
            return None
        why = f"all its {numbers} points are NaN" if numbers else "nothing came back"
        raise SourceError(
            f"{option}: {why}; check names, labels and --since in the server's own page, and that two scrapes fall "
            "into each rate's window"
        )
    return series[0].on_grid(start=asked.start, step=asked.step, points=asked.points)


def window_of(query: str) -> float:
    """Seconds of the longest window in a query; 0 where there is none."""
    windows = (_PART.findall(found[1]) for found in _WINDOW.finditer(query))
    return max((sum(int(number) * _SECONDS[unit] for number, unit in parts) for parts in windows), default=0.0)


def without_edges(values: FloatArray, *, steps: int) -> FloatArray:
    """(points,): without `steps` points on both sides of what is missing; the ends of the range are no gaps."""
    if steps <= 0:
        return values
    missing = np.isnan(values).astype(np.float64)
    near = np.convolve(missing, np.ones(2 * steps + 1), mode="same") > 0.5
    return np.where(near, np.nan, values)
