"""How one service is played: by a simulated fleet (with a trace or without), or by a recording.

A play is told which pods exist and what time it is (virtual seconds); it answers with metric pages, with what its
engines do to their GPUs, and with its own state. It never looks at the cluster or at a clock.
"""

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from optiinfra_sim.compare import Decision
from optiinfra_sim.door import Door
from optiinfra_sim.engine import Engine
from optiinfra_sim.errors import ScenarioError
from optiinfra_sim.fleet import Fleet
from optiinfra_sim.pages import PageTimes, render
from optiinfra_sim.replay import RecordedPage, Recording
from optiinfra_sim.settings import EngineSettings
from optiinfra_sim.trace import Arrival

MAX_DECISIONS = 10_000
MEASURE_SECONDS = 1.0
POLL_SECONDS = 0.05
RECORDED_MEMORY_RATIO = 0.92
RECORDED_BATCH_RATIO = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """How an engine loads the GPUs of its pod: what the simulated node agent reports."""

    busy_ratio: float
    batch_ratio: float
    memory_ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    """One service at one moment: what the control port and the record show. Counts begin with the trace."""

    service: str
    kind: str
    replicas: int
    starting: int
    serving: int
    running: float
    waiting: float
    kv_usage: float
    arrived: int = 0
    finished: int = 0
    rejected: int = 0
    late_share: float = 0.0
    ttft_p95: float | None = None
    replica_seconds: float = 0.0
    trace: str | None = None
    """What is played, in one sentence; None where there is no trace."""
    trace_length: float | None = None
    trace_seconds: float | None = None
    """Since the trace began; None before."""
    done: bool = False
    """Whether every request of the trace has been answered."""
    decisions: tuple[Decision, ...] = ()
    """Replicas asked for since the trace began, in seconds of the trace."""


class Play(Protocol):
    """One service, however it is played. Pods are known by their uid."""

    def join(self, uid: str, *, started: float) -> None:
        """A pod has appeared whose process started at that Unix time; nothing serves there yet."""

    def serve(self, uid: str, *, at: float) -> None:
        """The pod's engine will serve from that moment on."""

    def leave(self, uid: str) -> None:
        """The pod is gone, or going."""

    def advance(self, *, to: float) -> None:
        """Live through the time up to ``to``."""

    def page(self, uid: str) -> bytes | None:
        """The pod's metric page; None while nothing serves there."""

    def load(self, uid: str) -> EngineLoad | None:
        """What the pod's engine does to its GPUs; None while no model is loaded."""

    def state(self) -> ServiceState:
        """The service as it stands."""


@dataclass(slots=True)
class _Busy:
    """Share of time in which an engine computed, over the last second or more, as NVML would have seen it."""

    since: float
    seconds: float = 0.0
    ratio: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TracePlan:
    """The requests that a fleet will get."""

    arrivals: Sequence[Arrival]
    length: float
    description: str
    waits_for_command: bool
    initial_replicas: int


class FleetPlay:
    """Engines of the fleet model; without a plan nobody ever calls them."""

    def __init__(
        self,
        *,
        name: str,
        settings: EngineSettings,
        epoch: float,
        late_after: float,
        plan: TracePlan | None,
    ) -> None:
        self._name = name
        self._settings = settings
        self._epoch = epoch
        self._plan = plan
        self._fleet = Fleet(settings=settings, late_after=late_after)
        self._begun: float | None = None
        self._seconds_before = 0.0
        self._decisions: deque[Decision] = deque(maxlen=MAX_DECISIONS)
        self._started: dict[str, float] = {}
        self._serving: dict[str, float] = {}
        self._busy: dict[str, _Busy] = {}

    def join(self, uid: str, *, started: float) -> None:
        """A pod has appeared; its model is loading."""
        self._fleet.add(uid, ready_at=math.inf)
        self._started[uid] = started
        self._note_decision()

    def serve(self, uid: str, *, at: float) -> None:
        """The pod's engine will serve from that moment on."""
        self._fleet.ready(uid, at=at)
        # An engine that loaded before the simulator began has counted since now, and says so.
        self._serving[uid] = max(at, self._fleet.now)

    def leave(self, uid: str) -> None:
        """The pod is gone: its queue is routed again, its batch has its grace period."""
        self._fleet.remove(uid)
        del self._started[uid]
        self._serving.pop(uid, None)
        self._busy.pop(uid, None)
        self._note_decision()

    def advance(self, *, to: float) -> None:
        """Live through the time up to ``to``; begin the trace where it waits for replicas only."""
        self._fleet.advance(to=to)
        plan = self._plan
        waiting = plan is not None and self._begun is None and not plan.waits_for_command
        if plan is not None and waiting and len(self._fleet.in_flight()) >= plan.initial_replicas:
            self.begin()
        for uid in self._serving:
            engine = self._engine(uid)
            if engine is None:
                continue
            busy = self._busy.setdefault(uid, _Busy(since=engine.now))
            elapsed = to - busy.since
            if elapsed >= MEASURE_SECONDS:
                seconds = engine.metrics.busy_seconds
                busy.ratio = min(1.0, (seconds - busy.seconds) / elapsed)
                busy.seconds, busy.since = seconds, to

    def begin(self) -> None:
        """Let the trace begin now."""
        if self._plan is None:
            raise ScenarioError(f"service {self._name!r} has no trace to begin")
        if self._begun is not None:
            raise ScenarioError(f"the trace of service {self._name!r} has begun already")
        self._begun = self._fleet.now
        self._seconds_before = self._fleet.state().replica_seconds
        self._fleet.feed(self._plan.arrivals, begin=self._begun)
        self._note_decision()

    def page(self, uid: str) -> bytes | None:
        """The pod's metric page; None while nothing serves there."""
        engine = self._engine(uid)
        if engine is None:
            return None
        times = PageTimes(started=self._started[uid], serving=self._epoch + self._serving[uid])
        return render(engine, times=times)

    def door(self, uid: str) -> Door | None:
        """The pod's engine for the completions API; None while nothing serves there."""
        if self._engine(uid) is None:
            return None
        created = self._epoch + self._serving[uid]
        return Door(self._fleet, created=created, replica=uid, tick=_next_tick)

    def load(self, uid: str) -> EngineLoad | None:
        """What the pod's engine does to its GPUs; None while no model is loaded."""
        engine = self._engine(uid)
        if engine is None:
            return None
        busy = self._busy.get(uid)
        return EngineLoad(
            busy_ratio=busy.ratio if busy is not None else 0.0,
            batch_ratio=engine.running / self._settings.max_num_seqs,
            memory_ratio=self._settings.gpu_memory_utilization,
        )

    def state(self) -> ServiceState:
        """The service as it stands."""
        fleet = self._fleet.state()
        plan, begun = self._plan, self._begun
        return ServiceState(
            service=self._name,
            kind="idle" if plan is None else "simulated",
            replicas=fleet.starting + fleet.serving,
            starting=fleet.starting,
            serving=fleet.serving,
            running=fleet.running,
            waiting=fleet.waiting,
            kv_usage=fleet.kv_usage,
            arrived=fleet.arrived,
            finished=fleet.finished,
            rejected=fleet.rejected,
            late_share=fleet.late_share,
            ttft_p95=fleet.ttft_p95,
            replica_seconds=fleet.replica_seconds - self._seconds_before,
            trace=None if plan is None else plan.description,
            trace_length=None if plan is None else plan.length,
            trace_seconds=None if begun is None else fleet.time - begun,
            done=begun is not None and fleet.trace_finished,
            decisions=tuple(self._decisions),
        )

    def _engine(self, uid: str) -> Engine | None:
        replica = self._fleet.replicas.get(uid)
        return None if replica is None else replica.engine

    def _note_decision(self) -> None:
        if self._begun is None:
            return
        decision = Decision(self._fleet.now - self._begun, len(self._fleet.replicas))
        # Pods that come and go in one look at the cluster are one decision.
        while self._decisions and self._decisions[-1].time == decision.time:
            self._decisions.pop()
        if not self._decisions or self._decisions[-1].replicas != decision.replicas:
            self._decisions.append(decision)


async def _next_tick() -> None:
    """Whoever advances the stage does so ten times a second."""
    await asyncio.sleep(POLL_SECONDS)


class RecordedPlay:
    """Every pod plays the recording from the moment at which it serves."""

    def __init__(self, *, name: str, recording: Recording) -> None:
        self._name = name
        self._recording = recording
        self._now = 0.0
        self._serves: dict[str, float] = {}

    def join(self, uid: str, *, started: float) -> None:
        """A pod has appeared."""
        del started
        self._serves[uid] = math.inf

    def serve(self, uid: str, *, at: float) -> None:
        """The recording begins there at that moment."""
        self._serves[uid] = at

    def leave(self, uid: str) -> None:
        """The pod is gone."""
        del self._serves[uid]

    def advance(self, *, to: float) -> None:
        """Nothing happens but time."""
        self._now = to

    def page(self, uid: str) -> bytes | None:
        """The recorded page that is due; None while nothing serves there."""
        page = self._page(uid)
        return None if page is None else page.body

    def load(self, uid: str) -> EngineLoad | None:
        """A CPU recording says nothing about GPUs: an engine with requests in its batch counts as busy."""
        page = self._page(uid)
        if page is None:
            return None
        busy = 1.0 if page.running else 0.0
        return EngineLoad(
            busy_ratio=busy,
            batch_ratio=busy * RECORDED_BATCH_RATIO,
            memory_ratio=RECORDED_MEMORY_RATIO,
        )

    def state(self) -> ServiceState:
        """The service as it stands: sums over its pods."""
        pages = [page for uid in self._serves if (page := self._page(uid)) is not None]
        return ServiceState(
            service=self._name,
            kind="recorded",
            replicas=len(self._serves),
            starting=len(self._serves) - len(pages),
            serving=len(pages),
            running=sum(page.running for page in pages),
            waiting=sum(page.waiting for page in pages),
            kv_usage=sum(page.kv_usage for page in pages) / len(pages) if pages else 0.0,
        )

    def _page(self, uid: str) -> RecordedPage | None:
        elapsed = self._now - self._serves.get(uid, math.inf)
        return self._recording.page(elapsed=elapsed) if elapsed >= 0 else None
