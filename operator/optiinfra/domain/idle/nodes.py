"""Verdicts on the GPUs of nodes: the agents' readings put into the fleet's memory, and joined with who holds what.

Only readings that are newer than the last one are taken, for all nodes at once, so that a round costs the same however
long the operator has run. What an agent cannot have measured (use above capacity, negative power, a share above 1) is
not known, and named `BadReading`. A clock that went back begins a GPU's times anew; its floors and gaps stay. A GPU
whose agent no longer shows it is lost; when it comes back, the time between is a hole.

With MIG, MPS or time-slicing several pods hold one GPU: it is idle when nobody computes on it, and then all are named;
that one of them does nothing says nothing of it. A partitioned GPU has no utilisation of its own, so that without
active multiprocessors its activity is not known.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from optiinfra.domain import gpus
from optiinfra.domain.cost import PriceList
from optiinfra.domain.evidence import Evidence, Finding
from optiinfra.domain.idle.fleet import IdleMemory, Judged, Samples, Sight
from optiinfra.domain.idle.holders import EngineWord, Held, holders_of, warming_up
from optiinfra.domain.idle.states import (
    BUILT_IN,
    HIGH_USE,
    IDLE_STATES,
    NO_PRICE,
    NOT_IDLE,
    SURE_OF_WORK,
    GpuState,
    GpuVerdict,
    IdlePolicy,
)
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import Ratio, Seconds, UnixTime
from optiinfra.domain.workload import AgentReading, GpuFacts, NodeFacts

_ABOVE: Final = 1.02
"""Rounding that memory in use may have above its size, and a share above 1."""
_FORGET_AFTER: Final = 86_400.0
_UNKNOWN_SIGHTS: Final[Mapping[Sight, tuple[str, str]]] = {
    Sight.TOO_FEW: ("TooFewSamples", "it was not watched for long enough"),
    Sight.GAP: ("Gap", "nothing was measured for a while in the last minutes"),
    Sight.DARK: ("ActivityUnknown", "its activity was not known at some moment of the last minutes"),
    Sight.POWER: ("PowerContradicts", "it shows no activity, yet draws more power than it does at rest"),
    Sight.MEMORY: ("MemoryUnknown", "it computes nothing, but what its memory holds is not known"),
    Sight.LOADING: ("WarmUp", "its memory was being filled a moment ago: it may load a model"),
}


@dataclass(frozen=True, slots=True)
class Watch:
    """What the verdicts of a round need besides the nodes."""

    now: UnixTime
    window: Seconds
    """How far back readings are taken."""
    stale_after: Seconds
    policy: IdlePolicy = field(default=BUILT_IN)
    engines: Mapping[str, EngineWord] = field(default_factory=dict)
    """What the engine of a pod (namespace/name) says; pods without an engine are absent."""
    prices: Mapping[str, PriceList] = field(default_factory=dict)
    """By pool; "" for nodes of no pool. Empty where no price is known."""


def verdicts(
    node: NodeFacts,
    *,
    now: UnixTime,
    window: Seconds,
    stale_after: Seconds,
    policy: IdlePolicy = BUILT_IN,
    memory: IdleMemory | None = None,
) -> tuple[GpuVerdict, ...]:
    """Judge every GPU that one node's agent showed in the window."""
    watch = Watch(now, window, stale_after, policy)
    return fleet_verdicts((node,), watch, IdleMemory(policy) if memory is None else memory)[node.name]


def node_findings(judged: Sequence[GpuVerdict]) -> tuple[Finding, ...]:
    """Return the findings of one node's verdicts, for the cluster's object."""
    return tuple(finding for one in judged if (finding := one.finding()) is not None)


def idle_gpus(judged: Sequence[GpuVerdict]) -> int:
    """Count the GPUs that were surely idle."""
    return sum(one.state in IDLE_STATES for one in judged)


def fleet_verdicts(nodes: Collection[NodeFacts], watch: Watch, memory: IdleMemory) -> dict[str, tuple[GpuVerdict, ...]]:
    """Take what is new of all nodes into the memory, and judge every GPU that was shown in the window, by node."""
    shown = {
        node.name: (node, gpus.recent(node, now=watch.now, window=watch.window))
        for node in nodes
        if node.agent or node.gpus
    }
    seen: dict[tuple[str, str], _Seen] = {}
    known: dict[str, list[str]] = {}
    for name, uuid in memory.known():
        known.setdefault(name, []).append(uuid)
    for node, readings in shown.values():
        # Older readings are looked at only where the newest one lacks a GPU that was there.
        newest = {gpu.uuid for gpu in readings[-1].gpus} if readings else set()
        whole = node.name in known and newest.issuperset(known[node.name])
        for reading in readings[-1:] if whole else readings:
            for gpu in reading.gpus:
                seen[node.name, gpu.uuid] = _Seen(gpu, reading.time)
    _restart_clocks(shown.values(), memory)
    feed(shown.values(), watch, memory)
    _forget(seen, {node.name for node in nodes}, watch.now, memory)
    keys = sorted(seen)
    judged = memory.judge(np.array([memory.column(*key) for key in keys], dtype=np.intp))
    latest = {
        name: gpus.latest(node, now=watch.now, window=watch.window, stale_after=watch.stale_after)
        for name, (node, _) in shown.items()
    }
    found: dict[str, list[GpuVerdict]] = {node.name: [] for node in nodes}
    for place, key in enumerate(keys):
        node, _ = shown[key[0]]
        found[key[0]].append(_Judge(node, seen[key], watch, judged, place).verdict(latest[key[0]]))
    return {name: tuple(several) for name, several in found.items()}


@dataclass(frozen=True, slots=True)
class _Seen:
    """A GPU as it was shown last."""

    gpu: GpuFacts
    time: UnixTime


def feed(shown: Iterable[tuple[NodeFacts, Sequence[AgentReading]]], watch: Watch, memory: IdleMemory) -> None:
    """Put every reading that is newer than the last into the memory: the n-th new reading of all nodes at once."""
    waiting = []
    for node, readings in shown:
        newest = readings[-1].gpus if readings else ()
        last = max((_or_never(memory.last_time(node.name, gpu.uuid)) for gpu in newest), default=-math.inf)
        fresh = [(node, one, before) for before, one in _pairs(readings) if one.time > last]
        if fresh:
            waiting.append(fresh)
    wave = 0
    while waiting:
        samples = _samples([several[wave] for several in waiting], watch, memory)
        if len(samples.gpu):
            memory.observe(samples)
        wave += 1
        waiting = [several for several in waiting if len(several) > wave]


def _pairs(readings: Sequence[AgentReading]) -> list[tuple[AgentReading | None, AgentReading]]:
    return list(zip([None, *readings], readings, strict=False))


def _or_never(time: float) -> float:
    return -math.inf if math.isnan(time) else time


def _samples(
    given: list[tuple[NodeFacts, AgentReading, AgentReading | None]], watch: Watch, memory: IdleMemory
) -> Samples:
    columns, rows, working = [], [], []
    for node, reading, before in given:
        earlier = {} if before is None else {gpu.uuid: gpu for gpu in before.gpus}
        passed = 0.0 if before is None else reading.time - before.time
        at_work = _at_work(node, reading, watch)
        for gpu in {gpu.uuid: gpu for gpu in reading.gpus}.values():
            columns.append(memory.column(node.name, gpu.uuid))
            rows.append(_row(gpu, reading.time, earlier.get(gpu.uuid), passed))
            working.append(gpu.uuid in at_work)
    values = np.array(rows, dtype=np.float64).reshape(len(rows), 7).T
    return Samples(
        gpu=np.array(columns, dtype=np.intp),
        time=values[0],
        duty=values[1],
        memory=values[2],
        power=values[3],
        sm_active=values[4],
        power_limit=values[5],
        transfer=values[6],
        working=np.array(working, dtype=np.bool_),
    )


def _row(gpu: GpuFacts, time: float, before: GpuFacts | None, passed: float) -> tuple[float, ...]:
    power, transfer = _number(gpu.power_watts), math.nan
    if before is not None and passed > 0.0:
        # The counter has seen every moment, the reading one of them. A counter that fell was reset.
        used = _number(gpu.energy_joules) - _number(before.energy_joules)
        if used >= 0.0:
            power = max(used / passed, power) if power == power else used / passed  # noqa: PLR0124  NaN alone differs from itself
        moved = _number(gpu.pcie_bytes) - _number(before.pcie_bytes)
        transfer = moved / passed if moved >= 0.0 else math.nan
    memory = _number(gpu.memory_used_bytes)
    if memory > _number(gpu.memory_total_bytes) * _ABOVE:
        memory = math.nan
    limit = _number(gpu.power_limit_watts)
    # The busiest moment since the reading before misses no burst; the reading itself sees the last second at most.
    most, active = _share(gpu.utilization_max_ratio), _share(gpu.sm_active_ratio)
    duty = _share(gpu.utilization_ratio) if math.isnan(most) else most
    return time, duty, memory, power, active, limit if limit > 0.0 else math.nan, transfer


def _number(value: Value) -> float:
    return math.nan if isinstance(value, Unknown) or not 0.0 <= value < math.inf else value


def _share(value: Value) -> float:
    number = _number(value)
    return math.nan if number > _ABOVE else number


def bad_reading(gpu: GpuFacts) -> str:
    """Say what of a GPU's reading cannot have been measured; empty when all can."""
    for name, value in (("utilisation", gpu.utilization_ratio), ("active multiprocessors", gpu.sm_active_ratio)):
        if not isinstance(value, Unknown) and not 0.0 <= value <= _ABOVE:
            return f"{name} of {value:g} is no share of 0 to 1"
    for name, value in (("power", gpu.power_watts), ("memory in use", gpu.memory_used_bytes)):
        if not isinstance(value, Unknown) and not 0.0 <= value < math.inf:
            return f"{name} of {value:g} cannot be"
    used, total = gpu.memory_used_bytes, gpu.memory_total_bytes
    if not isinstance(used, Unknown) and not isinstance(total, Unknown) and used > total * _ABOVE:
        return f"memory in use of {used / 2**30:.0f} GiB is more than the {total / 2**30:.0f} GiB that it has"
    return ""


def _at_work(node: NodeFacts, reading: AgentReading, watch: Watch) -> frozenset[str]:
    """Return the GPUs on which somebody has work: a process that ran, or an engine that says so."""
    # Processes that had multiprocessors are work, whatever the device's own counter says of the moment.
    active = {one.gpu_uuid for one in reading.users if _number(one.sm_ratio) > watch.policy.idle_utilization}
    busy = {pod for pod, word in watch.engines.items() if word.working and abs(reading.time - word.time) <= word.span}
    if not busy:
        return frozenset(active)
    held = active | {one.gpu_uuid for one in reading.allocations if f"{one.namespace}/{one.pod}" in busy}
    for gpu in reading.gpus:
        if gpu.uuid not in held:
            holder = holders_of(gpu.uuid, node, reading)
            if isinstance(holder, Held) and busy.intersection(holder.pods):
                held.add(gpu.uuid)
    return frozenset(held)


def _restart_clocks(shown: Iterable[tuple[NodeFacts, Sequence[AgentReading]]], memory: IdleMemory) -> None:
    """Begin anew where the newest reading is older than what was seen: the agent's clock was set back."""
    jumped = [
        memory.column(node.name, gpu.uuid)
        for node, readings in shown
        if readings
        for gpu in readings[-1].gpus
        if memory.last_time(node.name, gpu.uuid) > node.agent[-1].time
    ]
    if jumped:
        memory.restart(np.array(jumped, dtype=np.intp))


def _forget(seen: Mapping[tuple[str, str], _Seen], nodes: Collection[str], now: UnixTime, memory: IdleMemory) -> None:
    for name, gpu in list(memory.known()):
        if (name, gpu) in seen:
            continue
        if name not in nodes or not now - memory.last_time(name, gpu) < _FORGET_AFTER:
            memory.forget(name, gpu)


@dataclass(frozen=True, slots=True)
class _Judge:
    """One GPU's verdict, put into words."""

    node: NodeFacts
    seen: _Seen
    watch: Watch
    judged: Judged
    place: int

    def verdict(self, latest: AgentReading | Unknown) -> GpuVerdict:
        """Decide the state; `latest` is the newest reading of the node's agent."""
        uuid = self.seen.gpu.uuid
        if isinstance(latest, Unknown):
            return self._unknown("NoFreshReading", f"its agent's reading is {latest}")
        if self.seen.time < latest.time:
            return self._unknown("Lost", "its agent no longer shows it")
        trouble = next((one for one in self.node.troubles if one.uuid == uuid), None)
        if trouble is not None:
            return self._unknown("Unhealthy", f"it is not well, and its silence is no idleness: {trouble.message}")
        wrong = bad_reading(self.seen.gpu)
        if wrong:
            return self._unknown("BadReading", wrong)
        sight = Sight(int(self.judged.sight[self.place]))
        if sight in _UNKNOWN_SIGHTS:
            return self._unknown(*_UNKNOWN_SIGHTS[sight])
        holder = holders_of(uuid, self.node, latest)
        if sight is Sight.WORK:
            return self._used(holder)
        if sight is Sight.EXPECTED:
            return self._expected(holder)
        return self._idle(holder)

    def _unknown(self, reason: str, why: str) -> GpuVerdict:
        message = f"GPU {self.seen.gpu.uuid} cannot be judged: {why}."
        return self._verdict(GpuState.UNKNOWN, 0.0, reason, message, Unknown(UnknownReason.NOT_MEASURED))

    def _used(self, holder: Held | Unknown) -> GpuVerdict:
        used, uuid = float(self.judged.used[self.place]), self.seen.gpu.uuid
        if used < HIGH_USE:
            sure = 0.6 if isinstance(self.seen.gpu.sm_active_ratio, Unknown) else 0.8
            threshold = self.watch.policy.under_used_utilization
            message = f"GPU {uuid} was {threshold:.0%} active or more in {used:.0%} of the recent time."
            return self._verdict(GpuState.UNDER_USED, sure, "LowActivity", message, holder)
        return self._verdict(GpuState.ACTIVE, SURE_OF_WORK, "Active", f"GPU {uuid} works.", holder)

    def _expected(self, holder: Held | Unknown) -> GpuVerdict:
        uuid, minutes = self.seen.gpu.uuid, self.judged.elapsed[self.place] / 60.0
        if not self.judged.worked[self.place]:
            return self._unknown("NotYetSure", f"it has done nothing in the {minutes:.0f} min since it was first seen")
        probability, gaps = float(self.judged.probability[self.place]), int(self.judged.gaps[self.place])
        message = (
            f"GPU {uuid} has done nothing for {minutes:.0f} min; by {gaps} pauses of its own, it stays so for another "
            f"{self.watch.policy.horizon / 60:.0f} min with a probability of {probability:.0%}."
        )
        used = float(self.judged.used[self.place])
        state = GpuState.ACTIVE if used >= HIGH_USE else GpuState.UNDER_USED
        return self._verdict(state, 1.0 - probability, "WorkExpected", message, holder)

    def _idle(self, holder: Held | Unknown) -> GpuVerdict:
        place, uuid, filled = self.place, self.seen.gpu.uuid, f"{self.judged.memory[self.place] / 2**30:.0f} GiB"
        empty = bool(self.judged.empty[place])
        minutes = f"for {(self.watch.now - float(self.judged.quiet_since[place])) / 60:.0f} min"
        if bool(self.judged.before_first[place]):
            minutes += ", by a metrics server's history"
        sure = float(self.judged.confidence[place])
        if isinstance(holder, Unknown):
            if empty:
                return self._unknown("AllocationUnknown", f"it is idle {minutes}, but whose it is, is {holder}")
            message = f"GPU {uuid} holds {filled} and computed nothing {minutes}; whose it is, is {holder}."
            return self._verdict(GpuState.IDLE_HELD_MEMORY, sure, "IdleHeldMemory", message, holder)
        if not holder.pods and empty:
            message = f"GPU {uuid} is free and computed nothing {minutes}."
            return self._verdict(GpuState.IDLE_UNALLOCATED, sure, "IdleUnallocated", message, holder)
        if warming_up(holder.pods, self.node, now=self.watch.now, warm_up=self.watch.policy.warm_up):
            return self._unknown("WarmUp", f"pod {holder.pods[0]} may still load its model")
        if empty:
            message = f"GPU {uuid} is held by {holder} and was neither filled nor used {minutes}."
            return self._verdict(GpuState.IDLE_ALLOCATED_EMPTY, sure, "IdleAllocatedEmpty", message, holder)
        message = f"GPU {uuid}: {holder} keeps {filled} there and computed nothing {minutes}."
        return self._verdict(GpuState.IDLE_HELD_MEMORY, sure, "IdleHeldMemory", message, holder)

    def _cost(self) -> Value:
        prices = self.watch.prices.get(self.node.pool) or self.watch.prices.get("")
        return NO_PRICE if prices is None else prices.gpu_hour_of(self.seen.gpu.model or self.node.gpu_model)

    def _verdict(self, state: GpuState, sure: float, reason: str, message: str, holder: Held | Unknown) -> GpuVerdict:
        place, gpu = self.place, self.seen.gpu
        pods = holder.pods if isinstance(holder, Held) else ()
        cost = self._cost()
        if state in IDLE_STATES and not isinstance(cost, Unknown):
            message = f"{message.removesuffix('.')}, at {cost:.2f} an hour."
        since = UnixTime(float(self.judged.quiet_since[place])) if state in IDLE_STATES else NOT_IDLE
        return GpuVerdict(
            node=self.node.name,
            uuid=gpu.uuid,
            model=gpu.model,
            state=state,
            confidence=Ratio(round(min(max(sure, 0.0), 1.0), 2)),
            reason=reason,
            message=message,
            pod=pods[0] if pods else "",
            evidence=self._evidence(),
            since=since,
            cost_per_hour=cost,
            holders=pods,
        )

    def _evidence(self) -> tuple[Evidence, ...]:
        judged, place, gpu = self.judged, self.place, self.seen.gpu
        quiet = float(judged.quiet_since[place])
        instant = Seconds(0.0)
        watched = "prometheus" if bool(judged.before_first[place]) else "agent"
        if math.isnan(quiet):
            return (
                Evidence("gpu_utilization", gpu.utilization_ratio, "ratio", instant, "agent"),
                Evidence("gpu_sm_active", gpu.sm_active_ratio, "ratio", instant, "agent"),
                Evidence("gpu_memory_used", gpu.memory_used_bytes, "bytes", instant, "agent"),
                Evidence("gpu_power", gpu.power_watts, "watts", instant, "agent"),
                Evidence(
                    "time_with_high_activity", _or_unknown(float(judged.used[place])), "ratio", instant, "derived"
                ),
            )
        span = Seconds(max(0.0, self.watch.now - quiet))
        power = _or_unknown(float(judged.power_high[place]), gpu.power_watts)
        return (
            Evidence("gpu_activity", _or_unknown(float(judged.peak[place])), "ratio", span, watched, "max"),
            Evidence("gpu_sm_active", gpu.sm_active_ratio, "ratio", instant, "agent"),
            Evidence("gpu_memory_used", gpu.memory_used_bytes, "bytes", instant, "agent"),
            Evidence("gpu_power", power, "watts", span, watched, "max"),
            Evidence("gpu_power_floor", _or_unknown(float(judged.floor[place])), "watts", instant, "derived"),
            Evidence("time_since_work", float(judged.elapsed[place]), "seconds", instant, "derived"),
            Evidence("pauses_known", float(judged.gaps[place]), "", instant, "derived"),
            Evidence("stays_idle", _or_unknown(float(judged.probability[place])), "ratio", instant, "derived"),
        )


def _or_unknown(number: float, otherwise: Value = math.nan) -> Value:
    if not math.isnan(number):
        return number
    if isinstance(otherwise, Unknown):
        return otherwise
    return Unknown(UnknownReason.NOT_MEASURED, "not learned yet")
