"""Which calls a question becomes: parts by a label, pieces by time, none larger than one call may be.

A part is a set of values of the label; the last is "all the others", so that together they are everything, also what
nobody counted. A question is only cut by a label that its answers keep, or where it asks for the largest of everything:
else parts of one sum would come back.
Pieces are powers of two of steps long, at multiples of their length, so that they are the same in every run.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from optiinfra.cluster.prometheus_grid import TimeGrid
from optiinfra.cluster.prometheus_matchers import Matcher, one_of
from optiinfra.domain.report.frames import Question
from optiinfra.domain.units import Seconds

_WINDOW: Final = re.compile(r"\[\s*((?:\d+(?:ms|[smhdwy]))+)\s*(?::[^\]]*)?\]")
_UNIT: Final = re.compile(r"(\d+)(ms|[smhdwy])")
_SECONDS: Final = {
    "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0, "y": 31_536_000.0,
}  # fmt: skip
_LARGEST: Final = re.compile(r"\s*max\s*(by\s*\([^()]*\)\s*)?\(")
_MOST_NAMED: Final = 60
"""Values that one part names: more would make queries longer than servers like them."""


@dataclass(frozen=True, slots=True)
class AskLimits:
    """What asking may cost the server. Every default is meant for a server that others need too."""

    series: int = 5_000
    """Of one call, wherever a question may be split."""
    most_series: int = 250_000
    """Of one call where it may not: above it a question is not asked."""
    points: int = 512
    """Steps of one call; Prometheus answers at most 11,000. It takes room for all of them for each series at each level
    of a query, also of a pod that lived for ten, so that shorter calls take less of its memory, where pods come and go
    a small part; and as blocks hold a day or two, they cost it no more time."""
    least_points: int = 4
    """A call that the server refuses as too large is not cut below it."""
    cells: int = 1_000_000
    """Series x steps of one call. A tenth was measured to cost a server with 250,000 series twice the CPU, because
    each call selects its series anew, and no less memory."""
    samples: int = 10_000_000
    """Of one call, as estimated; Prometheus refuses more than 50 million."""
    total_samples: int = 2_000_000_000
    """Budget of everything together."""
    slow_s: float = 20.0
    """A call that took longer makes the next ones of its question shorter."""


DEFAULT_ASK_LIMITS: Final = AskLimits()


@dataclass(frozen=True, slots=True)
class Part:
    """A share of a question's series."""

    matchers: tuple[Matcher, ...]
    series: int
    """As counted; at least 1."""


def grid_of(question: Question, whole: TimeGrid) -> TimeGrid:
    """Return the moments at which a question is asked: those of the whole grid, or fewer."""
    return whole.coarser(question.coarse_s) if question.coarse_s and not question.latest else whole


def may_split(question: Question) -> bool:
    """Tell whether parts of a question's series give parts of its rows."""
    label = question.split_by
    if not label:
        return False
    kept = label in question.by or (label.endswith("namespace") and "namespace" in question.by)
    return kept or is_largest(question.promql)


def is_largest(promql: str) -> bool:
    """Tell whether a query is one `max`, of which the largest of its parts' answers is the answer."""
    found = _LARGEST.match(promql)
    if not found:
        return False
    depth = 0
    for place in range(found.end() - 1, len(promql)):
        depth += {"(": 1, ")": -1}.get(promql[place], 0)
        if depth == 0:
            return not promql[place + 1 :].strip()
    return False


def parts(question: Question, series: Mapping[str, int], limits: AskLimits, *, a_step: float) -> tuple[Part, ...]:
    """Cut a question by its label, the largest values first; `series`: value of the label -> number of series."""
    total = max(1, sum(series.values()))
    # What is asked for one moment only cannot be cut by time.
    most = max(1, int(min(limits.series, limits.samples / a_step))) if question.latest else limits.series
    if total <= most or len(series) < 2 or not may_split(question):
        return (Part((), total),)
    largest = sorted(series, key=lambda value: (-series[value], value))
    bins: list[tuple[list[str], int]] = []
    for value in largest[:_MOST_NAMED]:
        place = next((n for n, (_, size) in enumerate(bins) if size + series[value] <= most), None)
        if place is None:
            bins.append(([value], series[value]))
        else:
            bins[place] = ([*bins[place][0], value], bins[place][1] + series[value])
    rest = sum(series[value] for value in largest[_MOST_NAMED:])
    named = [value for values, _ in bins[:-1] for value in values]
    others = one_of(question.split_by, sorted(named), others=True)
    listed = [Part((one_of(question.split_by, sorted(values)),), max(1, size)) for values, size in bins[:-1]]
    if not listed:
        return (Part((), total),)
    return (*listed, Part((others,), max(1, bins[-1][1] + rest)))


def samples_a_step(promql: str, *, scrape_s: float) -> float:
    """Estimate the samples that a series is read for at one step: those of the longest window of a filled query."""
    windows = (_UNIT.findall(found[1]) for found in _WINDOW.finditer(promql))
    longest = max((sum(int(number) * _SECONDS[unit] for number, unit in each) for each in windows), default=0.0)
    return max(1.0, Seconds(longest) / scrape_s)


def points_of(part: Part, *, a_step: float, limits: AskLimits) -> int:
    """Return the steps of one call: the largest power of two that stays within the limits."""
    most = min(limits.points, limits.cells / part.series, limits.samples / (part.series * a_step))
    points = 1
    while 2 * points <= most:
        points *= 2
    return max(points, limits.least_points)


def pieces(question: Question, grid: TimeGrid, points: int) -> Iterator[tuple[int, int]]:
    """Yield (first step, steps) of a question's calls."""
    if question.latest:
        yield grid.points - 1, 1
    else:
        yield from grid.cuts(points)
