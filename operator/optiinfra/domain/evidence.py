"""Findings and recommendations: what was diagnosed, what is proposed, and the evidence that lets people argue.

Every number that leaves the domain carries a reason code, evidence (signal, value, window, source), bounds and a
confidence. Identifiers are not made here: they need the object's uid and the time of issue, which `control` knows.
"""

from dataclasses import dataclass
from enum import StrEnum

from optiinfra.domain.readings import Value
from optiinfra.domain.units import Money, Ratio, Seconds, UnixTime


class Bottleneck(StrEnum):
    """What limits a model service, in one word. Shown as the printer column BOTTLENECK."""

    HEALTHY = "Healthy"
    """Work is served within the objectives and nothing is near its limit."""
    QUEUE = "Queue"
    """Requests wait although batch and KV cache have room (admission, scheduler, LoRA budget, KV transfer)."""
    BATCH = "Batch"
    """Requests wait and the batch limit is reached, KV cache is not."""
    KV_CACHE = "KVCache"
    """Requests wait, or are preempted, because the KV cache is full."""
    COMPUTE = "Compute"
    """The GPU is busy and latency misses the objective; the reason tells prefill from decode."""
    HOST = "Host"
    """Steps are slow although the GPU is not busy: the host's CPU starves it."""
    NETWORK = "Network"
    """Requests are held up by a remote KV cache or by the transfer of keys and values."""
    COLD_START = "ColdStart"
    """Requests wait for replicas that are still starting."""
    IDLE = "Idle"
    """No work arrived in the whole window."""
    UNKNOWN = "Unknown"


class FindingType(StrEnum):
    """Kinds of findings."""

    BOTTLENECK = "Bottleneck"
    IDLE_GPU = "IdleGPU"
    UNDER_USED = "UnderUsed"
    UNHEALTHY_GPU = "UnhealthyGPU"
    """A GPU that is no place for work until somebody has mended it."""
    OVER_REQUESTED = "OverRequested"
    EMPTYABLE_NODE = "EmptyableNode"
    INFEASIBLE_OBJECTIVE = "InfeasibleObjective"
    """No rule that cannot see the future holds the objective at a bearable price."""


class RecommendationType(StrEnum):
    """Kinds of recommendations; each changes exactly one axis of one object."""

    REPLICAS = "Replicas"
    """Change the number of replicas (or the bounds of the scaler)."""
    HPA_TARGET = "HPATarget"
    """Change the metric target of the user's own scaler."""
    RESOURCES = "Resources"
    """Change CPU or memory requests of a container."""
    KV_CACHE = "KVCache"
    BATCH_SIZE = "BatchSize"
    QUANTIZATION = "Quantization"
    CONSOLIDATION = "Consolidation"
    IDLE_GPU = "IdleGPU"
    GPU_SHARE = "GPUShare"
    """Give a workload a smaller share of a GPU (MIG, MPS, time-slicing), or fewer GPUs."""


class Direction(StrEnum):
    """Which way a change goes; modes and approvals are set per direction."""

    SCALE_UP = "ScaleUp"
    SCALE_DOWN = "ScaleDown"
    RESIZE = "Resize"
    NONE = "None"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One measured fact behind a verdict."""

    signal: str
    value: Value
    unit: str
    """Empty for a plain count, "ratio", "seconds", "bytes", "cores", "tokens/s", "requests/s" ..."""
    window: Seconds
    """Span of time the value speaks about; 0 for an instant."""
    source: str
    """Where it was measured: "engine", "agent", "kubernetes", "derived"."""
    statistic: str = "last"
    """One of "last", "mean", "max", "p95", "sum", "rate" ..."""
    place: str = ""
    """Where it was measured, in words: node, and GPU or container; empty where it is about the whole subject."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A diagnosed condition with its evidence."""

    type: FindingType
    reason: str
    """CamelCase reason code, stable, for machines."""
    message: str
    """One sentence for people, with the numbers in it."""
    confidence: Ratio
    evidence: tuple[Evidence, ...]
    subject: str = ""
    """What it is about, when not the whole object: a container, a node, a GPU uuid."""


@dataclass(frozen=True, slots=True)
class Savings:
    """What a change would save, kept apart: freed capacity is money only when a node goes away."""

    gpus_freed: float = 0.0
    cpu_cores_freed: float = 0.0
    memory_bytes_freed: float = 0.0
    per_month: Money | None = None
    """None when no price is configured. Money that is saved once the freed capacity is really given back."""

    def scaled(self, ratio: float) -> "Savings":
        """Return what a change of so many times the size would save."""
        return Savings(
            gpus_freed=self.gpus_freed * ratio,
            cpu_cores_freed=self.cpu_cores_freed * ratio,
            memory_bytes_freed=self.memory_bytes_freed * ratio,
            per_month=None if self.per_month is None else Money(self.per_month * ratio),
        )


@dataclass(frozen=True, slots=True)
class Effect:
    """What a change is predicted to do to one signal, with an interval."""

    signal: str
    """What changes: "requests_running", "inter_token_latency", "kv_cache_capacity" ..."""
    unit: str
    """As in `Evidence`."""
    before: Value
    lower: Value
    """Least that is expected; unknown where no bound can be given, with the reason."""
    expected: Value
    upper: Value
    basis: str = ""
    """The formula or the fit that it rests on, in a few words."""


@dataclass(frozen=True, slots=True)
class Past:
    """What became of earlier actions of the same rule on the same workload; they are part of the confidence."""

    verified: int
    regressed: int
    unclear: int
    message: str = ""
    """What happened last, where the workload rests for it."""
    rests_until: UnixTime | None = None


@dataclass(frozen=True, slots=True)
class InPlace:
    """A change of one container's resource as running pods would be given it (the `resize` subresource)."""

    container: str
    resource: str
    """cpu or memory."""
    request: str
    """New request; empty where it stays."""
    limit: str
    """New limit; empty where it stays."""
    old_request: str
    old_limit: str
    """What stands there now; empty where nothing changes."""
    refused: str = ""
    """Why running pods are not given it; empty where they may be."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposed change, as the domain makes it; `control` gives it an id, a time of issue and an expiry."""

    type: RecommendationType
    reason: str
    message: str
    setting: str
    """What changes: "replicas", "containers[vllm].requests.cpu", "--max-num-seqs" ..."""
    current: str
    proposed: str
    lower: str
    upper: str
    """Bounds within which the analysis would still agree; both equal to proposed when there is no band."""
    direction: Direction
    confidence: Ratio
    evidence: tuple[Evidence, ...]
    savings: Savings = Savings()
    subject: str = ""
    patch: str = ""
    """A ready patch (strategic-merge YAML) where one can be written; the operator itself never applies it."""
    effects: tuple[Effect, ...] = ()
    """What it is predicted to do, most important first."""
    risk: str = ""
    """What can go wrong, in a sentence."""
    verification: str = ""
    """How to see that it worked: signal, direction and time to wait."""
    undo: str = ""
    """How to take it back, in a sentence."""
    past: Past | None = None
    """None where nothing like it was done before."""
    in_place: InPlace | None = None
    """For requests and limits: the same as a change of running pods."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that was considered and not proposed, and why: what was refused says so."""

    type: RecommendationType
    reason: str
    message: str
