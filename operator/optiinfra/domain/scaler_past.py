"""What the scaler would have learned of a workload's past, had it been there: history in, memories out.

The past goes through the same two translations as the present (`replica_load`, `replica_capacity`) and the same scaler,
tick by tick, for a fleet at once; only nothing is decided. Steps of the past may be longer than a tick: its load is
then the same in each tick of the step. What was not measured is not lived through, as in a gap of the present. It
learns from counts and tokens, not from latencies or step times, which a metrics server does not add up.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.pace import Pace
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.replica_capacity import CapacityMemory, observed
from optiinfra.domain.replica_load import LoadSample, ReplicaLoad, load_of
from optiinfra.domain.scaler.decide import Scaler
from optiinfra.domain.scaler.observation import Observation, Services
from optiinfra.domain.scaler.rows import rows_of
from optiinfra.domain.scaler.tuning import DEFAULT, TICK_S
from optiinfra.domain.scaling import ScalerMemory
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Seconds, UnixTime

FloatArray = npt.NDArray[np.float64]
_ABSENT: Final = Unknown(UnknownReason.NOT_MEASURED, "not in the history")
_PACE: Final = Pace()


@dataclass(frozen=True, slots=True)
class PastLoad:
    """One workload's load on equal steps; each array is (steps,), NaN where nothing was measured."""

    running: FloatArray
    waiting: FloatArray
    served: FloatArray
    """Work per second."""
    finished: FloatArray
    """Requests per second."""
    kv_cache: FloatArray
    """Mean share over replicas."""
    ready: FloatArray


@dataclass(frozen=True, slots=True)
class PastService:
    """What holds of a workload now, and is taken to have held."""

    settings: EngineSettings
    minimum: int
    maximum: int
    start_up_p50: Seconds
    start_up_p95: Seconds
    objectives: Objectives


class FleetPast:
    """Lives through the past of some workloads, part by part, the oldest first."""

    def __init__(self, services: Sequence[PastService], *, step: Seconds) -> None:
        self._services = tuple(services)
        self._ticks = max(1, round(step / TICK_S))
        self._step = step
        self._scaler = Scaler(np.array([max(1, one.minimum) for one in services], dtype=np.int64), tuning=DEFAULT)
        self._capacities = [CapacityMemory() for _ in services]
        self._before: list[LoadSample | None] = [None for _ in services]
        self._known = [0 for _ in services]

    def live(self, loads: Sequence[PastLoad], *, start: UnixTime) -> Iterator[None]:
        """Live through one part that begins at `start`; yields after each step, for who wants to pause."""
        steps = max((len(one.running) for one in loads), default=0)
        heard = np.flatnonzero(np.any([np.isfinite(one.ready) for one in loads], axis=0)) if steps else np.zeros(0)
        # Before the first word of anybody there is nothing to live through.
        first = int(heard[0]) if heard.size and not any(self._known) else 0
        for at in range(first, steps) if heard.size else ():
            time = UnixTime(start + (at + 1) * self._step)
            self._step_through([_sample(load, at, time=time) for load in loads], time=time)
            yield

    def memories(self) -> tuple[ScalerMemory | None, ...]:
        """Return what was learned of each workload; None of those whose past says nothing."""
        ticks = self._scaler.state.tick.tolist()
        rows = rows_of(self._scaler.state)
        return tuple(
            ScalerMemory(row, tick, capacity) if known else None
            for row, tick, capacity, known in zip(rows, ticks, self._capacities, self._known, strict=True)
        )

    def _step_through(self, samples: Sequence[LoadSample | None], *, time: UnixTime) -> None:
        count = len(self._services)
        arrived, backlog, ready = np.full(count, np.nan), np.full(count, np.nan), np.full(count, np.nan)
        for row, one in enumerate(samples):
            if one is None:
                self._before[row] = None
                continue
            load = self._heard(row, one)
            ready[row] = float(one.reporting)
            if isinstance(load, ReplicaLoad):
                arrived[row], backlog[row] = load.replicas, load.backlog
                self._known[row] += 1
        seen = Observation(arrived=arrived, backlog=backlog, ready=ready)
        # Nobody knows what a count was meant to be: what ran is what was asked for.
        self._scaler.desired([seen] * self._ticks, self._facts(ready), now=time)

    def _heard(self, row: int, one: LoadSample) -> ReplicaLoad | Unknown:
        service, before = self._services[row], self._before[row]
        memory = observed(
            self._capacities[row],
            one,
            before,
            settings=service.settings,
            pace=_PACE,
            objectives=service.objectives,
            signals=_SIGNALS,
            tick=Seconds(self._step),
        )
        self._capacities[row], self._before[row] = memory, one
        return load_of(
            one,
            service.settings,
            capacity=memory.capacity.work,
            request_work=memory.request_work,
            before=before,
        )

    def _facts(self, ready: FloatArray) -> Services:
        services = self._services
        minimum = np.array([one.minimum for one in services], dtype=np.int64)
        current = np.where(np.isfinite(ready), ready, minimum).astype(np.int64)
        return Services(
            capacity=np.ones(len(services)),
            start_up_p50=np.maximum([one.start_up_p50 for one in services], 1e-3),
            start_up_p95=np.maximum([one.start_up_p95 for one in services], 1e-3),
            current=np.maximum(current, 0),
            minimum=minimum,
            maximum=np.array([max(one.minimum, one.maximum) for one in services], dtype=np.int64),
            late_after_s=np.maximum([one.objectives.queue_delay for one in services], 1e-3),
            late_share=np.maximum([float(one.objectives.late_share) for one in services], 1e-6),
            paused=np.zeros(len(services), dtype=np.bool_),
        )


def _sample(load: PastLoad, at: int, *, time: UnixTime) -> LoadSample | None:
    """Return one step as a tick; None where no replica answered."""
    if at >= len(load.running) or not load.ready[at] >= 1.0:
        return None
    replicas = round(float(load.ready[at]))
    return LoadSample(
        time=time,
        reporting=replicas,
        expected=replicas,
        running=_value(load.running[at]),
        waiting=_value(load.waiting[at]),
        served=_value(load.served[at]),
        finished=_value(load.finished[at]),
        arrived=_ABSENT,
        kv_cache=_value(load.kv_cache[at]),
    )


def _value(number: float) -> Value:
    return float(number) if math.isfinite(number) and number >= 0.0 else _ABSENT


def _no_signals() -> ServiceSignals:
    named = ServiceSignals.__dataclass_fields__
    counts = {"time": UnixTime(0.0), "window": Seconds(0.0), "replicas_expected": 0, "replicas_reporting": 0}
    return ServiceSignals(**{name: counts.get(name, _ABSENT) for name in named})  # type: ignore[arg-type]  # by name


_SIGNALS: Final = _no_signals()
