"""What to do about idle GPUs: by who holds them and what they keep there, each way with its price and its evidence.

One proposal for each workload (or node, where no workload is known) and way: a Deployment with forty idle pods is one
decision. Nothing here acts, and nothing here moves nodes: GPUs that nobody requested belong to the consolidation, and
so does the money of a node that it would free. What one object counts, another does not: a service with a
ResourceOptimization has its replicas' saving there.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from optiinfra.domain import gpu_models
from optiinfra.domain.cost import PriceList, saving
from optiinfra.domain.evidence import Direction, Proposal, RecommendationType, Refusal, Savings
from optiinfra.domain.idle.holders import EngineWord, pod_of
from optiinfra.domain.idle.states import IDLE_STATES, GpuState, GpuVerdict
from optiinfra.domain.readings import Unknown
from optiinfra.domain.units import Money, Ratio
from optiinfra.domain.workload import NodeFacts, PodFacts

_NAMED: Final = 3
_TYPE: Final = RecommendationType.IDLE_GPU
LEADER_WORKER_SET: Final = "leaderworkerset.sigs.k8s.io/name"


class Remedy(StrEnum):
    """The classes of remedy; also the reason codes of the proposals."""

    SCALE_IN = "ScaleIn"
    SLEEP = "SleepMode"
    SHARE = "Share"
    MOVE = "Move"
    STOP = "Stop"


@dataclass(frozen=True, slots=True)
class _Words:
    setting: str
    proposed: str
    advice: str
    risk: str
    verification: str
    undo: str


_WORDS: Final[Mapping[Remedy, _Words]] = {
    Remedy.SCALE_IN: _Words(
        "replicas",
        "fewer replicas",
        "Scale it in: lower its scaler's minimum, or its replicas where it has none.",
        "A request that comes later waits until a replica has started and loaded its model.",
        "The pods go, and the GPUs turn IdleUnallocated within about ten minutes.",
        "Raise the number of replicas again; a start takes as long as the model loads.",
    ),
    Remedy.SLEEP: _Words(
        "engine sleep level",
        "asleep",
        "Its engine can sleep: POST /sleep?level=1 keeps the weights in host memory, level=2 gives them up; "
        "POST /wake_up ends it.",
        "Nothing wakes it by itself: a request to a sleeping engine fails unless whoever routes it calls /wake_up. "
        "Level 1 needs host memory for the weights, level 2 loads them anew.",
        "Its page shows the engine asleep, and the GPU's memory falls within a minute.",
        "POST /wake_up: seconds from level 1, about the load time from level 2.",
    ),
    Remedy.SHARE: _Words(
        "GPU share",
        "a shared GPU",
        "Let it share: a MIG profile that holds its memory, else MPS or time-slicing.",
        "Pods that share a GPU by MPS or time-slicing slow each other down; only MIG keeps them apart.",
        "The same work at the same latency on the smaller share.",
        "Request a whole GPU again; the pod starts anew.",
    ),
    Remedy.MOVE: _Words(
        "nvidia.com/gpu request",
        "no GPU, or a shared one",
        "It keeps nothing on the GPU: run it without one, or move it to a node whose GPUs are shared.",
        "Work that comes seldom and needs the GPU would fail, or wait for its turn.",
        "The pod does its work elsewhere, and the GPU turns IdleUnallocated.",
        "Request the GPU again; the pod starts anew.",
    ),
    Remedy.STOP: _Words(
        "process",
        "stopped",
        "Ask whoever started it, and stop it if nobody needs it; the operator never does.",
        "It may hold work that is not saved, such as a notebook.",
        "The GPU's memory falls, and it turns IdleUnallocated.",
        "Start it again.",
    ),
}


@dataclass(frozen=True, slots=True)
class Workload:
    """Who holds some GPUs, as far as it can be acted on."""

    namespace: str
    kind: str
    """Deployment, StatefulSet, LeaderWorkerSet, Job ...; "Pod" for a bare pod, "Process" outside Kubernetes."""
    name: str

    def __str__(self) -> str:
        if self.kind == "Process":
            return f"a process outside Kubernetes on node {self.name}"
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Given:
    """What the remedies need besides the verdicts."""

    nodes: Mapping[str, NodeFacts]
    engines: Mapping[str, EngineWord]
    """By namespace/name of the pod."""
    services: Mapping[tuple[str, str, str], str]
    """(namespace, kind, name) of a workload -> name of the ResourceOptimization that looks after it."""
    prices: Mapping[str, PriceList]
    """By pool; "" for nodes of no pool."""
    freed_nodes: Collection[str] = frozenset()
    """Nodes that the consolidation would free: their money is counted there."""


def remedies(verdicts: Sequence[GpuVerdict], given: Given) -> tuple[tuple[Proposal, ...], tuple[Refusal, ...]]:
    """Return what is proposed about GPUs that were idle or under-used for the whole window, and what is not and why."""
    grouped: dict[tuple[Remedy, Workload], list[GpuVerdict]] = {}
    free: list[GpuVerdict] = []
    nameless: list[GpuVerdict] = []
    foreign: list[GpuVerdict] = []
    for verdict in verdicts:
        if isinstance(gpu_models.recognise(verdict.model), Unknown):
            foreign.append(verdict)
        elif verdict.state is GpuState.IDLE_UNALLOCATED:
            free.append(verdict)
        else:
            workload = holder_of(verdict, given.nodes)
            if workload is None:
                nameless.append(verdict)
            else:
                grouped.setdefault((_remedy(verdict, workload, given), workload), []).append(verdict)
    proposals = [_proposal(*key, several, given) for key, several in grouped.items()]
    proposals.sort(key=lambda one: (-(one.savings.per_month or 0.0), -one.savings.gpus_freed, one.subject, one.reason))
    return tuple(proposals), tuple(
        Refusal(_TYPE, reason, f"{_gpus(len(several))} ({_some([one.uuid for one in several])}): {why}"[:1024])
        for several, reason, why in (
            (free, "Unallocated", "free and idle; whether a node can go is the consolidation's question"),
            (nameless, "HolderUnknown", "idle, and it is not known who holds what: let the agent read pod-resources"),
            (foreign, "UnknownGpuModel", "of a model that is not in the table of GPUs; nothing is proposed"),
        )
        if several
    )


def holder_of(verdict: GpuVerdict, nodes: Mapping[str, NodeFacts]) -> Workload | None:
    """Return the workload whose pods hold a GPU; None where nobody knows."""
    if not verdict.pod:
        outside = verdict.state is GpuState.IDLE_HELD_MEMORY and "outside Kubernetes" in verdict.message
        return Workload("", "Process", verdict.node) if outside else None
    namespace, _, name = verdict.pod.partition("/")
    node = nodes.get(verdict.node)
    pod = pod_of(verdict.pod, node) if node is not None else None
    return Workload(namespace, "Pod", name) if pod is None else workload_of(pod)


def workload_of(pod: PodFacts) -> Workload:
    """Return what a person would scale: the Deployment of a ReplicaSet, the set of a group, else the owner itself."""
    group = pod.labels.get(LEADER_WORKER_SET)
    if group:
        return Workload(pod.namespace, "LeaderWorkerSet", group)
    kind, name = pod.owner
    if kind == "ReplicaSet" and "-" in name:
        return Workload(pod.namespace, "Deployment", name.rpartition("-")[0])
    return Workload(pod.namespace, kind, name) if kind else Workload(pod.namespace, "Pod", pod.name)


def _remedy(verdict: GpuVerdict, workload: Workload, given: Given) -> Remedy:
    words = [given.engines[pod] for pod in verdict.holders if pod in given.engines]
    if verdict.state is GpuState.UNDER_USED:
        return Remedy.SHARE
    if workload.kind in ("Process", "Pod", "Job"):
        return Remedy.STOP
    scaled = any(word.has_scaler for word in words) or _service(workload, given) != ""
    if scaled:
        return Remedy.SCALE_IN
    if verdict.state is GpuState.IDLE_HELD_MEMORY and any(word.can_sleep and not word.sleeping for word in words):
        return Remedy.SLEEP
    if verdict.state is GpuState.IDLE_ALLOCATED_EMPTY and not any(word.sleeping for word in words):
        return Remedy.MOVE
    return Remedy.STOP if workload.kind == "DaemonSet" else Remedy.SCALE_IN


def _service(workload: Workload, given: Given) -> str:
    return given.services.get((workload.namespace, workload.kind, workload.name), "")


def _proposal(remedy: Remedy, workload: Workload, verdicts: list[GpuVerdict], given: Given) -> Proposal:
    words, count = _WORDS[remedy], len(verdicts)
    idle = all(one.state in IDLE_STATES for one in verdicts)
    did = "did nothing" if idle else "worked seldom"
    costs = [one.cost_per_hour for one in verdicts]
    known = [cost for cost in costs if not isinstance(cost, Unknown)]
    hourly = f"{sum(known):.2f} an hour" if len(known) == count else "an unknown price (set prices.gpuHour of the pool)"
    where = _some(sorted({one.node for one in verdicts}))
    savings, basis = _savings(remedy, workload, verdicts, given)
    who = f"{_gpus(count)} on {where}, held by {workload}"
    message = f"{who}, {did} for the whole window, at {hourly}. {words.advice} {basis}"
    return Proposal(
        type=_TYPE,
        reason=str(remedy),
        message=message[:1024],
        setting=words.setting,
        current=f"{count} {'idle' if idle else 'under-used'}",
        proposed=words.proposed,
        lower=words.proposed,
        upper=words.proposed,
        direction=Direction.NONE,
        confidence=Ratio(min(one.confidence for one in verdicts)),
        evidence=verdicts[0].evidence,
        savings=savings,
        subject=f"{workload.namespace}/{workload.name}".removeprefix("/")[:253],
        risk=words.risk,
        verification=words.verification,
        undo=words.undo,
    )


def _savings(remedy: Remedy, workload: Workload, verdicts: list[GpuVerdict], given: Given) -> tuple[Savings, str]:
    """Return what is saved, and the sentence that says on which basis."""
    service = _service(workload, given)
    if remedy is Remedy.SHARE:
        return Savings(), "What a share saves is said where its size is known, by the service's ResourceOptimization."
    if remedy is Remedy.SLEEP:
        return Savings(), "It frees memory, not the GPU: worth money only where others use what is freed."
    if service:
        text = f"Its saving is counted by ResourceOptimization {workload.namespace}/{service}, not here."
        return Savings(), text
    counted = [one for one in verdicts if one.node not in given.freed_nodes]
    parts = [_of_one(one, given) for one in counted]
    basis = "Price of the GPUs alone; it is money once they are used for something else or their node goes."
    left = len(verdicts) - len(counted)
    if left:
        basis += f" {left} of them are on nodes whose saving the consolidation counts."
    known = [part for part in parts if part is not None]
    money = Money(sum(known)) if len(known) == len(parts) and parts else None
    return Savings(gpus_freed=float(len(counted)), per_month=money), basis


def _of_one(verdict: GpuVerdict, given: Given) -> float | None:
    node = given.nodes.get(verdict.node)
    prices = given.prices.get(node.pool if node is not None else "") or given.prices.get("") or PriceList()
    return saving(prices, gpus=1.0, gpu_model=verdict.model).per_month


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"
