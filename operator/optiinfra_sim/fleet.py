"""Several simulated replicas of one service behind a router, driven by a request trace, in virtual time.

A router chooses a serving replica for each request and, like a real gateway, does not move it later. A replica that
is removed takes nothing new: its queue is routed again at once, its batch has a grace period as a terminating pod has,
then starts over elsewhere. Requests that find no serving replica wait at the router. Everything that happens is counted
here, where no replica's end can lose it.
No clock, no I/O; the trace is a list.
"""

import enum
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from optiinfra_sim.engine import Engine
from optiinfra_sim.errors import EngineError
from optiinfra_sim.request import Request
from optiinfra_sim.routing import Candidate, Router, Routing
from optiinfra_sim.settings import EngineSettings
from optiinfra_sim.trace import Arrival

LATE_AFTER_SECONDS = 10.0
DRAIN_SECONDS = 30.0


class ReplicaState(enum.Enum):
    """Where a replica is in its life."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


@dataclass(slots=True, eq=False)
class Replica:
    """One replica: an engine from the moment at which it serves, nothing before."""

    name: str
    added: float
    ready_at: float
    engine: Engine | None = None
    drain_until: float | None = None

    @property
    def state(self) -> ReplicaState:
        """Starting, serving or draining."""
        if self.drain_until is not None:
            return ReplicaState.DRAINING
        return ReplicaState.STARTING if self.engine is None else ReplicaState.SERVING


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetState:
    """The fleet at one moment, with everything counted since its beginning."""

    time: float
    starting: int
    serving: int
    draining: int
    running: int
    waiting: int
    kv_usage: float
    """Mean over the serving replicas; 0 where there is none."""
    arrived: int
    finished: int
    rejected: int
    """Requests longer than the model's context: a real engine answers 400."""
    work_arrived: int
    work_late: int
    late_share: float
    """Share of the arrived work that waited, or has by now waited, longer than the limit."""
    ttft_p95: float | None
    """Seconds, over all first tokens so far; None before the first one."""
    replica_seconds: float
    preemptions: int
    trace_finished: bool


class Fleet:
    """All replicas of one service and what they were asked to do."""

    def __init__(
        self,
        *,
        settings: EngineSettings,
        arrivals: Sequence[Arrival] = (),
        now: float = 0.0,
        late_after: float = LATE_AFTER_SECONDS,
        drain_seconds: float = DRAIN_SECONDS,
        routing: Routing = Routing.LEAST_LOADED,
        on_finished: Callable[[Request], None] | None = None,
    ) -> None:
        self.settings = settings
        self._on_finished = on_finished
        self._router = Router(routing, block_size=settings.block_size)
        self.now = now
        self.replicas: dict[str, Replica] = {}
        self._draining: list[Replica] = []
        self._late_after = late_after
        self._drain_seconds = drain_seconds
        self._incoming: deque[Arrival] = deque()
        self._backlog: deque[Request] = deque()
        self._number = 0
        self._arrived = 0
        self._finished = 0
        self._rejected = 0
        self._work_arrived = 0
        self._work_late = 0
        self._first_tokens: list[float] = []
        self._replica_seconds = 0.0
        self._preemptions_gone = 0
        self.feed(arrivals, begin=now)

    def feed(self, arrivals: Sequence[Arrival], *, begin: float) -> None:
        """Let a trace begin at ``begin``; what was fed before goes on."""
        if begin < self.now:
            raise EngineError(f"a trace cannot begin at {begin}: it is {self.now} already")
        shifted = (replace(arrival, at=begin + arrival.at) for arrival in arrivals)
        self._incoming = deque(heapq.merge(self._incoming, shifted, key=lambda arrival: arrival.at))

    def submit(self, arrival: Arrival, *, to: str | None = None) -> Request:
        """Hand in one request now, through the router or straight to a serving replica; raises where it cannot fit."""
        if arrival.prompt + (arrival.limit or arrival.output) > self.settings.max_model_len:
            raise EngineError(f"longer than max_model_len {self.settings.max_model_len}")
        request = self._new_request(replace(arrival, at=self.now))
        self._arrived += 1
        self._work_arrived += request.work
        if to is None:
            self._route(request)
            return request
        engine = self.replicas[to].engine if to in self.replicas else None
        if engine is None:
            raise EngineError(f"replica {to} does not serve")
        engine.submit(request)
        return request

    def generated(self, request: Request) -> int:
        """Tokens that a request of :meth:`submit` has got so far."""
        return max((engine.generated(request) for engine in self._engines()), default=request.generated)

    def abort(self, request: Request) -> None:
        """Forget a request whose client is gone."""
        if request in self._backlog:
            self._backlog.remove(request)
        for engine in self._engines():
            engine.abort(request)

    def _engines(self) -> list[Engine]:
        every = itertools.chain(self.replicas.values(), self._draining)
        return [replica.engine for replica in every if replica.engine is not None]

    def add(self, name: str, *, ready_at: float) -> Replica:
        """A replica that exists from now and serves from ``ready_at``."""
        if name in self.replicas:
            raise EngineError(f"there is a replica {name} already")
        replica = Replica(name=name, added=self.now, ready_at=max(ready_at, self.now))
        self.replicas[name] = replica
        if replica.ready_at <= self.now:
            self._serve(replica)
        return replica

    def ready(self, name: str, *, at: float) -> None:
        """Say when a starting replica will serve; ``add`` may have left it open with infinity."""
        replica = self.replicas[name]
        if replica.engine is None:
            replica.ready_at = max(at, self.now)

    def remove(self, name: str) -> None:
        """Take a replica out of the routing and drain it."""
        replica = self.replicas.pop(name)
        if replica.engine is None:
            return
        orphans = replica.engine.drain_queue()
        replica.drain_until = self.now + self._drain_seconds
        self._draining.append(replica)
        for request in orphans:
            self._route(request)

    def advance(self, *, to: float) -> None:
        """Live through the time up to ``to``."""
        if to < self.now:
            raise EngineError(f"time cannot run backwards: at {self.now}, asked for {to}")
        while True:
            moment = min(to, self._next_event())
            self._replica_seconds += (moment - self.now) * (len(self.replicas) + len(self._draining))
            self.now = moment
            for replica in itertools.chain(self.replicas.values(), self._draining):
                if replica.engine is not None:
                    replica.engine.advance(to=moment, settle=moment >= to)
            self._settle()
            if moment >= to:
                return

    def state(self) -> FleetState:
        """Everything worth showing, as it stands."""
        engines = [replica.engine for replica in self.replicas.values() if replica.engine is not None]
        drained = [replica.engine for replica in self._draining if replica.engine is not None]
        late = self._work_late + sum(request.work for request in self._overdue())
        return FleetState(
            time=self.now,
            starting=len(self.replicas) - len(engines),
            serving=len(engines),
            draining=len(self._draining),
            running=sum(engine.running for engine in engines),
            waiting=sum(engine.waiting for engine in engines) + len(self._backlog),
            kv_usage=float(np.mean([engine.kv_usage for engine in engines])) if engines else 0.0,
            arrived=self._arrived,
            finished=self._finished,
            rejected=self._rejected,
            work_arrived=self._work_arrived,
            work_late=late,
            late_share=late / self._work_arrived if self._work_arrived else 0.0,
            ttft_p95=float(np.percentile(self._first_tokens, 95)) if self._first_tokens else None,
            replica_seconds=self._replica_seconds,
            preemptions=self._preemptions_gone + sum(engine.metrics.preemptions for engine in (*engines, *drained)),
            trace_finished=not self._incoming and self._finished == self._arrived - self._rejected,
        )

    def in_flight(self) -> dict[str, int]:
        """Requests running and waiting on every serving replica, by its name: what a plain scaler looks at."""
        return {
            name: replica.engine.running + replica.engine.waiting
            for name, replica in self.replicas.items()
            if replica.engine is not None
        }

    def _next_event(self) -> float:
        events = [replica.ready_at for replica in self.replicas.values() if replica.engine is None]
        events += [replica.drain_until for replica in self._draining if replica.drain_until is not None]
        if self._incoming:
            events.append(self._incoming[0].at)
        return min(events, default=float("inf"))

    def _settle(self) -> None:
        """Everything that is due at this very moment: ends before starts, starts before arrivals."""
        for replica in list(self._draining):
            engine = replica.engine
            if engine is None or replica.drain_until is None:
                raise EngineError(f"replica {replica.name} drains without an engine")
            if engine.running and self.now < replica.drain_until:
                continue
            self._draining.remove(replica)
            self._preemptions_gone += engine.metrics.preemptions
            for request in engine.evict():
                self._route(request)
        for replica in list(self.replicas.values()):
            if replica.engine is None and replica.ready_at <= self.now:
                self._serve(replica)
        while self._incoming and self._incoming[0].at <= self.now:
            self._arrive(self._incoming.popleft())

    def _serve(self, replica: Replica) -> None:
        replica.engine = Engine(
            settings=self.settings,
            now=self.now,
            on_scheduled=self._scheduled,
            on_first_token=self._answered,
            on_finished=self._done,
        )
        while self._backlog:
            replica.engine.submit(self._backlog.popleft())

    def _arrive(self, arrival: Arrival) -> None:
        self._arrived += 1
        if arrival.prompt + (arrival.limit or arrival.output) > self.settings.max_model_len:
            self._rejected += 1
            return
        request = self._new_request(arrival)
        self._work_arrived += request.work
        self._route(request)

    def _new_request(self, arrival: Arrival) -> Request:
        self._number += 1
        return Request(
            number=self._number,
            arrival=arrival.at,
            prompt=arrival.prompt,
            output=arrival.output,
            limit=arrival.limit,
            content=arrival.content,
            answer=arrival.answer,
            adapter=arrival.adapter,
            external=arrival.external,
        )

    def _route(self, request: Request) -> None:
        serving = {name: replica.engine for name, replica in self.replicas.items() if replica.engine is not None}
        if serving:
            candidates = [Candidate(name, engine.outstanding) for name, engine in serving.items()]
            serving[self._router.choose(request, candidates)].submit(request)
        else:
            self._backlog.append(request)

    def _overdue(self) -> list[Request]:
        limit = self.now - self._late_after
        queues = [self._backlog, *(r.engine.queued() for r in self.replicas.values() if r.engine is not None)]
        return [
            request
            for request in itertools.chain.from_iterable(queues)
            if request.arrival < limit and request.scheduled_at is None and request.restarts == 0
        ]

    def _scheduled(self, request: Request) -> None:
        if request.scheduled_at is None or request.restarts:
            return
        if request.scheduled_at - request.arrival > self._late_after:
            self._work_late += request.work

    def _answered(self, request: Request) -> None:
        if request.restarts == 0 and request.first_token_at is not None:
            self._first_tokens.append(request.first_token_at - request.arrival)

    def _done(self, request: Request) -> None:
        self._finished += 1
        if self._on_finished is not None:
            self._on_finished(request)
