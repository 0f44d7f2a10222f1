"""What the same fleet and the same trace would have cost under another scaler. Pure, offline, in virtual time.

Every run uses the very fleet model that serves the metric pages, so that two outcomes differ only in their replica
decisions. The HPA is written to the text of Kubernetes' own controller (missing pods, tolerance, stabilisation,
default behaviour), and it sees the freshest possible metric, which flatters it. Costs are counted over one fixed
horizon, starting replicas included, so that nobody wins by letting work lie.
"""

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from optiinfra_sim.errors import ScenarioError
from optiinfra_sim.fleet import LATE_AFTER_SECONDS, Fleet
from optiinfra_sim.settings import EngineSettings
from optiinfra_sim.trace import Arrival

SCALE_UP_PODS = 4
SCALE_UP_FACTOR = 2
POLICY_PERIOD_SECONDS = 15.0
STABILISATION_SECONDS = 300.0
HOLDS_LATE_SHARE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What every compared scaler is put in front of."""

    settings: EngineSettings
    arrivals: Sequence[Arrival]
    startup_seconds: float
    horizon_seconds: float
    initial_replicas: int
    min_replicas: int
    max_replicas: int
    gpus_per_replica: int
    late_after_seconds: float = LATE_AFTER_SECONDS


@dataclass(frozen=True, slots=True)
class Decision:
    """Replicas asked for from one moment on."""

    time: float
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one scaler cost and what it did to the requests."""

    name: str
    replica_seconds: float
    gpu_hours: float
    late_share: float
    ttft_p95: float | None
    peak_replicas: int
    arrived: int
    finished: int
    series: tuple[Decision, ...]


class Scaler(Protocol):
    """Decides a replica count every ``sync_seconds``."""

    name: str
    sync_seconds: float

    def decide(self, *, now: float, replicas: int, in_flight: Sequence[int]) -> int:
        """The count wanted, given the present one and the requests in flight on each serving replica."""


@dataclass(slots=True)
class Static:
    """Always the same count."""

    replicas: int
    name: str = field(init=False)
    sync_seconds: float = POLICY_PERIOD_SECONDS

    def __post_init__(self) -> None:
        self.name = f"static {self.replicas} replicas"

    def decide(self, *, now: float, replicas: int, in_flight: Sequence[int]) -> int:
        """The count it was made for."""
        del now, replicas, in_flight
        return self.replicas


@dataclass(slots=True)
class Recorded:
    """The decisions that were really taken, replayed at their times."""

    decisions: Sequence[Decision]
    name: str = "decisions as they were taken"
    sync_seconds: float = 1.0

    def decide(self, *, now: float, replicas: int, in_flight: Sequence[int]) -> int:
        """The last decision that was due by now."""
        del in_flight
        due = [decision.replicas for decision in self.decisions if decision.time <= now]
        return due[-1] if due else replicas


@dataclass(slots=True)
class PlainHpa:
    """A HorizontalPodAutoscaler on requests in flight per replica, with Kubernetes' defaults."""

    target: float
    min_replicas: int
    max_replicas: int
    sync_seconds: float = 15.0
    stabilisation_seconds: float = STABILISATION_SECONDS
    tolerance: float = 0.1
    name: str = field(init=False)
    _recommended: deque[Decision] = field(init=False, default_factory=deque)
    _added: deque[Decision] = field(init=False, default_factory=deque)

    def __post_init__(self) -> None:
        self.name = (
            f"HPA on requests in flight per replica, target {self.target:g}, sync {self.sync_seconds:g} s, "
            f"stabilisation {self.stabilisation_seconds:g} s"
        )

    def decide(self, *, now: float, replicas: int, in_flight: Sequence[int]) -> int:
        """One sync: formula, bounds, stabilisation of the fall, limit of the rise."""
        if not self._recommended:
            self._recommended.append(Decision(now, replicas))
        proposed = self._formula(replicas=replicas, in_flight=in_flight)
        proposed = min(max(proposed, self.min_replicas), self.max_replicas)
        while self._recommended and self._recommended[0].time <= now - self.stabilisation_seconds:
            self._recommended.popleft()
        self._recommended.append(Decision(now, proposed))
        if proposed < replicas:
            highest = max(decision.replicas for decision in self._recommended)
            return min(highest, replicas)
        if proposed == replicas:
            return replicas
        while self._added and self._added[0].time <= now - POLICY_PERIOD_SECONDS:
            self._added.popleft()
        at_period_start = replicas - sum(decision.replicas for decision in self._added)
        limit = max(at_period_start + SCALE_UP_PODS, at_period_start * SCALE_UP_FACTOR)
        wanted = max(replicas, min(proposed, limit))
        self._added.append(Decision(now, wanted - replicas))
        return wanted

    def _formula(self, *, replicas: int, in_flight: Sequence[int]) -> int:
        """ReplicaCalculator.calcPlainMetricReplicas: starting replicas have no metric and count against the move."""
        if not in_flight:
            return replicas
        usage = sum(in_flight)
        ratio = usage / len(in_flight) / self.target
        missing = max(0, replicas - len(in_flight))
        if not missing:
            return replicas if self._tolerated(ratio) else math.ceil(ratio * len(in_flight))
        assumed = missing * self.target if ratio < 1 else 0.0
        counted = len(in_flight) + missing
        cautious = (usage + assumed) / counted / self.target
        if self._tolerated(cautious) or (ratio < 1 < cautious) or (cautious < 1 < ratio):
            return replicas
        proposed = math.ceil(cautious * counted)
        turned = (cautious < 1 and proposed > replicas) or (cautious > 1 and proposed < replicas)
        return replicas if turned else proposed

    def _tolerated(self, ratio: float) -> bool:
        return 1 - self.tolerance <= ratio <= 1 + self.tolerance


def simulate(load: Load, scaler: Scaler) -> Outcome:
    """Run the load under a scaler from its beginning to the horizon."""
    fleet = Fleet(settings=load.settings, arrivals=load.arrivals, late_after=load.late_after_seconds)
    names: list[str] = []
    number = 0
    wanted = load.initial_replicas
    series = [Decision(0.0, wanted)]
    first = True
    now = 0.0
    while True:
        if not first:
            wanted = scaler.decide(now=now, replicas=len(names), in_flight=list(fleet.in_flight().values()))
        elif isinstance(scaler, Static | Recorded):
            # What is fixed beforehand is there from the beginning: its starts were paid before.
            wanted = scaler.decide(now=now, replicas=wanted, in_flight=())
            series = [Decision(0.0, wanted)]
        while len(names) < wanted:
            number += 1
            names.append(f"replica-{number}")
            fleet.add(names[-1], ready_at=now if first else now + load.startup_seconds)
        while len(names) > wanted:
            fleet.remove(names.pop())  # the youngest first, as a ReplicaSet does
        if wanted != series[-1].replicas:
            series.append(Decision(now, wanted))
        first = False
        if now >= load.horizon_seconds:
            break
        now = min(now + scaler.sync_seconds, load.horizon_seconds)
        fleet.advance(to=now)
    state = fleet.state()
    return Outcome(
        name=scaler.name,
        replica_seconds=state.replica_seconds,
        gpu_hours=state.replica_seconds * load.gpus_per_replica / 3600,
        late_share=state.late_share,
        ttft_p95=state.ttft_p95,
        peak_replicas=max(decision.replicas for decision in series),
        arrived=state.arrived,
        finished=state.finished,
        series=tuple(series),
    )


def under_hpa(load: Load, *, target: float, stabilisation_seconds: float = STABILISATION_SECONDS) -> Outcome:
    """The load under a plain HPA on requests in flight per replica."""
    if target <= 0 or stabilisation_seconds < 0:
        raise ScenarioError("the HPA's target must be above 0 requests in flight per replica, stabilisation at least 0")
    hpa = PlainHpa(
        target=target,
        min_replicas=load.min_replicas,
        max_replicas=load.max_replicas,
        stabilisation_seconds=stabilisation_seconds,
    )
    return simulate(load, hpa)


def under_static(load: Load, *, replicas: int) -> Outcome:
    """The load on a fixed number of replicas."""
    return simulate(load, Static(replicas))


def under_static_peak(load: Load) -> Outcome:
    """The smallest fixed count that keeps the late share within 1 %, known only afterwards; else the maximum."""
    for replicas in range(load.min_replicas, load.max_replicas):
        outcome = under_static(load, replicas=replicas)
        if outcome.late_share <= HOLDS_LATE_SHARE:
            return outcome
    return under_static(load, replicas=load.max_replicas)


def under_decisions(load: Load, decisions: Iterable[Decision]) -> Outcome:
    """The load under the replica counts that were really asked for, times counted from the trace's beginning."""
    ordered = sorted(decisions, key=lambda decision: decision.time)
    if any(decision.replicas < 0 for decision in ordered):
        raise ScenarioError("a decision asks for a negative number of replicas")
    return simulate(load, Recorded(ordered))
