"""`ResourceOptimization` (`ro`): one logical model service, one target or several variants of it."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StrictBool

from optiinfra.api.base import ApiModel, Rule, Unique
from optiinfra.api.bounds import DurationBetween, ShareBetween
from optiinfra.api.conditions import Condition
from optiinfra.api.scalars import ContainerName, Duration, Label, Share, Time, UrlPath
from optiinfra.api.v1alpha1.action_status import MAX_ACTIONS, ActionStatus
from optiinfra.api.v1alpha1.common import (
    IMMUTABLE_TARGET,
    InsightsSpec,
    Mode,
    Modes,
    NameRef,
    ObjectivesSpec,
    PolicySpec,
    Switch,
    TargetRef,
)
from optiinfra.api.v1alpha1.cost import CostStatus
from optiinfra.api.v1alpha1.model import Model
from optiinfra.api.v1alpha1.resource import Column, CustomResource
from optiinfra.api.v1alpha1.savings import LedgerStatus
from optiinfra.api.v1alpha1.scaling import Scaling
from optiinfra.api.v1alpha1.status_parts import (
    ATOMIC,
    MAP_BY_ID,
    MAP_BY_NAME,
    MAP_BY_TYPE,
    MAX_APPROVALS,
    MAX_RECOMMENDATIONS,
    MAX_REFUSALS,
    MAX_RESIZES,
    MAX_TARGETS,
    BottleneckStatus,
    Count,
    DryRunStatus,
    HistoryStatus,
    Measured,
    Name,
    OtherOperatorStatus,
    Percent,
    RecommendationStatus,
    RefusalStatus,
    ResizeStatus,
    RoundStatus,
    Sentence,
    Short,
    TakeoverStatus,
    UsedApproval,
)


class EngineType(StrEnum):
    """Engines that can be named; Auto reads it from the page."""

    AUTO = "Auto"
    VLLM = "vLLM"
    SGLANG = "SGLang"
    TGI = "TGI"
    TRITON = "Triton"
    TRTLLM = "TRT-LLM"
    NIM = "NIM"


class EngineSource(StrEnum):
    """Where engine metrics are read."""

    PODS = "Pods"
    PROMETHEUS = "Prometheus"


class Scheme(StrEnum):
    """How the engine's page is served."""

    HTTP = "http"
    HTTPS = "https"


class Role(StrEnum):
    """What a variant does of a request's work."""

    UNIFIED = "Unified"
    PREFILL = "Prefill"
    DECODE = "Decode"


class CapacityType(StrEnum):
    """What kind of nodes a variant runs on."""

    ON_DEMAND = "OnDemand"
    SPOT = "Spot"


class Engine(ApiModel):
    """Where the engines' own metrics are found."""

    type: EngineType = EngineType.AUTO
    """Engine; Auto recognises it by its page."""
    source: EngineSource = EngineSource.PODS
    """Pods: scraped by pod address. Prometheus: read from the metrics source of the cluster's object."""
    port: Annotated[int, Field(ge=1, le=65_535)] = 8000
    """Port of the metrics page."""
    path: UrlPath = UrlPath("/metrics")
    """Path of the metrics page."""
    scheme: Scheme = Scheme.HTTP
    """http or https."""
    container_name: ContainerName = ContainerName("")
    """Container that runs the engine; empty: found by its GPUs and arguments."""


class Variant(ApiModel):
    """One of several deployments of the same service."""

    name: Label
    """Name of the variant, unique in the object."""
    target_ref: TargetRef
    """The workload."""
    role: Role = Role.UNIFIED
    """Its part of the work: Unified, Prefill or Decode."""
    capacity_type: CapacityType = CapacityType.ON_DEMAND
    """OnDemand or Spot. Spot may be lost all at once: it carries at most half of its role, if that meets the need."""
    max_share: Annotated[Share, ShareBetween(0.01, 1)] | None = None
    """Most of its role's capacity that may run here, such as 60%; the variant's minimum comes before it."""
    scaling: Scaling | None = None
    """Scaling of this variant; left out: the object's `scaling`."""

    RULES = (
        Rule(
            cel="self.targetRef == oldSelf.targetRef",
            message="targetRef of a variant may not change: remove the variant and add one with another name",
            field="targetRef",
        ),
    )


class ResourceOptimizationSpec(ApiModel):
    """What to optimize, how far to go, and within which limits."""

    target_ref: Annotated[
        TargetRef | None, Field(json_schema_extra={"x-kubernetes-validations": [IMMUTABLE_TARGET.to_schema()]})
    ] = None
    """The workload; anything with a scale subresource. Either this or `variants`."""
    variants: (
        Annotated[
            tuple[Variant, ...],
            Field(min_length=2, max_length=MAX_TARGETS, json_schema_extra=MAP_BY_NAME),
            Unique("name"),
        ]
        | None
    ) = None
    """Several deployments of one service (GPU types, spot and on-demand, prefill and decode), mixed by role."""
    mode: Mode | None = None
    """Recommend writes nothing, Approve waits for a human, Auto acts. Built-in: Recommend."""
    modes: Modes = Modes()
    """Modes per direction, over `mode`."""
    suspend: StrictBool = False
    """Stop: nothing is decided, and original values are given back."""
    interval: Annotated[Duration, DurationBetween("5s", "1h")] | None = None
    """How often a round visits the object. Built-in: 30s."""
    engine: Engine = Engine()
    """Where the engines' own metrics are found."""
    model: Model = Model()
    """Facts about the served model."""
    objectives: ObjectivesSpec = ObjectivesSpec()
    """What the service promises."""
    scaling: Scaling = Scaling()
    """How replicas are decided."""
    right_sizing: Switch = Switch()
    """CPU and memory requests and limits, and shares of GPUs."""
    kv_cache: Switch = Switch()
    """KV-cache advice."""
    tuning: Switch = Switch()
    """Batch size and quantization advice."""
    insights: InsightsSpec = InsightsSpec()
    """Text by a language model about recommendations."""
    priority: Annotated[int, Field(ge=0, le=1000)] = 100
    """Who gets scarce GPUs of a pool first; higher wins."""
    weight: Annotated[int, Field(ge=1, le=100)] = 1
    """Share of scarce GPUs among objects of the same priority."""
    pool_ref: NameRef | None = None
    """Pool of the cluster's object, for prices and its gpuBudget."""
    policy: PolicySpec = PolicySpec()
    """Limits of what is done automatically."""

    RULES = (
        Rule(
            cel="has(self.targetRef) != has(self.variants)",
            message="exactly one of targetRef and variants is needed: set targetRef for one workload, or variants",
            holds=lambda s: (s.target_ref is None) != (s.variants is None),
        ),
        Rule(
            cel="has(self.targetRef) == has(oldSelf.targetRef)",
            message="targetRef may not be added or removed: create a new object instead, and delete this one",
        ),
        Rule(
            cel=(
                "!has(self.variants) || self.variants.all(v, self.variants.exists_one(w, w.targetRef == v.targetRef))"
            ),
            message="variants: two variants have the same targetRef; each needs a workload of its own",
            field="variants",
            holds=lambda s: s.variants is None or len({v.target_ref for v in s.variants}) == len(s.variants),
        ),
        Rule(
            cel=(
                "!has(self.variants) || (self.variants.exists(v, v.role == 'Prefill') =="
                " self.variants.exists(v, v.role == 'Decode'))"
            ),
            message="variants: role Prefill needs a variant with role Decode, and the other way round",
            field="variants",
            holds=lambda s: (
                s.variants is None
                or any(v.role == Role.PREFILL for v in s.variants) == any(v.role == Role.DECODE for v in s.variants)
            ),
        ),
        Rule(
            cel=(
                "!has(self.variants) || !(has(self.scaling.minReplicas) || has(self.scaling.maxReplicas)"
                " || has(self.scaling.scalerRef))"
            ),
            message=(
                "scaling: with variants, minReplicas, maxReplicas and scalerRef belong to variants[].scaling; move "
                "them there"
            ),
            field="scaling",
            holds=lambda s: (
                s.variants is None
                or (s.scaling.min_replicas is None and s.scaling.max_replicas is None and s.scaling.scaler_ref is None)
            ),
        ),
    )


class ReplicaStatus(ApiModel):
    """Counts of replicas."""

    current: Count
    """Replicas that exist."""
    desired: Count
    """Replicas that the workload's spec asks for."""
    ready: Count
    """Replicas that serve."""


class DesiredStatus(ApiModel):
    """The decided count, and by which rule; or why there is none."""

    replicas: Count | None = None
    """The decision; absent while the measurements do not support one."""
    unknown: Annotated[str, Field(max_length=256)] | None = None
    """Why there is no decision."""
    rule: Short
    """The rule that won, such as Learned or QueueDrain."""
    floor: Count | None = None
    """Lowest count worth holding: the need without queue and hysteresis. Absent while it is not known."""
    reason: Short
    """Reason code."""
    message: Sentence = ""
    """The decision in a sentence."""
    at: Time
    """When it was decided."""


class UtilizationStatus(ApiModel):
    """How much of what is held is used. Percentages in steps of 5, or the reason why they are not known."""

    gpu_percent: Percent
    """Use of the service's GPUs."""
    gpu_memory_percent: Percent
    """Use of the GPUs' memory."""
    kv_cache_percent: Percent
    """Use of the KV cache, highest replica."""
    batch_percent: Percent
    """Running requests against the batch limit."""
    gpus_attributed_by: Short = ""
    """By whose word GPUs are the service's: Kubelet, Claims (DRA), Processes (what its processes have of shared ones),
    or Requests: nobody told, and what the pods of a node request leaves no other answer. Empty while none are known."""
    measured_at: Time
    """Time of the latest measurement in it."""


class ForecastStatus(ApiModel):
    """What demand is expected."""

    horizon: Duration
    """How far ahead."""
    replicas: Count | None = None
    """Replicas that the load expected then keeps busy, rounded up; absent when there is no forecast."""
    upper: Measured
    """Upper end of it, in replicas; more is meant to come in one minute of thirty-one."""
    coverage: Measured
    """Share of the last day's minutes in which really no more came."""
    forecaster: Short
    """Whom the back-test believes: the level, the trend, the daily or the weekly profile."""
    backtested_error: Measured
    """Mean absolute error of that one on this object's last day, as a share of the mean load, or why it is not known.
    """
    level_error: Measured
    """The same of repeating the last minute."""
    message: Sentence = ""
    """The forecast in a sentence."""


class LearnedStatus(ApiModel):
    """What the scaler knows of one workload, and what it chooses by. Two digits a number: noise is no change."""

    rule: Short
    """The rule that weighs most in the decision: trend, hold time, margin."""
    weight_percent: Percent
    """Its share of the decision; the others have the rest."""
    history: Duration
    """For how long the load was lived through; at most a week is told."""
    load: Measured
    """Replicas that the load keeps busy now."""
    replica_capacity: Measured
    """Work per second (prompt tokens + 4 x generated ones) that one replica serves at the objective."""
    capacity_basis: Short
    """Where that number is from: Measured, StepTimes, Occupancy (a guess) or None."""
    start_up: Duration
    """Time from asking for a replica until it serves, 95th percentile; what is planned with."""
    late_share: Measured
    """Share of the work of two days that waited longer than the objective."""
    late_budget_left_percent: Percent
    """What is left of the objective's share; negative when it is overspent."""
    cost: Measured
    """Replica-seconds over the work they serve under the leading rule on this load; 1 is always busy."""
    hpa_target: Measured
    """Cheapest target of a plain HorizontalPodAutoscaler that held the objective on this load, or why there is none."""
    shrink_delay: Duration
    """Stabilisation window of scale-down that goes with it."""
    alternatives: Annotated[tuple[Sentence, ...], Field(max_length=3, json_schema_extra=ATOMIC)] = ()
    """The rules that weigh most after the leading one, with cost and late share."""
    infeasible: Sentence = ""
    """Why the objective cannot be held at a bearable price, and what would help; empty while it can."""


class StageStatus(ApiModel):
    """One stage of a start-up."""

    name: Name
    """Pending, Node, Sandbox, Init, Image, Load, Ready or FirstToken."""
    p50: Measured
    """Median, in seconds."""
    p95: Measured
    """95th percentile, in seconds; of fewer than twenty pods the longest."""


class StartUpStatus(ApiModel):
    """How long the workload's own pods take from their creation until they serve."""

    p50: Measured
    """Median, in seconds."""
    p95: Measured
    """95th percentile, in seconds; of fewer than twenty pods the longest."""
    samples: Count
    """Pods that it was measured on."""
    stages: Annotated[tuple[StageStatus, ...], Field(max_length=8, json_schema_extra=MAP_BY_NAME)] = ()
    """Where the time goes; stages that took no time are left out."""
    pending: Count = 0
    """Pods that have no node now."""
    stock_outs: Count = 0
    """Pods that waited for a node for more than two minutes in the last day."""
    message: Sentence = ""
    """The same in a sentence."""


class TargetStatus(ApiModel):
    """One workload of the service."""

    name: Name
    """Name of the variant; for a single target the workload's name."""
    target: Name
    """kind/name of the workload."""
    uid: Annotated[str, Field(max_length=64)] = ""
    """Its uid; empty while it is not found."""
    scaler: Name = ""
    """kind/name of its scaler; empty when none was found."""
    replicas: ReplicaStatus | None = None
    """Its replicas; absent while it is not found."""
    desired: DesiredStatus | None = None
    """The decision for it."""
    learned: LearnedStatus | None = None
    """What the decision rests on; absent while there is none."""
    start_up: StartUpStatus | None = None
    """How long its pods take to serve; absent while it was not looked at."""


class ResourceOptimizationStatus(ApiModel):
    """What is known, decided, proposed and done."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """Generation of the spec that the status speaks about."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra=MAP_BY_TYPE)] = ()
    """Ready, Reconciling, Stalled and their companions."""
    target: Name = ""
    """The workload, or the variants, in one short text."""
    mode: Short = ""
    """The mode that holds, in one word; Mixed when it differs by direction, Suspended when suspended."""
    replicas: ReplicaStatus | None = None
    """Replicas over all targets."""
    desired: DesiredStatus | None = None
    """The decision over all targets."""
    effective: Short = ""
    """Whether the replicas follow the decision: True, False or Unknown, with the reason when not True."""
    targets: Annotated[tuple[TargetStatus, ...], Field(max_length=MAX_TARGETS, json_schema_extra=MAP_BY_NAME)] = ()
    """Each workload of the service."""
    utilization: UtilizationStatus | None = None
    """How much of what is held is used."""
    bottleneck: BottleneckStatus | None = None
    """What limits the service."""
    forecast: ForecastStatus | None = None
    """What demand is expected."""
    recommendations: Annotated[
        tuple[RecommendationStatus, ...], Field(max_length=MAX_RECOMMENDATIONS, json_schema_extra=MAP_BY_ID)
    ] = ()
    """Proposed changes."""
    refusals: Annotated[tuple[RefusalStatus, ...], Field(max_length=MAX_REFUSALS, json_schema_extra=ATOMIC)] = ()
    """What was considered and not proposed, and why."""
    actions: Annotated[tuple[ActionStatus, ...], Field(max_length=MAX_ACTIONS, json_schema_extra=MAP_BY_ID)] = ()
    """What was done, latest last."""
    used_approvals: Annotated[
        tuple[UsedApproval, ...], Field(max_length=MAX_APPROVALS, json_schema_extra=MAP_BY_ID)
    ] = ()
    """Approvals that were used: envelopes that stand, and ids that work no more."""
    resizes: Annotated[tuple[ResizeStatus, ...], Field(max_length=MAX_RESIZES, json_schema_extra=MAP_BY_ID)] = ()
    """Sizes that running pods were given, until the next rollout."""
    dry_run: DryRunStatus | None = None
    """What would have been done, while the annotation optiinfra.io/dry-run is "true"."""
    takeovers: Annotated[tuple[TakeoverStatus, ...], Field(max_length=MAX_TARGETS, json_schema_extra=MAP_BY_NAME)] = ()
    """Where `takeover: Once` is used up; gone again while it is Never."""
    operator: Name = ""
    """Namespace and Lease of the operator that looks after this object."""
    other_operator: OtherOperatorStatus | None = None
    """Another operator that sees this object too."""
    cost: CostStatus | None = None
    """What the service costs; absent while no pod has a node."""
    savings: LedgerStatus | None = None
    """The savings ledger."""
    history: HistoryStatus | None = None
    """The history that was read from a metrics server; absent while none was."""
    last_round: RoundStatus | None = None
    """The last round that changed this status."""


class ResourceOptimization(CustomResource):
    """One logical model service that is watched, advised on and, where allowed, scaled."""

    KIND = "ResourceOptimization"
    PLURAL = "resourceoptimizations"
    SINGULAR = "resourceoptimization"
    SHORT_NAMES = ("ro",)
    COLUMNS = (
        Column("TARGET", "string", ".status.target", "The workload."),
        Column("MODE", "string", ".status.mode", "The mode that holds."),
        Column("READY", "string", '.status.conditions[?(@.type=="Ready")].status', "Whether all is well."),
        Column("BOTTLENECK", "string", ".status.bottleneck.type", "What limits the service."),
        Column("GPU%", "string", ".status.utilization.gpuPercent", "Use of its GPUs."),
        Column("KV%", "string", ".status.utilization.kvCachePercent", "Use of the KV cache."),
        Column("REPLICAS", "integer", ".status.replicas.current", "Replicas that exist."),
        Column("DESIRED", "integer", ".status.desired.replicas", "Replicas that were decided."),
        Column("EFFECTIVE", "string", ".status.effective", "Whether replicas follow the decision."),
        Column("SAVINGS/MO", "string", ".status.savings.summary", "What the recommendations would save a month."),
        Column("AGE", "date", ".metadata.creationTimestamp", "Age of the object."),
    )

    spec: ResourceOptimizationSpec
    status: ResourceOptimizationStatus = ResourceOptimizationStatus()
