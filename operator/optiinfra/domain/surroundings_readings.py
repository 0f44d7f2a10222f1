"""What pages about GPUs and nodes say, and how a series of them becomes the surroundings of a service.

A page is of one node and one moment: its GPUs, its CPU, its network. Gauges are averaged over GPUs and pages; counters
count by their differences, and one that went down was restarted and counts from zero. What no page of the window
carries stays unknown: a missing profiling metric is not an idle GPU.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final, TypeAlias

from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.surroundings import Surroundings
from optiinfra.domain.units import Seconds, UnixTime


class GpuQuantity(StrEnum):
    """What a page tells of one GPU (or of one of its MIG instances)."""

    __hash__ = str.__hash__

    UTILIZATION = "utilization"
    """Ratio of time with a kernel running."""
    SM_ACTIVE = "sm_active"
    TENSOR_ACTIVE = "tensor_active"
    DRAM_ACTIVE = "dram_active"
    MEMORY_USED = "memory_used"
    """Bytes, as the three below."""
    MEMORY_FREE = "memory_free"
    MEMORY_TOTAL = "memory_total"
    MEMORY_RESERVED = "memory_reserved"
    """What the driver keeps for itself."""
    CLOCK_EVENTS = "clock_events"
    """Bits of why clocks are below their maximum (NVML)."""
    THROTTLED_SECONDS = "throttled_seconds"
    """Counter: time that heat or power held clocks down."""


class NodeQuantity(StrEnum):
    """What a page tells of its node."""

    __hash__ = str.__hash__

    CPU_BUSY_SECONDS = "cpu_busy_seconds"
    """Counter, over all cores."""
    CPU_CORES = "cpu_cores"
    CPU_RATIO = "cpu_ratio"
    """Gauge, where the source computes it."""
    CPU_WAITING_SECONDS = "cpu_waiting_seconds"
    """Counter (PSI some): time in which a task waited for a CPU."""
    CPU_WAITING_RATIO = "cpu_waiting_ratio"
    """Gauge (PSI some), over the last 10 s."""


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU on one page."""

    uuid: str
    """As the source names it; a MIG instance has its id behind a slash."""
    values: Mapping[GpuQuantity, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LinkReading:
    """One network interface or InfiniBand port on one page."""

    name: str
    received_bytes: float
    sent_bytes: float
    speed: Value
    """Bytes per second in each direction."""


@dataclass(frozen=True, slots=True)
class SurroundingsReading:
    """One page about a node's GPUs, CPU and network. What is absent from the page is absent here."""

    time: UnixTime
    gpus: tuple[GpuReading, ...] = ()
    node: Mapping[NodeQuantity, float] = field(default_factory=dict)
    links: tuple[LinkReading, ...] = ()


HELD_DOWN: Final = 0x4 | 0x8 | 0x20 | 0x40 | 0x80
"""NVML clock events that are heat or power: software power cap, hardware slowdown, software and hardware thermal
slowdown, hardware power brake."""
_Series: TypeAlias = tuple[SurroundingsReading, ...]
_NO_PAGE: Final = Unknown(UnknownReason.NOT_MEASURED, "no page about GPUs or nodes in the window")


def surroundings_in(
    pages: Mapping[str, Sequence[SurroundingsReading]],
    *,
    now: UnixTime,
    window: Seconds,
    gpus: frozenset[str] | None = None,
) -> Surroundings:
    """Join the pages of the nodes that a service runs on; of their GPUs, those named (all, where none are)."""
    within: dict[str, _Series] = {
        node: kept
        for node, readings in pages.items()
        if (kept := tuple(sorted((one for one in readings if now - window <= one.time <= now), key=lambda r: r.time)))
    }
    if not within:
        absent: dict[str, Any] = dict.fromkeys(_FIELDS, _NO_PAGE)
        return Surroundings(**absent)
    chosen = {node: tuple(_of(gpus, one.gpus) for one in readings) for node, readings in within.items()}
    return Surroundings(
        gpu_utilization=_mean(chosen, GpuQuantity.UTILIZATION),
        gpu_sm_active=_mean(chosen, GpuQuantity.SM_ACTIVE),
        gpu_tensor_active=_mean(chosen, GpuQuantity.TENSOR_ACTIVE),
        gpu_dram_active=_mean(chosen, GpuQuantity.DRAM_ACTIVE),
        gpu_memory_usage=_fullest(chosen),
        gpu_clock_throttled=_throttled(within, chosen),
        node_cpu=_node_cpu(within),
        cpu_pressure=_pressure(within),
        network_busy=_network(within),
    )


_FIELDS: Final = (
    "gpu_utilization",
    "gpu_sm_active",
    "gpu_tensor_active",
    "gpu_dram_active",
    "gpu_memory_usage",
    "gpu_clock_throttled",
    "node_cpu",
    "cpu_pressure",
    "network_busy",
)
"""Of `Surroundings`, what such pages can tell."""
_Gpus: TypeAlias = tuple[GpuReading, ...]


def _of(chosen: frozenset[str] | None, gpus: _Gpus) -> _Gpus:
    return gpus if chosen is None else tuple(gpu for gpu in gpus if gpu.uuid.partition("/")[0] in chosen)


def _absent(what: str) -> Unknown:
    return Unknown(UnknownReason.NOT_MEASURED, f"no page in the window carries {what}")


def _mean(pages: Mapping[str, tuple[_Gpus, ...]], quantity: GpuQuantity) -> Value:
    values = [
        gpu.values[quantity] for node in pages.values() for gpus in node for gpu in gpus if quantity in gpu.values
    ]
    return sum(values) / len(values) if values else _absent(quantity)


def _fullest(pages: Mapping[str, tuple[_Gpus, ...]]) -> Value:
    """Return the memory usage of the fullest GPU on the newest pages."""
    shares = [share for node in pages.values() for gpu in node[-1] if (share := _memory_share(gpu)) is not None]
    return max(shares) if shares else _absent("used and total GPU memory")


def _memory_share(gpu: GpuReading) -> float | None:
    used = gpu.values.get(GpuQuantity.MEMORY_USED)
    if used is None:
        return None
    free, total = gpu.values.get(GpuQuantity.MEMORY_FREE), gpu.values.get(GpuQuantity.MEMORY_TOTAL)
    if free is not None:
        whole = used + free
    elif total is not None:
        whole = total - gpu.values.get(GpuQuantity.MEMORY_RESERVED, 0.0)
    else:
        return None
    return min(1.0, used / whole) if whole > 0.0 else None


def _throttled(within: Mapping[str, _Series], pages: Mapping[str, tuple[_Gpus, ...]]) -> Value:
    """Return the share of time that clocks were held down: by counters where there are any, else by the pages' bits."""
    shares: list[float] = []
    for node, readings in within.items():
        counted: dict[str, list[tuple[UnixTime, float]]] = {}
        for one, gpus in zip(readings, pages[node], strict=True):
            for gpu in gpus:
                if GpuQuantity.THROTTLED_SECONDS in gpu.values:
                    counted.setdefault(gpu.uuid, []).append((one.time, gpu.values[GpuQuantity.THROTTLED_SECONDS]))
        shares += [share for points in counted.values() if (share := _share_of_time(points)) is not None]
    if shares:
        return sum(shares) / len(shares)
    bits = [
        int(gpu.values[GpuQuantity.CLOCK_EVENTS])
        for node_pages in pages.values()
        for gpus in node_pages
        for gpu in gpus
        if GpuQuantity.CLOCK_EVENTS in gpu.values
    ]
    return sum(bool(one & HELD_DOWN) for one in bits) / len(bits) if bits else _absent("clock events")


def _share_of_time(points: Sequence[tuple[UnixTime, float]]) -> float | None:
    grown = _growth([value for _, value in points])
    elapsed = points[-1][0] - points[0][0]
    return None if grown is None or elapsed <= 0.0 else min(1.0, grown / elapsed)


def _growth(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    return sum(later - earlier if later >= earlier else later for earlier, later in pairwise(values))


def _points(readings: _Series, quantity: NodeQuantity) -> list[tuple[UnixTime, float]]:
    return [(one.time, one.node[quantity]) for one in readings if quantity in one.node]


def _node_cpu(within: Mapping[str, _Series]) -> Value:
    """Return the use of the nodes' CPUs, pooled by cores; without counters the mean of the sources' own ratio."""
    busy = capacity = 0.0
    for readings in within.values():
        points = _points(readings, NodeQuantity.CPU_BUSY_SECONDS)
        cores = [value for _, value in _points(readings, NodeQuantity.CPU_CORES)]
        grown = _growth([value for _, value in points])
        elapsed = points[-1][0] - points[0][0] if points else 0.0
        if grown is not None and elapsed > 0.0 and cores and cores[-1] > 0.0:
            busy, capacity = busy + grown, capacity + elapsed * cores[-1]
    if capacity > 0.0:
        return min(1.0, busy / capacity)
    return _mean_of(within, NodeQuantity.CPU_RATIO)


def _pressure(within: Mapping[str, _Series]) -> Value:
    """Return the pressure on the CPU of the node that has most of it."""
    shares = [
        share
        for readings in within.values()
        if (points := _points(readings, NodeQuantity.CPU_WAITING_SECONDS))
        and (share := _share_of_time(points)) is not None
    ]
    return max(shares) if shares else _mean_of(within, NodeQuantity.CPU_WAITING_RATIO, join=max)


def _mean_of(
    within: Mapping[str, _Series], quantity: NodeQuantity, join: Callable[[list[float]], float] | None = None
) -> Value:
    means = [
        sum(value for _, value in points) / len(points)
        for readings in within.values()
        if (points := _points(readings, quantity))
    ]
    if not means:
        return _absent(quantity)
    return float(join(means)) if join is not None else sum(means) / len(means)


def _network(within: Mapping[str, _Series]) -> Value:
    """Return the use of the busiest link in its busier direction; links of unknown speed cannot be judged."""
    shares: list[float] = []
    for readings in within.values():
        series: dict[str, list[tuple[UnixTime, LinkReading]]] = {}
        for one in readings:
            for link in one.links:
                series.setdefault(link.name, []).append((one.time, link))
        for points in series.values():
            speed, elapsed = points[-1][1].speed, points[-1][0] - points[0][0]
            received = _growth([link.received_bytes for _, link in points])
            sent = _growth([link.sent_bytes for _, link in points])
            if isinstance(speed, Unknown) or speed <= 0.0 or elapsed <= 0.0 or received is None or sent is None:
                continue
            shares.append(min(1.0, max(received, sent) / elapsed / speed))
    return max(shares) if shares else _absent("two readings of a network link whose speed is known")
