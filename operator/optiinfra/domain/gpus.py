"""Which GPUs a pod holds, as far as anybody can know.

The kubelet tells the node's agent (`GpuAllocation`). Where the agent may not ask it, the pod's requests still settle
one case: pods that together request every GPU of their node hold all of them. Anything else stays unknown: the
scheduler places pods on nodes, not on GPUs.
"""

from collections.abc import Collection
from dataclasses import dataclass

from optiinfra.domain.readings import Unknown, UnknownReason
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import AgentReading, GpuFacts, NodeFacts


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One GPU at one moment."""

    time: UnixTime
    gpu: GpuFacts


def recent(node: NodeFacts, *, now: UnixTime, window: Seconds) -> tuple[AgentReading, ...]:
    """Return the agent's readings of the window, oldest first."""
    return tuple(
        sorted((one for one in node.agent if now - window <= one.time <= now), key=lambda reading: reading.time)
    )


def latest(node: NodeFacts, *, now: UnixTime, window: Seconds, stale_after: Seconds) -> AgentReading | Unknown:
    """Return the agent's newest reading, if it is fresh and has GPUs to speak of."""
    readings = recent(node, now=now, window=window)
    if not readings:
        return node.agent_error or Unknown(UnknownReason.NOT_MEASURED, f"no agent reading of node {node.name}")
    if now - readings[-1].time > stale_after:
        return Unknown(UnknownReason.STALE, f"agent of node {node.name} last read {now - readings[-1].time:.0f} s ago")
    if isinstance(readings[-1].gpu_source, Unknown):
        return readings[-1].gpu_source
    return readings[-1]


def held_by(pods: Collection[tuple[str, str]], node: NodeFacts, reading: AgentReading) -> frozenset[str] | Unknown:
    """Return the GPUs (uuid) that some pods of a node, each (namespace, name), hold."""
    allocated = frozenset(one.gpu_uuid for one in reading.allocations if (one.namespace, one.pod) in pods)
    others = frozenset(one.gpu_uuid for one in reading.allocations if (one.namespace, one.pod) not in pods)
    if allocated & others:
        return Unknown(UnknownReason.UNSUPPORTED, f"a GPU of node {node.name} is shared between workloads")
    requested = sum(pod.gpus for pod in node.pods if (pod.namespace, pod.name) in pods)
    if allocated:
        if len(allocated) < requested:
            return Unknown(UnknownReason.INVALID, f"fewer GPUs of node {node.name} are attributed than requested")
        return allocated
    if reading.gpus and requested >= len(reading.gpus) and not others:
        return frozenset(gpu.uuid for gpu in reading.gpus)
    return Unknown(
        UnknownReason.UNSUPPORTED,
        f"which GPUs of node {node.name} are whose is not known (agent without pod-resources)",
    )


def series(readings: Collection[AgentReading], uuid: str) -> tuple[GpuSample, ...]:
    """Return one GPU's samples."""
    return tuple(GpuSample(reading.time, gpu) for reading in readings for gpu in reading.gpus if gpu.uuid == uuid)
