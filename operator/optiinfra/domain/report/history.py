"""The joined past of a fleet: its models, GPUs, nodes and containers as arrays on one grid of time.

This is what a report is computed from. `joining` makes it from the frames that a metrics server gave; nothing here
asks, joins or judges. A `Course` is one quantity over the grid: (points,) float64 with NaN where nothing was measured,
or an Unknown with its reason where nobody measures it at all; NaN never leaves an array. Times are Unix seconds,
amounts are in base units (bytes, cores, seconds, watts, joules, tokens per second), shares are 0 to 1. What is not
known of the fleet, why, and how to get it stands in `FleetHistory.missing`; it is never filled in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from optiinfra.domain.readings import EngineKind, Unknown, UnknownReason, Value
from optiinfra.domain.report.frames import FloatArray

BoolArray: TypeAlias = npt.NDArray[np.bool_]
Course: TypeAlias = FloatArray | Unknown
"""One quantity over the grid, (points,); NaN: not measured at that moment. Unknown: nobody measures it."""

LATE_FIRST_TOKEN_S: Final = 2.5
"""The bound of the engines' buckets next to the usual objective of 2 s; SGLang's is at 2 s."""
LATE_TOKEN_S: Final = 0.1
NOT_ASKED: Final = Unknown(UnknownReason.NOT_MEASURED, "no series of it on this server")


class Lack(StrEnum):
    """What a metrics server may lack, or tell in a way that has to be said; the texts are stable and shown."""

    NOTHING = "NothingFound"
    """Neither model servers nor GPUs: the fleet is empty as far as this server knows."""
    NO_ENGINES = "NoEngineMetrics"
    NO_GPU_METRICS = "NoGpuMetrics"
    NO_GPU_OWNERS = "NoGpuOwners"
    """GPUs are measured, and nobody says which pod holds which."""
    NO_ENGINE_OF_HOLDERS = "HoldersWithoutEngine"
    """Workloads that hold GPUs and of which no engine is known: not scraped, or no model servers."""
    NO_PROFILING = "NoProfiling"
    """Only the driver's utilisation: a share of time with any kernel, not how much of the GPU works."""
    NO_STATE_METRICS = "NoKubeStateMetrics"
    NO_NODE_LABELS = "NoNodeLabels"
    """kube-state-metrics does not publish the labels that tell instance type, zone and capacity type."""
    NO_CONTAINER_METRICS = "NoContainerMetrics"
    NO_NODE_METRICS = "NoNodeMetrics"
    NO_POD_NAMES = "NoPodNames"
    """Engine series without a pod: they cannot be told apart by workload."""
    NO_LATENCIES = "NoLatencies"
    NO_WORK = "NoTokenCounters"
    OWNERS_BY_NAME = "OwnersByName"
    """Workloads were told from the names of pods."""
    DUPLICATES = "DuplicateSeries"
    """The same series from two replicas of the metrics server."""
    RELABELLED = "RelabelledNames"
    RENAMED_MODEL = "RenamedModel"
    SEVERAL_MODELS = "SeveralModels"
    """One workload serves several models at a time; its load is told as a whole."""
    MIXED_VERSIONS = "MixedVersions"
    MIXED_ENGINES = "MixedEngines"
    ABSURD_VALUES = "AbsurdValues"
    HOLES = "Holes"
    FUTURE = "FutureSamples"
    SHORT = "ShortHistory"
    COUNTER_RESETS = "CounterResets"
    ENDED = "EndedEarly"
    """Nothing was measured at the end of the window, where nodes, sizes and limits are read."""
    SEVERAL_CLUSTERS = "SeveralClusters"
    """Series of several clusters, whose objects may share names."""
    UNANSWERED = "Unanswered"
    """A question that was not answered."""


@dataclass(frozen=True, slots=True)
class Missing:
    """One thing that is not known, or that limits what follows."""

    lack: Lack
    what: str
    """What is not known because of it, in one clause."""
    why: str
    remedy: str
    """The one line how to get it."""
    where: tuple[str, ...] = ()
    """namespace/workload, GPU or node that it is about; empty for the whole fleet. At most 20."""
    count: int = 0
    """How many values, series or objects it is about; 0 where that is no number."""

    def __str__(self) -> str:
        return f"{self.what}: {self.why}. {self.remedy}."


@dataclass(frozen=True, slots=True)
class Asked:
    """One question as it was asked, so that every number can link to its query."""

    question: str
    """`Question.name`."""
    promql: str
    link: str
    samples: int
    series: int


class OwnerSource(StrEnum):
    """How the workload of a pod is known."""

    STATE_METRICS = "kube-state-metrics"
    POD_NAMES = "pod names"


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Something that was so for a part of the time: a model's name, an engine's version."""

    text: str
    first: float
    """Unix seconds of the first and the last point at which it was seen."""
    last: float
    present: BoolArray
    """(points,)"""


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """What a model's engines said together over time; sums are over its pods. Each is a `Course`."""

    prompt_tokens: Course = NOT_ASKED
    """Tokens per second, served."""
    generation_tokens: Course = NOT_ASKED
    requests: Course = NOT_ASKED
    """Requests finished per second."""
    running: Course = NOT_ASKED
    """Requests in the batches, sum; the mean over each step."""
    running_highest: Course = NOT_ASKED
    """Largest of any single pod: with requests that wait, the plateau is the batch limit."""
    waiting: Course = NOT_ASKED
    """Requests that wait for room, sum; the mean over each step."""
    waiting_highest: Course = NOT_ASKED
    """Sum over pods of the most that waited in each within the step: no fewer than ever waited at once."""
    kv_usage: Course = NOT_ASKED
    """Ratio, mean over pods."""
    kv_usage_highest: Course = NOT_ASKED
    """Ratio, of the fullest pod."""
    kv_reserved: Course = NOT_ASKED
    """Ratio of reserved tokens, where the engine tells that and no residency (TGI); mean over pods."""
    preemptions: Course = NOT_ASKED
    """Per second, sum."""
    prefix_hit_ratio: Course = NOT_ASKED
    """Share of prompt tokens found in the engine's own prefix cache."""
    external_hit_ratio: Course = NOT_ASKED
    """Share found in a cache outside the engine (LMCache and others), of what was asked of it."""
    ttft_mean: Course = NOT_ASKED
    """Seconds to the first token; of the requests that got one within each step. So below."""
    ttft_late: Course = NOT_ASKED
    """Share of first tokens that took longer than `LATE_FIRST_TOKEN_S`."""
    itl_mean: Course = NOT_ASKED
    """Seconds between tokens."""
    itl_late: Course = NOT_ASKED
    """Share of tokens that took longer than `LATE_TOKEN_S`."""
    ttft_p95: Value = NOT_ASKED
    """Seconds, over the last day of the window: reading all buckets of two weeks would bring a server down."""
    itl_p95: Value = NOT_ASKED
    queue_mean: Course = NOT_ASKED
    """Seconds in the queue."""
    latency_mean: Course = NOT_ASKED
    """Seconds of whole requests."""
    prompt_length_mean: Course = NOT_ASKED
    """Prompt tokens of a request."""
    generation_length_mean: Course = NOT_ASKED
    rejected: Course = NOT_ASKED
    """Requests refused at the door, per second."""
    failed: Course = NOT_ASKED
    """Requests that ended in an error, per second."""
    aborted: Course = NOT_ASKED
    work: Course = NOT_ASKED
    """Work per second: prompt tokens + GENERATION_WEIGHT x generated tokens (`domain.aggregation`)."""


@dataclass(frozen=True, slots=True, eq=False)
class CacheLoad:
    """What LMCache said over time, all workers of a model together."""

    requested_tokens: Course = NOT_ASKED
    """Tokens per second looked up; so below."""
    hit_tokens: Course = NOT_ASKED
    stored_tokens: Course = NOT_ASKED
    local_bytes: Course = NOT_ASKED
    """In CPU memory."""
    disk_bytes: Course = NOT_ASKED
    remote_bytes: Course = NOT_ASKED
    evictions: Course = NOT_ASKED
    """Per second."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What engines' pages say of their settings; the newest value, and Unknown where pods differ now."""

    batch_limit: Value = NOT_ASKED
    """Requests at once of one replica, where the engine publishes it (NIM, trtllm-serve, Triton)."""
    kv_capacity_tokens: Value = NOT_ASKED
    """Of one replica, the smallest."""
    block_size: Value = NOT_ASKED
    gpu_blocks: Value = NOT_ASKED
    memory_share: Value = NOT_ASKED
    """vLLM's gpu_memory_utilization."""
    cache_dtype: str | Unknown = NOT_ASKED
    prefix_caching: bool | Unknown = NOT_ASKED
    blocks_overridden: bool | Unknown = NOT_ASKED


@dataclass(frozen=True, slots=True, eq=False)
class ScalerHistory:
    """The HorizontalPodAutoscaler (KEDA's too) that sets a workload's replicas."""

    name: str
    min_replicas: Value
    max_replicas: Value
    """Newest."""
    desired: Course
    targets: tuple[tuple[str, str, float], ...] = ()
    """(metric, kind of target such as utilization or average, value) as kube-state-metrics tells them."""
    keda: str = ""
    """Name of the ScaledObject that made it, by KEDA's naming; empty where none did."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelHistory:
    """One model service: one workload whose pods serve a model."""

    namespace: str
    workload: str
    kind: str
    """Deployment, StatefulSet, LeaderWorkerSet, RayCluster, ...; empty where nobody says."""
    owner_source: OwnerSource
    names: tuple[Span, ...]
    """Names of the model(s) that it served, the one served last first; empty where the engine does not tell (TGI)."""
    engines: tuple[tuple[EngineKind, Span], ...]
    """Engine and version (empty text: not told), the newest first."""
    serving: Course
    """Replicas whose engine answered: pods, or groups of a multi-node workload."""
    spec_replicas: Course
    """spec.replicas, by kube-state-metrics."""
    available: Course
    """Replicas that were available, by kube-state-metrics."""
    load: Load
    cache: CacheLoad | Unknown
    config: EngineConfig
    scaler: ScalerHistory | Unknown
    """Unknown with NOT_CONFIGURED where kube-state-metrics is there and knows none."""
    gpus_per_replica: Value
    """By requests, else by what its pods were seen to hold."""
    gpus_held: Course
    """GPUs over time: by requests of its pods, else those that exporters attribute to it."""
    gpus: tuple[str, ...]
    """uuids of the GPUs that it ever held, as `GpuHistory.key`; sorted."""
    nodes_per_replica: Value
    """1, or the pods of one group of a LeaderWorkerSet."""
    containers: tuple[str, ...] = ()
    """Names of its pods' containers, as `ContainerHistory.container`."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Field of `Load`, `CacheLoad`, `EngineConfig` or this class -> `Asked.question` that it came from."""
    labels_used: tuple[str, ...] = ()
    """Labels that named its pods, where they are not `namespace` and `pod`."""

    @property
    def key(self) -> str:
        """Return namespace/workload."""
        return f"{self.namespace}/{self.workload}"

    @property
    def replicas(self) -> Course:
        """Return what ran, the baseline of every comparison: available, else serving, else spec replicas."""
        for one in (self.available, self.serving, self.spec_replicas):
            if not isinstance(one, Unknown):
                return one
        return self.serving

    @property
    def name(self) -> str:
        """Return the model's name as served last; the workload's where the engine does not tell."""
        return self.names[0].text if self.names else self.workload


class GpuSource(StrEnum):
    """Who measured a GPU."""

    DCGM = "dcgm-exporter"
    DCGM_SCALED = "dcgm-exporter 4.9+"
    AGENT = "optiinfra-agent"


class HolderSource(StrEnum):
    """How it is known which pod holds a GPU."""

    EXPORTER = "exporter labels"
    EXPORTED = "exported_* labels"
    """The scrape configuration wrote the exporter's own pod over the holder's, which survived as exported_pod."""
    AGENT = "optiinfra-agent"
    NODE = "the only GPU pod of its node"
    NOBODY = "not known"


@dataclass(frozen=True, slots=True, eq=False)
class Holding:
    """A workload's container that held a GPU, and when."""

    namespace: str
    workload: str
    container: str
    """Empty where it is not told."""
    held: BoolArray
    """(points,)"""

    @property
    def key(self) -> str:
        """Return namespace/workload."""
        return f"{self.namespace}/{self.workload}"


@dataclass(frozen=True, slots=True, eq=False)
class GpuHistory:
    """One GPU, or one MIG instance of one."""

    uuid: str
    node: str
    model: str
    """As the driver names it ("NVIDIA H100 80GB HBM3"); empty where it is not told."""
    instance: str
    """MIG: instance id; empty for whole GPUs."""
    profile: str
    """MIG: such as "1g.10gb"."""
    source: GpuSource
    memory_total_bytes: Value
    utilization: Course
    """Share of time with any kernel."""
    sm_active: Course
    """Share of multiprocessors at work (profiling); so are the next two."""
    tensor_active: Course
    dram_active: Course
    memory_used_bytes: Course
    power_watts: Course
    energy_joules: Value
    """Power over the time in which it was measured."""
    holdings: tuple[Holding, ...]
    """Who held it when; none at a moment: nobody did, as far as `holder_source` can tell."""
    holder_source: HolderSource
    utilization_highest: Course = NOT_ASKED
    """The busiest sample within each step, where the mean hides it."""
    present: BoolArray = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    """(points,) when anything was measured of it."""

    @property
    def key(self) -> str:
        """Return the uuid, with the instance of a MIG slice behind a slash."""
        return f"{self.uuid}/{self.instance}" if self.instance else self.uuid

    @property
    def held(self) -> BoolArray:
        """Return when anybody held it, (points,)."""
        held: BoolArray = np.zeros(len(self.present), dtype=np.bool_)
        for one in self.holdings:
            held = held | one.held
        return held

    @property
    def activity(self) -> Course:
        """Return the better witness of work: SM activity where profiled, else utilisation."""
        return self.utilization if isinstance(self.sm_active, Unknown) else self.sm_active


@dataclass(frozen=True, slots=True)
class PodNow:
    """One pod at the end of the window, for what concerns its node."""

    namespace: str
    name: str
    node: str
    uid: str
    """Empty where it is not told."""
    workload: str
    owner_kind: str
    """Of the workload (Deployment rather than ReplicaSet); empty: a bare pod, or not told."""
    phase: str
    """Empty where it is not told."""
    cpu_request_cores: float
    memory_request_bytes: float
    gpus: float
    """0 where nothing is requested, which kube-state-metrics tells by having no series."""
    created: Value
    """Unix seconds."""
    gpu_resource: str = ""
    """Such as nvidia.com/gpu or nvidia.com/mig-1g.10gb."""
    priority_class: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class NodeHistory:
    """One node; facts are the newest that were told."""

    name: str
    gpus: Value
    """Capacity."""
    gpus_allocatable: Value
    cpu_cores: Value
    cpu_cores_allocatable: Value
    memory_bytes: Value
    memory_bytes_allocatable: Value
    pod_limit: Value
    gpu_model: str
    """By its GPUs or labels; empty where neither tells."""
    instance_type: str
    """Empty where it is not told; so are the next four."""
    region: str
    zone: str
    capacity_type: str
    """on-demand, spot, reserved, as the provider's label says."""
    pool: str
    """Value of the provider's node-pool label."""
    labels: Mapping[str, str]
    """As far as kube-state-metrics publishes them; names as Kubernetes has them where the label is a known one."""
    unschedulable: bool | Unknown
    ready: bool | Unknown
    taints: tuple[tuple[str, str, str], ...]
    """(key, value, effect)"""
    present: BoolArray
    """(points,) when it existed, as far as anything was measured of it."""
    cpu_used_cores: Course
    memory_used_bytes: Course
    cpu_requested_cores: Course
    """At the end of the window only; so the next."""
    memory_requested_bytes: Course
    gpus_requested: Course
    pods: tuple[PodNow, ...]
    """At the end of the window; empty without kube-state-metrics."""


@dataclass(frozen=True, slots=True, eq=False)
class ContainerHistory:
    """One container of one workload's pods, the largest of its pods at each moment, because a request is each pod's."""

    namespace: str
    workload: str
    container: str
    pods: Course
    """Pods that ran it."""
    cpu_cores: Course
    """Mean use within each step, of the pod that used most."""
    memory_bytes: Course
    """Working set: highest within each step, of the pod that used most."""
    cpu_request_cores: Value
    """Newest; so are the next three. Unknown with NOT_CONFIGURED: kube-state-metrics is there, and there is none."""
    cpu_limit_cores: Value
    memory_request_bytes: Value
    memory_limit_bytes: Value
    gpus: Value
    """GPUs that one pod's container requests."""
    memory_kills: Course
    """Kills for memory within each step, all pods."""
    restarts: Course
    """Restarts within each step, all pods."""

    @property
    def key(self) -> str:
        """Return namespace/workload."""
        return f"{self.namespace}/{self.workload}"


@dataclass(frozen=True, slots=True, eq=False)
class FleetHistory:
    """Everything that is known of a fleet's past."""

    times: FloatArray
    """(points,) Unix seconds, the end of each step; equal steps."""
    step_s: float
    models: tuple[ModelHistory, ...]
    """By namespace and workload."""
    gpus: tuple[GpuHistory, ...]
    """By node and key."""
    nodes: tuple[NodeHistory, ...]
    """By name."""
    containers: tuple[ContainerHistory, ...]
    """By namespace, workload and container: of workloads that serve a model or hold a GPU."""
    missing: tuple[Missing, ...]
    asked: tuple[Asked, ...] = ()

    @property
    def hours(self) -> float:
        """Length."""
        return len(self.times) * self.step_s / 3600.0

    @property
    def empty(self) -> bool:
        """Whether neither a model nor a GPU was found."""
        return not self.models and not self.gpus
