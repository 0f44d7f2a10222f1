"""Which GPUs a pod holds, as far as anybody can know.

The kubelet tells the node's agent (`GpuAllocation`), or ResourceClaims do. Where nobody tells, the pods' requests still
settle two cases: pods that together request every GPU of their node hold all of them, and pods of the only workload
that requests any hold the filled ones, if these are as many as it asks for. Anything else stays unknown: the scheduler
places pods on nodes, not on GPUs. Nor do requests settle anything where GPUs are shared out (MIG, MPS, time-slicing):
what a pod then asks for is a share of a GPU, and others may be on the same one.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from optiinfra.domain.agent_readings import SHARED_WORDS, Attributor, GpuUser, SharedBy
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import AgentReading, GpuFacts, NodeFacts

_OF_ALL: Final = Unknown(UnknownReason.UNSUPPORTED, "the GPU is shared, and this is known of it as a whole only")
EMPTY_BYTES: Final = 1.5 * 2**30
"""Memory that a driver and a bare context may hold."""


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One GPU at one moment."""

    time: UnixTime
    gpu: GpuFacts


def shared_out(node: NodeFacts, reading: AgentReading) -> str:
    """Say how GPUs of a node are shared out, for people; empty where each is given out whole.

    The agent tells, or the numbers do: a node that gives out more GPUs than its agent shows, or whose pods ask for
    more, gives out shares of them.
    """
    ways = sorted({SHARED_WORDS[one.by] for one in reading.sharing if one.by is not SharedBy.CONTAINERS})
    if ways:
        return f"its GPUs are shared out by {' and '.join(ways)}"
    if reading.gpus and node.gpus > len(reading.gpus):
        return f"it gives out {node.gpus:g} GPUs, and its agent shows {len(reading.gpus)}"
    asked = sum(pod.gpus for pod in node.pods)
    if reading.gpus and asked > len(reading.gpus):
        return f"its pods ask for {asked:g} GPUs, and its agent shows {len(reading.gpus)}"
    return ""


def sharing_of(uuid: str, reading: AgentReading) -> str:
    """Say in which way a GPU is shared, for people; empty where it is not, or where nobody says."""
    return next((SHARED_WORDS[one.by] for one in reading.sharing if one.gpu_uuid == uuid), "")


def recent(node: NodeFacts, *, now: UnixTime, window: Seconds) -> tuple[AgentReading, ...]:
    """Return the agent's readings of the window, oldest first."""
    return tuple(
        sorted((one for one in node.agent if now - window <= one.time <= now), key=lambda reading: reading.time)
    )


def latest(node: NodeFacts, *, now: UnixTime, window: Seconds, stale_after: Seconds) -> AgentReading | Unknown:
    """Return the agent's newest reading, if it is fresh and has GPUs to speak of."""
    readings = recent(node, now=now, window=window)
    if not readings:
        if node.agent_error is not None:
            return Unknown(node.agent_error.reason, f"agent of node {node.name}: {node.agent_error.detail}")
        return Unknown(UnknownReason.NOT_MEASURED, f"no agent reading of node {node.name}")
    if now - readings[-1].time > stale_after:
        return Unknown(UnknownReason.STALE, f"agent of node {node.name} last read {now - readings[-1].time:.0f} s ago")
    if isinstance(readings[-1].gpu_source, Unknown):
        return readings[-1].gpu_source
    return readings[-1]


@dataclass(frozen=True, slots=True)
class Attributed:
    """GPUs (uuid) that some pods hold, and by whose word."""

    uuids: frozenset[str]
    by: Attributor


def held_by(pods: Collection[tuple[str, str]], node: NodeFacts, reading: AgentReading) -> frozenset[str] | Unknown:
    """Return the GPUs (uuid) that some pods of a node, each (namespace, name), hold."""
    found = attributed(pods, node, reading)
    return found if isinstance(found, Unknown) else found.uuids


def attributed(pods: Collection[tuple[str, str]], node: NodeFacts, reading: AgentReading) -> Attributed | Unknown:
    """Return the GPUs that some pods of a node, each (namespace, name), hold, and by whose word."""
    allocated = frozenset(one.gpu_uuid for one in reading.allocations if (one.namespace, one.pod) in pods)
    others = frozenset(one.gpu_uuid for one in reading.allocations if (one.namespace, one.pod) not in pods)
    if allocated & others:
        return Unknown(UnknownReason.UNSUPPORTED, f"a GPU of node {node.name} is shared between workloads")
    requested = sum(pod.gpus for pod in node.pods if (pod.namespace, pod.name) in pods)
    if allocated:
        if len(allocated) < requested:
            return Unknown(UnknownReason.INVALID, f"fewer GPUs of node {node.name} are attributed than requested")
        by = reading.attribution.by if reading.attribution is not None else Attributor.KUBELET
        return Attributed(allocated, by)
    shares = shared_out(node, reading)
    if shares:
        return Unknown(UnknownReason.UNSUPPORTED, f"which GPUs of node {node.name} are whose is not known: {shares}")
    if reading.gpus and requested >= len(reading.gpus) and not others:
        return Attributed(frozenset(gpu.uuid for gpu in reading.gpus), Attributor.REQUESTS)
    alone = not others and not any(pod.gpus > 0 for pod in node.pods if (pod.namespace, pod.name) not in pods)
    filled = filled_gpus(reading) if alone else None
    if filled is not None and len(filled) == requested:
        return Attributed(filled, Attributor.REQUESTS)
    return Unknown(
        UnknownReason.UNSUPPORTED,
        f"which GPUs of node {node.name} are whose is not known (agent without pod-resources)",
    )


def with_others(uuids: Collection[str], pods: Collection[tuple[str, str]], reading: AgentReading) -> str:
    """Say in which way others are, or can be, on GPUs of these pods, for people; empty where nobody says so."""
    for uuid in sorted(uuids):
        if way := sharing_of(uuid, reading):
            return way
    given = {one.gpu_uuid for one in reading.allocations if (one.namespace, one.pod) not in pods}
    return SHARED_WORDS[SharedBy.CONTAINERS] if given & set(uuids) else ""


def parts_of(uids: Collection[str], reading: AgentReading) -> dict[str, GpuFacts]:
    """Return what the processes of some pods (uid) have of each GPU they are on, as far as the agent sees processes.

    Memory and share of time are those of the processes. What only the GPU as a whole has (power, energy, bytes over the
    links, activity) is unknown: it is never divided, and never given to each. Of a GPU that nobody else uses, all is
    theirs.
    """
    on_it: dict[str, list[GpuUser]] = {}
    others: set[str] = set()
    for user in reading.users:
        if user.pod_uid in uids:
            on_it.setdefault(user.gpu_uuid, []).append(user)
        else:
            others.add(user.gpu_uuid)
    whole = {gpu.uuid: gpu for gpu in reading.gpus}
    shared = others | {one.gpu_uuid for one in reading.sharing}
    return {
        uuid: _part(whole[uuid], users) if uuid in shared else whole[uuid]
        for uuid, users in on_it.items()
        if uuid in whole
    }


def _part(gpu: GpuFacts, users: Collection[GpuUser]) -> GpuFacts:
    share = _sum([user.sm_ratio for user in users])
    return GpuFacts(
        uuid=gpu.uuid,
        model=gpu.model,
        memory_total_bytes=gpu.memory_total_bytes,
        memory_used_bytes=_sum([user.memory_bytes for user in users]),
        utilization_ratio=share if isinstance(share, Unknown) else min(1.0, share),
        power_watts=_OF_ALL,
        power_limit_watts=_OF_ALL,
        energy_joules=_OF_ALL,
        sm_active_ratio=_OF_ALL,
        pcie_bytes=_OF_ALL,
    )


def _sum(values: Collection[Value]) -> Value:
    unknown = next((value for value in values if isinstance(value, Unknown)), None)
    return sum(value for value in values if not isinstance(value, Unknown)) if unknown is None else unknown


def filled_gpus(reading: AgentReading) -> frozenset[str] | None:
    """Return the GPUs in whose memory more than a bare context lies; None where one is shared out or not known.

    Of a node whose GPU pods all belong to one workload these are that workload's, if there are as many as it asks for.
    """
    found = set[str]()
    for gpu in reading.gpus:
        if isinstance(gpu.memory_used_bytes, Unknown):
            return None
        if gpu.memory_used_bytes > EMPTY_BYTES:
            found.add(gpu.uuid)
    return frozenset(found)


def series(readings: Collection[AgentReading], uuid: str) -> tuple[GpuSample, ...]:
    """Return one GPU's samples."""
    return tuple(GpuSample(reading.time, gpu) for reading in readings for gpu in reading.gpus if gpu.uuid == uuid)
