"""Simulated replicas behind a router, on steps of 5 s: what the second judge has instead of a fluid queue.

Each replica is one engine of `optiinfra_sim` (continuous batching, KV blocks, preemption). A replica asked for is paid
from then on and serves after the start-up. A request goes to the serving replica with the fewest unanswered ones (or in
turn) and stays there, as behind a plain Service; with `gateway` it waits at the router instead until a replica has
room, as behind an inference gateway that holds its own queue. Giving back takes the newest starting ones first, then
the newest serving ones: those take nothing new, finish all they have, and are paid until they are gone. Where nothing
serves, requests wait at the router.
Nothing here decides, and nothing looks ahead: requests are handed over as they arrive.
"""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from bench.scaling_judge_requests import Requests
from optiinfra.domain.replay.fluid import STEP_S, FloatArray
from optiinfra_sim.engine import Engine
from optiinfra_sim.histogram import Histogram
from optiinfra_sim.request import Request
from optiinfra_sim.routing import Routing
from optiinfra_sim.settings import EngineSettings

ROOM = 2
"""Requests that may wait in a replica's own queue before a gateway holds further ones back."""
FINE = tuple(float(bound) for bound in np.geomspace(0.002, 20.0, 240))
"""Bounds of the histogram of inter-token latencies: four per cent apart."""


class SharedHistogram(Histogram):
    """An engine's own histogram that also fills one of the whole fleet."""

    __slots__ = ("fleet",)

    def __init__(self, bounds: tuple[float, ...], fleet: Histogram) -> None:
        super().__init__(bounds)
        self.fleet = fleet

    def observe(self, value: float, *, times: int = 1) -> None:
        """Add a value to both."""
        super().observe(value, times=times)
        self.fleet.observe(value, times=times)


@dataclass(slots=True, eq=False)
class Replica:
    """One replica; its engine exists from the moment at which it serves."""

    number: int
    asked_s: float
    ready_s: float
    engine: Engine | None = None
    done_s: float = 0.0
    """When it last finished a request."""


@dataclass(frozen=True, slots=True)
class Look:
    """The fleet at the end of a step."""

    serving: int
    starting: int
    draining: int
    waiting_work: float
    """Work of the requests that no batch has taken yet."""
    waiting: int
    """Requests in the queues of the serving replicas and at the router."""
    in_flight: int
    kv_use: float
    """Mean over the serving replicas; 0 where there is none."""


@dataclass(slots=True)
class Replicas:
    """All replicas of one service. Times in seconds since the beginning of the requests."""

    settings: EngineSettings
    requests: Requests
    start_up_s: float
    routing: Routing = Routing.LEAST_LOADED
    gateway: bool = False
    """Whether what no replica has room for waits at the router, where every replica can take it from."""
    now: float = 0.0
    serving: list[Replica] = field(default_factory=list)
    starting: list[Replica] = field(default_factory=list)
    draining: list[Replica] = field(default_factory=list)
    first_token: FloatArray = field(init=False)
    """(requests,): seconds from arrival to the first token, infinite while there is none."""
    inter_token: Histogram = field(init=False)
    paid_s: float = 0.0
    """Replica-seconds so far."""
    finished: int = 0
    preemptions: int = 0
    waiting_work: float = 0.0
    _next: int = 0
    _number: int = 0
    _turn: int = 0
    _router: deque[Request] = field(default_factory=deque)
    _work: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        self.first_token = np.full(len(self.requests), np.inf)
        self.inter_token = Histogram(FINE)
        self._work = self.requests.work

    @property
    def asked(self) -> int:
        """Replicas asked for: serving and starting."""
        return len(self.serving) + len(self.starting)

    def begin(self, replicas: int) -> None:
        """Let so many serve from the beginning."""
        for _ in range(replicas):
            self._serve(self._new(ready_s=self.now))

    def order(self, replicas: int) -> None:
        """Ask for a number of replicas now; limits are the caller's matter."""
        while self.asked < replicas:
            self.starting.append(self._new(ready_s=self.now + self.start_up_s))
        while self.asked > replicas:
            if self.starting:
                self.starting.pop()
                continue
            gone = self.serving.pop()
            if gone.engine is not None and gone.engine.outstanding:
                self.draining.append(gone)
            else:
                self._leave(gone)

    def step(self) -> Look:
        """Live through 5 s."""
        end = self.now + STEP_S
        while self.starting and self.starting[0].ready_s <= self.now + 1e-9:
            self._serve(self.starting.pop(0))
        at = self.requests.at
        while self._next < len(at) and at[self._next] < end:
            request = self._request(self._next)
            self._next += 1
            if self.gateway and self._router:
                self._router.append(request)
                self._hand_out(at=request.arrival)
            else:
                self._route(request)
        for replica in (*self.serving, *self.draining):
            if replica.engine is not None:
                replica.engine.advance(to=end, settle=False)
        self.paid_s += self.asked * STEP_S
        for replica in list(self.draining):
            if replica.engine is not None and replica.engine.outstanding:
                self.paid_s += STEP_S
                continue
            self.paid_s += max(0.0, replica.done_s - self.now)
            self.draining.remove(replica)
            self._leave(replica)
        self.now = end
        self._hand_out(at=end)
        return self._look()

    def engines(self) -> dict[str, Engine]:
        """The serving engines by the name of their replica: what can be scraped."""
        return {f"replica-{one.number}": one.engine for one in self.serving if one.engine is not None}

    def _new(self, *, ready_s: float) -> Replica:
        self._number += 1
        return Replica(self._number, self.now, ready_s)

    def _serve(self, replica: Replica) -> None:
        def finished(request: Request) -> None:
            del request
            self.finished += 1
            replica.done_s = engine.now

        engine = Engine(
            settings=self.settings,
            now=self.now,
            on_scheduled=self._scheduled,
            on_first_token=self._first,
            on_finished=finished,
        )
        own = engine.metrics.inter_token_latency
        engine.metrics.inter_token_latency = SharedHistogram(own.bounds, self.inter_token)
        replica.engine = engine
        self.serving.append(replica)
        self._hand_out(at=self.now)

    def _leave(self, replica: Replica) -> None:
        if replica.engine is not None:
            self.preemptions += replica.engine.metrics.preemptions

    def _request(self, index: int) -> Request:
        self.waiting_work += float(self._work[index])
        return Request(
            number=index,
            arrival=float(self.requests.at[index]),
            prompt=int(self.requests.prompt[index]),
            output=int(self.requests.output[index]),
            content=self.requests.content_of(index),
        )

    def _hand_out(self, *, at: float) -> None:
        """Give out what waits at the router, oldest first, as long as somebody takes it."""
        while self._router:
            engine = self._chosen(at)
            if engine is None:
                return
            engine.submit(self._router.popleft())

    def _route(self, request: Request) -> None:
        engine = self._chosen(max(request.arrival, self.now))
        if engine is None:
            self._router.append(request)
        else:
            engine.submit(request)

    def _chosen(self, at: float) -> Engine | None:
        """The replica that gets the next request; None where nothing serves, or none has room behind a gateway."""
        if self.routing is Routing.ROUND_ROBIN and self.serving:
            self._turn += 1
            return self.serving[self._turn % len(self.serving)].engine
        fewest: Engine | None = None
        least = -1
        for replica in self.serving:
            engine = replica.engine
            assert engine is not None
            engine.advance(to=at, settle=False)
            owed = engine.outstanding
            if (fewest is None or owed < least) and not (self.gateway and engine.waiting >= ROOM):
                fewest, least = engine, owed
        return fewest

    def _scheduled(self, request: Request) -> None:
        self.waiting_work -= float(self._work[request.number])

    def _first(self, request: Request) -> None:
        assert request.first_token_at is not None
        self.first_token[request.number] = request.first_token_at - request.arrival

    def _look(self) -> Look:
        engines = [replica.engine for replica in self.serving if replica.engine is not None]
        return Look(
            serving=len(engines),
            starting=len(self.starting),
            draining=len(self.draining),
            waiting_work=max(self.waiting_work, 0.0),
            waiting=sum(engine.waiting for engine in engines) + len(self._router),
            in_flight=sum(engine.outstanding for engine in engines) + len(self._router),
            kv_use=float(np.mean([engine.kv_usage for engine in engines])) if engines else 0.0,
        )

    @property
    def all_preemptions(self) -> int:
        """Preemptions so far, of replicas that are gone as well."""
        here = sum(one.engine.metrics.preemptions for one in (*self.serving, *self.draining) if one.engine is not None)
        return self.preemptions + here
