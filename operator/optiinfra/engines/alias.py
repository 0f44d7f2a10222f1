"""Alias tables: which names of an engine carry a signal, newest first, and how its series join into one number.

Engines rename their metrics between versions, and for some versions emit both names. A page does not say its
version, so precedence is by presence: the first name of the table that is on the page is read, and only that one. If
its value is NaN the signal is absent; an older name is then not asked, because the newer one has spoken.

One page may hold several series of one family. Ranks of one model (tensor, pipeline, expert parallel) all report the
same requests: over `Table.ranks` the largest value is taken, never the sum. What remains (data-parallel engines,
finish reasons, cache tiers) joins as the alias says.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache

from optiinfra.domain.readings import EngineKind, Histogram, Signal
from optiinfra.engines.text import HistogramSamples, Labels, Part, Samples, wanted


class Kind(StrEnum):
    """What a signal is on the page."""

    GAUGE = "gauge"
    RATIO = "ratio"
    """A gauge between 0 and 1."""
    COUNTER = "counter"
    HISTOGRAM = "histogram"


class Join(StrEnum):
    """How series that are not ranks of one another become one value."""

    SUM = "sum"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class Alias:
    """One signal and the names that carry it."""

    signal: Signal
    kind: Kind
    names: tuple[str, ...]
    """Newest first, without the engine's prefix."""
    join: Join = Join.SUM
    only: tuple[str, frozenset[str]] | None = None
    """A label and the values of it that are read."""


@dataclass(frozen=True)
class Table:
    """Everything that is particular to one engine's page."""

    kind: EngineKind
    prefix: str
    aliases: tuple[Alias, ...]
    ranks: frozenset[str] = frozenset()
    """Labels that tell ranks of one model apart."""
    model_label: str = ""
    info: str = ""
    """A gauge that is always 1 and whose labels are facts."""
    extra: tuple[str, ...] = ()
    """Further values that `finish` reads."""

    @cached_property
    def wanted(self) -> dict[str, tuple[str, Part]]:
        """Sample names to look for."""
        values = [
            self.prefix + name for alias in self.aliases if alias.kind is not Kind.HISTOGRAM for name in alias.names
        ]
        histograms = [
            self.prefix + name for alias in self.aliases if alias.kind is Kind.HISTOGRAM for name in alias.names
        ]
        values += [self.prefix + name for name in (*self.extra, *filter(None, (self.info,)))]
        return wanted(values=values, histograms=histograms)


@dataclass(slots=True)
class Joined:
    """The signals of a page while they are put together."""

    gauges: dict[Signal, float]
    counters: dict[Signal, float]
    histograms: dict[Signal, Histogram]
    facts: dict[str, str]


Finish = Callable[[Samples, Table, Joined], None]
"""Derives what takes more than one family, in place."""


def join(samples: Samples, table: Table) -> Joined:
    """Apply a table to a page's samples."""
    joined = Joined({}, {}, {}, {})
    for alias in table.aliases:
        if alias.kind is Kind.HISTOGRAM:
            histogram = _histogram(samples, table, alias)
            if histogram is not None:
                joined.histograms[alias.signal] = histogram
            continue
        value = _value(samples, table, alias)
        if value is not None:
            target = joined.counters if alias.kind is Kind.COUNTER else joined.gauges
            target[alias.signal] = value
    if table.info:
        joined.facts.update(facts(samples.values.get(table.prefix + table.info, {})))
    return joined


def facts(series: Iterable[Labels]) -> dict[str, str]:
    """Return the labels of an info gauge; unset ones read "None" or are empty, and are left out."""
    first = next(iter(series), ())
    return {name: value for name, value in first if value not in {"None", ""}}


def fold(series: dict[Labels, float], ranks: frozenset[str], *, largest: bool = True) -> list[float]:
    """Merge the ranks of each model into one value. Empty when any value is not a number that can be."""
    pick = max if largest else min
    merged: dict[Labels, float] = {}
    for labels, value in series.items():
        if not math.isfinite(value) or value < 0.0:
            return []
        key = tuple(pair for pair in labels if pair[0] not in ranks) if ranks else labels
        merged[key] = pick(merged[key], value) if key in merged else value
    return list(merged.values())


def _value(samples: Samples, table: Table, alias: Alias) -> float | None:
    series = next((found for name in alias.names if (found := samples.values.get(table.prefix + name))), {})
    if alias.only is not None:
        label, allowed = alias.only
        series = {labels: value for labels, value in series.items() if dict(labels).get(label) in allowed}
    values = fold(series, table.ranks)
    if not values:
        return None
    value = sum(values) if alias.join is Join.SUM else max(values)
    if alias.kind is Kind.RATIO and value > 1.0:
        # The engines' own rounding may pass 1; anything further is a percentage or nonsense.
        return 1.0 if value < 1.01 else None
    return value


def _histogram(samples: Samples, table: Table, alias: Alias) -> Histogram | None:
    series = next((found for name in alias.names if (found := samples.histograms.get(table.prefix + name))), {})
    merged: dict[Labels, Histogram] = {}
    for labels, one in series.items():
        histogram = close(one)
        if histogram is None:
            return None
        key = tuple(pair for pair in labels if pair[0] not in table.ranks)
        if key not in merged or histogram.count > merged[key].count:
            merged[key] = histogram
    parts = list(merged.values())
    if not parts or any(part.bounds != parts[0].bounds for part in parts):
        return None
    if len(parts) == 1:
        return parts[0]
    return Histogram(
        bounds=parts[0].bounds,
        cumulative=tuple(map(sum, zip(*(part.cumulative for part in parts), strict=True))),
        total=sum(part.total for part in parts),
        count=sum(part.count for part in parts),
    )


def close(samples: HistogramSamples) -> Histogram | None:
    """Build a histogram from a series' samples; None when it is not complete or not consistent."""
    if samples.total is None or not math.isfinite(samples.total) or not samples.buckets:
        return None
    bounds, cumulative = zip(*samples.buckets, strict=True)
    if list(bounds) != sorted(set(bounds)):
        bounds, cumulative = zip(*sorted(dict(samples.buckets).items()), strict=True)
    if bounds[-1] != math.inf:
        if samples.count is None:
            return None
        bounds, cumulative = (*bounds, math.inf), (*cumulative, samples.count)
    # A sum shows what is not finite in any part of it.
    if not math.isfinite(sum(cumulative)) or not math.isfinite(sum(bounds[:-1])) or cumulative[0] < 0.0:
        return None
    if list(cumulative) != sorted(cumulative):
        return None
    # Pages are kept by the thousand: equal bounds share a tuple, and equal counts of empty buckets share a float.
    counts: dict[float, float] = {}
    cumulative = tuple(map(counts.setdefault, cumulative, cumulative))
    return Histogram(_shared(bounds), cumulative, samples.total, cumulative[-1])


@lru_cache(maxsize=512)
def _shared(bounds: tuple[float, ...]) -> tuple[float, ...]:
    return bounds
