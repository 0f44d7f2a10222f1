"""What the agent knows about its node at one moment, and its JSON form, whole or in parts (`/v1/snapshot`, version 1).

A value that was not measured is an `Unknown` with its reason, a type of its own: it can neither be added up nor
printed as 0. In JSON it becomes null, and the object's `unknown` map names the reason. The models are frozen, so
one snapshot can be handed to any number of requests at once without a lock.

Plain dataclasses, not pydantic: measured, pydantic adds 9 MiB to the 31 of a process that runs on every node, and
0.2 s to its start. This module reads nothing and knows no source; it refuses NaN and infinity (`json` raises on them).
"""

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, TypeAlias, TypeVar

VERSION = 1
CONTAINER_FIELDS = ("id", "cpu_seconds_total", "memory_bytes", "working_set_bytes")
"""What a row of `pods[].containers` holds, in this order."""


class SourceName(StrEnum):
    """Where values come from."""

    NVML = "nvml"
    CPU = "cpu"
    MEMORY = "memory"
    PRESSURE = "pressure"
    NETWORK = "network"
    DISKS = "disks"
    NUMA = "numa"
    POD_RESOURCES = "pod_resources"
    CONTAINERS = "containers"


class SourceState(StrEnum):
    """How the last attempt to read a source ended."""

    OK = "ok"
    UNAVAILABLE = "unavailable"
    UNSUPPORTED = "unsupported"
    DENIED = "denied"
    FAILED = "failed"
    STUCK = "stuck"


class Reason(StrEnum):
    """Why one value is not known."""

    UNSUPPORTED = "unsupported"
    FAILED = "failed"
    DENIED = "denied"
    UNAVAILABLE = "unavailable"
    WARMING_UP = "warming_up"


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value that was not measured."""

    reason: Reason


Measured: TypeAlias = float | Unknown
Text: TypeAlias = str | Unknown
XidCounts: TypeAlias = tuple[tuple[int, int], ...] | Unknown
"""(number of the Xid, events since the agent's start); empty: none was seen by an agent that listens."""


@dataclass(frozen=True, slots=True)
class CpuReading:
    """CPU of the whole node. Busy is everything but idle and waiting for I/O; stolen time counts as busy.

    By mode: user with nice, system with interrupts, the rest as the kernel names it. Guests are within user.
    """

    cores: Measured
    busy_seconds_total: Measured
    utilization_ratio: Measured
    load1: Measured
    user_seconds_total: Measured
    system_seconds_total: Measured
    steal_seconds_total: Measured
    idle_seconds_total: Measured
    iowait_seconds_total: Measured


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """Memory of the whole node. Used is total minus available, as the kernel estimates it."""

    total_bytes: Measured
    available_bytes: Measured
    used_bytes: Measured
    swap_total_bytes: Measured
    swap_used_bytes: Measured


@dataclass(frozen=True, slots=True)
class PressureReading:
    """Pressure stall information: the share of the last 10 s in which some or all tasks waited."""

    cpu_some_ratio: Measured
    memory_some_ratio: Measured
    memory_full_ratio: Measured
    io_some_ratio: Measured
    io_full_ratio: Measured


@dataclass(frozen=True, slots=True)
class NetworkReading:
    """All real network interfaces of the node, summed up."""

    interfaces: Measured
    receive_bytes_total: Measured
    transmit_bytes_total: Measured
    errors_total: Measured
    dropped_total: Measured


@dataclass(frozen=True, slots=True)
class DiskReading:
    """All whole disks of the node, summed up."""

    disks: Measured
    read_bytes_total: Measured
    written_bytes_total: Measured
    busy_seconds_total: Measured


@dataclass(frozen=True, slots=True)
class NumaNode:
    """One NUMA node's memory."""

    number: int
    memory_total_bytes: Measured
    memory_free_bytes: Measured


@dataclass(frozen=True, slots=True)
class NumaReading:
    """Every NUMA node; none where they are not known, which its source's state then says."""

    nodes: tuple[NumaNode, ...]


@dataclass(frozen=True, slots=True)
class ClockSeconds:
    """Seconds that the clocks were held down since the driver was loaded, by reason."""

    power_cap: Measured
    sync_boost: Measured
    software_thermal: Measured
    hardware_thermal: Measured
    power_brake: Measured


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU. `memory_used_bytes` leaves out what the driver reserves, where the driver can tell the two apart.

    Ratios of activity (`sm_active`, `sm_occupancy`, `tensor_active`, `dram_active`) are means since the collection
    before. `clock_event_reasons` is the driver's mask of the moment, `recovery_action` its number: 0 none, 1 reset,
    2 reboot, 3 drain, 4 drain and reset. What ends in `_total` counts since the driver was loaded.
    """

    uuid: str
    index: int
    model: Text
    pci_bus_id: Text
    numa_node: Measured
    memory_total_bytes: Measured
    memory_used_bytes: Measured
    memory_reserved_bytes: Measured
    utilization_ratio: Measured
    memory_utilization_ratio: Measured
    sm_active_ratio: Measured
    sm_occupancy_ratio: Measured
    tensor_active_ratio: Measured
    dram_active_ratio: Measured
    power_watts: Measured
    power_limit_watts: Measured
    energy_joules_total: Measured
    temperature_celsius: Measured
    memory_temperature_celsius: Measured
    sm_clock_hertz: Measured
    memory_clock_hertz: Measured
    clock_event_reasons: Measured
    clock_event_seconds: ClockSeconds
    pcie_transmit_bytes_total: Measured
    pcie_receive_bytes_total: Measured
    nvlink_transmit_bytes_total: Measured
    nvlink_receive_bytes_total: Measured
    bar1_total_bytes: Measured
    bar1_used_bytes: Measured
    ecc_corrected_errors: Measured
    ecc_uncorrected_errors: Measured
    remapped_rows_corrected: Measured
    remapped_rows_uncorrected: Measured
    remap_pending: Measured
    remap_failed: Measured
    recovery_action: Measured
    xid_errors: XidCounts
    mig_enabled: bool | Unknown
    processes: Measured


@dataclass(frozen=True, slots=True)
class MigReading:
    """A part of a partitioned GPU. Its activity is that of its GPU instance, mean since the collection before."""

    uuid: str
    gpu_uuid: str
    profile: Text
    gpu_instance: int
    memory_total_bytes: Measured
    memory_used_bytes: Measured
    sm_active_ratio: Measured
    sm_occupancy_ratio: Measured
    tensor_active_ratio: Measured
    dram_active_ratio: Measured


class AttributionSource(StrEnum):
    """By whom GPUs are attributed to pods."""

    KUBELET = "kubelet"
    REQUESTS = "requests"


@dataclass(frozen=True, slots=True)
class Allocation:
    """A container holds a GPU or a part of it (`shared`). `mig_uuid` is empty for what is no MIG device."""

    gpu_uuid: str
    namespace: str
    pod: str
    container: str
    shared: bool
    resource: str
    mig_uuid: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A container holds a device by a claim (DRA); which GPU it is, the driver's ResourceSlices say."""

    driver: str
    pool: str
    device: str
    namespace: str
    pod: str
    container: str


@dataclass(frozen=True, slots=True)
class Attribution:
    """Who holds what. By *requests* nothing is known here, and the reader is left with what the pods ask for."""

    by: AttributionSource
    reason: str = ""
    allocations: tuple[Allocation, ...] = ()
    claims: tuple[Claim, ...] = ()
    allocatable: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unresolved: int = 0
    unresolved_devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerReading:
    """What one container uses. The pod is named by its uid, the container by the first 8 digits of its id."""

    pod_uid: str
    id: str
    cpu_seconds_total: Measured
    memory_bytes: Measured
    working_set_bytes: Measured


@dataclass(frozen=True, slots=True)
class Privilege:
    """The highest tier that is there together with all below it, and why each missing one is missing."""

    tier: int
    missing: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class SourceReport:
    """How one source did in one pass: when (Unix seconds), how long, and why not."""

    state: SourceState
    reason: str
    time: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class AgentIdentity:
    """Who measured."""

    id: str
    version: str
    started: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything one pass over the sources gave."""

    time: float
    node: str
    agent: AgentIdentity
    sources: dict[SourceName, SourceReport]
    cpu: CpuReading
    memory: MemoryReading
    pressure: PressureReading
    network: NetworkReading
    disks: DiskReading
    numa: NumaReading
    driver_version: Text
    gpus: tuple[GpuReading, ...]
    mig_devices: tuple[MigReading, ...]
    attribution: Attribution
    containers: tuple[ContainerReading, ...]
    privilege: Privilege


Reading = TypeVar("Reading", CpuReading, MemoryReading, PressureReading, NetworkReading, DiskReading)


def all_unknown(model: type[Reading], reason: Reason) -> Reading:
    """Return a reading in which every value is unknown for the same reason."""
    return model(**{field.name: Unknown(reason) for field in fields(model)})


def reason_of(state: SourceState) -> Reason:
    """Return why the values of a source are unknown when its whole source is in this state."""
    if state is SourceState.STUCK or state is SourceState.OK:
        return Reason.FAILED
    return Reason(state.value)


_Row: TypeAlias = (
    CpuReading
    | MemoryReading
    | PressureReading
    | NetworkReading
    | DiskReading
    | NumaNode
    | ClockSeconds
    | GpuReading
    | MigReading
    | ContainerReading
)


def _plain(reading: _Row) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    for field in fields(reading):
        value = getattr(reading, field.name)
        if isinstance(value, Unknown):
            plain[field.name] = None
            unknown[field.name] = value.reason.value
        elif isinstance(value, ClockSeconds):
            plain[field.name] = _plain(value)
        else:
            # A whole number needs no ".0": over eight GPUs that is half a KiB.
            plain[field.name] = int(value) if isinstance(value, float) and value.is_integer() else value
    if unknown:
        plain["unknown"] = unknown
    return plain


def _texts(one: Allocation | Claim) -> dict[str, Any]:
    # What is empty is left out: hundreds of these may be in one document.
    plain = {field.name: getattr(one, field.name) for field in fields(one)}
    return {name: value for name, value in plain.items() if value != ""}


def _attribution(attribution: Attribution) -> dict[str, Any]:
    return {
        "by": attribution.by.value,
        "reason": attribution.reason,
        "allocatable": dict(attribution.allocatable),
        "unresolved": attribution.unresolved,
        "unresolved_devices": list(attribution.unresolved_devices),
    }


def _pods(containers: tuple[ContainerReading, ...]) -> list[dict[str, Any]]:
    # Rows and not objects: a hundred pods are 10 KiB less, and half of that still after gzip. What is unknown in a row
    # is null, and the row then ends with the reasons.
    pods: dict[str, list[list[Any]]] = {}
    for container in containers:
        plain = _plain(container)
        row = [plain[name] for name in CONTAINER_FIELDS]
        if "unknown" in plain:
            row.append(plain["unknown"])
        pods.setdefault(container.pod_uid, []).append(row)
    return [{"uid": uid, "containers": rows} for uid, rows in pods.items()]


def _heading(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "version": VERSION,
        "time": snapshot.time,
        "node": snapshot.node,
        "agent": {
            "id": snapshot.agent.id,
            "version": snapshot.agent.version,
            "started": snapshot.agent.started,
        },
    }


def _sources(snapshot: Snapshot, names: Collection[SourceName]) -> dict[str, Any]:
    return {
        "sources": {
            name.value: {
                "state": report.state.value,
                "reason": report.reason,
                "time": report.time,
                "duration_s": report.duration_s,
            }
            for name, report in snapshot.sources.items()
            if name in names
        }
    }


def _system(snapshot: Snapshot) -> dict[str, Any]:
    parts = {name: _plain(getattr(snapshot, name)) for name in ("cpu", "memory", "pressure", "network", "disks")}
    return {**parts, "numa": [_plain(node) for node in snapshot.numa.nodes]}


def _gpus(snapshot: Snapshot) -> dict[str, Any]:
    driver = snapshot.driver_version
    return {
        "driver_version": None if isinstance(driver, Unknown) else driver,
        "gpus": [_plain(gpu) for gpu in snapshot.gpus],
        "mig_devices": [_plain(part) for part in snapshot.mig_devices],
    }


def _held(snapshot: Snapshot) -> dict[str, Any]:
    return {
        "attribution": _attribution(snapshot.attribution),
        "allocations": [_texts(one) for one in snapshot.attribution.allocations],
        "claims": [_texts(one) for one in snapshot.attribution.claims],
    }


def _containers(snapshot: Snapshot) -> dict[str, Any]:
    return {"container_fields": CONTAINER_FIELDS, "pods": _pods(snapshot.containers)}


class View(StrEnum):
    """What is served of a snapshot; each under `/v1/` and its name."""

    SNAPSHOT = "snapshot"
    GPUS = "gpus"
    SYSTEM = "system"
    PODS = "pods"


_SYSTEM = frozenset(SourceName) - {SourceName.NVML, SourceName.POD_RESOURCES, SourceName.CONTAINERS}
_VIEWS: Mapping[View, tuple[frozenset[SourceName], tuple[Callable[[Snapshot], dict[str, Any]], ...]]] = {
    View.SNAPSHOT: (frozenset(SourceName), (_system, _gpus, _held, _containers)),
    View.GPUS: (frozenset({SourceName.NVML, SourceName.POD_RESOURCES}), (_gpus, _held)),
    View.SYSTEM: (_SYSTEM, (_system,)),
    View.PODS: (frozenset({SourceName.POD_RESOURCES, SourceName.CONTAINERS}), (_held, _containers)),
}


def to_json(snapshot: Snapshot, view: View = View.SNAPSHOT) -> bytes:
    """Return the snapshot, or a part of it under the same heading, as the compact JSON that the operator reads."""
    sources, parts = _VIEWS[view]
    document = _heading(snapshot) | _sources(snapshot, sources)
    for part in parts:
        document |= part(snapshot)
    if view is View.SNAPSHOT:
        missing = {str(tier): reason for tier, reason in snapshot.privilege.missing.items()}
        document["privilege"] = {"tier": snapshot.privilege.tier, "missing": missing}
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
