"""What a node's agent tells beyond the load of GPUs: clocks, faults, links, pressure, containers and claims.

Counters are as the agent counts them, since the driver was loaded or the container began; whoever wants a rate takes
two readings. Nothing is judged here. Containers are named by the pod's uid and the first digits of their own id, the
only names that a node knows them by; where an agent may ask nobody but the kubelet's metrics, by names alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias

from optiinfra.domain.evidence import Evidence
from optiinfra.domain.readings import Unknown, UnknownReason, Value
from optiinfra.domain.units import UnixTime

NOT_REPORTED: Final = Unknown(UnknownReason.NOT_MEASURED, "the agent does not report it")

XidCounts: TypeAlias = tuple[tuple[int, int], ...] | Unknown
"""(number of the Xid, events since the agent's start); empty: none was seen by an agent that listens."""


class ClockHolds(NamedTuple):
    """What holds a GPU's clocks down."""

    reasons: Value = NOT_REPORTED
    """The driver's mask of the moment (NVML clock events)."""
    heat_seconds: Value = NOT_REPORTED
    """Counter: time that heat held them down."""
    power_seconds: Value = NOT_REPORTED
    """Counter: time that a limit on power, or the power supply, held them down."""


class GpuFaults(NamedTuple):
    """What the driver says of a GPU's health."""

    xids: XidCounts = NOT_REPORTED
    recovery_action: Value = NOT_REPORTED
    """0 none, 1 reset, 2 reboot, 3 drain, 4 drain and reset."""
    remap_failed: Value = NOT_REPORTED
    """1: a broken row of memory has no spare row left."""
    remap_pending: Value = NOT_REPORTED
    """1: a broken row is replaced at the next reset."""
    unavailable_events: Value = NOT_REPORTED
    """Times that the driver reported it as unavailable, since the agent's start; not reported while there were none."""


NO_CLOCKS: Final = ClockHolds()
NO_FAULTS: Final = GpuFaults()


class LinkCounters(NamedTuple):
    """A network link of the node, or all of them added up (no name)."""

    name: str
    receive_bytes: Value
    transmit_bytes: Value
    speed: Value = NOT_REPORTED
    """Bytes per second in each direction."""


class ContainerCounters(NamedTuple):
    """One container at one moment."""

    pod_uid: str
    id: str
    """First digits of its id."""
    cpu_seconds: Value
    working_set_bytes: Value
    cpu_periods: Value = NOT_REPORTED
    """Counter: scheduling periods in which it wanted to run."""
    cpu_throttled_periods: Value = NOT_REPORTED
    """Counter: those in which its CPU limit held it back."""
    cpu_waiting_seconds: Value = NOT_REPORTED
    """Counter (PSI some): time in which one of its tasks waited for a CPU."""
    memory_waiting_seconds: Value = NOT_REPORTED
    """The same of memory: pages had to be freed, swapped or read again first."""
    io_waiting_seconds: Value = NOT_REPORTED
    """The same of a disk."""


class NamedCounters(NamedTuple):
    """One container at one moment, of an agent that does not see the node's cgroups (tier 0)."""

    namespace: str
    pod: str
    name: str
    cpu_seconds: Value
    working_set_bytes: Value


class SharedBy(StrEnum):
    """In which way several containers can be on one GPU."""

    MIG = "mig"
    MPS = "mps"
    TIME_SLICING = "time_slicing"
    REPLICAS = "replicas"
    """The kubelet gives it out several times; whether by MPS or by time-slicing, nobody says."""
    CONTAINERS = "containers"
    """Several containers were given the whole of it."""


SHARED_WORDS: Final[Mapping[SharedBy, str]] = {
    SharedBy.MIG: "MIG",
    SharedBy.MPS: "MPS",
    SharedBy.TIME_SLICING: "time-slicing",
    SharedBy.REPLICAS: "MPS or time-slicing",
    SharedBy.CONTAINERS: "being given whole to several containers",
}


class GpuSharing(NamedTuple):
    """A GPU that is, or can be, in several hands."""

    gpu_uuid: str
    by: SharedBy
    replicas: int = 0
    """How often the kubelet gives it out; 0 where it is not given out by replicas."""


class GpuUser(NamedTuple):
    """What the processes of one container have of one GPU, where the agent sees the host's processes (tier 2)."""

    gpu_uuid: str
    pod_uid: str
    """Empty for processes outside every pod."""
    container: str
    """First digits of its id."""
    processes: int
    memory_bytes: Value
    sm_ratio: Value
    """Share of the multiprocessors' time, mean since the process lists before."""


class DeviceClaim(NamedTuple):
    """A container holds a device by a claim (DRA); which GPU it is, the driver's ResourceSlices say."""

    driver: str
    pool: str
    device: str
    namespace: str
    pod: str
    container: str


class PhysicalDevice(NamedTuple):
    """What a device of a ResourceSlice is."""

    gpu_uuid: str
    model: str
    """As its driver names it; empty where it does not."""
    part: bool
    """It is a part of that GPU (MIG)."""


class HeldDevice(NamedTuple):
    """A GPU that a pod holds by a claim."""

    device: PhysicalDevice
    shared: bool
    """Several pods hold it by the same claim."""


class Attributor(StrEnum):
    """By what it is known which pod holds which GPU, the surest first."""

    KUBELET = "Kubelet"
    """The kubelet told the node's agent (PodResources)."""
    CLAIMS = "Claims"
    """ResourceClaims name the devices, and ResourceSlices say which GPUs these are."""
    PROCESSES = "Processes"
    """Processes of the pods run on them: what these have of a GPU is the pods', and nothing more is."""
    REQUESTS = "Requests"
    """Nobody told: what the pods of the node request leaves no other answer."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """By whom GPUs are attributed to pods on one node."""

    by: Attributor
    reason: str = ""
    """Why not by a surer way, or what is missing."""


@dataclass(frozen=True, slots=True)
class GpuTrouble:
    """A GPU that is not well; `gpu_health` judges."""

    node: str
    uuid: str
    model: str
    reason: str
    """CamelCase reason code."""
    message: str
    """What is wrong with it, without its name, for people."""
    since: UnixTime
    """When it was noticed, or as of which reading it is so."""
    evidence: tuple[Evidence, ...] = ()
