"""How many series there are before any is read: what is not there is not asked for, what is large is asked in parts.

Two cheap steps: which of the names exist at all in the range (an index look-up), and how many series each has at its
end, by name and by the label that a question may be split by (one sample a series); names without any at the end are
counted at earlier moments, so that models that were there last week only are seen. A server that does not let names be
looked up is only counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import orjson

from optiinfra.cluster.errors import ClusterError, Denied, Invalid, Malformed
from optiinfra.cluster.prometheus_answer import Piece
from optiinfra.cluster.prometheus_call import Caller
from optiinfra.cluster.prometheus_grid import TimeGrid
from optiinfra.cluster.prometheus_matchers import Matcher, one_of
from optiinfra.cluster.prometheus_refusals import Helps, helps

_NAMES_AT_ONCE: Final = 40
_MOMENTS: Final = 5
_MOST_ROWS: Final = 200_000
_SCRAPE_WINDOW_S: Final = 600
ASSUMED_SCRAPE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class SeriesCounts:
    """What was found of the names that some questions read."""

    names: frozenset[str]
    """Those that exist in the range."""
    series: Mapping[str, Mapping[str, int]]
    """Name -> value of the label -> series, at the newest of some moments that has any."""
    too_many: Mapping[str, str] = field(default_factory=dict)
    """Names that the server would not even count -> its words."""

    def of(self, metrics: Iterable[str]) -> dict[str, int]:
        """Add up the series of some names, by the value of the label."""
        total: dict[str, int] = {}
        for name in metrics:
            for value, number in self.series.get(name, {}).items():
                total[value] = total.get(value, 0) + number
        return total


async def existing_names(
    caller: Caller, metrics: Sequence[str], grid: TimeGrid, matchers: Sequence[Matcher]
) -> frozenset[str] | None:
    """Look up which names exist in the range; None where the server does not let them be looked up."""
    found: set[str] = set()
    for chunk in _chunks(metrics):
        listed = await _looked_up(caller, "api/v1/label/__name__/values", chunk, grid, matchers)
        if listed is None:
            return None
        found |= listed.intersection(chunk)
    return frozenset(found)


async def label_names(
    caller: Caller, metrics: Sequence[str], grid: TimeGrid, matchers: Sequence[Matcher]
) -> frozenset[str] | None:
    """Look up which labels the series of some names have; None where the server does not let them be looked up."""
    found: set[str] = set()
    for chunk in _chunks(metrics):
        listed = await _looked_up(caller, "api/v1/labels", chunk, grid, matchers)
        if listed is None:
            return None
        found |= listed
    return frozenset(found)


async def _looked_up(
    caller: Caller, path: str, names: Sequence[str], grid: TimeGrid, matchers: Sequence[Matcher]
) -> set[str] | None:
    """Ask the index; None where the server does not answer that."""
    given = {"match[]": _selector(names, matchers), "start": f"{grid.start:.3f}", "end": f"{grid.end:.3f}"}
    try:
        document = orjson.loads((await caller.call(path, given)).body)
    except (Invalid, Denied, Malformed, orjson.JSONDecodeError):
        return None
    data = document.get("data") if isinstance(document, dict) else None
    return {str(one) for one in data} if isinstance(data, list) else None


async def count_series(
    caller: Caller, metrics: Sequence[str], grid: TimeGrid, matchers: Sequence[Matcher], *, label: str
) -> SeriesCounts:
    """Count the series of some names by a label ("": by name only). Raises `ClusterError`."""
    names = await existing_names(caller, metrics, grid, matchers)
    wanted = [name for name in metrics if names is None or name in names]
    counted: dict[str, dict[str, int]] = {}
    too_many: dict[str, str] = {}
    waiting = list(_chunks(wanted))
    while waiting:
        chunk = waiting.pop()
        try:
            for moment in _moments(grid):
                chunk = [name for name in chunk if name not in counted]
                if chunk:
                    counted |= await _counted(caller, chunk, moment, matchers, label=label)
        except ClusterError as error:
            if helps(error) is not Helps.LESS:
                raise
            if len(chunk) == 1:
                too_many[chunk[0]] = error.message
            else:
                waiting += [chunk[: len(chunk) // 2], chunk[len(chunk) // 2 :]]
    there = frozenset(counted) | frozenset(too_many) | (names or frozenset())
    return SeriesCounts(there, counted, too_many)


async def _counted(
    caller: Caller, names: Sequence[str], moment: Piece, matchers: Sequence[Matcher], *, label: str
) -> dict[str, dict[str, int]]:
    """Name -> value of the label -> series, at one moment."""
    by = ("__name__", label) if label else ("__name__",)
    query = f"count by ({','.join(by)}) ({_selector(names, matchers)})"
    answer = await caller.rows(query, moment, by=by, most_series=_MOST_ROWS)
    counted: dict[str, dict[str, int]] = {}
    for key, (number,) in zip(answer.keys, answer.values.tolist(), strict=True):
        counted.setdefault(key[0], {})[key[1] if label else ""] = int(number)
    return counted


async def scrape_interval(caller: Caller, counts: SeriesCounts, grid: TimeGrid, matchers: Sequence[Matcher]) -> float:
    """Measure the seconds between two samples, of the smallest metric; `ASSUMED_SCRAPE_S` where none was written."""
    sizes = {name: sum(of_name.values()) for name, of_name in counts.series.items()}
    if not sizes:
        return ASSUMED_SCRAPE_S
    smallest = min(sizes, key=lambda name: (sizes[name], name))
    query = f"max(count_over_time({_selector([smallest], matchers)}[{_SCRAPE_WINDOW_S}s]))"
    for moment in _moments(grid):
        try:
            answer = await caller.rows(query, moment, by=(), most_series=1)
        except Invalid:
            break
        if np.isfinite(answer.values).any():
            most = max(1.0, float(np.nanmax(answer.values)))
            return min(max(_SCRAPE_WINDOW_S / most, 1.0), float(_SCRAPE_WINDOW_S))
    return ASSUMED_SCRAPE_S


def _moments(grid: TimeGrid) -> list[Piece]:
    """Return some moments spread over the range, its end first.

    Each is a call of its own: one call with a step of days would make the server unpack every sample in between (2.42:
    a seek reads through the chunks), which was measured to cost more than all questions that follow.
    """
    number = min(_MOMENTS, grid.points)
    places = sorted({round(n * (grid.points - 1) / max(1, number - 1)) for n in range(number)} | {grid.points - 1})
    return [Piece(grid.start + place * grid.step, grid.step, 1) for place in reversed(places)]


def _selector(names: Sequence[str], matchers: Sequence[Matcher]) -> str:
    return "{" + ",".join(str(one) for one in (one_of("__name__", names), *matchers)) + "}"


def _chunks(names: Sequence[str]) -> Iterable[list[str]]:
    return [list(names[at : at + _NAMES_AT_ONCE]) for at in range(0, len(names), _NAMES_AT_ONCE)]
