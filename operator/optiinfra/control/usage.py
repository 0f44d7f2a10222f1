"""What containers really use, by metrics.k8s.io and by the node agents: samples on their way into histories.

Read in the background at a slow pace. The agents are asked where metrics.k8s.io is not served or is coarser than they
are, and stay a target's source as long as they measure it, so that the source which is named does not flicker. Where
neither measures, use is a stated unknown and never zero. Samples wait here until the next round takes them, so that
histories change in one place and never while they are judged. A sample that cannot be (negative, more than the node or
the limit has, from the future, or from before what was heard already) is thrown away and remembered as a fault: while
one stands, nothing is recommended.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from optiinfra.cluster.usage import METRICS_API as _SERVED
from optiinfra.cluster.usage import ContainerUsage, PodUsage
from optiinfra.control.agent_usage import use_of
from optiinfra.control.keys import ObjectKey
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import AgentReading, ContainerFacts, NodeFacts, PodFacts

TargetKey: TypeAlias = tuple[ObjectKey, str]
"""An object and the name of one of its targets."""
FAULT_STANDS: Final = Seconds(900.0)
"""How long a fault speaks against recommending after the last bad sample."""
AHEAD: Final = Seconds(120.0)
"""A clock this far ahead of ours is wrong; metrics-server and operator differ by seconds."""
BEHIND: Final = Seconds(600.0)
"""A pod's sample this much older than the one before it: somebody's clock was set back."""
ROOM: Final = 1.1
"""Over a limit or a node's allocatable part: what rounding and averaging may add."""
BURST: Final = 1.5
BURST_CORES: Final = 0.1
"""Over a CPU limit: what bursts and a window of few scheduling periods may add, by factor or in cores."""
_MOST_WAITING: Final = 4096
METRICS_API: Final = _SERVED
"""Source of what metrics.k8s.io says, as evidence names it."""
AGENT: Final = "agent"


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a pod is, and what bounds its use."""

    key: ObjectKey
    target: str
    pod: PodFacts
    node: NodeFacts | None = None
    """None where nodes are not seen (scope Namespaces)."""


@dataclass(frozen=True, slots=True)
class UsageSample:
    """What one container of one pod used."""

    container: str
    time: UnixTime
    cpu_cores: Value
    memory_bytes: Value
    starting: bool
    """Its pod was not ready for the whole window that the sample speaks of."""


@dataclass(frozen=True, slots=True)
class UsageFault:
    """A sample that cannot be, in words, and when it came."""

    text: str
    at: UnixTime


class UsageReader(Protocol):
    """Reads the use of a namespace's pods; `optiinfra.cluster.usage` is the real one."""

    async def pods(self, namespace: str) -> Mapping[str, PodUsage] | Unknown:
        """Return the use of every pod of a namespace by name, or why it is not known."""


@dataclass(slots=True)
class UsageTable:
    """Samples that wait, faults that stand, and the busiest pod, by object and target."""

    reader: UsageReader
    clock: Callable[[], float]
    agents: Callable[[str], tuple[AgentReading, ...]] = lambda _node: ()
    """Recent readings of a node's agent, oldest first."""
    unknown: dict[str, Unknown] = field(default_factory=dict)
    """Why nothing is known, by namespace."""
    _waiting: dict[TargetKey, deque[UsageSample]] = field(default_factory=dict)
    _faults: dict[TargetKey, UsageFault] = field(default_factory=dict)
    _busiest: dict[TargetKey, dict[str, tuple[UnixTime, float]]] = field(default_factory=dict)
    _sources: dict[TargetKey, str] = field(default_factory=dict)
    _heard: dict[tuple[str, str], UnixTime] = field(default_factory=dict)
    """Time of a pod's last sample, by namespace and name."""

    def take(self, key: ObjectKey, target: str) -> tuple[UsageSample, ...]:
        """Return the samples of a target that nobody took yet, oldest first; they are gone from here."""
        return tuple(sorted(self._waiting.pop((key, target), ()), key=lambda sample: sample.time))

    def fault(self, key: ObjectKey, target: str) -> UsageFault | None:
        """Return what was wrong with a target's samples lately."""
        found = self._faults.get((key, target))
        return found if found is not None and 0.0 <= self.clock() - found.at < FAULT_STANDS else None

    def busiest(self, key: ObjectKey, target: str) -> Mapping[str, tuple[UnixTime, float]]:
        """When each container of a target was last measured, and the CPU cores that its busiest pod used then."""
        return self._busiest.get((key, target), {})

    def source(self, key: ObjectKey, target: str) -> str:
        """Who measures a target's containers: `AGENT` or `METRICS_API`; empty while nobody does."""
        return self._sources.get((key, target), "")

    async def refresh(self, namespace: str, owners: Mapping[str, Owner]) -> None:
        """Read a namespace once and keep what its pods use for the targets they belong to (pod name -> owner)."""
        answer = await self.reader.pods(namespace)
        served = {} if isinstance(answer, Unknown) else answer
        for gone in [heard for heard in self._heard if heard[0] == namespace and heard[1] not in owners]:
            del self._heard[gone]
        found = [(owner, *self._chosen(namespace, owner, served.get(name))) for name, owner in owners.items()]
        measured = any(uses for _, _, uses in found)
        if isinstance(answer, Unknown) and not measured:
            self.unknown[namespace] = answer
            return
        self.unknown.pop(namespace, None)
        for owner in owners.values():
            self._busiest.pop((owner.key, owner.target), None)
        for owner, source, uses in found:
            if uses:
                self._sources[owner.key, owner.target] = source
            for use in uses:
                self._note(namespace, owner, use, newest=use is uses[-1])

    def _chosen(self, namespace: str, owner: Owner, served: PodUsage | None) -> tuple[str, tuple[PodUsage, ...]]:
        """Return who speaks for a pod, and what it says that is new."""
        by_agent = use_of(owner.pod, self.agents(owner.pod.node), after=self._heard.get((namespace, owner.pod.name)))
        if by_agent is not None:
            steps = [use.window_s for use in by_agent if use.window_s > 0.0]
            finer = served is None or (bool(steps) and (served.window_s <= 0.0 or max(steps) < served.window_s))
            if finer or self._sources.get((owner.key, owner.target)) == AGENT:
                return AGENT, by_agent
        return (METRICS_API, ()) if served is None else (served.source, (served,))

    def _note(self, namespace: str, owner: Owner, used: PodUsage, *, newest: bool) -> None:
        target, now = (owner.key, owner.target), UnixTime(self.clock())
        before = self._heard.get((namespace, owner.pod.name))
        if before is not None and used.time == before:
            return
        if (wrong := _wrong_time(owner, used, before=before, now=now)) is not None:
            self._faults[target] = UsageFault(wrong, now)
            if used.time <= now:
                # The clock was set back and goes on from there; the next sample is measured against this one.
                self._heard[namespace, owner.pod.name] = used.time
            return
        self._heard[namespace, owner.pod.name] = used.time
        waiting = self._waiting.setdefault(target, deque(maxlen=_MOST_WAITING))
        for name, one in used.containers.items():
            if (impossible := _impossible(owner, name, one)) is not None:
                self._faults[target] = UsageFault(f"pod {owner.pod.name}: {impossible}", now)
                continue
            if newest:
                self._busy(target, name, used.time, one.cpu_cores)
            starting = _starting(owner.pod, since=UnixTime(used.time - used.window_s))
            waiting.append(UsageSample(name, used.time, one.cpu_cores, one.memory_bytes, starting))

    def _busy(self, target: TargetKey, container: str, time: UnixTime, cores: Value) -> None:
        if isinstance(cores, Unknown):
            return
        known = self._busiest.setdefault(target, {})
        _, most = known.get(container, (time, 0.0))
        if cores >= most:
            known[container] = time, cores

    def forget_except(self, alive: set[ObjectKey]) -> None:
        """Drop what waits and stands of objects that are gone."""
        kept: tuple[dict[TargetKey, object], ...] = (self._waiting, self._faults, self._busiest, self._sources)  # type: ignore[assignment]  # only keys are looked at
        for table in kept:
            for target in [target for target in table if target[0] not in alive]:
                del table[target]


def _wrong_time(owner: Owner, used: PodUsage, *, before: UnixTime | None, now: UnixTime) -> str | None:
    name = owner.pod.name
    if used.time > now + AHEAD:
        return f"pod {name}: its use is dated {used.time - now:.0f} s ahead of the operator's clock"
    if before is not None and used.time < before - BEHIND:
        return f"pod {name}: its use is dated {before - used.time:.0f} s before what was read already"
    return None


def _impossible(owner: Owner, name: str, used: ContainerUsage) -> str | None:
    """Say why a container cannot have used this; None when it can."""
    for what, value in (("CPU", used.cpu_cores), ("memory", used.memory_bytes)):
        if isinstance(value, Unknown) and value.reason is UnknownReason.INVALID:
            return f"container {name}: {what}: {value.detail}"
    pod = owner.pod
    facts = next((one for one in (*pod.containers, *pod.init_containers) if one.name == name), None)
    cores, memory = _bounds(facts, owner.node)
    if not isinstance(used.cpu_cores, Unknown) and used.cpu_cores > cores[0]:
        return f"container {name} is said to use {used.cpu_cores:.3g} cores, more than {cores[1]}"
    if not isinstance(used.memory_bytes, Unknown) and used.memory_bytes > memory[0]:
        return f"container {name} is said to use {used.memory_bytes / 2**30:.3g} GiB of memory, more than {memory[1]}"
    return None


def _bounds(facts: ContainerFacts | None, node: NodeFacts | None) -> tuple[tuple[float, str], tuple[float, str]]:
    cores: list[tuple[float, str]] = [(float("inf"), "")]
    memory: list[tuple[float, str]] = [(float("inf"), "")]
    if node is not None and node.cpu_cores > 0.0:
        cores.append((ROOM * node.cpu_cores, f"node {node.name} has ({node.cpu_cores:.3g})"))
    if node is not None and node.memory_bytes > 0.0:
        memory.append((ROOM * node.memory_bytes, f"node {node.name} has ({node.memory_bytes / 2**30:.3g} GiB)"))
    if facts is not None and not isinstance(facts.cpu_limit_cores, Unknown) and facts.cpu_limit_cores > 0.0:
        most = max(BURST * facts.cpu_limit_cores, facts.cpu_limit_cores + BURST_CORES)
        cores.append((most, f"its limit allows ({facts.cpu_limit_cores:.3g})"))
    if facts is not None and not isinstance(facts.memory_limit_bytes, Unknown) and facts.memory_limit_bytes > 0.0:
        memory.append(
            (ROOM * facts.memory_limit_bytes, f"its limit allows ({facts.memory_limit_bytes / 2**30:.3g} GiB)")
        )
    return min(cores), min(memory)


def _starting(pod: PodFacts, *, since: UnixTime) -> bool:
    """Tell whether a window that began at `since` lies, at least in part, in a pod's start."""
    if pod.lost_readiness:
        return False
    return not pod.ready or pod.became_ready is None or since < pod.became_ready
