"""What the agent knows about its node at one moment.

A value that was not measured is an `Unknown` with its reason, a type of its own: it can neither be added up nor
printed as 0. The models are frozen, so one snapshot can be handed to any number of requests at once without a lock.

Plain dataclasses, not pydantic: measured, pydantic adds 9 MiB to the 31 of a process that runs on every node, and
0.2 s to its start. This module reads nothing and knows no source; its form for readers is made in `document`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TypeAlias, TypeVar


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
    OWN_CGROUP = "own_cgroup"


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
    waiting_seconds_total: Measured
    """Time of every request, added up: divided by the time that passed, the mean length of the queue."""


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
class OwnUsage:
    """What the agent itself uses, as its cgroup counts it: with everything that the kernel puts on its account.

    The limit is unknown (*unavailable*) where there is none.
    """

    cpu_seconds_total: Measured
    cpu_throttled_seconds_total: Measured
    memory_bytes: Measured
    working_set_bytes: Measured
    memory_limit_bytes: Measured


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

    `utilization_ratio` is the driver's last window (1/6 to 1 s), `utilization_mean_ratio` and `utilization_max_ratio`
    all its windows since the collection before. Ratios of activity (`sm_active`, `sm_occupancy`, `tensor_active`,
    `dram_active`) are means since the collection before. Processes are read more rarely. `clock_event_reasons` is the
    driver's mask of the moment, `recovery_action` its number: 0 none, 1 reset, 2 reboot, 3 drain, 4 drain and reset.
    What ends in `_total` counts since the driver was loaded, events since the agent's start. `power_watts` is a mean
    over a second on Ampere and later, `power_instant_watts` the moment. Before Ampere, broken pages of memory are
    retired; since then, rows are remapped: a GPU has one of the two.
    """

    uuid: str
    index: int
    model: Text
    pci_bus_id: Text
    numa_node: Measured
    pcie_link_bytes_per_second: Measured
    """In each direction, of the fastest link that GPU and slot can have: at rest they take a slower one."""
    memory_total_bytes: Measured
    memory_used_bytes: Measured
    memory_reserved_bytes: Measured
    utilization_ratio: Measured
    memory_utilization_ratio: Measured
    utilization_mean_ratio: Measured
    utilization_max_ratio: Measured
    sm_active_ratio: Measured
    sm_occupancy_ratio: Measured
    tensor_active_ratio: Measured
    dram_active_ratio: Measured
    power_watts: Measured
    power_instant_watts: Measured
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
    retired_pages_corrected: Measured
    retired_pages_uncorrected: Measured
    page_retirement_pending: Measured
    recovery_action: Measured
    xid_errors: XidCounts
    unavailable_events: Measured
    recovery_events: Measured
    mig_enabled: bool | Unknown
    processes: Measured
    mps_processes: Measured
    from_elsewhere: tuple[tuple[str, "ValueSource"], ...] = ()
    """Values that this GPU has from another source than GPUs have them from (`value_sources`)."""


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


class ValueSource(StrEnum):
    """What gave one value of a GPU."""

    NVML = "nvml"
    NVML_V1 = "nvml_v1"
    """The older call for the memory, which counts as used what the driver reserves."""
    FIELD = "field"
    GPM = "gpm"
    SAMPLES = "samples"
    EVENTS = "events"
    SYSFS = "sysfs"
    MIG_AGGREGATE = "mig_aggregate"
    """Weighed sum over the GPU instances of a partitioned GPU."""


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
    """A container holds a device by a claim (DRA); which GPU it is, the driver's ResourceSlices say.

    `claim` is the name of the ResourceClaim, in the pod's namespace; `share` is empty for a device that is not shared.
    """

    driver: str
    pool: str
    device: str
    namespace: str
    pod: str
    container: str
    claim: str = ""
    share: str = ""


class SharedBy(StrEnum):
    """In which way several containers can be on one GPU."""

    MIG = "mig"
    MPS = "mps"
    TIME_SLICING = "time_slicing"
    REPLICAS = "replicas"
    """The kubelet gives it out several times; whether by MPS or by time-slicing, nobody says."""
    CONTAINERS = "containers"
    """Several containers were given the whole of it."""


@dataclass(frozen=True, slots=True)
class Sharing:
    """A GPU that is or can be in several hands. `replicas` is 0 where it is not given out by replicas."""

    gpu_uuid: str
    by: SharedBy
    replicas: int
    mps_processes: Measured


@dataclass(frozen=True, slots=True)
class GpuUser:
    """What the processes of one container have of one GPU. Both names are empty for those outside every pod.

    `sm_ratio` is the share of the multiprocessors' time, mean since the process lists before.
    """

    gpu_index: int
    pod_uid: str
    container: str
    processes: int
    memory_bytes: Measured
    sm_ratio: Measured


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
    replicas: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """GPU -> how often the kubelet gives it out, for those that it gives out more than once."""


@dataclass(frozen=True, slots=True)
class ContainerReading:
    """What one container uses. The pod is named by its uid, the container by the first 8 digits of its id.

    Periods are those of the CPU limit: how many there were, and in how many the container was stopped for the rest of
    one. Without a limit there are none. Pressure (PSI) is the time in which one of its tasks waited for the CPU, for
    memory or for a disk; cgroups of version 1 have none.
    """

    pod_uid: str
    id: str
    cpu_seconds_total: Measured
    memory_bytes: Measured
    working_set_bytes: Measured
    cpu_periods_total: Measured
    cpu_throttled_periods_total: Measured
    cpu_pressure_seconds_total: Measured
    memory_pressure_seconds_total: Measured
    io_pressure_seconds_total: Measured


@dataclass(frozen=True, slots=True)
class NamedContainer:
    """What one container uses, where only the names are known (the kubelet's resource metrics)."""

    namespace: str
    pod: str
    name: str
    cpu_seconds_total: Measured
    working_set_bytes: Measured


@dataclass(frozen=True, slots=True)
class Privilege:
    """The highest tier that is there together with all below it, and why each missing one is missing."""

    tier: int
    missing: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class SourceReport:
    """How one source did in one pass: when it was read (Unix seconds), how long it took, and why not."""

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
    sharing: tuple[Sharing, ...]
    gpu_users: tuple[GpuUser, ...]
    attribution: Attribution
    containers: tuple[ContainerReading, ...]
    named_containers: tuple[NamedContainer, ...]
    privilege: Privilege
    usage: OwnUsage


Reading = TypeVar("Reading", CpuReading, MemoryReading, PressureReading, NetworkReading, DiskReading, OwnUsage)


def all_unknown(model: type[Reading], reason: Reason) -> Reading:
    """Return a reading in which every value is unknown for the same reason."""
    return model(**{field.name: Unknown(reason) for field in fields(model)})


def reason_of(state: SourceState) -> Reason:
    """Return why the values of a source are unknown when its whole source is in this state."""
    if state is SourceState.STUCK or state is SourceState.OK:
        return Reason.FAILED
    return Reason(state.value)
