"""Verdicts over a series of recorded pages: each rests on the pages up to its own, in a short window.

It is what the operator does with live pages, without a cluster: join the replicas' pages of the window, judge, and let
the verdict settle. What counters counted before the recording is never used, and no page knows of a later one.
Pure: the pages come in as readings with their times.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from optiinfra.domain import verdicts
from optiinfra.domain.bottleneck import IDLE_SPAN, Diagnosis, diagnose
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Bottleneck
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.readings import EngineReading, Signal, Unknown
from optiinfra.domain.signals import ServiceSignals, summarise
from optiinfra.domain.surroundings import Surroundings
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.verdicts import VerdictMemory

SCRAPES: Final = 6
"""Pages of a replica that a window holds."""
STALE_SCRAPES: Final = 3.5
"""A replica that was silent for this many intervals no longer reports."""
LONGEST_WINDOW: Final = Seconds(900.0)
"""Of what advice rests on, however long a verdict held."""
_WORK: Final = (Signal.GENERATION_TOKENS, Signal.PROMPT_TOKENS, Signal.REQUESTS_FINISHED)
_HARMLESS: Final = frozenset({Bottleneck.HEALTHY, Bottleneck.IDLE, Bottleneck.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Judged:
    """What was said at one moment."""

    time: UnixTime
    observed: Diagnosis
    """Of this window alone."""
    settled: Diagnosis
    """What holds."""
    since: UnixTime
    signals: ServiceSignals
    surroundings: Surroundings


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the series in which one verdict held throughout."""

    first: Judged
    last: Judged


@dataclass
class Series:
    """Takes pages in the order of their times, and judges after each, or after several of one moment."""

    interval: Seconds
    """Usual time between two pages of a replica."""
    settings: Callable[[EngineReading], EngineSettings]
    """Settings of an engine, as its arguments and its page tell."""
    objectives: Objectives = field(default_factory=Objectives)
    promised: bool = False
    window: Seconds | None = None
    idle_span: Seconds = IDLE_SPAN

    def __post_init__(self) -> None:
        span = (SCRAPES - 1) * self.interval if self.window is None else self.window
        # Times of files are whole seconds: half an interval decides which page is still in.
        # Two pages at least, or nothing could be said of what lasts.
        self.span = Seconds(max(span, self.interval) + self.interval / 2.0)
        self._pages: dict[str, deque[EngineReading]] = {}
        self._worked: dict[str, UnixTime] = {}
        self._memory: VerdictMemory | None = None
        self._before: VerdictMemory | None = None
        self._seen: set[str] = set()
        self._latest: EngineReading | None = None

    @property
    def stale_after(self) -> Seconds:
        """After how long a silent replica no longer reports."""
        return Seconds(STALE_SCRAPES * self.interval)

    def add(self, replica: str, reading: EngineReading) -> None:
        """Take a page in."""
        if replica in self._seen:
            self._before = self._memory
            self._seen.clear()
        self._seen.add(replica)
        pages = self._pages.setdefault(replica, deque())
        before = pages[-1] if pages else None
        if replica not in self._worked or _works(reading, before):
            self._worked[replica] = reading.time
        pages.append(reading)
        while reading.time - pages[0].time > self.span:
            pages.popleft()
        self._latest = reading

    def judge(self, *, now: UnixTime, surroundings: Surroundings) -> Judged:
        """Judge the service as it stands now.

        Pages that came since each replica's last one are one scrape: however many replicas, it counts once against a
        verdict that holds.
        """
        assert self._latest is not None
        signals = summarise(
            {name: tuple(pages) for name, pages in self._pages.items()},
            now=now,
            window=self.span,
            stale_after=self.stale_after,
            replicas_expected=self._expected(now),
        )
        observed = diagnose(
            signals,
            self._with_plateau(self.settings(self._latest)),
            self.objectives,
            surroundings=surroundings,
            quiet=self._quiet(now),
            idle_span=self.idle_span,
            promised=self.promised,
            pause=Seconds(self.interval / 2.0),
            held=None if self._before is None else self._before.diagnosis.bottleneck,
        )
        self._memory = verdicts.settle(self._before, observed, now=now)
        return Judged(now, observed, self._memory.diagnosis, self._memory.since, signals, surroundings)

    def _with_plateau(self, settings: EngineSettings) -> EngineSettings:
        """Add where running requests level off while others wait, where nobody says the batch limit.

        Of several pages the second largest counts: one page that counted more than may run proves nothing.
        """
        if not isinstance(settings.batch_limit, Unknown):
            return settings
        plateaus = [found for pages in self._pages.values() if (found := _plateau(pages)) > 0.0]
        if not plateaus:
            return settings
        return replace(settings, batch_limit=max(plateaus), batch_limit_source="inferred")

    def _expected(self, now: UnixTime) -> int:
        """Count the replicas that were seen in the window: one that left for good is expected no more."""
        return sum(1 for pages in self._pages.values() if now - pages[-1].time <= self.span)

    def _quiet(self, now: UnixTime) -> Seconds:
        """Return for how long no replica did anything, as of the last page that showed work."""
        return Seconds(max(0.0, now - max(self._worked.values(), default=now)))


def _plateau(pages: Sequence[EngineReading]) -> float:
    """Return the largest number of requests that ran while others waited, less one odd page; 0 where none waited."""
    ran = sorted(
        one.gauges.get(Signal.REQUESTS_RUNNING, 0.0) for one in pages if one.gauges.get(Signal.REQUESTS_WAITING)
    )
    return 0.0 if not ran else ran[-1] if len(ran) < SCRAPES // 2 else ran[-2]


def _works(reading: EngineReading, before: EngineReading | None) -> bool:
    """Tell whether a page shows work: requests inside, or counters that moved since the page before."""
    if reading.gauges.get(Signal.REQUESTS_RUNNING) or reading.gauges.get(Signal.REQUESTS_WAITING):
        return True
    if before is None:
        return False
    return any(reading.counters.get(signal) != before.counters.get(signal) for signal in _WORK)


def dominating(judged: Sequence[Judged]) -> Span | None:
    """Return the last span in which the verdict held that held most often, of those that limit something.

    Of verdicts that held as often, the one seen last. Where nothing ever limited, the last span of whatever held.
    """
    if not judged:
        return None
    times = Counter(one.settled.bottleneck for one in judged)
    limiting = [name for name in times if name not in _HARMLESS]
    last = {one.settled.bottleneck: index for index, one in enumerate(judged)}
    chosen = max(limiting, key=lambda name: (times[name], last[name]), default=judged[-1].settled.bottleneck)
    end = first = last[chosen]
    while first > 0 and judged[first - 1].settled.bottleneck is chosen:
        if judged[end].time - judged[first - 1].time > LONGEST_WINDOW:
            break
        first -= 1
    return Span(judged[first], judged[end])
