"""The snapshot store: what engines and agents said lately. Scrapers write it, rounds read it, nothing is decided here.

Rounds never wait for a scrape: they see what is here, with its times, and judge staleness themselves. History is
bounded by time and by count per source, so a fleet costs a known amount of memory; sources nobody asked about for a
while are dropped by the sweep.
"""

import dataclasses
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from optiinfra.domain.readings import EngineReading, Unknown
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import AgentReading

_PAGES_KEPT = 48
_AGENT_SNAPSHOTS_KEPT = 48
AGENT = "Agent"
_DENSE = 12
"""How many of the newest are kept whatever their spacing."""


@dataclass(slots=True)
class _Engine:
    pages: deque[EngineReading] = field(default_factory=lambda: deque(maxlen=_PAGES_KEPT))
    error: Unknown | None = None
    touched: float = 0.0


@dataclass(slots=True)
class _Agent:
    snapshots: deque[AgentReading] = field(default_factory=lambda: deque(maxlen=_AGENT_SNAPSHOTS_KEPT))
    error: Unknown | None = None
    touched: float = 0.0
    source: str = AGENT
    """Who made the snapshots: counters of two sources are not one."""
    rank: int = 0
    """Place of that source in the order of preference."""


@dataclass(slots=True)
class SnapshotStore:
    """Recent pages by pod uid and recent agent snapshots by node name."""

    keep_pages_seconds: float = 240.0
    keep_snapshots_seconds: float = 1800.0
    keep_containers_seconds: float = 300.0
    """Of older readings nobody asks what containers did, and there are many of them."""
    prefer_seconds: float = 60.0
    """For how long a preferred source is waited for before the next one is taken."""
    _engines: dict[str, _Engine] = field(default_factory=dict)
    _agents: dict[str, _Agent] = field(default_factory=dict)

    def page(self, pod_uid: str, reading: EngineReading) -> None:
        """Keep a page; thinned so that the kept pages span the whole window even at a short scrape interval."""
        engine = self._engines.setdefault(pod_uid, _Engine())
        engine.error, engine.touched = None, reading.time
        if engine.pages:
            reading = _sharing(reading, engine.pages[-1])
        _keep_spread(engine.pages, reading, keep_seconds=self.keep_pages_seconds)

    def page_failed(self, pod_uid: str, error: Unknown, *, at: UnixTime) -> None:
        """Note that a scrape failed; earlier pages stay and grow stale by their own times."""
        engine = self._engines.setdefault(pod_uid, _Engine())
        engine.error, engine.touched = error, at

    def offered(self, reading: AgentReading, *, source: str = AGENT, rank: int = 0) -> bool:
        """Keep a snapshot of one of several sources; False while a preferred one tells of the node.

        Of one node only one source's snapshots are kept: with the source those of the source before go.
        """
        agent = self._agents.setdefault(reading.node, _Agent(source=source, rank=rank))
        if (source, rank) != (agent.source, agent.rank):
            lately = bool(agent.snapshots) and reading.time - agent.snapshots[-1].time < self.prefer_seconds
            if source != agent.source and lately and agent.rank < rank:
                return False
            if source != agent.source:
                agent.snapshots.clear()
            agent.source, agent.rank = source, rank
        self.snapshot(reading)
        return True

    def source(self, node: str) -> str:
        """Who tells of a node; empty while nobody does."""
        agent = self._agents.get(node)
        return agent.source if agent is not None and agent.snapshots else ""

    def snapshot(self, reading: AgentReading) -> None:
        """Keep an agent's snapshot."""
        agent = self._agents.setdefault(reading.node, _Agent())
        agent.error, agent.touched = None, reading.time
        _keep_spread(agent.snapshots, reading, keep_seconds=self.keep_snapshots_seconds)
        self._without_old_containers(agent.snapshots, reading.time - self.keep_containers_seconds)

    @staticmethod
    def _without_old_containers(kept: deque[AgentReading], since: float) -> None:
        """Take the containers off readings that are older; those before them lost theirs already."""
        for place in range(len(kept) - 1, -1, -1):
            if kept[place].time < since:
                if not kept[place].containers and not kept[place].named:
                    break
                kept[place] = dataclasses.replace(kept[place], containers=(), named=())

    def agent_failed(self, node: str, error: Unknown, *, at: UnixTime) -> None:
        """Note that reading an agent failed."""
        agent = self._agents.setdefault(node, _Agent())
        agent.error, agent.touched = error, at

    def pages(self, pod_uids: Mapping[str, str]) -> dict[str, tuple[EngineReading, ...]]:
        """Pages by pod name for pods given as name -> uid; pods without any page are absent."""
        found: dict[str, tuple[EngineReading, ...]] = {}
        for name, uid in pod_uids.items():
            engine = self._engines.get(uid)
            if engine is not None and engine.pages:
                found[name] = tuple(engine.pages)
        return found

    def page_errors(self, pod_uids: Mapping[str, str]) -> dict[str, Unknown]:
        """Why the last scrape failed, by pod name, for those whose last scrape failed."""
        errors: dict[str, Unknown] = {}
        for name, uid in pod_uids.items():
            engine = self._engines.get(uid)
            if engine is not None and engine.error is not None:
                errors[name] = engine.error
        return errors

    def agent(self, node: str) -> tuple[tuple[AgentReading, ...], Unknown | None]:
        """Return the recent snapshots of a node's agent and the error of the last try, if it failed."""
        agent = self._agents.get(node)
        return ((), None) if agent is None else (tuple(agent.snapshots), agent.error)

    def forget_except(self, *, pod_uids: Iterable[str], nodes: Iterable[str]) -> None:
        """Drop every source that is not named: the sweep's answer to missed deletions."""
        alive_pods, alive_nodes = set(pod_uids), set(nodes)
        for uid in [uid for uid in self._engines if uid not in alive_pods]:
            del self._engines[uid]
        for node in [node for node in self._agents if node not in alive_nodes]:
            del self._agents[node]


_Reading = TypeVar("_Reading", EngineReading, AgentReading)


def _sharing(reading: EngineReading, before: EngineReading) -> EngineReading:
    """Let what did not change since the page before be the same objects: an idle engine's pages cost nearly nothing."""
    histograms = {
        signal: old if (old := before.histograms.get(signal)) == histogram and old is not None else histogram
        for signal, histogram in reading.histograms.items()
    }
    return dataclasses.replace(
        reading,
        gauges=before.gauges if before.gauges == reading.gauges else reading.gauges,
        counters=before.counters if before.counters == reading.counters else reading.counters,
        histograms=before.histograms if before.histograms == histograms else histograms,
        facts=before.facts if before.facts == reading.facts else reading.facts,
    )


def _keep_spread(kept: deque[_Reading], reading: _Reading, *, keep_seconds: float) -> None:
    # Read again before it was measured again, or measured before the clock went back: one moment is one reading, and
    # what lies in the future of the newest is not history.
    while kept and kept[-1].time >= reading.time:
        kept.pop()
    while kept and kept[0].time < reading.time - keep_seconds:
        kept.popleft()
    # The newest page always counts, older ones only need to cover the window: the second newest gives way when it
    # stands closer to its predecessor than the spacing that fills the window with the pages we keep.
    assert kept.maxlen is not None
    spacing = keep_seconds / (kept.maxlen - _DENSE)
    if len(kept) > _DENSE and kept[-_DENSE].time - kept[-_DENSE - 1].time < spacing:
        del kept[-_DENSE]
    kept.append(reading)
