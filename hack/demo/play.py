"""The sequence of events: wait until all is ready, begin the load, kill the operator in its rise, look until it fell.

One look a second. The play changes nothing but what it says: it begins the load, and it kills and restarts the
operator. Everything else that happens is OptiInfra's doing and Kubernetes'. Its result is what was seen, to be judged
elsewhere.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hack.demo.errors import DemoError
from hack.demo.stage import BUSY, Say, Stage
from hack.demo.watch import Eyes, Sight

LOOK_SECONDS = 1.0
READY_SECONDS = 90.0
AWAY_SECONDS = 5.0
"""Between kill and restart: about what a kubelet takes to start a container again."""
KILL_AT_THE_LATEST = 20.0
"""Seconds of the trace, which rises from 35 to 85 s: at the first scale-up, or just before the rise."""
TAIL_SECONDS = 90.0
"""After the trace: the horizon of the comparison, see the scenario."""
FALL_SECONDS = 120.0
"""On top, where replicas have not fallen to half of their peak by then: how fast they fall depends on the machine."""
LEAD_SECONDS = 60.0

Show = Callable[[Sight, str], None]


@dataclass(kw_only=True)
class Outage:
    """The operator's death and return. Monotonic seconds."""

    killed_at: float
    killed_pid: int
    replicas: int
    """Of the busy service at that moment."""
    trace_seconds: float
    restarted_at: float | None = None
    new_pid: int | None = None
    leading_at: float | None = None
    metric_back_at: float | None = None
    replicas_meanwhile: set[int] = field(default_factory=set)
    """Replica counts seen while the metric was away."""
    scaler_reasons: set[str] = field(default_factory=set)
    """Reasons of the HPA's ScalingActive seen meanwhile."""

    @property
    def without_metric(self) -> float | None:
        """How long the HPA had nothing to follow."""
        return None if self.metric_back_at is None else self.metric_back_at - self.killed_at

    def describe(self, now: float) -> str:
        """The state in one line, for the table."""
        if self.restarted_at is None:
            return f"KILLED {now - self.killed_at:.0f} s ago (SIGKILL); the HPA holds what runs"
        if self.leading_at is None:
            return f"restarted {now - self.restarted_at:.0f} s ago (pid {self.new_pid}), takes the Lease"
        if self.metric_back_at is None:
            return f"leads again (pid {self.new_pid}), measures before it decides; the HPA holds what runs"
        return f"leads (pid {self.new_pid}), killed and back: {self.without_metric:.0f} s without a metric"


@dataclass(kw_only=True)
class History:
    """All that was seen."""

    sights: list[Sight] = field(default_factory=list)
    outage: Outage | None = None

    @property
    def begun(self) -> list[Sight]:
        """What was seen since the load began."""
        return [sight for sight in self.sights if sight.trace is not None and sight.trace.seconds is not None]

    @property
    def counts(self) -> list[int]:
        """The replicas asked for of the busy service since the load began."""
        return [sight.services[BUSY].replicas for sight in self.begun if BUSY in sight.services]

    @property
    def fell(self) -> bool:
        """True when at most half of the most replicas are left."""
        counts = self.counts
        return bool(counts) and 0 < counts[-1] <= max(counts) / 2


class Play:
    """One performance."""

    def __init__(self, stage: Stage, *, show: Show, say: Say) -> None:
        self._stage = stage
        self._eyes = Eyes(stage, busy=BUSY)
        self._show = show
        self._say = say
        self.history = History()

    def perform(self) -> History:
        """Play it all; raise DemoError where it cannot go on."""
        began = time.monotonic()
        self._until_ready()
        self._say(f"everything is ready after {time.monotonic() - began:.0f} s; the load of {BUSY} begins")
        self._stage.begin_load()
        while not self._over(self._next()):
            self._kill_when_due()
            self._restart_when_due()
        return self.history

    def _until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            sight = self._next()
            missing = not_ready(sight)
            if not missing:
                return
            if time.monotonic() > deadline:
                seen = "; ".join([*missing, *sight.troubles])
                raise DemoError(f"not ready after {READY_SECONDS:.0f} s: {seen}; logs: {self._stage.programs.folder}")

    def _next(self) -> Sight:
        last = self.history.sights[-1].at if self.history.sights else None
        if last is not None:
            time.sleep(max(0.0, last + LOOK_SECONDS - time.monotonic()))
        self._stage.programs.demand()
        sight = self._eyes.look()
        self.history.sights.append(sight)
        self._note_outage(sight)
        self._show(sight, self._operator_state(sight))
        return sight

    def _operator_state(self, sight: Sight) -> str:
        if self.history.outage is not None:
            return self.history.outage.describe(sight.at)
        pid = self._stage.programs["operator"].pid
        return f"leads (pid {pid})" if sight.leading else f"starts (pid {pid})"

    def _kill_when_due(self) -> None:
        sights = self.history.begun
        if self.history.outage is not None or len(sights) < 2:
            return
        before, now = (sight.services.get(BUSY) for sight in sights[-2:])
        trace = sights[-1].trace
        assert trace is not None
        assert trace.seconds is not None
        if before is None or now is None:
            return
        rises = now.replicas > before.replicas
        if not rises and trace.seconds < KILL_AT_THE_LATEST:
            return
        pid = self._stage.programs["operator"].pid
        killed_at = self._stage.programs.kill("operator")
        self.history.outage = Outage(
            killed_at=killed_at, killed_pid=pid, replicas=now.replicas, trace_seconds=trace.seconds
        )
        self._say(
            f"the operator (pid {pid}) is killed with SIGKILL while {now.replicas} replicas of {BUSY} run or start"
        )

    def _restart_when_due(self) -> None:
        outage = self.history.outage
        if outage is None or outage.restarted_at is not None or time.monotonic() < outage.killed_at + AWAY_SECONDS:
            return
        self._stage.start_operator()
        outage.restarted_at = time.monotonic()
        outage.new_pid = self._stage.programs["operator"].pid
        self._say(f"the operator is started again (pid {outage.new_pid})")

    def _note_outage(self, sight: Sight) -> None:
        outage = self.history.outage
        if outage is None or outage.metric_back_at is not None:
            return
        if outage.restarted_at is not None:
            if sight.leading and outage.leading_at is None:
                outage.leading_at = sight.at
            if outage.leading_at is None and sight.at > outage.restarted_at + LEAD_SECONDS:
                log = self._stage.programs.log("operator")
                raise DemoError(f"the new operator does not lead after {LEAD_SECONDS:.0f} s; its log: {log}")
            if sight.leading and sight.metric is not None:
                outage.metric_back_at = sight.at
                self._say(f"the decision is served again, {outage.without_metric:.0f} s after the kill")
                return
        busy = sight.services.get(BUSY)
        if busy is not None:
            outage.replicas_meanwhile.add(busy.replicas)
        if sight.scaler is not None:
            outage.scaler_reasons.add(sight.scaler.reason)

    def _over(self, sight: Sight) -> bool:
        trace = sight.trace
        if trace is None or trace.seconds is None or trace.seconds < trace.length + TAIL_SECONDS:
            return False
        return self.history.fell or trace.seconds >= trace.length + TAIL_SECONDS + FALL_SECONDS


def not_ready(sight: Sight) -> list[str]:
    """What is missing before the load may begin."""
    missing = []
    if not sight.leading:
        missing.append("the operator does not lead")
    if len(sight.services) != 3:
        missing.append(f"{len(sight.services)} of 3 services are seen")
    missing += [
        f"ResourceOptimization {service.name} is not Ready" for service in sight.services.values() if not service.ready
    ]
    if sight.scaler is None:
        missing.append(f"no HorizontalPodAutoscaler for {BUSY}")
    elif not sight.scaler.active:
        missing.append(f"ScalingActive of {sight.scaler.name} is not True ({sight.scaler.reason})")
    return missing
