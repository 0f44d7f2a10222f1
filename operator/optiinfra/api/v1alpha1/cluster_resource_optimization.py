"""`ClusterResourceOptimization` (`cro`): node pools with prices and budgets, consolidation, idle GPUs, defaults."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import Field, StrictBool

from optiinfra.api.base import ApiModel, Rule, Unique
from optiinfra.api.bounds import DurationBetween, ShareBetween
from optiinfra.api.conditions import Condition
from optiinfra.api.scalars import Amount, Duration, Label, Share, Text, Time, Url
from optiinfra.api.v1alpha1.action_status import MAX_ACTIONS, ActionStatus
from optiinfra.api.v1alpha1.common import InsightsSpec, Mode, ObjectivesSpec, PolicySpec, Prices
from optiinfra.api.v1alpha1.consolidation_status import ConsolidationStatus
from optiinfra.api.v1alpha1.cost import MAX_SOURCES, PriceSourceStatus
from optiinfra.api.v1alpha1.idle_status import IdleGpusStatus
from optiinfra.api.v1alpha1.resource import Column, CustomResource
from optiinfra.api.v1alpha1.savings import ClusterLedgerStatus
from optiinfra.api.v1alpha1.status_parts import (
    ATOMIC,
    MAP_BY_ID,
    MAP_BY_NAME,
    MAP_BY_TYPE,
    MAX_APPROVALS,
    MAX_RECOMMENDATIONS,
    MAX_REFUSALS,
    Count,
    Name,
    Number,
    OtherOperatorStatus,
    Percent,
    RecommendationStatus,
    RefusalStatus,
    RoundStatus,
    UsedApproval,
)

MAX_POOLS = 32


class Currency(Text):
    """A currency, by its ISO 4217 code."""

    __slots__ = ()
    MAX_LENGTH = 3
    PATTERN = "^[A-Z]{3}$"
    MESSAGE = "write the three capital letters of the currency, such as USD or EUR"


class MetricsSourceType(StrEnum):
    """Where node and engine metrics come from."""

    PROMETHEUS = "Prometheus"
    AGENT = "Agent"


class Pool(ApiModel):
    """A set of nodes of one kind."""

    name: Label
    """Name of the pool; `poolRef` of other objects points here."""
    node_selector: Annotated[
        Mapping[Annotated[str, Field(max_length=317)], Annotated[str, Field(max_length=63)]],
        Field(min_length=1, max_length=8),
    ]
    """Labels that the pool's nodes carry."""
    gpu_model: Annotated[str, Field(max_length=64)] = ""
    """GPU model, such as "NVIDIA H100 80GB HBM3"; empty: as the agents say."""
    prices: Prices = Prices()
    """Prices of this pool, over the object's."""
    max_gpus: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """GPUs that the pool may have in all."""
    monthly_budget: Amount | None = None
    """Money that the pool may cost a month."""
    gpu_budget: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """GPUs that all objects with this poolRef may hold together: short, they are shared by priority, then fairly."""


class Consolidation(ApiModel):
    """Which nodes could be emptied."""

    enabled: StrictBool = True
    """Whether this is analysed."""
    window: Annotated[Duration, DurationBetween("1m", "168h")] = Duration("1h")
    """How long a node must have been emptyable."""
    headroom: Annotated[Share, ShareBetween(0, 0.5)] = Share("10%")
    """Share of the remaining nodes' capacity that stays free."""


class IdleGpus(ApiModel):
    """Which GPUs are held and not used."""

    enabled: StrictBool = True
    """Whether this is analysed."""
    window: Annotated[Duration, DurationBetween("1m", "168h")] = Duration("1h")
    """How long a GPU must have been idle."""


class Disruption(ApiModel):
    """How much may be taken away at one time, over all objects; what was taken counts until it was verified."""

    max_replicas: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """Replicas. Left out: no limit."""
    max_pods: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """Pods. Left out: no limit."""
    max_gpus: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """GPUs. Left out: no limit."""


class Defaults(ApiModel):
    """Defaults for every ResourceOptimization that does not say otherwise."""

    interval: Annotated[Duration, DurationBetween("5s", "1h")] | None = None
    """How often a round visits an object. Built-in: 30s."""
    mode: Mode | None = None
    """Who decides that a change is made. Built-in: Recommend."""
    insights: InsightsSpec = InsightsSpec()
    """Text by a language model."""
    objectives: ObjectivesSpec = ObjectivesSpec()
    """What services promise."""
    policy: PolicySpec = PolicySpec()
    """Limits of what is done automatically."""


class MetricsSource(ApiModel):
    """Where node and engine metrics come from."""

    type: MetricsSourceType
    """Prometheus (any compatible server) or Agent (the node agents)."""
    url: Url | None = None
    """Address of the server, for Prometheus."""

    RULES = (
        Rule(
            cel="self.type != 'Prometheus' || has(self.url)",
            message="url is needed for type Prometheus: write the server's address, such as http://prometheus:9090",
            holds=lambda s: s.type != MetricsSourceType.PROMETHEUS or s.url is not None,
        ),
        Rule(
            cel="self.type != 'Agent' || !has(self.url)",
            message="url is not used for type Agent, whose agents are found by themselves: remove url",
            field="url",
            holds=lambda s: s.type != MetricsSourceType.AGENT or s.url is None,
        ),
    )


class ClusterResourceOptimizationSpec(ApiModel):
    """Node pools, prices, what is analysed on nodes, and defaults for all services."""

    pools: Annotated[tuple[Pool, ...], Field(max_length=MAX_POOLS, json_schema_extra=MAP_BY_NAME), Unique("name")] = ()
    """Node pools."""
    currency: Currency = Currency("USD")
    """Currency of all prices and budgets."""
    prices: Prices = Prices()
    """Prices where a pool gives none."""
    consolidation: Consolidation = Consolidation()
    """Which nodes could be emptied."""
    idle_gpus: IdleGpus = IdleGpus()
    """Which GPUs are held and not used."""
    defaults: Defaults = Defaults()
    """Defaults for every ResourceOptimization."""
    disruption: Disruption = Disruption()
    """How much may be taken away at one time, over all objects."""
    metrics_sources: Annotated[tuple[MetricsSource, ...], Field(max_length=4, json_schema_extra=ATOMIC)] = ()
    """Where metrics come from; empty: agents and engines are read directly."""

    RULES = (
        Rule(
            cel="!has(self.metricsSources) || self.metricsSources.all(s, self.metricsSources.exists_one(t, t == s))",
            message="metricsSources: the same source is listed twice; remove one",
            field="metricsSources",
            holds=lambda s: len(set(s.metrics_sources)) == len(s.metrics_sources),
        ),
    )


class PoolStatus(ApiModel):
    """What is known about one pool."""

    name: Name
    """Name of the pool."""
    nodes: Count
    """Nodes in it."""
    gpus: Number
    """GPUs its nodes have."""
    gpus_allocated: Number
    """GPUs that pods hold."""
    gpus_idle: Number | None = None
    """GPUs that were idle for the whole window; absent when that is not known."""
    emptyable_nodes: Count | None = None
    """Nodes that could be emptied; absent when that is not known."""
    gpu_percent: Percent
    """Use of its GPUs, in steps of 5, or why it is not known."""
    per_month: Number | None = None
    """What its nodes cost a month, commitments included; absent while one of them has no price."""
    price_sources: Annotated[
        tuple[PriceSourceStatus, ...], Field(max_length=MAX_SOURCES, json_schema_extra=ATOMIC)
    ] = ()
    """Whose prices these are, and of when."""


class ClusterSummary(ApiModel):
    """The cluster in a few numbers."""

    pools: Count
    """Pools in the spec."""
    nodes: Count
    """Nodes that are looked at."""
    gpus: Number
    """GPUs they have."""
    gpus_allocated: Number
    """GPUs that pods hold."""
    idle_gpus: Annotated[int | Annotated[str, Field(max_length=64)], Field(union_mode="left_to_right")]
    """GPUs that were idle for the whole window, or why that is not known."""
    emptyable_nodes: Annotated[int | Annotated[str, Field(max_length=64)], Field(union_mode="left_to_right")]
    """Nodes that could be emptied, or why that is not known."""
    gpu_percent: Percent
    """Use of all GPUs, in steps of 5, or why it is not known."""
    measured_at: Time
    """Time of the latest measurement in it."""


class MetricsSourceStatus(ApiModel):
    """One source of node metrics, and the nodes that it tells of."""

    source: Annotated[str, Field(min_length=1, max_length=1024)]
    """Agent, or the address of a metrics server."""
    nodes: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """Nodes whose measurements are its."""


class ClusterResourceOptimizationStatus(ApiModel):
    """What is known and proposed about the cluster's nodes."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """Generation of the spec that the status speaks about."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra=MAP_BY_TYPE)] = ()
    """Ready, Reconciling, Stalled and their companions."""
    summary: ClusterSummary | None = None
    """The cluster in a few numbers."""
    pools: Annotated[tuple[PoolStatus, ...], Field(max_length=MAX_POOLS, json_schema_extra=MAP_BY_NAME)] = ()
    """Each pool."""
    recommendations: Annotated[
        tuple[RecommendationStatus, ...], Field(max_length=MAX_RECOMMENDATIONS, json_schema_extra=MAP_BY_ID)
    ] = ()
    """Proposed changes."""
    refusals: Annotated[tuple[RefusalStatus, ...], Field(max_length=MAX_REFUSALS, json_schema_extra=ATOMIC)] = ()
    """What was considered and not proposed, and why."""
    idle_gpus: IdleGpusStatus | None = None
    """GPUs that did nothing for the whole window, with holder and price; absent while there are none."""
    consolidation: ConsolidationStatus | None = None
    """Nodes to free and how; absent while there is no plan."""
    metrics_sources: Annotated[tuple[MetricsSourceStatus, ...], Field(max_length=8, json_schema_extra=ATOMIC)] = ()
    """Who tells of the nodes: of several sources the first of the list that does, node by node."""
    actions: Annotated[tuple[ActionStatus, ...], Field(max_length=MAX_ACTIONS, json_schema_extra=MAP_BY_ID)] = ()
    """What was done, latest last."""
    used_approvals: Annotated[
        tuple[UsedApproval, ...], Field(max_length=MAX_APPROVALS, json_schema_extra=MAP_BY_ID)
    ] = ()
    """Approvals that were used."""
    savings: ClusterLedgerStatus | None = None
    """The savings ledger."""
    operator: Name = ""
    """Namespace and Lease of the operator that looks after this object."""
    other_operator: OtherOperatorStatus | None = None
    """Another operator that sees this object too."""
    last_round: RoundStatus | None = None
    """The last round that changed this status."""


class ClusterResourceOptimization(CustomResource):
    """Node pools, their budgets and prices, consolidation and idle GPUs, and defaults for all services."""

    KIND = "ClusterResourceOptimization"
    PLURAL = "clusterresourceoptimizations"
    SINGULAR = "clusterresourceoptimization"
    SHORT_NAMES = ("cro",)
    SCOPE = "Cluster"
    COLUMNS = (
        Column("READY", "string", '.status.conditions[?(@.type=="Ready")].status', "Whether all is well."),
        Column("POOLS", "integer", ".status.summary.pools", "Pools."),
        Column("NODES", "integer", ".status.summary.nodes", "Nodes."),
        Column("GPUS", "number", ".status.summary.gpus", "GPUs of the nodes."),
        Column("GPU%", "string", ".status.summary.gpuPercent", "Use of the GPUs."),
        Column("IDLE-GPUS", "string", ".status.summary.idleGpus", "GPUs that were idle for the whole window."),
        Column("EMPTYABLE", "string", ".status.summary.emptyableNodes", "Nodes that could be emptied."),
        Column("SAVINGS/MO", "string", ".status.savings.summary", "What the recommendations would save a month."),
        Column("AGE", "date", ".metadata.creationTimestamp", "Age of the object."),
    )

    spec: ClusterResourceOptimizationSpec
    status: ClusterResourceOptimizationStatus = ClusterResourceOptimizationStatus()
