"""What the node agents' readings say around a service's engines over a window, and where it was worst.

GPU activity is a mean over the service's own GPUs, because a verdict is about the service; what holds something back
(heat, power, PCIe, a CPU limit, a link) is named with its place, because a person has to go there. Counters count by
their difference over the window, and one that went down was begun anew. A quantity of which no two readings tell
stays unknown: half a measurement is none.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from optiinfra.domain import gpu_models
from optiinfra.domain.agent_readings import ContainerCounters
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.surroundings_readings import HELD_DOWN
from optiinfra.domain.workload import AgentReading, GpuFacts

HEAT: Final = 0x20 | 0x40
"""NVML clock events: software and hardware thermal slowdown."""
ID_DIGITS: Final = 8
"""Of a container's id, as agents shorten it."""
_FOREVER: Final = 1e-9
_PCIE_SPEED: Final[Mapping[str, float]] = {
    "Volta": 15.75e9,
    "Turing": 15.75e9,
    "Ampere": 31.5e9,
    "Ada": 31.5e9,
    "Hopper": 63.0e9,
    "Blackwell": 63.0e9,
}
"""Bytes per second in each direction over the 16 lanes of a generation's PCIe (3.0, 4.0, 5.0; 128b/130b), where the
agent does not say what the link really is. A link that came up narrower is then busier than this says, never less."""


@dataclass(frozen=True, slots=True)
class OwnContainer:
    """A container of the service."""

    pod: str
    name: str
    cpu_limit_cores: Value
    serves: bool = True
    """It is the engine: a verdict asks about its CPU."""


@dataclass(frozen=True, slots=True)
class ServiceNode:
    """One node that a service runs on."""

    name: str
    readings: tuple[AgentReading, ...]
    """Of the window, oldest first; none where its agent is not heard."""
    gpus: frozenset[str] = frozenset()
    """GPUs that the service holds there, by uuid."""
    containers: Mapping[tuple[str, str], OwnContainer] = field(default_factory=dict)
    """Its containers by the pod's uid and the first digits of their id."""
    named: Mapping[tuple[str, str, str], OwnContainer] = field(default_factory=dict)
    """The same by namespace, pod and name, for agents that know nothing else."""
    longer: tuple[AgentReading, ...] = ()
    """Of a longer window, for containers, which agents read more rarely; none: the window's own."""


@dataclass(frozen=True, slots=True)
class Found:
    """A quantity, and where it was found at its worst; no place where it is a mean or not known."""

    value: Value
    place: str = ""


def measured(nodes: Sequence[ServiceNode]) -> dict[str, Found]:
    """Return what the agents know, by field of `Surroundings`; fields about which they say nothing are unknown too."""
    heard = [node for node in nodes if node.readings]
    series = [(node.name, uuid, points) for node in heard for uuid, points in _gpus(node).items()]
    own = [(node.name, one, points) for node in heard for one, points in _containers(node) if one.serves]
    activity = {
        "gpu_tensor_active": _mean(series, lambda gpu: gpu.tensor_active_ratio, "tensor activity"),
        "gpu_dram_active": _mean(series, lambda gpu: gpu.dram_active_ratio, "DRAM activity"),
    }
    return activity | {
        "gpu_clock_throttled": _worst_gpu(series, _held_down, "clock events"),
        "gpu_heat_throttled": _worst_gpu(series, _hot, "clock events"),
        "pcie_busy": _worst_gpu(series, _pcie, "the speed of PCIe"),
        "container_cpu": _worst_container(own, _cpu),
        "cpu_throttled": _worst_container(own, _throttled),
        "cpu_pressure": _pressure(heard, own),
        "memory_pressure": _worst_container(own, _waits_for_memory),
        "io_pressure": _worst_container(own, _waits_for_disks),
        "network_busy": _network(heard),
    }


def throttling(nodes: Sequence[ServiceNode]) -> dict[str, Found]:
    """Return the share of periods in which its CPU limit held each container back, of the pod where it was most."""
    return _by_name(nodes, _throttled)


def waiting_for_memory(nodes: Sequence[ServiceNode]) -> dict[str, Found]:
    """Return the share of time in which each container waited for memory, of the pod where it was most."""
    return _by_name(nodes, _waits_for_memory)


def _by_name(nodes: Sequence[ServiceNode], share: Callable[[OwnContainer, "_Rows"], Value]) -> dict[str, Found]:
    rows = [(node.name, one, points) for node in nodes for one, points in _containers(node)]
    names = {one.name for _, one, _ in rows}
    return {name: _worst_container([row for row in rows if row[1].name == name], share) for name in names}


# ---- GPUs

_Points = list[tuple[float, GpuFacts]]
_Series = list[tuple[str, str, _Points]]


def _gpus(node: ServiceNode) -> dict[str, _Points]:
    found: dict[str, _Points] = {uuid: [] for uuid in node.gpus}
    for reading in node.readings:
        for gpu in reading.gpus:
            if gpu.uuid in found:
                found[gpu.uuid].append((reading.time, gpu))
    return {uuid: points for uuid, points in found.items() if points}


def _absent(what: str) -> Found:
    return Found(Unknown(UnknownReason.NOT_MEASURED, f"no agent of its nodes tells {what}"))


def _mean(series: _Series, read: Callable[[GpuFacts], Value], what: str) -> Found:
    values = [read(gpu) for _, _, points in series for _, gpu in points]
    known = [value for value in values if not isinstance(value, Unknown)]
    if known and 2 * len(known) >= len(values):
        return Found(sum(known) / len(known))
    return next((Found(value) for value in values if isinstance(value, Unknown)), _absent(what))


def _worst_gpu(series: _Series, share: Callable[[_Points], Value], what: str) -> Found:
    return _worst([(share(points), f"GPU {uuid} of node {node}") for node, uuid, points in series], what)


def _worst(found: Iterable[tuple[Value, str]], what: str) -> Found:
    """Return the largest share and its place; the first reason why not where none is known."""
    every = list(found)
    known = [(value, place) for value, place in every if not isinstance(value, Unknown)]
    if known:
        value, place = max(known, key=lambda one: one[0])
        return Found(value, place)
    return next((Found(value, place) for value, place in every), _absent(what))


def _held_down(points: _Points) -> Value:
    heat = _share([(time, gpu.clocks.heat_seconds) for time, gpu in points])
    power = _share([(time, gpu.clocks.power_seconds) for time, gpu in points])
    if isinstance(heat, Unknown) or isinstance(power, Unknown):
        return _bits(points, HELD_DOWN)
    # Both may hold at the same time, and then both count it.
    return min(1.0, max(heat, power))


def _hot(points: _Points) -> Value:
    heat = _share([(time, gpu.clocks.heat_seconds) for time, gpu in points])
    return _bits(points, HEAT) if isinstance(heat, Unknown) else heat


def _bits(points: _Points, mask: int) -> Value:
    """Return the share of readings with one of these clock events."""
    values = [gpu.clocks.reasons for _, gpu in points]
    known = [int(value) for value in values if not isinstance(value, Unknown)]
    if not known:
        return next(value for value in values if isinstance(value, Unknown))
    return sum(bool(one & mask) for one in known) / len(known)


def _pcie(points: _Points) -> Value:
    """Return the busier direction over the speed of the link: the real one, else that of the GPU's generation."""
    speed = _pcie_speed(points[-1][1])
    if isinstance(speed, Unknown):
        return speed
    sent = _share([(time, gpu.pcie_transmit_bytes) for time, gpu in points], of=speed)
    received = _share([(time, gpu.pcie_receive_bytes) for time, gpu in points], of=speed)
    if isinstance(sent, Unknown) or isinstance(received, Unknown):
        return received if isinstance(sent, Unknown) else sent
    return max(sent, received)


def _pcie_speed(gpu: GpuFacts) -> Value:
    if not isinstance(gpu.pcie_speed, Unknown) and gpu.pcie_speed > 0.0:
        return gpu.pcie_speed
    model = gpu_models.recognise(gpu.model)
    known = None if isinstance(model, Unknown) else _PCIE_SPEED.get(model.generation)
    return Unknown(UnknownReason.NOT_MEASURED, "the speed of its PCIe link is not known") if known is None else known


# ---- containers

_Rows = list[tuple[float, ContainerCounters]]
_Own = list[tuple[str, OwnContainer, _Rows]]


def _containers(node: ServiceNode) -> list[tuple[OwnContainer, _Rows]]:
    found: dict[tuple[str, ...], tuple[OwnContainer, _Rows]] = {}
    for reading in node.longer or node.readings:
        at = reading.containers_at or reading.time
        for key, one, row in _own_rows(node, reading):
            rows = found.setdefault(key, (one, []))[1]
            # A snapshot between two readings of the containers repeats the last one.
            if not rows or at > rows[-1][0]:
                rows.append((at, row))
    return list(found.values())


def _own_rows(
    node: ServiceNode, reading: AgentReading
) -> Iterator[tuple[tuple[str, ...], OwnContainer, ContainerCounters]]:
    """Yield what a reading says of the service's containers, each with what it is known by."""
    for row in reading.containers:
        key = row.pod_uid, row.id[:ID_DIGITS]
        if key in node.containers:
            yield key, node.containers[key], row
    for one in reading.named:
        name = one.namespace, one.pod, one.name
        if name in node.named:
            yield name, node.named[name], ContainerCounters("", "", one.cpu_seconds, one.working_set_bytes)


def _worst_container(own: _Own, share: Callable[[OwnContainer, _Rows], Value]) -> Found:
    return _worst(
        [(share(one, rows), f"container {one.name} of pod {one.pod} on node {node}") for node, one, rows in own],
        "its containers",
    )


def _cpu(one: OwnContainer, rows: _Rows) -> Value:
    limit = one.cpu_limit_cores
    if isinstance(limit, Unknown) or limit <= 0.0:
        return Unknown(UnknownReason.UNSUPPORTED, "the engine's container has no CPU limit")
    return _share([(time, row.cpu_seconds) for time, row in rows], of=limit)


def _throttled(_one: OwnContainer, rows: _Rows) -> Value:
    periods = _growth([row.cpu_periods for _, row in rows])
    held = _growth([row.cpu_throttled_periods for _, row in rows])
    if isinstance(periods, Unknown) or isinstance(held, Unknown):
        return periods if isinstance(periods, Unknown) else held
    # Without a limit there are no periods, and nothing is held back.
    return min(1.0, held / periods) if periods > 0.0 else 0.0


def _waits_for_memory(_one: OwnContainer, rows: _Rows) -> Value:
    return _share([(time, row.memory_waiting_seconds) for time, row in rows])


def _waits_for_disks(_one: OwnContainer, rows: _Rows) -> Value:
    return _share([(time, row.io_waiting_seconds) for time, row in rows])


def _pressure(heard: Sequence[ServiceNode], own: _Own) -> Found:
    """Return the pressure within the engine's container; on its whole node where that is not measured."""
    inside = _worst_container(own, lambda _, rows: _share([(time, row.cpu_waiting_seconds) for time, row in rows]))
    if not isinstance(inside.value, Unknown):
        return inside
    around = []
    for node in heard:
        known = [one.cpu_pressure_ratio for one in node.readings]
        numbers = [value for value in known if not isinstance(value, Unknown)]
        around.append((sum(numbers) / len(numbers) if numbers else known[-1], f"node {node.name}"))
    return _worst(around, "pressure on the CPU")


# ---- network


def _network(heard: Sequence[ServiceNode]) -> Found:
    found: list[tuple[Value, str]] = []
    for node in heard:
        for name in {link.name: None for link in node.readings[-1].links}:
            points = [(one.time, link) for one in node.readings for link in one.links if link.name == name]
            speed = points[-1][1].speed
            if isinstance(speed, Unknown) or speed <= 0.0:
                found.append((Unknown(UnknownReason.NOT_MEASURED, "the speed of the network is not known"), ""))
                continue
            received = _share([(time, link.receive_bytes) for time, link in points], of=speed)
            sent = _share([(time, link.transmit_bytes) for time, link in points], of=speed)
            link_name = f"link {name}" if name else "network"
            known = [value for value in (received, sent) if not isinstance(value, Unknown)]
            found.append((max(known) if known else received, f"{link_name} of node {node.name}"))
    return _worst(found, "network traffic")


# ---- counters


def _share(points: Sequence[tuple[float, Value]], *, of: float = 1.0) -> Value:
    """Return the growth of a counter over the time between its first and last reading, as a share of `of` a second."""
    grown = _growth([value for _, value in points])
    elapsed = points[-1][0] - points[0][0]
    if isinstance(grown, Unknown):
        return grown
    return min(1.0, grown / max(elapsed, _FOREVER) / of)


def _growth(values: Sequence[Value]) -> Value:
    """Return by how much a counter grew; one that went down was begun anew, and counts from zero."""
    known: list[float] = []
    for value in values:
        if isinstance(value, Unknown):
            return value
        known.append(value)
    if len(known) < 2:
        return Unknown(UnknownReason.TOO_FEW_SAMPLES, "a counter needs two readings")
    return sum(later - earlier if later >= earlier else later for earlier, later in pairwise(known))
