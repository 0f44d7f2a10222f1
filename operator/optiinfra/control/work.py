"""The batch that one round carries from step to step: an object, its targets, and what each step found.

Mutable on purpose, unlike everything inside it: each step fills in its part. A failure belongs to the object it
happened in (`problem`), never to the round; later steps see it and leave the object alone, and report tells it.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from optiinfra.api.reasons import Reason
from optiinfra.api.settings import Settings, Target
from optiinfra.api.v1alpha1 import ClusterResourceOptimization, ResourceOptimization
from optiinfra.api.v1alpha1.action_status import ActionStatus
from optiinfra.api.v1alpha1.savings import ClusterLedgerStatus, LedgerStatus
from optiinfra.api.v1alpha1.status_parts import ResizeStatus, TakeoverStatus, UsedApproval
from optiinfra.cluster.rehearsal import PlannedWrite
from optiinfra.control.claims import Claim
from optiinfra.control.keys import ObjectKey
from optiinfra.control.memory import ObjectMemory, Standing, TargetMemory
from optiinfra.control.model_files import ModelFile
from optiinfra.control.registry import Broken
from optiinfra.domain.agent_readings import GpuTrouble
from optiinfra.domain.bottleneck import Diagnosis
from optiinfra.domain.consolidation import ConsolidationPlan, Serving
from optiinfra.domain.consolidation.scheduling import Habit
from optiinfra.domain.cost import PriceList
from optiinfra.domain.engine_settings import EngineSettings
from optiinfra.domain.evidence import Finding, Proposal, Refusal
from optiinfra.domain.idle import GpuVerdict
from optiinfra.domain.idle.holders import EngineWord
from optiinfra.domain.pod_rules import DisruptionBudget
from optiinfra.domain.policy import OPEN, Clamped, Gates, Limits, Permission, Running
from optiinfra.domain.prices import NodePrice
from optiinfra.domain.readings import Unknown
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.service_cost import ServiceCost
from optiinfra.domain.shrink_budget import Amount, ShrinkLimits
from optiinfra.domain.signals import ServiceSignals
from optiinfra.domain.sizing_rules import NamespaceRules
from optiinfra.domain.start_up_summary import StartUp
from optiinfra.domain.surroundings import Surroundings
from optiinfra.domain.surroundings_agents import Found
from optiinfra.domain.units import UnixTime
from optiinfra.domain.utilization import Utilization
from optiinfra.domain.workload import NodeFacts, PodFacts, ScalerFacts, WorkloadFacts


@dataclass(frozen=True, slots=True)
class Problem:
    """Why an object, or one of its targets, cannot be dealt with now."""

    reason: Reason
    message: str
    """Empty: the reason's own sentence."""
    stalled: bool = False
    """True when only a person can mend it (a spec that cannot be acted on)."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What actuation came to for one target, for the condition ActuationEffective."""

    effective: bool | None
    """None: not known yet."""
    reason: Reason
    message: str = ""


@dataclass(frozen=True, slots=True)
class RehearsedTarget:
    """What would have become of one target."""

    name: str
    current: int | None
    """Replicas that it is asked to have now; None while it is not read."""
    order: int | None
    """Replicas that would be published or written; None: none would."""
    reason: str
    """Reason code of what stands in the way, or of the decision."""
    message: str


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What a dry run came to."""

    writes: tuple[PlannedWrite, ...] = ()
    more: int = 0
    """Further writes that were not kept."""
    published: tuple[tuple[str, int], ...] = ()
    """Name and count of what scalers would read."""
    targets: tuple[RehearsedTarget, ...] = ()
    problem: str = ""
    """Why nothing could be worked out."""


@dataclass(frozen=True, slots=True)
class RefusedApproval:
    """An id in the annotation that approves nothing."""

    id: str
    why: str
    """In half a sentence: "it expired at ..."."""


@dataclass(slots=True)
class TargetWork:
    """One target of a service in this round."""

    target: Target
    memory: TargetMemory
    problem: Problem | None = None
    facts: WorkloadFacts | None = None
    lost: tuple[str, ...] = ()
    """Nodes of its pods that are not ready: what runs there is not heard, whether it works or not."""
    busiest: Mapping[str, tuple[UnixTime, float]] = field(default_factory=dict)
    """By container name: when it was last measured, and the CPU cores of its busiest pod then."""
    busiest_source: str = ""
    """Who measured that last; empty while nobody did."""
    usage_unknown: Unknown | None = None
    """Why nobody measures what its containers use; None where somebody does."""
    usage_fault: str = ""
    """What of its measured use cannot be; while it says something, no size is recommended."""
    sizing_rules: NamespaceRules = field(default_factory=NamespaceRules)
    scalers: tuple[ScalerFacts, ...] = ()
    """Every HPA that targets the workload; one of them at most is `facts.scaler`."""
    signals: ServiceSignals | None = None
    settings: EngineSettings = field(default_factory=EngineSettings)
    diagnosis: Diagnosis | None = None
    utilization: Utilization | None = None
    surroundings: Surroundings = field(default_factory=Surroundings)
    sick: tuple[GpuTrouble, ...] = ()
    """GPUs of its pods that are not well."""
    throttled: Mapping[str, Found] = field(default_factory=dict)
    """By container name: share of scheduling periods in which its CPU limit held it back, and where."""
    pressed: Mapping[str, Found] = field(default_factory=dict)
    """By container name: share of time in which it waited for memory, and where."""
    start_up: StartUp | None = None
    """How long its pods take to serve; None where it was not looked at."""
    limits: Limits | None = None
    gates: Gates = OPEN
    """What windows hold back now."""
    running: Running | None = None
    """What of it must stay at this moment; None where it is not known what runs."""
    decision: ScalingDecision | Unknown | None = None
    clamped: Clamped | None = None
    permission: Permission | None = None
    withheld: Effect | None = None
    """Why nothing may be done whatever is decided (kill switch, no permission by settings, dry run)."""
    harmed: str = ""
    """Why the workload rests after harm; empty while it does not."""
    restore: int | None = None
    """Replicas to give back because taking them away did harm."""
    order: int | None = None
    """Replicas to publish or write now; None when nothing may be published."""
    proposals: tuple[Proposal, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    findings: tuple[Finding, ...] = ()
    effect: Effect | None = None


@dataclass(slots=True)
class ServiceWork:
    """One ResourceOptimization in this round."""

    key: ObjectKey
    obj: ResourceOptimization
    settings: Settings
    memory: ObjectMemory
    prices: PriceList
    currency: str
    targets: list[TargetWork]
    whole: ServiceSignals | None = None
    """What all targets say together; None while none says anything."""
    notes: tuple[Refusal, ...] = ()
    """What others plan for the KV cache, shown beside our own advice."""
    model_file: ModelFile = field(default_factory=ModelFile)
    """What the ConfigMap that `spec.model` names says of the model."""
    cost: ServiceCost | None = None
    """What it costs; None until it was worked out."""
    problem: Problem | None = None
    silence: Problem | None = None
    """Why its engines are not heard by the metrics server that they are read from; None where they are, or by pods."""
    actions: list[ActionStatus] = field(default_factory=list)
    """Actions of this round, in order; report adds them to the status."""
    takeovers: list[TakeoverStatus] = field(default_factory=list)
    """Fields that are to be taken from update managers, once: the status has to say so before it is done."""
    ledger: LedgerStatus | None = None
    """Its books of what was saved, as the status shows them; None while there is nothing in them."""
    resizes: tuple[ResizeStatus, ...] = ()
    """Changes of running pods' requests, as the status shall show them."""
    approved: frozenset[str] = frozenset()
    """Ids that a person approved and that were not used before."""
    approvals: tuple[UsedApproval, ...] = ()
    """Approvals of this and earlier rounds as they stand now; those of replicas have an envelope."""
    refused_approvals: tuple[RefusedApproval, ...] = ()
    """Approved ids that are unknown, expired, used, or of what is never applied."""
    dry_run: bool = False
    claim: Claim = field(default_factory=Claim)
    """Whose object it is, where several operators see it."""
    """Nothing is done: the annotation says so, or somebody asked what would be."""
    rehearsed: Rehearsed | None = None
    """In a dry run: what would have been done; None until it was worked out."""


@dataclass(frozen=True, slots=True)
class PoolUse:
    """How a pool's GPU budget is used."""

    budget: float
    held: float
    """GPUs that its objects hold, those that are ordered included."""
    refused: float
    """GPUs that they want beyond what they were given."""
    waiting: tuple[str, ...] = ()
    """Objects that wait for GPUs."""
    unread: str = ""
    """An object of the pool of which nobody knows yet what it holds; growth waits for it."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """What limits over all objects are about, beside the objects of this round."""

    gpu_budgets: Mapping[str, float] = field(default_factory=dict)
    """GPUs by pool; pools without a budget are left out."""
    shrink_limits: ShrinkLimits = field(default_factory=ShrinkLimits)
    standing: tuple[Standing, ...] = ()
    """Targets that are not in this round."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """By pool: an object outside of this round of which nobody knows yet what it holds."""
    falling: Amount = field(default_factory=Amount)
    """What is being taken from targets that are not in this round."""
    disruption_budgets: Mapping[str, tuple[DisruptionBudget, ...]] = field(default_factory=dict)
    """By namespace."""


@dataclass(slots=True)
class ClusterWork:
    """One ClusterResourceOptimization in this round."""

    key: ObjectKey
    obj: ClusterResourceOptimization
    memory: ObjectMemory
    nodes: Mapping[str, NodeFacts] = field(default_factory=dict)
    prices: Mapping[str, PriceList] = field(default_factory=dict)
    """By pool name; "" for nodes of no pool."""
    node_prices: Mapping[str, NodePrice] = field(default_factory=dict)
    """By node name; every node that is seen."""
    heard: frozenset[str] = frozenset()
    """Nodes whose agents were heard lately; what they said before is kept longer than that."""
    told_by: Mapping[str, str] = field(default_factory=dict)
    """By node: the source of its measurements."""
    verdicts: tuple[GpuVerdict, ...] = ()
    idle: frozenset[str] = frozenset()
    """GPUs that were idle for the object's whole window."""
    under_used: frozenset[str] = frozenset()
    """GPUs that worked seldom for the object's whole window."""
    engines: Mapping[str, EngineWord] = field(default_factory=dict)
    """What the engines of pods with GPUs say of their work, by namespace/name of the pod."""
    services: Mapping[tuple[str, str, str], str] = field(default_factory=dict)
    """(namespace, kind, name) of a workload -> name of the ResourceOptimization that looks after it."""
    waiting: tuple[PodFacts, ...] = ()
    """Pods that have no node yet."""
    budgets: tuple[DisruptionBudget, ...] = ()
    serving: Mapping[str, Serving] = field(default_factory=dict)
    """What is measured of pods with GPUs, by uid."""
    plan: ConsolidationPlan | None = None
    due: tuple[str, ...] = ()
    """Nodes of the plan that could be emptied for the whole window: the first ones of it."""
    habit: Habit | Unknown | None = None
    """How the scheduler fills nodes; None where nobody asked."""
    doubts: tuple[str, ...] = ()
    """What cannot be so in what is known of the nodes; nothing is proposed about it."""
    proposals: tuple[Proposal, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    findings: tuple[Finding, ...] = ()
    pool_use: Mapping[str, PoolUse] = field(default_factory=dict)
    """By pool that has a GPU budget; empty for all objects but the one whose budgets hold."""
    ledger: ClusterLedgerStatus | None = None
    """The cluster's books of what was saved; None for all objects but the one that keeps them."""
    claim: Claim = field(default_factory=Claim)
    problem: Problem | None = None


@dataclass(slots=True)
class LeftWork:
    """A ClusterResourceOptimization that another operator looks after: nothing is judged, and only that is asked."""

    key: ObjectKey
    obj: ClusterResourceOptimization
    claim: Claim


@dataclass(slots=True)
class BrokenWork:
    """One object whose spec cannot be acted on: only its status is written."""

    key: ObjectKey
    broken: Broken


@dataclass(frozen=True, slots=True)
class Late:
    """An object that left its round, because its calls take long (`optiinfra.control.latecomers`)."""

    work: "Work"
    """A round of its own."""
    task: "asyncio.Task[None]"
    """Ends when that round has come to its end."""


@dataclass(slots=True)
class Work:
    """One round."""

    round_id: str
    at: UnixTime
    keys: tuple[ObjectKey, ...]
    tickets: Mapping[ObjectKey, tuple[str, ...]] = field(default_factory=dict)
    """Round ids that were promised to callers; their objects' statuses are written even when nothing changed."""
    previews: Mapping[ObjectKey, asyncio.Future[Rehearsed]] = field(default_factory=dict)
    """Objects of which somebody asked what would be done: this round does nothing about them, and reports nothing."""
    nodes: Mapping[str, NodeFacts] = field(default_factory=dict)
    """Nodes with their pods and agents; empty with scope Namespaces."""
    prices: Mapping[str, PriceList] = field(default_factory=dict)
    """By pool name; "" for nodes of no pool."""
    node_prices: Mapping[str, NodePrice] = field(default_factory=dict)
    """By node name; every node that is seen."""
    fleet: Fleet = field(default_factory=Fleet)
    services: list[ServiceWork] = field(default_factory=list)
    clusters: list[ClusterWork] = field(default_factory=list)
    left: list[LeftWork] = field(default_factory=list)
    broken: list[BrokenWork] = field(default_factory=list)
    gone: list[ObjectKey] = field(default_factory=list)
    kept: set[ObjectKey] = field(default_factory=set)
    """Objects whose promised round a status tells of now; the promises of others go to their next round."""
    late: list[Late] = field(default_factory=list)
    """Objects that left this round on the way."""
    alone: bool = False
    """It is the rest of a round for one object that left it: nobody is held up, so it takes what time it takes."""

    def id_for(self, key: ObjectKey) -> str:
        """Return the id of the round as an object sees it."""
        return self.tickets.get(key, (self.round_id,))[-1]
