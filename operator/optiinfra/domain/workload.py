"""One model service as the round sees it: its pods, its scaler, its engines' recent pages, its agents' readings.

These are facts read at the door (`optiinfra.cluster`) and held in frozen models; nothing here is decided. A fact
that could not be read is an `Unknown`, and whoever decides has to say what follows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from optiinfra.domain.agent_readings import (
    NO_CLOCKS,
    NO_FAULTS,
    NOT_REPORTED,
    Attribution,
    ClockHolds,
    ContainerCounters,
    DeviceClaim,
    GpuFaults,
    GpuSharing,
    GpuTrouble,
    GpuUser,
    HeldDevice,
    LinkCounters,
    NamedCounters,
)
from optiinfra.domain.pod_rules import NO_RULES, NodeTerm, PodGroup, PodRules, Taint
from optiinfra.domain.readings import EngineReading, Unknown, UnknownReason, Value
from optiinfra.domain.scale_up_rules import USUAL_RULES, ScaleUpRules
from optiinfra.domain.units import UnixTime


class Place(StrEnum):
    """Where in a pod a container stands."""

    MAIN = "Main"
    """One of spec.containers."""
    SIDECAR = "Sidecar"
    """An init container that keeps running (restartPolicy Always): a native sidecar."""
    INIT = "Init"
    """An init container that ends before the others start."""


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """What one container of the pod template asks for and is started with."""

    name: str
    cpu_request_cores: Value
    cpu_limit_cores: Value
    memory_request_bytes: Value
    memory_limit_bytes: Value
    gpus: float
    """Whole GPUs requested (nvidia.com/gpu, amd.com/gpu, or nvidia.com/mig-* as instances)."""
    arguments: tuple[str, ...] = ()
    """command + args, as written; at most 512 entries. User text: never shown to an LLM."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Only literal values, and only of names that engines are configured by; of a JVM's options only its memory's."""
    place: Place = Place.MAIN
    image: str = ""
    """As written. User text: never shown to an LLM."""
    gpu_resources: tuple[tuple[str, float], ...] = ()
    """Extended resources that `gpus` counts, by name: ("nvidia.com/gpu", 1.0), ("nvidia.com/mig-1g.10gb", 1.0)."""


@dataclass(frozen=True, slots=True)
class MemoryKill:
    """The last end of a container, where the kernel killed it for memory."""

    container: str
    time: UnixTime
    limit: Value
    """Memory limit of the container, bytes: what it was allowed when it died."""


@dataclass(frozen=True, slots=True)
class PodFacts:
    """One pod of the workload."""

    name: str
    uid: str
    ip: str
    """Empty while it has none."""
    node: str
    """Empty while it is not scheduled."""
    phase: str
    ready: bool
    terminating: bool
    created: UnixTime
    became_ready: UnixTime | None
    gpus: float
    containers: tuple[ContainerFacts, ...] = ()
    restarts: int = 0
    blockers: tuple[str, ...] = ()
    """Reasons why consolidation must not move it: "DaemonSet" (it ends with its node), "BarePod", "BatchJob",
    "LocalStorage", "LocalVolume", "UnknownVolume", "ResourceClaim", "DoNotDisrupt". Disruption budgets are asked
    apart."""
    cpu_request_cores: float = 0.0
    memory_request_bytes: float = 0.0
    namespace: str = ""
    scheduled: UnixTime | None = None
    """When it was given a node. This and what follows stays empty for pods of a DaemonSet and for mirror pods."""
    unschedulable_since: UnixTime | None = None
    """Since when the scheduler says that no node has room; None once it has one. Whole seconds, as all of these."""
    unschedulable: str = ""
    """Why, in the scheduler's words, cut; empty once it has a node."""
    sandbox: UnixTime | None = None
    """When volumes and network were there (PodReadyToStartContainers); None where the kubelet does not say."""
    initialised: UnixTime | None = None
    """When the init containers were done."""
    started: UnixTime | None = None
    """When the container that serves the model was started last; None while it does not run."""
    containers_ready: UnixTime | None = None
    """When all containers were ready; `became_ready` comes after it where the pod has readiness gates."""
    lost_readiness: bool = False
    """It is not ready and was before: this is no start-up."""
    image_id: str = ""
    """The image that serves the model, as the runtime resolved it; empty until the image is on the node."""
    init_containers: tuple[ContainerFacts, ...] = ()
    """Native sidecars and init containers, in their order; empty for pods of a DaemonSet."""
    pod_level: ContainerFacts | None = None
    """Resources of the pod as a whole (spec.resources), which go before its containers'; None where it has none."""
    memory_kills: tuple[MemoryKill, ...] = ()
    claimed: tuple[HeldDevice, ...] = ()
    """GPUs that it holds by claims (DRA); `gpus` counts them."""
    container_ids: tuple[tuple[str, str], ...] = ()
    """First digits of each container's id, as node agents shorten it, and its name."""
    vertically_scaled: bool = False
    """A VerticalPodAutoscaler changed its requests when it was admitted (annotation vpaUpdates)."""
    labels: Mapping[str, str] = field(default_factory=dict)
    rules: PodRules = NO_RULES
    """What it demands of a node; empty for pods of a DaemonSet and for mirror pods, which stay with theirs."""
    owner: tuple[str, str] = ("", "")
    """Kind and name of the controlling owner; two empty strings when there is none."""
    priority: int = 0
    group: PodGroup | None = None
    """The pods it starts and stops with; None for a pod of its own."""
    devices: tuple[int, ...] = ()
    """The node's GPUs that it holds, by index, where that is known."""
    protected_until: UnixTime | None = None
    """Until when an annotation forbids to disrupt it; None: nothing does, or the blocker "DoNotDisrupt" for ever."""
    claims: tuple[str, ...] = ()
    """PersistentVolumeClaims that it mounts, by name."""
    volume_terms: tuple[tuple[NodeTerm, ...], ...] = ()
    """For each volume with a place, the alternatives of nodes that can attach it."""
    nominated: str = ""
    """The node on which the scheduler makes room for it by preemption; empty when none."""


@dataclass(frozen=True, slots=True)
class ScalerMetric:
    """One metric of an HPA, as far as it concerns what a request means to it."""

    type: str
    """Resource, ContainerResource, Pods, Object or External."""
    resource: str = ""
    """cpu or memory; empty for metrics that are not of a resource."""
    container: str = ""
    """Of a ContainerResource metric."""
    utilization: int | None = None
    """Target in percent of the requests; None where the target is an amount."""
    written: str = ""
    """The whole entry in JSON, for a patch, which can only replace the list as a whole. Empty when too long."""


@dataclass(frozen=True, slots=True)
class ScalerFacts:
    """The HorizontalPodAutoscaler that drives the workload."""

    name: str
    uid: str
    resource_version: str
    min_replicas: int
    max_replicas: int
    current_replicas: int
    desired_replicas: int
    scaling_active: bool | None
    """The HPA's ScalingActive condition; None when it has not said anything yet."""
    scaling_active_reason: str
    owned_by_us: bool
    """Created by this operator for this object (owner reference)."""
    controller_owner: str
    """kind/name of another controller that owns it (KEDA, KServe); empty when none."""
    min_replicas_managers: tuple[tuple[str, str], ...] = ()
    """(manager, operation) of everybody who owns spec.minReplicas, from managedFields."""
    held: bool = False
    """Carries our label: its minReplicas is a floor of ours."""
    original_min_replicas: int | None = None
    tolerance_up: float = 0.1
    """Share by which the metric must exceed the present count before the HPA acts; 0.1 where it does not say."""
    tolerance_down: float = 0.1
    metrics: tuple[ScalerMetric, ...] = ()
    scale_up: ScaleUpRules = USUAL_RULES
    """How fast it adds replicas by itself."""
    release_step: int | None = None
    """Replicas by which a floor of ours goes back at a time, as written beside it; 0: at once. None: nothing is."""
    floor_lost: bool = False
    """It carries our label, and somebody else has written its minReplicas since."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """What a workload's own controller says about its pods."""

    rolling: bool = False
    """Pods of an older template still exist."""
    paused: bool = False
    """Its rollouts are paused (spec.paused)."""
    stuck: bool = False
    """Its rollout made no progress within its deadline."""
    refused: str = ""
    """Why the API server refuses its pods (a quota, an admission), cut; empty when it does not."""


@dataclass(frozen=True, slots=True)
class WorkloadFacts:
    """Everything known about one target at one moment."""

    namespace: str
    kind: str
    name: str
    uid: str
    desired_replicas: int
    ready_replicas: int
    pods: tuple[PodFacts, ...]
    scaler: ScalerFacts | None
    pages: Mapping[str, tuple[EngineReading, ...]] = field(default_factory=dict)
    """Pod name -> recent readings, oldest first, within the history the store keeps (15 minutes)."""
    page_errors: Mapping[str, Unknown] = field(default_factory=dict)
    """Pod name -> why its last scrape failed."""
    template: tuple[str, ...] = ()
    """Names of the containers of its pod template; empty where it is not known. Pods may have more, injected ones."""
    generation: int = 0
    """Of its spec, which moves with every change of it; 0 where it is not known."""
    rollout: Rollout = Rollout()
    """Nothing of it is known of kinds other than Deployment and StatefulSet."""

    @property
    def gpus_per_replica(self) -> float:
        """GPUs of one replica, from the pods that run; 0 when it uses none."""
        return max((pod.gpus for pod in self.pods), default=0.0)


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """One GPU as its node's agent last saw it."""

    uuid: str
    model: str
    memory_total_bytes: Value
    memory_used_bytes: Value
    utilization_ratio: Value
    power_watts: Value
    power_limit_watts: Value
    energy_joules: Value = Unknown(UnknownReason.NOT_MEASURED)
    sm_active_ratio: Value = Unknown(UnknownReason.NOT_MEASURED)
    pcie_bytes: Value = Unknown(UnknownReason.NOT_MEASURED)
    """Counter of what went over PCIe, both ways."""
    pcie_transmit_bytes: Value = NOT_REPORTED
    """Counter: from the GPU."""
    pcie_receive_bytes: Value = NOT_REPORTED
    """Counter: to the GPU."""
    pcie_speed: Value = NOT_REPORTED
    """Bytes per second that its link carries in each direction."""
    utilization_max_ratio: Value = NOT_REPORTED
    """Busiest moment of the driver's own samples since the reading before."""
    tensor_active_ratio: Value = NOT_REPORTED
    dram_active_ratio: Value = NOT_REPORTED
    clocks: ClockHolds = NO_CLOCKS
    faults: GpuFaults = NO_FAULTS


@dataclass(frozen=True, slots=True)
class GpuAllocation:
    """Which container holds which GPU, as the kubelet told the agent."""

    gpu_uuid: str
    namespace: str
    pod: str
    container: str
    shared: bool


@dataclass(frozen=True, slots=True)
class AgentReading:
    """One snapshot of one node agent."""

    time: UnixTime
    node: str
    agent_version: str
    cpu_cores: Value
    cpu_utilization_ratio: Value
    memory_total_bytes: Value
    memory_available_bytes: Value
    gpus: tuple[GpuFacts, ...]
    gpu_source: Value
    """1.0 when the GPU source worked, else why not (no driver is UNSUPPORTED, a failed driver INVALID ...)."""
    allocations: tuple[GpuAllocation, ...] = ()
    simulated: bool = False
    attribution: Attribution | None = None
    """None where the agent does not say how it knows who holds what."""
    claims: tuple[DeviceClaim, ...] = ()
    """Devices held by claims; once they are joined with ResourceSlices they are allocations too."""
    containers: tuple[ContainerCounters, ...] = ()
    """Of the pods that were asked for; empty on older readings, where nobody needs them any more."""
    named: tuple[NamedCounters, ...] = ()
    """The same where the agent knows names alone; it never has both."""
    containers_at: UnixTime | None = None
    """When they were read, which agents do more rarely than the rest; None: at `time`."""
    containers_source: Value = NOT_REPORTED
    """1.0 when containers were read, else why not."""
    cpu_pressure_ratio: Value = NOT_REPORTED
    """PSI some: share of the last 10 s in which a task of the node waited for a CPU."""
    links: tuple[LinkCounters, ...] = ()
    """The node's network."""
    sharing: tuple[GpuSharing, ...] = ()
    """GPUs that are, or can be, in several hands, as far as its agent can tell."""
    users: tuple[GpuUser, ...] = ()
    """Whose processes are on which GPU; empty where its agent does not see them, and where there are none."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node, its capacity and what runs there."""

    name: str
    pool: str
    """Value of the pool label; empty when the node belongs to no known pool."""
    gpu_model: str
    gpus: float
    cpu_cores: float
    memory_bytes: float
    ready: bool
    unschedulable: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    pods: tuple[PodFacts, ...] = ()
    agent: tuple[AgentReading, ...] = ()
    """Recent snapshots of the node's agent, oldest first; empty when there is none."""
    agent_error: Unknown | None = None
    taints: tuple[Taint, ...] = ()
    resources: tuple[tuple[str, float], ...] = ()
    """Allocatable by resource name, in base units: all but CPU, memory and pods, the GPUs among them, by name."""
    pod_limit: float = 110.0
    """Pods that the kubelet runs at most."""
    troubles: tuple[GpuTrouble, ...] = ()
    """Its GPUs that are not well."""
    protection: str = ""
    """The annotation that forbids to disrupt or to remove it; empty when none does."""
