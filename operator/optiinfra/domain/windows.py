"""What a service's replicas said in one window: differences, newest values and shares, joined over replicas.

Rates and quantiles come from differences between pages, never from lifetimes. A counter that went down was restarted
and counts from zero; where one page adds several engines up and only one of them restarted, what it had counted before
cannot be told from what the others went on counting, so that step counts as nothing rather than as their lifetime.
A replica that said nothing counts as not said, never as zero. Nothing is judged here.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from operator import attrgetter, gt, itemgetter
from typing import TypeAlias

from optiinfra.domain import quantiles
from optiinfra.domain.readings import EngineReading, Histogram, Signal, Unknown, UnknownReason, Value
from optiinfra.domain.units import Seconds, UnixTime

Pages: TypeAlias = Mapping[str, tuple[EngineReading, ...]]
"""Replica -> its pages, oldest first."""
Joiner: TypeAlias = Callable[[Sequence[float]], float]

_NO_PAGE = Unknown(UnknownReason.NOT_MEASURED, "no page of any replica in the window")
_STALE = Unknown(UnknownReason.STALE, "no replica has served a page lately")
_TWO_PAGES = Unknown(UnknownReason.TOO_FEW_SAMPLES, "a rate needs two pages of a replica")
_time = attrgetter("time")
_members = attrgetter("members")


@dataclass(slots=True)
class Window:
    """The pages of one service in one window. Growths of histograms are worked out once."""

    pages: Pages
    """Of every replica that served one in the window, gone or not."""
    fresh: Pages
    """Of the replicas whose newest page is not stale."""
    span: Seconds
    """From the first page to the last, of all replicas; 0 when there is at most one."""
    stale_after: Seconds
    _growths: dict[Signal, Histogram | None] = field(default_factory=dict)
    _by_time: list[tuple[UnixTime, str, EngineReading]] | None = None
    _whole: dict[str, bool] = field(default_factory=dict)
    """Replicas of which nothing fell in the window: there the last page less the first says it all."""

    @classmethod
    def of(
        cls, pages: Mapping[str, Sequence[EngineReading]], *, now: UnixTime, window: Seconds, stale_after: Seconds
    ) -> "Window":
        """Cut the window out of the pages, which may come in any order."""
        start = now - window
        within = {
            name: kept
            for name, readings in pages.items()
            if (kept := tuple(sorted((one for one in readings if start <= one.time <= now), key=_time)))
        }
        fresh = {name: readings for name, readings in within.items() if now - readings[-1].time <= stale_after}
        span = 0.0
        if within:
            first = min(readings[0].time for readings in within.values())
            span = max(readings[-1].time for readings in within.values()) - first
        return cls(within, fresh, Seconds(span), stale_after)

    # ---- newest values

    def now(self, signal: Signal, join: Joiner) -> Value:
        """Join the newest value of every reporting replica; one that cannot say makes the whole unknown."""
        if not self.fresh:
            return _STALE if self.pages else _NO_PAGE
        values: list[float] = []
        for readings in self.fresh.values():
            value = readings[-1].gauges.get(signal)
            if value is None:
                return readings[-1].gauge(signal)
            values.append(value)
        return float(join(values))

    def slope(self, signal: Signal) -> Value:
        """Sum the replicas' own least-squares slopes, so that a replica that joins is not a rise."""
        slopes: list[float] = []
        for readings in self.fresh.values():
            points = [(one.time, one.gauges[signal]) for one in readings if signal in one.gauges]
            if len(points) < 2:
                continue
            middle = sum(time for time, _ in points) / len(points)
            level = sum(value for _, value in points) / len(points)
            spread = sum((time - middle) ** 2 for time, _ in points)
            if spread > 0.0:
                slopes.append(sum((time - middle) * (value - level) for time, value in points) / spread)
        return sum(slopes) if slopes else Unknown(UnknownReason.TOO_FEW_SAMPLES, "a slope needs two pages of a replica")

    # ---- values of the window's pages

    def largest(self, signal: Signal) -> Value:
        """Return the largest value of any page."""
        values = self._values(signal)
        return max(values) if values else self.absent(signal)

    def share_above_zero(self, signal: Signal) -> Value:
        """Return the share of the pages, over all replicas, on which a gauge is above zero."""
        values = self._values(signal)
        return sum(value > 0.0 for value in values) / len(values) if values else self.absent(signal)

    def mean_of_pages(self, signal: Signal) -> Value:
        """Return the mean over replicas of each one's mean over its pages."""
        means = [
            sum(values) / len(values)
            for readings in self.pages.values()
            if (values := [one.gauges[signal] for one in readings if signal in one.gauges])
        ]
        return sum(means) / len(means) if means else self.absent(signal)

    def largest_sum(self, signal: Signal) -> Value:
        """Return the largest sum over replicas, each held at its last value until it is stale."""
        held: dict[str, tuple[UnixTime, float]] = {}
        ageing: deque[tuple[UnixTime, str]] = deque()
        total, largest = 0.0, None
        for time, name, page in self._events():
            value = page.gauges.get(signal)
            if name in held:
                total -= held.pop(name)[1]
            if value is None:
                continue
            held[name] = (time, value)
            ageing.append((time, name))
            total += value
            while time - ageing[0][0] > self.stale_after:
                since, old = ageing.popleft()
                if old in held and held[old][0] == since:
                    total -= held.pop(old)[1]
            largest = total if largest is None else max(largest, total)
        return self.absent(signal) if largest is None else float(largest)

    def _events(self) -> list[tuple[UnixTime, str, EngineReading]]:
        if self._by_time is None:
            events = [(one.time, name, one) for name, readings in self.pages.items() for one in readings]
            self._by_time = sorted(events, key=itemgetter(0))
        return self._by_time

    # ---- differences of counters

    def rate(self, signal: Signal) -> Value:
        """Return what a counter grew by per second, sum over replicas; unknown where one that reports lacks it."""
        missing = self._missing(signal)
        if missing is not None:
            return missing
        increases = [one for name in self.pages if (one := self._increase(name, signal)) is not None]
        if not increases or self.span <= 0.0:
            return _TWO_PAGES
        return sum(increases) / self.span

    def own_rates(self, signal: Signal, join: Joiner) -> Value:
        """Join the replicas' own rates, each over the time that it was seen."""
        missing = self._missing(signal)
        if missing is not None:
            return missing
        rates: list[float] = []
        for name, readings in self.pages.items():
            elapsed = readings[-1].time - readings[0].time
            grown = self._increase(name, signal)
            if grown is not None and elapsed > 0.0:
                rates.append(grown / elapsed)
        return float(join(rates)) if rates else _TWO_PAGES

    def ratio(self, part: Signal, whole: Signal) -> Value:
        """Return one counter's growth over another's, all replicas pooled: the weighted mean of their ratios."""
        parts = wholes = 0.0
        measured = False
        for name in self.pages:
            one, all_of_it = self._increase(name, part), self._increase(name, whole)
            if one is not None and all_of_it is not None:
                measured = True
                parts, wholes = parts + one, wholes + all_of_it
        if not measured:
            return self.absent(whole)
        if wholes <= 0.0:
            return Unknown(UnknownReason.TOO_FEW_SAMPLES, f"no {whole} in the window")
        return min(1.0, parts / wholes)

    def arrivals(self) -> Value:
        """Return the requests that came in per second: those that left, and the change of those inside.

        A restart loses those inside; whoever is inside after it has come in since. Requests refused at the door never
        came in. Source: conservation of requests, arrivals = departures + change of (running + waiting).
        """
        missing = self._missing(Signal.REQUESTS_FINISHED)
        if missing is not None:
            return missing
        arrived, measured = 0.0, False
        for name, readings in self.pages.items():
            ends = (readings[0], readings[-1]) if self._is_whole(name) else readings
            points = [
                (one.counters[Signal.REQUESTS_FINISHED], inside, one.members)
                for one in ends
                if Signal.REQUESTS_FINISHED in one.counters and (inside := _inside(one)) is not None
            ]
            for (finished, before, joined), (later, after, still) in pairwise(points):
                measured = True
                if later >= finished and joined == still:
                    arrived += later - finished + after - before
                elif len(still) <= 1:
                    arrived += later + after
        if not measured and not self._values(Signal.REQUESTS_WAITING):
            return self.absent(Signal.REQUESTS_WAITING)
        if not measured or self.span <= 0.0:
            return _TWO_PAGES
        # Gauges and counters of a page are not of one instant, which may leave a request short.
        return max(0.0, arrived) / self.span

    # ---- differences of histograms

    def grown(self, signal: Signal) -> Histogram | None:
        """Return what the histograms of all replicas grew by, pooled; None when nothing was observed."""
        if signal not in self._growths:
            parts: list[Histogram] = []
            for name in self.pages:
                parts += self._grown_of(name, signal)
            self._growths[signal] = quantiles.merge(parts)
        return self._growths[signal]

    def quantile(self, signal: Signal, share: float) -> Value:
        """Return a quantile of what was observed in the window, all replicas pooled."""
        grown = self.grown(signal)
        return self._nothing_observed(signal) if grown is None else quantiles.quantile((grown,), share)

    def mean(self, signal: Signal) -> Value:
        """Return the mean of what was observed in the window, all replicas pooled."""
        grown = self.grown(signal)
        return self._nothing_observed(signal) if grown is None else grown.total / grown.count

    def highest(self, signal: Signal) -> Value:
        """Return a bound that nothing observed in the window exceeds."""
        grown = self.grown(signal)
        return self._nothing_observed(signal) if grown is None else quantiles.highest((grown,))

    def observations_each(self, signal: Signal) -> Value:
        """Return the observations of one replica per second, mean over replicas."""
        rates: list[float] = []
        for name, readings in self.pages.items():
            elapsed = readings[-1].time - readings[0].time
            if elapsed > 0.0 and signal in readings[-1].histograms:
                rates.append(sum(one.count for one in self._grown_of(name, signal)) / elapsed)
        if rates:
            return sum(rates) / len(rates)
        return _TWO_PAGES if self._measures(signal) else self.absent(signal)

    # ---- one replica's

    def _increase(self, name: str, signal: Signal) -> float | None:
        readings = self.pages[name]
        if self._is_whole(name):
            # All pages of a whole replica carry the same counters.
            first = readings[0].counters.get(signal)
            return None if first is None else readings[-1].counters[signal] - first
        return increase(readings, signal)

    def _grown_of(self, name: str, signal: Signal) -> list[Histogram]:
        readings = self.pages[name]
        if self._is_whole(name):
            first, last = readings[0].histograms.get(signal), readings[-1].histograms.get(signal)
            if first is last:
                return []
            if first is not None and last is not None:
                return quantiles.growth((first, last))
        return growths(readings, signal)

    def _is_whole(self, name: str) -> bool:
        if name not in self._whole:
            readings = self.pages[name]
            members, counted = readings[0].members, list(readings[0].counters)
            self._whole[name] = (
                len(readings) > 1
                and bool(counted)
                and all(
                    later.members == members
                    and (
                        later.counters is earlier.counters
                        or (
                            list(later.counters) == counted
                            and not any(map(gt, earlier.counters.values(), later.counters.values()))
                        )
                    )
                    for earlier, later in pairwise(readings)
                )
            )
        return self._whole[name]

    # ---- why not

    def absent(self, signal: Signal) -> Unknown:
        """Say that no page carries a signal."""
        if not self.pages:
            return _NO_PAGE
        return Unknown(UnknownReason.NOT_MEASURED, f"no page in the window carries {signal}")

    def _nothing_observed(self, signal: Signal) -> Unknown:
        if not self._measures(signal):
            return self.absent(signal)
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, f"no {signal} was observed in the window")

    def _measures(self, signal: Signal) -> bool:
        return any(signal in one.histograms for readings in self.pages.values() for one in readings)

    def _missing(self, signal: Signal) -> Unknown | None:
        for readings in self.fresh.values():
            if signal not in readings[-1].counters:
                return Unknown(UnknownReason.NOT_MEASURED, f"{readings[-1].engine} page without {signal}")
        return None if self.pages else _NO_PAGE

    def _values(self, signal: Signal) -> list[float]:
        return [one.gauges[signal] for readings in self.pages.values() for one in readings if signal in one.gauges]


def increase(readings: Iterable[EngineReading], signal: Signal) -> float | None:
    """Return what one replica's counter grew by; None with fewer than two pages that carry it."""
    grown, points = 0.0, 0
    before = 0.0
    members: tuple[str, ...] = ()
    for one in readings:
        value = one.counters.get(signal)
        if value is None:
            continue
        if points:
            if value >= before and one.members == members:
                grown += value - before
            elif len(one.members) <= 1:
                grown += value
        before, members = value, one.members
        points += 1
    return grown if points > 1 else None


def growths(readings: Sequence[EngineReading], signal: Signal) -> list[Histogram]:
    """Return what one replica's histogram grew by, one part for each life that it had."""
    if all(not one.members for one in readings):
        return quantiles.growth([one.histograms[signal] for one in readings if signal in one.histograms])
    parts: list[Histogram] = []
    for members, run in groupby(readings, key=_members):
        series = [one.histograms[signal] for one in run if signal in one.histograms]
        parts += quantiles.growth(series, from_zero=len(members) <= 1)
    return parts


def _inside(reading: EngineReading) -> float | None:
    running, waiting = reading.gauges.get(Signal.REQUESTS_RUNNING), reading.gauges.get(Signal.REQUESTS_WAITING)
    return None if running is None or waiting is None else running + waiting
