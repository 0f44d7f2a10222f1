"""How many replicas each workload needs: engines' ticks in, the scaler's decision out, with what it rests on.

Between the engines and `scaler` stand two translations. A tick's requests, tokens and cache shares become a load in
replicas (`replica_load`), by a capacity that is learned from the workload itself (`replica_capacity`). And a smaller
count must pass a what-if on the window's own peaks (`shrink`) before it is given. A whole fleet is decided in one pass
over arrays; one service is a fleet of one. It refuses to make a number out of nothing: without load signals the answer
is an `Unknown`, and what was learned waits. It knows no steps, cooldowns or windows: see `policy`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from optiinfra.domain import scaling_words
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Direction, Evidence
from optiinfra.domain.histogram import InvalidCheckpointError
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.pace import Pace
from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.replica_capacity import CapacityMemory, ReplicaCapacity, observed
from optiinfra.domain.replica_load import LoadSample, ReplicaLoad, Resource, load_of
from optiinfra.domain.scaler import checkpoint
from optiinfra.domain.scaler.decide import Scaler
from optiinfra.domain.scaler.decision import Decision, FleetDecision, ScalerReason
from optiinfra.domain.scaler.observation import Observation, Services
from optiinfra.domain.scaler.order import RISE_PODS
from optiinfra.domain.scaler.rows import Row, rows_of, state_of
from optiinfra.domain.scaler.state import FleetState
from optiinfra.domain.scaler.tuning import DEFAULT, TICK_S, Tuning
from optiinfra.domain.scaling_rules import Rule, rule_of
from optiinfra.domain.shrink import WhatIf, what_if
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.units import Ratio, Seconds, UnixTime

DEFAULT_HOLD: Final = Seconds(180.0)
DEFAULT_TICK: Final = Seconds(TICK_S)
DRAIN_DELAYS: Final = 4.0
"""A queue is cleared within this many times the objective."""
MOST_SAMPLES: Final = 4
"""Ticks since the last decision that are read from pages; what is older the scaler lives through without them."""
NOT_FITTED: Final = Pace()
FORECAST_OFF: Final = Tuning(noise=1e9, fast_noise=1e9, profiles=False)
"""No trend exceeds its noise so far, and no profile speaks: the forecast is then that the load stays."""


@dataclass(slots=True)
class ScalerMemory:
    """What is learned of one workload; it outlives a restart in a checkpoint."""

    row: Row | None = None
    """The scaler's state; None before the first tick."""
    tick: int = -1
    """Number of the newest tick that was lived through."""
    capacity: CapacityMemory = field(default_factory=CapacityMemory)
    last: LoadSample | None = None
    last_load: float = math.nan

    def to_bytes(self) -> bytes:
        """Return a checkpoint; empty before the first tick."""
        return b"" if self.row is None else self.capacity.to_bytes() + checkpoint.packed(state_of([self.row]), 0)

    @classmethod
    def from_bytes(cls, data: bytes) -> "ScalerMemory":
        """Read a checkpoint back. Raises InvalidCheckpointError."""
        if not data:
            return cls()
        size = len(CapacityMemory().to_bytes())
        try:
            state, capacity = checkpoint.unpacked(data[size:]), CapacityMemory.from_bytes(data[:size])
        except checkpoint.CheckpointError as error:
            raise InvalidCheckpointError(f"scaler checkpoint: {error}") from error
        return cls(rows_of(state)[0], int(state.tick[0]), capacity)

    def ticks_due(self, *, now: UnixTime, tick: Seconds) -> tuple[UnixTime, ...]:
        """Ends of the ticks that are to be read, oldest first; none within a tick that was decided already."""
        newest = math.floor(now / tick)
        last = newest - 1 if self.row is None else self.tick
        # A clock that was set back begins with the present.
        due = min(MOST_SAMPLES, newest - last) if newest >= last else 1
        return tuple(UnixTime(now - tick * back) for back in reversed(range(due)))


@dataclass(frozen=True, slots=True)
class ScalingInput:
    """Everything a decision about one workload rests on."""

    signals: ServiceSignals
    """Of the window that ends now."""
    samples: tuple[LoadSample, ...]
    """The ticks since the last decision, oldest first; see `ScalerMemory.ticks_due`."""
    fresh: LoadSample | None
    """What the engines say now, in a tick that was decided already as well; None where that is not looked at."""
    settings: EngineSettings
    current: int
    """Replicas asked for now (spec)."""
    ready: int
    minimum: int
    maximum: int
    start_up_p50: Seconds
    """From asking for a replica until it serves."""
    start_up_p95: Seconds
    memory: ScalerMemory
    """What was learned so far; it is not changed, the answer carries the next one."""
    objectives: Objectives = Objectives()
    pace: Pace = NOT_FITTED
    tick: Seconds = DEFAULT_TICK
    hold: Seconds = DEFAULT_HOLD
    """Load must be known for so long before anything is given back."""
    forecast_enabled: bool = True
    paused: bool = False
    ordered: int | None = None
    """What was published or written last, after policy and the mix of variants; None while nothing is."""
    current_floor: int = 0
    """minReplicas held now (Floor actuation); it only falls when shrinking is shown to be safe."""
    at_rest: Rule | None = None
    """ASLEEP while no replica runs and none has to, WAKING while the first one after that starts, else None."""


@dataclass(frozen=True, slots=True)
class ScalingDecision:
    """How many replicas, why, and what else was considered."""

    desired: int
    current: int
    floor: int
    """minReplicas for Floor actuation: the need without queue and hysteresis."""
    rule: Rule
    message: str
    confidence: Ratio
    evidence: tuple[Evidence, ...]
    need: float
    """Replicas, unrounded and unbounded."""
    load: ReplicaLoad
    capacity: ReplicaCapacity
    learned: Decision
    """What the scaler said, with its rule, alternatives and forecast; times in real seconds."""
    history: Seconds
    """For how long the load was lived through."""
    start_up: Seconds
    shrink_blocked: tuple[str, ...] = ()
    """Why it may not shrink now; empty when it may."""

    @property
    def direction(self) -> Direction:
        """Which way the decision goes."""
        if self.desired == self.current:
            return Direction.NONE
        return Direction.SCALE_UP if self.desired > self.current else Direction.SCALE_DOWN

    @property
    def lower(self) -> int:
        """Fewest replicas that the load of this moment keeps busy; a bound for recommendations."""
        return min(self.desired, max(1, math.ceil(self.load.replicas - 1e-9)))

    @property
    def upper(self) -> int:
        """Most replicas that the need, unrounded, or the forecast asks for."""
        return max(self.desired, math.ceil(max(self.need, self.learned.forecast)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """A decision, and what to hand back with the next input."""

    decision: ScalingDecision | Unknown
    memory: ScalerMemory


def decide(inputs: Sequence[ScalingInput], *, now: UnixTime) -> tuple[Outcome, ...]:
    """Decide for a fleet; the order of the inputs is kept."""
    results: list[Outcome | None] = [None] * len(inputs)
    for tick, forecast in sorted({(given.tick, given.forecast_enabled) for given in inputs}):
        rows = [i for i, given in enumerate(inputs) if (given.tick, given.forecast_enabled) == (tick, forecast)]
        tuning = DEFAULT if forecast else FORECAST_OFF
        for row, outcome in zip(rows, _together([inputs[i] for i in rows], tuning=tuning, now=now), strict=True):
            results[row] = outcome
    return tuple(result for result in results if result is not None)


def _together(inputs: Sequence[ScalingInput], *, tuning: Tuning, now: UnixTime) -> list[Outcome]:
    """Decide for workloads of one tick's length."""
    tick = inputs[0].tick
    heard = [_Heard.of(given) for given in inputs]
    decided, scaler = _scaled(inputs, heard, tuning=tuning, tick=tick, now=now)
    seen = scaler.state.load.seen.tolist()
    decisions = [
        _decision(given, one, decided.of(row), history=Seconds(seen[row] * tick))
        for row, (given, one) in enumerate(zip(inputs, heard, strict=True))
    ]
    # So is what is decided in the end; see `ordered` for what becomes of it.
    scaler.state.desired = np.array(
        [
            kept if isinstance(one, Unknown) else one.desired
            for one, kept in zip(decisions, scaler.state.desired.tolist(), strict=True)
        ],
        dtype=np.int64,
    )
    ticks = scaler.state.tick.tolist()
    return [
        Outcome(decision, _next_memory(given, one, row, tick=ticks[at]))
        for at, (given, one, decision, row) in enumerate(
            zip(inputs, heard, decisions, rows_of(scaler.state), strict=True)
        )
    ]


def _next_memory(given: ScalingInput, heard: "_Heard", row: Row, *, tick: int) -> ScalerMemory:
    """Remember what was lived through; who has heard nothing yet is not born, and listens again in the same tick."""
    born = given.memory.row is not None or any(isinstance(load, ReplicaLoad) for load in heard.loads)
    if not born:
        return ScalerMemory(None, -1, heard.capacity, heard.last, heard.last_load)
    return ScalerMemory(row, tick, heard.capacity, heard.last, heard.last_load)


@dataclass(frozen=True, slots=True)
class _Heard:
    """One workload's ticks as loads, and what they taught."""

    loads: tuple[ReplicaLoad | Unknown, ...]
    capacity: CapacityMemory
    last: LoadSample | None
    last_load: float
    urgent: "_Urgent | None"
    """What the queue of this moment asks for by itself; None without one."""

    @classmethod
    def of(cls, given: ScalingInput) -> "_Heard":
        memory, before, level = given.memory.capacity, given.memory.last, given.memory.last_load
        loads: list[ReplicaLoad | Unknown] = []
        for one in given.samples:
            near = before if before is not None and one.time - before.time <= 2.0 * given.tick else None
            memory = observed(
                memory,
                one,
                near,
                settings=given.settings,
                pace=given.pace,
                objectives=given.objectives,
                signals=given.signals,
                tick=given.tick,
            )
            load = load_of(
                one, given.settings, capacity=memory.capacity.work, request_work=memory.request_work, before=near
            )
            if isinstance(load, ReplicaLoad):
                if not one.whole and load.replicas < level:
                    # A sum without some of the replicas looks like falling load.
                    load = ReplicaLoad(level, load.backlog, load.resource, load.by_resource)
                level = load.replicas
            loads.append(load)
            before = one
        return cls(tuple(loads), memory, before, level, _urgent(given, memory))


@dataclass(frozen=True, slots=True)
class _Urgent:
    """A queue before full replicas, which need not wait for a tick."""

    replicas: int
    need: float
    load: ReplicaLoad


def _urgent(given: ScalingInput, memory: CapacityMemory) -> _Urgent | None:
    """Return what clears the queue before full replicas in time; no more at once than Kubernetes lets a scaler rise."""
    if given.fresh is None or given.paused or not given.fresh.whole or given.ready < given.current:
        # What starts already is the scaler's to count in, tick by tick.
        return None
    found = load_of(given.fresh, given.settings, capacity=memory.capacity.work, request_work=memory.request_work)
    waiting = given.fresh.waiting
    if isinstance(found, Unknown) or isinstance(waiting, Unknown) or waiting < given.fresh.reporting:
        return None
    if found.resource is Resource.WORK and found.backlog <= 0.0:
        return None
    need = found.replicas + found.backlog / max(1.0, DRAIN_DELAYS * given.objectives.queue_delay)
    if need <= given.ready:
        return None
    most = given.current + max(int(RISE_PODS), given.current)
    return _Urgent(min(math.ceil(need - DEFAULT.rounding), most, given.maximum), need, found)


def _scaled(
    inputs: Sequence[ScalingInput],
    heard: Sequence[_Heard],
    *,
    tuning: Tuning,
    tick: Seconds,
    now: UnixTime,
) -> tuple[FleetDecision, Scaler]:
    """Let the scaler decide. Its clock has ticks of 15 s: with others, all times are stretched at this door."""
    stretch = TICK_S / tick
    newborn = [i for i, given in enumerate(inputs) if given.memory.row is None]
    fresh = rows_of(FleetState.of(np.array([inputs[i].current for i in newborn], dtype=np.int64)))
    begun = dict(zip(newborn, fresh, strict=True))
    rows = [begun[i] if given.memory.row is None else given.memory.row for i, given in enumerate(inputs)]
    scaler = Scaler.of(state_of(rows), tuning=tuning)
    # What policy and the mix of variants made of a decision is our order too, and no change by somebody else.
    ordered = np.array([-1 if given.ordered is None else given.ordered for given in inputs], dtype=np.int64)
    scaler.state.desired = np.where(ordered >= 0, ordered, scaler.state.desired)
    depth = max((len(one.loads) for one in heard), default=0)
    arrived = np.full((depth, len(inputs)), np.nan)
    backlog = np.full((depth, len(inputs)), np.nan)
    for row, one in enumerate(heard):
        for at, load in enumerate(one.loads, start=depth - len(one.loads)):
            if isinstance(load, ReplicaLoad):
                arrived[at, row], backlog[at, row] = load.replicas, load.backlog * stretch
    ready = np.array([float(given.ready) for given in inputs])
    observations = [Observation(arrived=arrived[at], backlog=backlog[at], ready=ready) for at in range(depth)]
    decided = scaler.decide(observations, _services(inputs, stretch=stretch), now=UnixTime(now * stretch))
    return decided, scaler


def _services(inputs: Sequence[ScalingInput], *, stretch: float) -> Services:
    def seconds(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.maximum(np.array(values, dtype=np.float64), 1e-3) * stretch

    return Services(
        capacity=np.ones(len(inputs)),
        start_up_p50=seconds([given.start_up_p50 for given in inputs]),
        start_up_p95=seconds([given.start_up_p95 for given in inputs]),
        current=np.array([given.current for given in inputs], dtype=np.int64),
        minimum=np.array([given.minimum for given in inputs], dtype=np.int64),
        maximum=np.array([given.maximum for given in inputs], dtype=np.int64),
        late_after_s=seconds([given.objectives.queue_delay for given in inputs]),
        late_share=np.maximum(np.array([float(given.objectives.late_share) for given in inputs]), 1e-6),
        paused=np.array([given.paused for given in inputs], dtype=np.bool_),
    )


def _decision(given: ScalingInput, heard: _Heard, learned: Decision, *, history: Seconds) -> ScalingDecision | Unknown:
    signals = given.signals
    newest = heard.loads[-1] if heard.loads else _again(given, heard)
    if given.at_rest is not None:
        return _at_rest(given, heard, learned, rule=given.at_rest, history=history)
    if signals.replicas_reporting <= 0:
        return Unknown(UnknownReason.UNREACHABLE, f"none of {signals.replicas_expected} replicas reports")
    if isinstance(newest, Unknown):
        return newest
    if learned.reason is ScalerReason.UNKNOWN:
        detail = "the load was unknown for a minute or more: nothing is changed until it is known again"
        return Unknown(UnknownReason.STALE, detail)
    return _settled(given, heard, newest, learned, history=history)


def _at_rest(given: ScalingInput, heard: _Heard, learned: Decision, *, rule: Rule, history: Seconds) -> ScalingDecision:
    """Keep what was asked for while no replica can be heard and none has to be: no load keeps a replica busy."""
    told = _in_seconds(learned, tick=given.tick)
    load, capacity = ReplicaLoad(0.0, 0.0, Resource.WORK, ()), heard.capacity.capacity
    return ScalingDecision(
        desired=given.current,
        current=given.current,
        floor=given.minimum,
        rule=rule,
        message=scaling_words.at_rest(rule, current=given.current, start_up=given.start_up_p95),
        confidence=Ratio(1.0),
        evidence=scaling_words.evidence(load, capacity, told, signals=given.signals, start_up=given.start_up_p95),
        need=float(given.current),
        load=load,
        capacity=capacity,
        learned=told,
        history=history,
        start_up=given.start_up_p95,
    )


def _again(given: ScalingInput, heard: _Heard) -> ReplicaLoad | Unknown:
    """Return the load of the tick that was decided before: asked twice within a tick, the answer is the same."""
    if heard.last is None:
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, "no tick was heard yet")
    capacity = heard.capacity
    return load_of(heard.last, given.settings, capacity=capacity.capacity.work, request_work=capacity.request_work)


def _settled(
    given: ScalingInput, heard: _Heard, load: ReplicaLoad, learned: Decision, *, history: Seconds
) -> ScalingDecision:
    """Let the what-if have its say, and word the whole."""
    capacity = heard.capacity.capacity
    desired, rule, urgent = learned.desired, rule_of(learned.reason), heard.urgent
    if urgent is not None and urgent.replicas > desired:
        desired, rule, load = urgent.replicas, Rule.QUEUE_DRAIN, urgent.load
        learned = replace(learned, need=max(learned.need, urgent.need))
    lesser = what_if(
        given.signals,
        given.settings,
        current=given.current,
        ready=given.ready,
        objectives=given.objectives,
        pace=given.pace,
        capacity=capacity,
    )
    blocked = _blocked(given, lesser, history=history)
    if desired < given.current and not given.paused:
        allowed = given.current if blocked else min(max(desired, lesser.lowest), given.current)
        bounded = min(max(allowed, given.minimum), given.maximum)
        if bounded > desired and bounded == given.current:
            rule = Rule.HOLD
        elif bounded > desired:
            rule = Rule.PEAKS
        desired = bounded
    floor = learned.floor
    if blocked:
        floor = max(floor, min(given.current_floor, given.maximum))
    told = _in_seconds(learned, tick=given.tick)
    return ScalingDecision(
        desired=desired,
        current=given.current,
        floor=min(max(floor, given.minimum), given.maximum),
        rule=rule,
        message=scaling_words.message(
            rule,
            told,
            load,
            capacity,
            signals=given.signals,
            desired=desired,
            blocked=blocked,
            what_if=lesser,
            minimum=given.minimum,
            maximum=given.maximum,
        ),
        confidence=_confidence(given, capacity, told),
        evidence=scaling_words.evidence(load, capacity, told, signals=given.signals, start_up=given.start_up_p95),
        need=told.need,
        load=load,
        capacity=capacity,
        learned=told,
        history=history,
        start_up=given.start_up_p95,
        shrink_blocked=blocked,
    )


def _blocked(given: ScalingInput, lesser: WhatIf, *, history: Seconds) -> tuple[str, ...]:
    if history < given.hold:
        return (*lesser.blocked, f"load is known for {history:.0f} of {given.hold:.0f} s")
    return lesser.blocked


def _in_seconds(learned: Decision, *, tick: Seconds) -> Decision:
    """Turn the scaler's stretched times back."""
    return replace(learned, shrink_delay_s=learned.shrink_delay_s * tick / TICK_S)


def _confidence(given: ScalingInput, capacity: ReplicaCapacity, learned: Decision) -> Ratio:
    """How far to trust it: all replicas heard, a capacity that was measured, enough history to choose by."""
    trust = min(1.0, given.signals.replicas_reporting / max(1, given.signals.replicas_expected))
    trust *= capacity.confidence
    if learned.reason is ScalerReason.YOUNG:
        trust *= 0.9
    return Ratio(round(trust, 3))
