"""Asks a Prometheus-compatible server many questions over one grid of time, so gently that nobody else notices.

Series are counted before any is read; what is not there is not asked for; what is large is cut by a label and by time,
so that no call touches more series, steps or samples than `AskLimits` say; a few calls run at once, none while the
server wants time, smaller ones after it said that one was too large; pieces are kept on disk, so that a run that was
ended goes on; everything together stays below a budget. How many samples it cost is counted by the server's statistics
where it has them, else estimated, and said apart.

    async with MetricsServer(PrometheusServer(URL("http://prometheus:9090"))) as server:
        asked = await server.ask(questions, TimeGrid.ending(now, since=Seconds(14 * 86400.0), step=Seconds(300.0)))

A server that holds every series twice, from two replicas of Prometheus, is asked once a replica and the larger value at
each step is kept (`prometheus_copies`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Final, Self

from optiinfra.cluster.errors import ClusterError
from optiinfra.cluster.prometheus_cache import PieceCache, piece_name
from optiinfra.cluster.prometheus_call import Caller
from optiinfra.cluster.prometheus_copies import REPLICA_LABELS, Copies
from optiinfra.cluster.prometheus_counts import existing_names, label_names
from optiinfra.cluster.prometheus_grid import TimeGrid
from optiinfra.cluster.prometheus_http import PrometheusHttp
from optiinfra.cluster.prometheus_links import query_link
from optiinfra.cluster.prometheus_matchers import Matcher, parse_matcher
from optiinfra.cluster.prometheus_pace import Pace
from optiinfra.cluster.prometheus_plan import DEFAULT_ASK_LIMITS, AskLimits
from optiinfra.cluster.prometheus_range import QueryLimits
from optiinfra.cluster.prometheus_reading import OverBudget, Progress, Reading, Samples, Task, over_budget
from optiinfra.cluster.prometheus_recognise import ServerFacts, ServerKind, recognise
from optiinfra.cluster.prometheus_scope import NotAsked, Scope, count_all, planned
from optiinfra.cluster.prometheus_server import PrometheusServer
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.report.frames import Frame, Question
from optiinfra.domain.units import Seconds

__all__ = [
    "AskLimits",
    "Asked",
    "Matcher",
    "MetricsServer",
    "NotAsked",
    "OverBudget",
    "PieceCache",
    "Progress",
    "PrometheusServer",
    "Samples",
    "ServerFacts",
    "ServerKind",
    "TimeGrid",
    "ask",
    "parse_matcher",
]

CALL_LIMITS: Final = QueryLimits(bytes=64 << 20, series=250_000, timeout_s=60.0, at_once=1)
"""Of one call of a report. Two at once took 47 s instead of 57 s for the fleet of docs/benchmarks-report.md, and its
server grew by 54 % instead of 28 %."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What came back, what did not, and what it cost."""

    frames: tuple[Frame, ...]
    """In the order of the questions."""
    not_asked: tuple[NotAsked, ...]
    server: ServerFacts
    samples: Samples
    series: int
    """Series that the questions read, each name once, as counted at the end of the range or before."""
    calls: int
    """Sent to the server, the refused ones among them."""
    pieces_kept: int
    """Taken from the cache instead."""
    waited_s: float
    """How long calls were held back because the server was busy."""
    copies: Copies
    """Label and values of replicas of Prometheus that hold the same series."""
    notes: tuple[str, ...]
    """What a reader has to know, one line each."""


class MetricsServer:
    """One server, recognised when it is first asked. Use as an async context manager."""

    def __init__(
        self,
        server: PrometheusServer,
        *,
        limits: AskLimits = DEFAULT_ASK_LIMITS,
        call_limits: QueryLimits = CALL_LIMITS,
        cache: PieceCache | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._server = server
        self._limits = limits
        self._call_limits = call_limits
        self._cache = cache
        self._clock = clock
        self._http = PrometheusHttp(server, limits=call_limits)
        self._pace = Pace(call_limits, sleep=sleep)
        self._caller = Caller(self._http, self._pace, timeout=Seconds(call_limits.timeout_s))
        self._facts: ServerFacts | None = None

    async def __aenter__(self) -> Self:
        """Raises `Unconfigured` for files, headers or a cache folder that cannot be used."""
        await self._http.__aenter__()
        try:
            if self._cache is not None:
                await asyncio.to_thread(self._cache.open)
        except ClusterError:
            await self._http.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def facts(self) -> ServerFacts:
        """Find out who answers at the address, once. Raises `ClusterError`, one line with what to do."""
        if self._facts is None:
            self._facts = await recognise(self._caller, clock=self._clock)
        return self._facts

    async def now(self) -> float:
        """Return Unix seconds by the server's clock, ours where it does not tell. Raises `ClusterError`."""
        return self._clock() + ((await self.facts()).clock_ahead_s or 0.0)

    async def labels(
        self, metrics: Sequence[str], grid: TimeGrid, *, matchers: Sequence[Matcher] = ()
    ) -> frozenset[str] | None:
        """Return the names of the labels that series of some names have in the range, from the server's index.

        An index look-up costs next to nothing, whatever the range; a query that asks whether a label is there reads
        every series. None where the server lets only queries through. Raises `ClusterError`.
        """
        await self.facts()
        return await label_names(self._caller, metrics, grid, matchers)

    async def names(
        self, metrics: Sequence[str], grid: TimeGrid, *, matchers: Sequence[Matcher] = ()
    ) -> frozenset[str] | None:
        """Return which of some names exist in the range, from the server's index; None where it tells nobody."""
        await self.facts()
        return await existing_names(self._caller, metrics, grid, matchers)

    async def ask(
        self,
        questions: Sequence[Question],
        grid: TimeGrid,
        *,
        matchers: Sequence[Matcher] = (),
        namespaces: Sequence[str] = (),
        replica_labels: Sequence[str] = REPLICA_LABELS,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Asked:
        """Ask all questions. `matchers` go into every selector; `namespaces` where `split_by` names a namespace.

        Raises:
            OverBudget: more samples would be read than the limits allow.
            ClusterError: Denied, Throttled, Unavailable, Unconfigured or Invalid (nothing of the kind answers).
        """
        facts = await self.facts()
        calls, waited, hits = self._caller.calls, self._pace.waited_s, self._cache.hits if self._cache else 0
        scope = Scope(grid, tuple(matchers), tuple(namespaces))
        counted = await count_all(self._caller, questions, scope, replica_labels=replica_labels)
        link = partial(query_link, facts, grid=grid, page=self._server.page)
        plan = planned(questions, scope, counted, limits=self._limits, link=link)
        samples = Samples()
        await asyncio.to_thread(self._within_budget, plan.tasks)
        reading = Reading(
            self._caller,
            plan.tasks,
            cache=self._cache,
            limits=self._limits,
            samples=samples,
            server_now=await self.now(),
            on_progress=on_progress,
        )
        try:
            await reading.run(at_once=self._call_limits.at_once)
        except ClusterError as error:
            if self._cache is None or self._cache.trouble or not samples.total + samples.kept:
                raise
            text = f"{error.message}; what was read is kept: the same command goes on from there"
            raise type(error)(text, verb=error.verb, path=error.path, code=error.code) from error
        refused = [
            NotAsked(one.question, Unknown(UnknownReason.INVALID, f"the server refuses it: {one.refused.message}"))
            for one in plan.answering
            if one.refused is not None
        ]
        return Asked(
            frames=tuple(one.frame() for one in plan.answering if one.refused is None),
            not_asked=(*plan.not_asked, *refused),
            server=facts,
            samples=samples,
            series=counted.total,
            calls=self._caller.calls - calls,
            pieces_kept=(self._cache.hits if self._cache else 0) - hits,
            waited_s=self._pace.waited_s - waited,
            copies=counted.copies,
            notes=self._notes(facts, grid, counted.copies, await self.now()),
        )

    def _within_budget(self, tasks: Sequence[Task]) -> None:
        """Raise `OverBudget` before anything is read, where that can be told."""
        server, cache = self._server, self._cache
        needed = sum(
            task.estimate
            for task in tasks
            if cache is None or not cache.has(piece_name(server, task.query, task.piece, by=task.of.question.by))
        )
        if needed > self._limits.total_samples:
            raise over_budget(needed, self._limits.total_samples)

    def _notes(self, facts: ServerFacts, grid: TimeGrid, copies: Copies, now: float) -> tuple[str, ...]:
        notes = [facts.clock_note]
        if facts.base != self._server.url.with_query(None).with_fragment(None):
            notes.append(f"its API was found at {facts.base.with_user(None)}")
        if grid.end > now + grid.step:
            notes.append("the range ends in the server's future: its last steps are empty; check both clocks")
        if copies.values:
            listed = ", ".join(copies.values)
            notes.append(
                f"series come in copies of replicas ({copies.label}: {listed}): each replica was asked, and the larger "
                "value kept; let the server drop copies"
            )
        if self._cache is not None:
            notes.append(self._cache.trouble)
        return tuple(note for note in notes if note)


async def ask(
    questions: Sequence[Question],
    grid: TimeGrid,
    *,
    server: PrometheusServer,
    cache: PieceCache | None = None,
    limits: AskLimits = DEFAULT_ASK_LIMITS,
    matchers: Sequence[Matcher] = (),
    namespaces: Sequence[str] = (),
    on_progress: Callable[[Progress], None] | None = None,
) -> Asked:
    """Ask one server once: `MetricsServer.ask` in a session of its own. Raises `ClusterError`."""
    async with MetricsServer(server, limits=limits, cache=cache) as session:
        return await session.ask(questions, grid, matchers=matchers, namespaces=namespaces, on_progress=on_progress)
