"""How much of what a workload holds is used: its GPUs, their memory and power, its KV cache, its nodes.

A value speaks for the GPUs of at least half the workload's pods, else it is unknown with the reason of the first pod
whose GPUs are not; `gpus_measured` says of how many. Means are over the window, so that the gap between two requests is
not taken for waste; whoever looks for idleness takes the maximum.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from optiinfra.domain import gpus
from optiinfra.domain.agent_readings import Attributor
from optiinfra.domain.readings import Signal, Unknown, UnknownReason, Value
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import AgentReading, GpuFacts, NodeFacts, PodFacts, WorkloadFacts

_NO_GPUS = Unknown(UnknownReason.UNSUPPORTED, "the workload requests no GPUs")


@dataclass(frozen=True, slots=True)
class Utilization:
    """What a workload uses of what it holds."""

    measured: UnixTime | None
    """Time of the latest measurement in it; None when there is none."""
    gpus_expected: float
    """GPUs that the workload's running pods request."""
    gpus_measured: int
    """GPUs that the values speak for."""
    gpu_ratio_mean: Value
    gpu_ratio_max: Value
    """Busiest moment of any GPU in the window."""
    sm_active_mean: Value
    """Share of multiprocessors at work, where the hardware tells; it says more than gpu_ratio."""
    gpu_memory_ratio: Value
    """Of the fullest GPU, now."""
    gpu_power_watts: Value
    """Sum, now."""
    kv_cache_ratio: Value
    """Of the fullest replica, now."""
    node_cpu_ratio: Value
    """Mean over the workload's nodes and the window."""
    node_memory_ratio: Value
    """Of the fullest of the workload's nodes, now."""
    gpu_uuids: tuple[str, ...] = ()
    attributed_by: Attributor | None = None
    """By whose word these GPUs are the workload's; of several, the least sure. None where none are known."""
    shared_by: str = ""
    """In which way others are, or can be, on its GPUs, for people; empty where nobody says so."""


def summarise(
    facts: WorkloadFacts,
    nodes: Mapping[str, NodeFacts],
    *,
    now: UnixTime,
    window: Seconds,
    stale_after: Seconds,
) -> Utilization:
    """Join the agents' readings of the nodes where the workload's pods run."""
    pods = [pod for pod in facts.pods if pod.node and pod.phase == "Running"]
    uses_gpus = [pod for pod in pods if pod.gpus > 0]
    samples, reason, by = _gpu_samples(
        facts.namespace, uses_gpus, nodes, now=now, window=window, stale_after=stale_after
    )
    shared = _shared(facts.namespace, uses_gpus, nodes, now=now, window=window)
    own = {node: nodes[node] for node in sorted({pod.node for pod in pods}) if node in nodes}
    fresh = [
        reading
        for node in own.values()
        if (reading := _node_reading(node, now=now, window=window, stale_after=stale_after)) is not None
    ]
    history = [reading for node in own.values() for reading in gpus.recent(node, now=now, window=window)]
    newest = [one[-1].gpu for one in samples.values()]
    times = [one[-1].time for one in samples.values()] + [reading.time for reading in fresh]
    times += [pages[-1].time for pages in facts.pages.values() if pages and now - pages[-1].time <= stale_after]
    every = [sample.gpu for one in samples.values() for sample in one]
    return Utilization(
        measured=max(times, default=None),
        gpus_expected=sum(pod.gpus for pod in uses_gpus),
        gpus_measured=len(samples),
        gpu_ratio_mean=_join(every, lambda gpu: gpu.utilization_ratio, _mean, reason),
        gpu_ratio_max=_join(every, lambda gpu: gpu.utilization_ratio, max, reason),
        sm_active_mean=_join(every, lambda gpu: gpu.sm_active_ratio, _mean, reason),
        gpu_memory_ratio=_join(newest, _memory_ratio, max, reason),
        gpu_power_watts=_join(newest, lambda gpu: gpu.power_watts, sum, reason),
        kv_cache_ratio=_kv_cache(facts, now=now, stale_after=stale_after),
        node_cpu_ratio=_node_value(history, fresh, lambda one: one.cpu_utilization_ratio, _mean),
        node_memory_ratio=_node_value(fresh, fresh, _node_memory, max),
        gpu_uuids=tuple(sorted(samples)),
        attributed_by=max(by, key=list(Attributor).index, default=None) if samples else None,
        shared_by=shared,
    )


def _gpu_samples(
    namespace: str,
    pods: list[PodFacts],
    nodes: Mapping[str, NodeFacts],
    *,
    now: UnixTime,
    window: Seconds,
    stale_after: Seconds,
) -> tuple[dict[str, tuple[gpus.GpuSample, ...]], Unknown, set[Attributor]]:
    """Return the samples of every GPU that the pods hold, why there are none or too few, and whose word it is."""
    by: set[Attributor] = set()
    if not pods:
        return {}, _NO_GPUS, by
    found: dict[str, tuple[gpus.GpuSample, ...]] = {}
    reason: Unknown | None = None
    measured = 0.0
    for name in sorted({pod.node for pod in pods}):
        here = [pod for pod in pods if pod.node == name]
        if name not in nodes:
            reason = reason or Unknown(UnknownReason.NOT_MEASURED, f"nothing is known of node {name}")
            continue
        reading = gpus.latest(nodes[name], now=now, window=window, stale_after=stale_after)
        if isinstance(reading, Unknown):
            reason = reason or reading
            continue
        told = gpus.attributed({(pod.namespace or namespace, pod.name) for pod in here}, nodes[name], reading)
        readings = gpus.recent(nodes[name], now=now, window=window)
        if isinstance(told, Unknown):
            parts = _parts({pod.uid for pod in here}, readings, newest=reading)
            users = {one.pod_uid for one in reading.users}
            if parts:
                found |= parts
                measured += sum(pod.gpus for pod in here if pod.uid in users)
                by.add(Attributor.PROCESSES)
            reason = reason or told
            continue
        held = told.uuids
        by.add(told.by)
        series = {uuid: gpus.series(readings, uuid) for uuid in held}
        # A GPU that the newest reading does not show is lost, and speaks for nothing.
        present = {uuid: one for uuid, one in series.items() if one and one[-1].time == reading.time}
        found |= present
        measured += sum(pod.gpus for pod in here) if len(present) == len(held) else len(present)
    if measured * 2 < sum(pod.gpus for pod in pods):
        return {}, reason or Unknown(UnknownReason.NOT_MEASURED, "the agents show none of the workload's GPUs"), by
    return found, reason or Unknown(UnknownReason.NOT_MEASURED, "the agents show no such value"), by


def _parts(
    uids: set[str], readings: tuple[AgentReading, ...], *, newest: AgentReading
) -> dict[str, tuple[gpus.GpuSample, ...]]:
    """Return the samples of what some pods' processes have of GPUs that are not theirs alone."""
    found: dict[str, list[gpus.GpuSample]] = {}
    for reading in readings:
        for uuid, part in gpus.parts_of(uids, reading).items():
            found.setdefault(uuid, []).append(gpus.GpuSample(reading.time, part))
    return {uuid: tuple(several) for uuid, several in found.items() if several[-1].time == newest.time}


def _shared(
    namespace: str, pods: list[PodFacts], nodes: Mapping[str, NodeFacts], *, now: UnixTime, window: Seconds
) -> str:
    """Say in which way others are, or can be, on the pods' GPUs."""
    for name in sorted({pod.node for pod in pods if pod.node in nodes}):
        readings = gpus.recent(nodes[name], now=now, window=window)
        if not readings:
            continue
        here = {(pod.namespace or namespace, pod.name): pod.uid for pod in pods if pod.node == name}
        held = {one.gpu_uuid for one in readings[-1].allocations if (one.namespace, one.pod) in here}
        held |= {one.gpu_uuid for one in readings[-1].users if one.pod_uid in here.values()}
        # Where nobody says which GPUs they hold, it may be any of the node's.
        held = held or {gpu.uuid for gpu in readings[-1].gpus}
        if way := gpus.with_others(held, here.keys(), readings[-1]):
            return way
    return ""


def _join(
    found: list[GpuFacts], read: Callable[[GpuFacts], Value], join: Callable[[list[float]], float], reason: Unknown
) -> Value:
    """Join what is known; one failed reading in a window does not hide the rest, half of them do."""
    values = [read(gpu) for gpu in found]
    known = [value for value in values if not isinstance(value, Unknown)]
    if known and len(known) * 2 >= len(values):
        return float(join(known))
    return next((value for value in values if isinstance(value, Unknown)), reason)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _memory_ratio(gpu: GpuFacts) -> Value:
    if isinstance(gpu.memory_used_bytes, Unknown):
        return gpu.memory_used_bytes
    if isinstance(gpu.memory_total_bytes, Unknown):
        return gpu.memory_total_bytes
    if gpu.memory_total_bytes <= 0.0:
        return Unknown(UnknownReason.INVALID, f"GPU {gpu.uuid} with no memory")
    return gpu.memory_used_bytes / gpu.memory_total_bytes


def _node_reading(node: NodeFacts, *, now: UnixTime, window: Seconds, stale_after: Seconds) -> AgentReading | None:
    readings = gpus.recent(node, now=now, window=window)
    return readings[-1] if readings and now - readings[-1].time <= stale_after else None


def _node_memory(reading: AgentReading) -> Value:
    total, available = reading.memory_total_bytes, reading.memory_available_bytes
    if isinstance(total, Unknown):
        return total
    if isinstance(available, Unknown):
        return available
    if total <= 0.0:
        return Unknown(UnknownReason.INVALID, f"node {reading.node} with no memory")
    return min(1.0, max(0.0, 1.0 - available / total))


def _node_value(
    readings: list[AgentReading],
    fresh: list[AgentReading],
    read: Callable[[AgentReading], Value],
    join: Callable[[list[float]], float],
) -> Value:
    if not fresh:
        return Unknown(UnknownReason.NOT_MEASURED, "no fresh agent reading of the workload's nodes")
    values = [read(reading) for reading in readings]
    known = [value for value in values if not isinstance(value, Unknown)]
    if known:
        return float(join(known))
    return next(value for value in values if isinstance(value, Unknown))


def _kv_cache(facts: WorkloadFacts, *, now: UnixTime, stale_after: Seconds) -> Value:
    newest = [pages[-1] for pages in facts.pages.values() if pages and now - pages[-1].time <= stale_after]
    values = [page.gauge(Signal.KV_CACHE_USAGE) for page in newest]
    known = [value for value in values if not isinstance(value, Unknown)]
    if known:
        return max(known)
    for value in values:
        if isinstance(value, Unknown):
            return value
    return next(iter(facts.page_errors.values()), Unknown(UnknownReason.NOT_MEASURED, "no fresh engine page"))
