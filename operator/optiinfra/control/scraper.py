"""Reading engines and agents on their own schedule, bounded and concurrent, into the snapshot store.

Each source has its own next time, spread over the interval, so that a fleet is not read in one burst; at most
`concurrency` connections are open, each with its own time and size limits, so a slow or endless page costs its own
object only. Pages are parsed here, once. Nothing is decided, and nothing is ever read through the API server.
"""

import asyncio
import dataclasses
import logging
import time
import zlib
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from yarl import URL

from optiinfra import metrics
from optiinfra.cluster.agents import NO_NAMES, NO_PODS, parse_snapshot
from optiinfra.cluster.errors import ClusterError, FetchError
from optiinfra.cluster.fetch import FetchedPage, Transport
from optiinfra.control.keys import ObjectKey
from optiinfra.control.snapshots import SnapshotStore
from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import AgentReading
from optiinfra.engines.errors import PageError
from optiinfra.engines.page import read as read_page

_LOG = logging.getLogger(__name__)
_TICK = 0.25
_SOURCES_EVERY = 1.0
"""Naming the sources of a large fleet costs more than looking which of them are due."""

SourceKind: TypeAlias = Literal["engine", "agent"]


@dataclass(frozen=True, slots=True)
class Source:
    """One page to read."""

    kind: SourceKind
    key: str
    """uid of the engine's pod, or name of the agent's node."""
    url: URL
    interval: float
    transport: Transport
    owner: ObjectKey | None = None
    """Whose engine it is."""
    engine: EngineKind | None = None
    """The engine whose families are read; None: the one that the page is recognised by."""


class PageFetcher(Protocol):
    """Fetches one bounded page; `optiinfra.cluster.fetch` is the real one."""

    async def fetch(
        self, url: URL, *, timeout_s: float, limit_bytes: int, transport: Transport | None = None
    ) -> FetchedPage:
        """Return the page, or raise FetchError."""


@dataclass(slots=True)
class Scraper:
    """Reads what `sources` names, over and over."""

    sources: Callable[[], Iterable[Source]]
    fetcher: PageFetcher
    store: SnapshotStore
    concurrency: int
    timeout_s: float
    limit_bytes: int
    read: Callable[[Source], None] = lambda _source: None
    """Called after each page that was read with success."""
    pods: Container[str] = NO_PODS
    """Pods (uid) whose containers are taken from the agents' snapshots."""
    names: Container[tuple[str, str]] = NO_NAMES
    """Their namespaces and names, for agents that know no uids."""
    attributed: Callable[[AgentReading], AgentReading] = lambda reading: reading
    """Completes what an agent says of who holds which GPU."""
    agents_rank: Callable[[], int] = lambda: 0
    """Place of the agents among the sources of node metrics."""
    last_progress: float = field(default_factory=time.monotonic)
    _due: dict[tuple[SourceKind, str], float] = field(default_factory=dict)
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        """Read for ever; cancel to stop."""
        named, named_at = tuple[Source, ...](), float("-inf")
        try:
            while True:
                if not named or time.monotonic() - named_at >= _SOURCES_EVERY:
                    named, named_at = tuple(self.sources()), time.monotonic()
                self._start_due(named)
                self.last_progress = time.monotonic()
                await asyncio.sleep(_TICK)
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _start_due(self, sources: Iterable[Source]) -> None:
        now = time.monotonic()
        alive: set[tuple[SourceKind, str]] = set()
        for source in sources:
            key = (source.kind, source.key)
            alive.add(key)
            due = self._due.get(key)
            if due is None:
                # New sources are read at once; the spread comes with their second time.
                due = now
                self._due[key] = due
            if due <= now and len(self._running) < self.concurrency:
                self._due[key] = self._next(source, due=due, now=now)
                task = asyncio.create_task(self._read(source), name=f"scrape {source.kind}")
                self._running.add(task)
                task.add_done_callback(self._running.discard)
        for key in [key for key in self._due if key not in alive]:
            del self._due[key]

    @staticmethod
    def _next(source: Source, *, due: float, now: float) -> float:
        # A fixed phase per source: stable gaps between its pages, and no bursts over the fleet.
        phase = (zlib.crc32(source.key.encode()) % 1000) / 1000.0 * source.interval
        periods = (now - phase) // source.interval + 1
        following = phase + periods * source.interval
        return following if following - due > source.interval / 2 else following + source.interval

    async def _read(self, source: Source) -> None:
        started = time.monotonic()
        outcome = "ok"
        try:
            page = await self.fetcher.fetch(
                source.url, timeout_s=self.timeout_s, limit_bytes=self.limit_bytes, transport=source.transport
            )
            if source.kind == "engine":
                self.store.page(source.key, read_page(page.body, at=UnixTime(time.time()), kind=source.engine))
            else:
                # Which node it is follows from the pod that was asked, not from what the agent says of itself.
                reading = parse_snapshot(page.body, pods=self.pods, names=self.names)
                reading = dataclasses.replace(reading, node=source.key)
                self.store.offered(self.attributed(reading), rank=self.agents_rank())
        except FetchError as error:
            outcome = str(error.unknown.reason)
            self._failed(source, error.unknown)
        except PageError as error:
            outcome = str(error.unknown.reason)
            self._failed(source, error.unknown)
        except ClusterError as error:
            outcome = "Invalid"
            self._failed(source, Unknown(UnknownReason.INVALID, str(error)[:200]))
        else:
            self.read(source)
        finally:
            metrics.SCRAPES.labels(source.kind, outcome).inc()
            metrics.SCRAPE_SECONDS.labels(source.kind).observe(time.monotonic() - started)

    def _failed(self, source: Source, error: Unknown) -> None:
        at = UnixTime(time.time())
        if source.kind == "engine":
            self.store.page_failed(source.key, error, at=at)
        else:
            self.store.agent_failed(source.key, error, at=at)
