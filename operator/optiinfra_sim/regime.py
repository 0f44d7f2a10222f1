"""One labelled regime: a fleet, a load, and what limits it by construction; played into a series of scrapes.

A regime says which limit binds because it was built so: a batch limit below the clients, a pool too small for them, a
link slower than the fetches. No classifier has a say in a label. ``remedy`` names the change of settings that lifts
exactly that limit, so that a test can show the label is the cause and not a symptom: with the remedy the suffering
ends. Windows in which the state changes carry no label.

What each label claims of a window (objectives: first token 2 s, inter-token 0.1 s, at the 95th percentile):

| label | by construction |
|---|---|
| Idle | for five minutes and more there has been no request |
| Healthy | objectives are met; requests do not wait, or only in passing |
| Batch | requests wait for a place in the batch; blocks are free and the GPU has room |
| KVCache | requests wait for blocks, or are preempted for want of them |
| Compute | the GPU's time is used up: prompts (PrefillBound) or large batches (DecodeBound) miss an objective |
| Queue | requests wait though batch, blocks and GPU have room: adapter slots, or tokens a step |
| Host | steps are slow because the CPU is; the GPU waits |
| Network | requests wait for KV from a remote cache |
| ColdStart | the demand needs replicas that exist and are still loading |
"""

import enum
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from optiinfra_sim.blocks import Content
from optiinfra_sim.engine import Engine
from optiinfra_sim.errors import EngineError
from optiinfra_sim.fleet import Fleet
from optiinfra_sim.pages import PageTimes, render
from optiinfra_sim.request import Request
from optiinfra_sim.routing import Routing
from optiinfra_sim.settings import EngineSettings
from optiinfra_sim.trace import Arrival

EPOCH = 1_795_000_000.0
LOADING_SECONDS = 45.0
SLICE_SECONDS = 0.1
GPU_MEMORY_BYTES = 80 * 2**30
CALM_HOST_CPU = 0.22


class Label(enum.StrEnum):
    """What limits a service."""

    IDLE = "Idle"
    HEALTHY = "Healthy"
    COMPUTE = "Compute"
    BATCH = "Batch"
    KV_CACHE = "KVCache"
    QUEUE = "Queue"
    HOST = "Host"
    NETWORK = "Network"
    COLD_START = "ColdStart"


@dataclass(frozen=True, slots=True)
class Truth:
    """What is true of a window, and why in more detail where a label has kinds."""

    label: Label
    reason: str = ""
    """PrefillBound, DecodeBound, Adapters, TokenBudget; empty elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Requests of one kind: so many a second (Poisson), from clients with one at a time each, or in bursts."""

    rate: float = 0.0
    clients: int = 0
    bursts: tuple[float, ...] = ()
    """Moments at which ``burst`` requests arrive together."""
    burst: int = 0
    begin: float = -1e9
    end: float = 1e9
    prompt: tuple[int, int] = (200, 800)
    """Tokens nobody else asks, drawn evenly between both."""
    output: tuple[int, int] = (100, 300)
    shared: int = 0
    """Tokens of a system prompt at the beginning."""
    documents: int = 0
    """A prompt repeats one of so many documents after the system prompt; low numbers are asked more often."""
    document_tokens: int = 0
    adapters: int = 0
    external_share: float = 0.0
    """Share of the prompt that the remote cache holds."""
    tenant: int = 1
    """Streams of one tenant share system prompt and documents."""


@dataclass(frozen=True, slots=True)
class Change:
    """From one moment on the host takes so long a step, or the remote link so long a token."""

    at: float
    host_seconds: float | None = None
    remote_token_seconds: float | None = None
    host_cpu_ratio: float = CALM_HOST_CPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """A fleet under a load. Times in seconds; the first scrape is at 0, after ``warm_up``."""

    summary: str
    """What happens, and which limit binds, in a sentence or two."""
    settings: EngineSettings
    streams: tuple[Stream, ...]
    truths: tuple[tuple[float, Truth | None], ...]
    """What is true from which moment on, in order; a window belongs to what holds all through it."""
    ready: tuple[float, ...] = (-1e9,)
    """When each replica begins to serve; later than the warm-up means that it is loading until then."""
    routing: Routing = Routing.LEAST_LOADED
    changes: tuple[Change, ...] = ()
    seed: int = 1
    warm_up: float = 60.0
    scrapes: int = 40
    interval: float = 5.0
    remedy: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Settings that lift the limit; empty where nothing limits or no setting helps."""
    trap: bool = False
    """Whether it is built to look like something that it is not."""

    def cured(self) -> "Regime":
        """The same with its limit lifted; other times and the load stay."""
        changes = tuple(
            replace(
                change,
                host_seconds=None if "host_seconds" in self.remedy else change.host_seconds,
                remote_token_seconds=None if "remote_token_seconds" in self.remedy else change.remote_token_seconds,
            )
            for change in self.changes
        )
        remedy: dict[str, Any] = dict(self.remedy)
        return replace(self, settings=replace(self.settings, **remedy), changes=changes)

    def truth(self, at: float) -> Truth | None:
        """What holds all through the window that ends at ``at``."""
        held = [truth for since, truth in self.truths if since <= at]
        began = [truth for since, truth in self.truths if since <= at - self.interval]
        return held[-1] if held and began and held[-1] == began[-1] else None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """What an agent would measure of one replica's GPU and host over the window before the scrape. Ratios 0..1."""

    utilization_ratio: float
    """Share of time with a step under way, as NVML sees it."""
    sm_active_ratio: float
    """The same weighted by the multiprocessors at work; near 0 while the host is what takes the time."""
    memory_used_bytes: int
    memory_total_bytes: int
    host_cpu_ratio: float
    """Of the CPU time that the engine's container may use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """One look at the whole fleet."""

    time: float
    """Unix time."""
    pages: Mapping[str, bytes]
    """Metric page by replica, serving ones only."""
    gpus: Mapping[str, GpuFacts]
    """By the same replicas."""
    starting_replicas: int
    truth: Truth | None
    """Of the window that ends here; None in transition."""


def play(regime: Regime) -> Iterator[Scrape]:
    """Play a regime from its beginning; every call gives the same bytes."""
    stage = _Stage(regime)
    stage.advance(to=0.0)
    for index in range(regime.scrapes):
        at = index * regime.interval
        stage.advance(to=at)
        yield stage.scrape(at)


class _Stage:
    """A regime being played."""

    def __init__(self, regime: Regime) -> None:
        self._regime = regime
        self._begin = -regime.warm_up
        self._shift = regime.warm_up  # the fleet's own time begins at 0
        self._draw = random.Random(regime.seed)  # noqa: S311 - a repeatable load, nothing secret
        self._fleet = Fleet(settings=regime.settings, routing=regime.routing, on_finished=self._again)
        self._free: list[tuple[float, Stream]] = []
        self._clients: dict[int, Stream] = {}
        self._number = 0
        self._seen: dict[str, tuple[float, float, float]] = {}
        self._changes = sorted(regime.changes, key=lambda change: change.at)
        self._host_cpu = CALM_HOST_CPU
        self._now = self._begin
        for index, ready in enumerate(regime.ready):
            self._fleet.add(f"replica-{index}", ready_at=max(0.0, ready + self._shift))
        arrivals = [one for stream in regime.streams for one in self._open(stream)]
        self._fleet.feed(sorted(arrivals, key=lambda one: one.at), begin=0.0)
        for stream in regime.streams:
            # Clients do not begin in one moment: that would make them move in step for ever.
            self._free += [(max(self._begin, stream.begin) + 0.05 * number, stream) for number in range(stream.clients)]

    def advance(self, *, to: float) -> None:
        """Live up to ``to`` in slices: clients and changes are looked after between them."""
        while self._now < to:
            self._change()
            self._ask()
            self._now = min(to, self._now + SLICE_SECONDS)
            self._fleet.advance(to=self._now + self._shift)

    def scrape(self, at: float) -> Scrape:
        """The fleet as it stands."""
        pages, gpus = {}, {}
        for name, replica in self._fleet.replicas.items():
            engine = replica.engine
            if engine is None:
                continue
            serving = EPOCH + replica.ready_at - self._shift
            pages[name] = render(engine, times=PageTimes(started=serving - LOADING_SECONDS, serving=serving))
            gpus[name] = self._facts(name, engine, at=at)
        return Scrape(
            time=EPOCH + at,
            pages=pages,
            gpus=gpus,
            starting_replicas=len(self._fleet.replicas) - len(pages),
            truth=self._regime.truth(at),
        )

    def _facts(self, name: str, engine: Engine, *, at: float) -> GpuFacts:
        metrics = engine.metrics
        before, busy, active = self._seen.get(name, (self._begin, 0.0, 0.0))
        self._seen[name] = (at, metrics.busy_seconds, metrics.sm_seconds)
        elapsed = max(at - before, 1e-9)
        # A step that ends after the scrape counts in the next window: without it a long step would exceed the time.
        return GpuFacts(
            utilization_ratio=min(1.0, (metrics.busy_seconds - busy) / elapsed),
            sm_active_ratio=min(1.0, (metrics.sm_seconds - active) / elapsed),
            memory_used_bytes=int(GPU_MEMORY_BYTES * engine.settings.gpu_memory_utilization),
            memory_total_bytes=GPU_MEMORY_BYTES,
            host_cpu_ratio=self._host_cpu,
        )

    def _change(self) -> None:
        while self._changes and self._changes[0].at <= self._now:
            change = self._changes.pop(0)
            self._host_cpu = change.host_cpu_ratio
            for replica in self._fleet.replicas.values():
                if replica.engine is None:
                    raise EngineError("a change finds a replica that does not serve yet")
                replica.engine.change(
                    host_seconds=change.host_seconds, remote_token_seconds=change.remote_token_seconds
                )

    def _ask(self) -> None:
        due = [(since, stream) for since, stream in self._free if since <= self._now]
        if not due:
            return
        self._free = [one for one in self._free if one[0] > self._now]
        for _, stream in due:
            if self._now < stream.end:
                arrival = self._arrival(0.0, stream)
                self._fleet.feed([arrival], begin=self._now + self._shift)

    def _again(self, request: Request) -> None:
        stream = self._clients.pop(request.answer, None)
        if stream is not None:
            self._free.append((self._now, stream))

    def _open(self, stream: Stream) -> Iterator[Arrival]:
        for at in stream.bursts:
            for _ in range(stream.burst):
                yield self._arrival(at + self._shift, stream)
        if not stream.rate:
            return
        at = max(self._begin, stream.begin)
        end = min(stream.end, self._regime.scrapes * self._regime.interval)
        while True:
            at += self._draw.expovariate(stream.rate)
            if at >= end:
                return
            yield self._arrival(at + self._shift, stream)

    def _arrival(self, at: float, stream: Stream) -> Arrival:
        self._number += 1
        draw = self._draw
        unique = draw.randint(*stream.prompt)
        parts = [(stream.tenant, stream.shared)] if stream.shared else []
        if stream.documents:
            document = int(stream.documents * draw.random() ** 2)
            parts.append((1_000 * stream.tenant + 1_000_000 + document, stream.document_tokens))
        identity = 1_000_000_000 + 2 * self._number
        content: Content = (*parts, (identity, unique))
        prompt = sum(tokens for _, tokens in content)
        if stream.clients:
            self._clients[identity + 1] = stream
        return Arrival(
            at=at,
            prompt=prompt,
            output=draw.randint(*stream.output),
            content=content,
            answer=identity + 1,
            adapter=f"adapter-{draw.randrange(stream.adapters)}" if stream.adapters else "",
            external=int(prompt * stream.external_share),
        )
