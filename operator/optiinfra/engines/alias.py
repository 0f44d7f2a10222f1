"""Alias tables: which names of an engine carry a signal, newest first, and how its series join into one number.

Engines rename their metrics between versions, and for some versions emit both names. A page does not say its
version, so precedence is by presence: the first name of the table that is on the page is read, and only that one. If
its value is NaN the signal is absent; an older name is then not asked, because the newer one has spoken.

One page may hold several series of one family. Ranks of one model (tensor, pipeline, expert parallel) all report the
same requests: over `Table.ranks` the largest value is taken, never the sum. What remains (data-parallel engines,
finish reasons, cache tiers) joins as the alias says.

A name says from which version of the engine on it is valid and in which it was gone, as far as that was checked; these
are for people and for the reading's `version`, precedence never depends on them.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Final

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
    MIN = "min"


_JOIN: Final[dict[Join, Callable[[list[float]], float]]] = {Join.SUM: sum, Join.MAX: max, Join.MIN: min}


@dataclass(frozen=True, slots=True)
class Name:
    """One name of a family, and the versions of the engine that have it."""

    text: str
    """Without the engine's prefix."""
    since: str = ""
    """First version that emits it; empty where nobody checked, or since ever."""
    gone: str = ""
    """First version that does not emit it any more; empty while it is current."""
    only: tuple[str, frozenset[str]] | None = None
    """A label and the values of it that are read."""
    bare: bool = False
    """Not prefixed: a family of the process rather than of the engine."""


@dataclass(frozen=True, slots=True)
class Alias:
    """One signal and the names that carry it."""

    signal: Signal
    kind: Kind
    names: tuple[Name, ...]
    """Newest first."""
    join: Join = Join.SUM
    born_late: bool = False
    """Series of the family appear with their first event: while the family is there, a missing one counts as zero."""


def names(*texts: str) -> tuple[Name, ...]:
    """Return names whose versions nobody checked, newest first."""
    return tuple(Name(text) for text in texts)


def only(text: str, label: str, *values: str, since: str = "") -> Name:
    """Return a name of which only series with these values of a label are read."""
    return Name(text, since=since, only=(label, frozenset(values)))


def renamed(new: str, old: str, *, since: str, gone: str) -> tuple[Name, ...]:
    """Return a family that was renamed: the new name from one version on, the old one until another."""
    return Name(new, since=since), Name(old, gone=gone)


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
    extra_bare: tuple[str, ...] = ()
    """Further values that do not carry the prefix."""
    extra_histograms: tuple[str, ...] = ()
    """Further histograms that do not carry the prefix."""

    def full(self, name: Name) -> str:
        """Return a name as it stands on the page."""
        return name.text if name.bare else self.prefix + name.text

    @cached_property
    def wanted(self) -> dict[str, tuple[str, Part]]:
        """Sample names to look for."""
        values = [self.full(name) for one in self.aliases if one.kind is not Kind.HISTOGRAM for name in one.names]
        histograms = [self.full(name) for one in self.aliases if one.kind is Kind.HISTOGRAM for name in one.names]
        values += [self.prefix + name for name in (*self.extra, *filter(None, (self.info,)))]
        return wanted(values=[*values, *self.extra_bare], histograms=[*histograms, *self.extra_histograms])


@dataclass(slots=True)
class Joined:
    """The signals of a page while they are put together."""

    gauges: dict[Signal, float]
    counters: dict[Signal, float]
    histograms: dict[Signal, Histogram]
    facts: dict[str, str]
    members: tuple[str, ...] = ()
    """The engines that the page adds up, where it holds more than one."""
    version: str = ""


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
    joined.members = _members(samples, table)
    return joined


def facts(series: Iterable[Labels]) -> dict[str, str]:
    """Return the labels of an info gauge; unset ones read "None" or are empty, and are left out."""
    first = next(iter(series), ())
    return {name: value for name, value in first if value not in {"None", ""}}


def fold(series: dict[Labels, float], ranks: frozenset[str], *, largest: bool = True) -> list[float]:
    """Merge the ranks of each model into one value. Empty when any value is not a number that can be."""
    if len(series) == 1:
        (value,) = series.values()
        return [value] if math.isfinite(value) and value >= 0.0 else []
    pick = max if largest else min
    merged: dict[Labels, float] = {}
    for labels, value in series.items():
        if not math.isfinite(value) or value < 0.0:
            return []
        key = tuple(pair for pair in labels if pair[0] not in ranks) if ranks else labels
        merged[key] = pick(merged[key], value) if key in merged else value
    return list(merged.values())


def total(samples: Samples, table: Table, *texts: str) -> float | None:
    """Return the sum of several families, ranks folded; None where none of them is there or one cannot be."""
    values: list[float] = []
    for text in texts:
        if series := samples.values.get(table.prefix + text):
            folded = fold(series, table.ranks)
            if not folded:
                return None
            values += folded
    return sum(values) if values else None


def _value(samples: Samples, table: Table, alias: Alias) -> float | None:
    for name in alias.names:
        series = samples.values.get(table.full(name))
        if not series:
            continue
        if name.only is not None:
            label, allowed = name.only
            series = {labels: value for labels, value in series.items() if _label(labels, label) in allowed}
            if not series and alias.born_late:
                return 0.0
            if not series:
                continue
        values = fold(series, table.ranks)
        if not values:
            return None
        value = _JOIN[alias.join](values)
        if alias.kind is Kind.RATIO and value > 1.0:
            # The engines' own rounding may pass 1; anything further is a percentage or nonsense.
            return 1.0 if value < 1.01 else None
        return value
    return None


def _label(labels: Labels, wanted_name: str) -> str | None:
    return next((value for name, value in labels if name == wanted_name), None)


def _members(samples: Samples, table: Table) -> tuple[str, ...]:
    """Return what tells the page's engines apart; empty where there is one."""
    running = next((one for one in table.aliases if one.signal is Signal.REQUESTS_RUNNING), None)
    if running is None:
        return ()
    series = next((found for name in running.names if (found := samples.values.get(table.full(name)))), {})
    if len(series) < 2:
        return ()
    kept = {tuple(value for name, value in labels if name not in table.ranks) for labels in series}
    return tuple(sorted(",".join(one) for one in kept)) if len(kept) > 1 else ()


def _histogram(samples: Samples, table: Table, alias: Alias) -> Histogram | None:
    series = next((found for name in alias.names if (found := samples.histograms.get(table.full(name)))), {})
    if len(series) == 1:
        return close(next(iter(series.values())))
    merged: dict[Labels, Histogram] = {}
    for labels, one in series.items():
        histogram = close(one)
        if histogram is None:
            return None
        key = tuple(pair for pair in labels if pair[0] not in table.ranks) if table.ranks else labels
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
    if samples.total is None or not math.isfinite(samples.total):
        return None
    if samples.bounds:
        return _consistent(samples.bounds, samples.counts, samples.total)
    if not samples.buckets:
        return None
    bounds, cumulative = zip(*samples.buckets, strict=True)
    if list(bounds) != sorted(set(bounds)):
        bounds, cumulative = zip(*sorted(dict(samples.buckets).items()), strict=True)
    if bounds[-1] != math.inf:
        if samples.count is None:
            return None
        bounds, cumulative = (*bounds, math.inf), (*cumulative, samples.count)
    if not math.isfinite(sum(bounds[:-1])):
        return None
    return _consistent(shared(bounds), cumulative, samples.total)


def _consistent(bounds: tuple[float, ...], cumulative: tuple[float, ...], total: float) -> Histogram | None:
    # A sum shows what is not finite in any part of it.
    if not math.isfinite(sum(cumulative)) or cumulative[0] < 0.0 or list(cumulative) != sorted(cumulative):
        return None
    # Pages are kept by the thousand: equal bounds share a tuple, and equal counts of empty buckets share a float.
    counts: dict[float, float] = {}
    cumulative = tuple(map(counts.setdefault, cumulative, cumulative))
    return Histogram(bounds, cumulative, total, cumulative[-1])


def scaled(histogram: Histogram, factor: float) -> Histogram:
    """Return a histogram in another unit."""
    bounds = tuple(bound * factor for bound in histogram.bounds)
    return Histogram(shared(bounds), histogram.cumulative, histogram.total * factor, histogram.count)


@lru_cache(maxsize=512)
def shared(bounds: tuple[float, ...]) -> tuple[float, ...]:
    """Return the one tuple that stands for all equal ones."""
    return bounds
