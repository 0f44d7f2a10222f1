"""Engines' pages out of a metrics server, for all objects whose `engine.source` is Prometheus, a few queries a turn.

Each turn asks for the raw samples of a short window, family by family and for many pods at once, puts the scrapes that
are new together as pages and hands them to the snapshot store: from there on nothing knows where a page came from. It
takes the time of the scrape, so what is stale at the server is stale here; what is absent, down, or refused is said of
its pod with the reason, and nothing is carried over. A query that is too large is asked for fewer pods; a server that
does not answer is asked again in the next turn, and decisions hold meanwhile because pages grow stale.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from optiinfra import metrics
from optiinfra.api.reasons import Reason
from optiinfra.cluster.errors import ClusterError, Invalid
from optiinfra.control.keys import ObjectKey
from optiinfra.control.metrics_servers import MetricsServer, MetricsServers, unknown_of
from optiinfra.control.scraped_pages import MOST_PAGES, Chosen, Labelling, Pages, TargetSeen, choose, is_down, targets
from optiinfra.control.snapshots import SnapshotStore
from optiinfra.control.sources import EnginePod
from optiinfra.control.work import Problem
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import UnixTime
from optiinfra.engines import series as questions
from optiinfra.engines.alias import Table
from optiinfra.engines.errors import PageError
from optiinfra.engines.page import read_series

_LOG = logging.getLogger(__name__)
_PURPOSE: Final = "engines"
_MOST_PODS: Final = 48
"""Of one query."""
_LEAST_PODS: Final = 4
_MOST_LETTERS: Final = 6_000
"""Of the pods' names in one query: servers and proxies on the way refuse long ones."""
_SERIES_A_QUERY: Final = 4_000
_SERIES_A_HISTOGRAM: Final = 30
_SLACK: Final = 5.0
_LONGEST_WINDOW: Final = 300.0
_LEAST_SKEW: Final = 2.5
"""Seconds: the server tells its clock in whole seconds, and an answer takes time."""
_LEAST_PAUSE: Final = 1.0
_NO_SERVER: Final = Unknown(UnknownReason.NOT_CONFIGURED, "no metrics server is named")


_REASONS: Final = {
    UnknownReason.UNREACHABLE: Reason.METRICS_SERVER_UNREACHABLE,
    UnknownReason.REFUSED: Reason.METRICS_SERVER_REFUSED,
    UnknownReason.INVALID: Reason.METRICS_SERVER_INVALID,
    UnknownReason.NOT_CONFIGURED: Reason.METRICS_SERVER_NOT_CONFIGURED,
}


@dataclass(slots=True)
class PrometheusPages:
    """Reads what `pods` names, over and over."""

    pods: Callable[[], Iterable[EnginePod]]
    servers: MetricsServers
    store: SnapshotStore
    interval_s: float
    stale_after_s: float
    labelling: Labelling = field(default_factory=Labelling)
    matchers: str = ""
    """For every selector, of the installation."""
    read: Callable[[EnginePod], None] = lambda _pod: None
    """Called after each page."""
    clock: Callable[[], float] = time.time
    troubles: dict[ObjectKey, Problem] = field(default_factory=dict)
    """Objects of which a pod was not heard in the last turn, and why."""
    _identities: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """By pod (uid): the target that it was read from last."""
    _newest: dict[str, float] = field(default_factory=dict)
    """By pod (uid): time of its newest page, by the server's clock."""
    _sizes: dict[str, int] = field(default_factory=dict)
    _skews: dict[str, float] = field(default_factory=dict)
    """By server: seconds that its clock is ahead of ours, where that is more than a call explains."""
    _most_pods: dict[str, int] = field(default_factory=dict)
    _asked_at: float = float("-inf")

    async def run(self) -> None:
        """Read for ever; cancel to stop."""
        try:
            while True:
                began = time.monotonic()
                await self.turn()
                await asyncio.sleep(max(_LEAST_PAUSE, self.interval_s - (time.monotonic() - began)))
        finally:
            await self.servers.aclose()

    async def turn(self) -> None:
        """Ask once for everything that is new."""
        wanted = {pod.uid: pod for pod in self.pods()}
        self._forget_except(wanted)
        if not wanted:
            self.troubles.clear()
            return
        servers, failed = await self.servers.all()
        window = min(_LONGEST_WINDOW, max(self.stale_after_s, self.clock() - self._asked_at + self.interval_s) + _SLACK)
        asked_at = self.clock()
        left, reasons = wanted, dict.fromkeys(wanted, failed or _NO_SERVER)
        heard = False
        for server in servers:
            if not left:
                break
            try:
                missing = await self._from(server, tuple(left.values()), window=window)
            except ClusterError as error:
                trouble = unknown_of(error)
                server.answered(trouble)
                reasons |= {uid: _worse(reasons[uid], trouble) for uid in left}
            else:
                heard = True
                server.answered(None)
                reasons |= {uid: _worse(reasons[uid], why) for uid, why in missing.items()}
                left = {uid: left[uid] for uid in missing}
        if heard:
            self._asked_at = asked_at
        for uid in left:
            self.store.page_failed(uid, reasons[uid], at=UnixTime(self.clock()))
            metrics.SCRAPES.labels("engine", str(reasons[uid].reason)).inc()
        self._tell(left.values(), reasons)

    def _tell(self, left: Iterable[EnginePod], reasons: dict[str, Unknown]) -> None:
        troubles: dict[ObjectKey, Problem] = {}
        for pod in left:
            why = reasons[pod.uid]
            if isinstance(why, PodUnknown):
                troubles.setdefault(pod.owner, Problem(why.condition, why.detail))
            else:
                reason = _REASONS.get(why.reason, Reason.METRICS_SERVER_INVALID)
                troubles.setdefault(pod.owner, Problem(reason, why.detail))
        self.troubles.clear()
        self.troubles.update(troubles)

    def _forget_except(self, wanted: dict[str, EnginePod]) -> None:
        for uid in [uid for uid in self._identities if uid not in wanted]:
            del self._identities[uid]
            self._newest.pop(uid, None)
            self._sizes.pop(uid, None)

    async def _from(self, server: MetricsServer, pods: Sequence[EnginePod], *, window: float) -> dict[str, Unknown]:
        """Read pods from a server; return why some were not heard, by uid."""
        missing: dict[str, Unknown] = {}
        waiting = list(pods)
        while waiting:
            part = _part(waiting, most=self._most_pods.get(server.url, _MOST_PODS))
            try:
                missing |= await self._chunk(server, part, window=window)
            except Invalid as error:
                # Whatever it found too large: fewer pods at a time are less of everything.
                if len(part) <= _LEAST_PODS or not _too_large(error):
                    raise
                self._most_pods[server.url] = max(_LEAST_PODS, len(part) // 2)
                continue
            del waiting[: len(part)]
        return missing

    async def _chunk(self, server: MetricsServer, pods: Sequence[EnginePod], *, window: float) -> dict[str, Unknown]:
        where = self._matchers(pods)
        names = {name for kind in {pod.kind for pod in pods} for name in questions.witnesses(kind)}
        first = await server.window(
            questions.selector((questions.UP, *sorted(names)), matchers=where), seconds=window, purpose=_PURPOSE
        )
        self._note_skew(server, first.server_time)
        seen = targets(first.series, self.labelling)
        chosen: list[Chosen] = []
        missing: dict[str, Unknown] = {}
        tables: dict[str, Table] = {}
        now = self.clock() + self._skews.get(server.url, 0.0)
        for pod in pods:
            of_pod = tuple(seen.get((pod.namespace, pod.name), {}).values())
            target = choose(pod, of_pod, before=self._identities.get(pod.uid))
            if target is None or now - target.newest > self.stale_after_s:
                missing[pod.uid] = self._why_missing(server, pod, of_pod, target)
            if target is None:
                continue
            self._identities[pod.uid] = target.identity
            new = sorted(at for at in target.times if at > self._newest.get(pod.uid, float("-inf")))
            if new:
                chosen.append(Chosen(pod, target, tuple(new[-MOST_PAGES:])))
            tables |= {table.prefix: table for table in questions.seen(target.names, pod.kind)[:1]}
        if chosen:
            missing |= await self._read(server, chosen, tuple(tables.values()), window=window, now=now)
        return missing

    async def _read(
        self, server: MetricsServer, chosen: Sequence[Chosen], tables: Sequence[Table], *, window: float, now: float
    ) -> dict[str, Unknown]:
        pages = Pages(chosen, self.labelling)
        where = self._matchers([one.pod for one in chosen])
        for selector in _selectors(tables, where, pods=len(chosen)):
            # One after the other: answers are large, and each is let go before the next comes.
            answer = await server.window(selector, seconds=window, purpose=_PURPOSE)
            pages.add(answer.series)
        failed: dict[str, Unknown] = {}
        skew = self._skews.get(server.url, 0.0)
        for pod, at, page in pages.whole(now=now, sizes=self._sizes):
            try:
                reading = read_series(page, at=UnixTime(at - skew), kind=pod.kind)
            except PageError as error:
                failed[pod.uid] = PodUnknown(error.unknown.reason, error.unknown.detail, Reason.ENGINE_PAGE_INVALID)
                continue
            failed.pop(pod.uid, None)
            self._newest[pod.uid] = at
            self.store.page(pod.uid, reading)
            metrics.SCRAPES.labels("engine", "ok").inc()
            self.read(pod)
        return failed

    def _matchers(self, pods: Sequence[EnginePod]) -> str:
        namespaces = questions.one_of(self.labelling.namespace, sorted({pod.namespace for pod in pods}))
        names = questions.one_of(self.labelling.pod, sorted({pod.name for pod in pods}))
        return ",".join(part for part in (namespaces, names, self.matchers) if part)

    def _note_skew(self, server: MetricsServer, told: float | None) -> None:
        if told is None:
            return
        ahead = told - self.clock()
        known = self._skews.get(server.url, 0.0)
        if abs(ahead - known) <= _LEAST_SKEW:
            return
        settled = ahead if abs(ahead) > _LEAST_SKEW else 0.0
        self._skews[server.url] = settled
        if abs(settled) > _LEAST_SKEW:
            _LOG.warning(
                "the clock of a metrics server differs; its times are corrected",
                extra={"server": server.shown, "seconds_ahead": round(settled, 1)},
            )

    def _why_missing(
        self, server: MetricsServer, pod: EnginePod, found: Sequence[TargetSeen], target: TargetSeen | None
    ) -> Unknown:
        name = f"{pod.namespace}/{pod.name}"
        if is_down(pod, found):
            text = f"{server.shown} cannot scrape pod {name}: up is 0"
            return PodUnknown(UnknownReason.UNREACHABLE, text, Reason.ENGINE_UNREACHABLE)
        if target is not None:
            text = (
                f"the newest scrape of pod {name} in {server.shown} is older than {self.stale_after_s:g} s: scrape it "
                "more often, or raise OPTIINFRA_STALE_AFTER_SECONDS and OPTIINFRA_SIGNAL_WINDOW_SECONDS"
            )
            return PodUnknown(UnknownReason.STALE, text, Reason.METRICS_STALE)
        labels = f'{self.labelling.namespace}="{pod.namespace}",{self.labelling.pod}="{pod.name}"'
        container = f',container="{pod.container}"' if pod.container else ""
        engine = f"of {pod.kind}" if pod.kind is not None else "of an engine that is known"
        text = f"{server.shown} has no series {engine} with {labels}{container}"
        return PodUnknown(UnknownReason.NOT_MEASURED, text, Reason.SERIES_MISSING)


@dataclass(frozen=True, slots=True)
class PodUnknown(Unknown):
    """Why one pod was not heard although its server answered."""

    condition: Reason = Reason.SERIES_MISSING


def _worse(known: Unknown, found: Unknown) -> Unknown:
    """Of several servers' answers, the one that says most: a pod's own state, then the first server's trouble."""
    if known is _NO_SERVER or known.reason is UnknownReason.NOT_MEASURED:
        return found
    return found if isinstance(found, PodUnknown) and found.reason is not UnknownReason.NOT_MEASURED else known


def _part(waiting: Sequence[EnginePod], *, most: int) -> Sequence[EnginePod]:
    letters = 0
    for number, pod in enumerate(waiting):
        letters += len(pod.name) + 1
        if number and (number >= most or letters > _MOST_LETTERS):
            return waiting[:number]
    return waiting


def _selectors(tables: Sequence[Table], where: str, *, pods: int) -> Iterator[str]:
    """Yield selectors of everything that the tables read, each of a bounded number of series."""
    singles = dict.fromkeys(name for table in tables for name in questions.single_names(table))
    histograms = list(dict.fromkeys(name for table in tables for name in questions.histogram_names(table)))
    yield questions.selector(singles, matchers=where)
    together = max(1, _SERIES_A_QUERY // (_SERIES_A_HISTOGRAM * pods))
    for first in range(0, len(histograms), together):
        yield questions.selector(histograms[first : first + together], histograms=True, matchers=where)


def _too_large(error: Invalid) -> bool:
    text = error.message.lower()
    return error.code in {413, 422} or any(word in text for word in ("too many", "too large", "limit", "maxsamples"))
