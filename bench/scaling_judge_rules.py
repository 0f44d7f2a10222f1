"""The deciders that the second judge plays, and what each may see of the simulated fleet.

What is seen is written, step by step, into the record of the fluid model (`fluid.Fleet`), so that the very rules of the
first judge decide here: rates, waiting work and ready replicas in units of one replica's capacity, 15 s late. The
record holds what has happened and nothing of what will: loads to come are zero in it. Rules that look at KV caches,
queues or requests in flight get the engines' own instead of what stands for them in the fluid model.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from bench.scaling_judge_engines import Capacity
from bench.scaling_judge_fleet import Look
from optiinfra.domain.replay.baselines import HpaRate, KedaInFlight
from optiinfra.domain.replay.baselines_llm import DynamoLoad, WvaV1, WvaV2
from optiinfra.domain.replay.fluid import STEPS_PER_SYNC, Fleet, FloatArray, Policy, View
from optiinfra.domain.replay.learned import Learned
from optiinfra_sim.engine import Engine

OURS = "OptiInfra (work / C)"


@dataclass(slots=True)
class Gauges:
    """What the engines' pages showed at the end of each step, oldest first."""

    capacity: Capacity
    slots: float
    """Requests that a replica's batch may hold."""
    first: int = 0
    """Step of the record at which the simulated engines began; there are no pages of before."""
    looks: list[Look] = field(default_factory=list)
    scrape: Callable[[Mapping[str, Engine], float, float], None] | None = None
    """Who reads the engines' pages after each step: engines by name, time of the record, time of the engines."""

    def seen(self, view: View, steps: int) -> list[Look]:
        """Looks of the newest steps that a view may see; empty while there are none."""
        end = view.newest - self.first
        return self.looks[max(0, end - steps) : max(0, end)]

    def kv_use(self, view: View, *, steps: int) -> FloatArray:
        """Share of the KV cache in use, mean over replicas; the highest of the steps, as the controllers query it."""
        seen = self.seen(view, steps)
        if not seen:
            return np.minimum(self.capacity.kv_use * view.served(steps) / np.maximum(view.capacity(steps), 1e-9), 1.0)
        return np.array([max(look.kv_use for look in seen)])

    def waiting(self, view: View) -> FloatArray:
        """Requests that wait at each ready replica."""
        seen = self.seen(view, 1)
        return np.array([seen[-1].waiting / max(seen[-1].serving, 1)]) if seen else np.zeros(1)

    def in_flight(self, view: View) -> FloatArray:
        """Requests in flight, in replicas: over those of a replica that is exactly busy."""
        seen = self.seen(view, 1)
        if not seen:
            return view.arrivals(STEPS_PER_SYNC)
        return np.array([seen[-1].in_flight / max(self.capacity.in_flight, 1e-9)])


class JudgedKeda(KedaInFlight):
    """KEDA on the requests that are really in flight, over those at C; polled every 30 s."""

    def __init__(self, threshold: FloatArray, gauges: Gauges) -> None:
        super().__init__(threshold)
        self._gauges = gauges
        self._last: FloatArray | None = None

    def metric(self, view: View) -> FloatArray:
        """Requests in flight in replicas, as of the last poll."""
        if self._last is None or view.sync % 2 == 0:
            self._last = self._gauges.in_flight(view)
        return self._last


class JudgedWvaV1(WvaV1):
    """WVA version 1 on the engines' KV caches and queues."""

    def __init__(self, gauges: Gauges) -> None:
        super().__init__()
        self._gauges = gauges

    def kv_use(self, view: View, *, steps: int) -> FloatArray:
        """As the engines show it."""
        return self._gauges.kv_use(view, steps=steps)

    def waiting(self, view: View) -> FloatArray:
        """As the engines show it."""
        return self._gauges.waiting(view)


class JudgedWvaV2(WvaV2):
    """WVA version 2 on the engines' KV caches; what waits counts as KV of as many requests as a replica holds at C."""

    def __init__(self, gauges: Gauges) -> None:
        super().__init__()
        self._gauges = gauges

    def kv_use(self, view: View, *, steps: int) -> FloatArray:
        """As the engines show it."""
        return self._gauges.kv_use(view, steps=steps)

    def waiting(self, view: View) -> FloatArray:
        """Requests that wait, in the unit of the rule: sixteen are a replica's batch."""
        capacity = self._gauges.capacity
        full: FloatArray = self._gauges.waiting(view) * 16.0 / max(capacity.in_flight, 1e-9) * capacity.kv_use
        return full


class JudgedDynamo(DynamoLoad):
    """Dynamo's load planner; the objective is met as long as no more are in flight than at C."""

    def __init__(self, gauges: Gauges) -> None:
        super().__init__()
        self._gauges = gauges

    def pressure(self, view: View) -> FloatArray:
        """Requests in flight of each ready replica over those at C."""
        pressure: FloatArray = self._gauges.in_flight(view) / np.maximum(view.ready, 1)
        return pressure


@dataclass(frozen=True, slots=True)
class Decider:
    """A rule by name: as the fluid judge plays it, and as the second one does."""

    name: str
    fluid: Callable[[Fleet], Policy]
    judged: Callable[[Fleet, Gauges], Policy]


def _hpa(target: float) -> Decider:
    def make(_: Fleet) -> Policy:
        return HpaRate(np.array([target]))

    return Decider(f"HPA rate {target}", make, lambda fleet, _: make(fleet))


def deciders() -> list[Decider]:
    """All of them, ours last."""
    threshold = np.array([0.7])
    return [
        *(_hpa(target) for target in (0.5, 0.7, 0.8)),
        Decider("KEDA in flight 0.7", lambda _: KedaInFlight(threshold), lambda _, seen: JudgedKeda(threshold, seen)),
        Decider("WVA v1", lambda _: WvaV1(), lambda _, seen: JudgedWvaV1(seen)),
        Decider("WVA v2", lambda _: WvaV2(), lambda _, seen: JudgedWvaV2(seen)),
        Decider("Dynamo load planner", lambda _: DynamoLoad(), lambda _, seen: JudgedDynamo(seen)),
        Decider(OURS, Learned, lambda fleet, _: Learned(fleet)),
    ]
