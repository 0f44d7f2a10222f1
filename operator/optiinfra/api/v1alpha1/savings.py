"""The savings ledger in the status: what could be saved, what was freed, and what it has come to.

The operator goes on from here after a restart, so everything it needs is here and readable: where each workload began,
the open entries, the totals by period. Hours and money are exact to six digits after the point. `asOf` says until when
they are counted; they are brought up to date with other changes, and by themselves now and then.
"""

from typing import Annotated

from pydantic import Field, StrictBool

from optiinfra.api.base import ApiModel
from optiinfra.api.scalars import Time
from optiinfra.api.v1alpha1.status_parts import ATOMIC, MAX_TARGETS, Count, Name, Number, Short
from optiinfra.domain.savings.entries import Axis, Basis, Cause, End

MAX_LINES = 16
MAX_ENTRIES = 256
MAX_SHAPES = 128
MAX_NODE_ENTRIES = 32
MAX_SHARES = 8
MAX_CLOSED = 4

Unsigned = Annotated[float, Field(ge=0)]
NodeCount = Annotated[int, Field(ge=-1_000_000, le=1_000_000)]
Sequence = Annotated[int, Field(ge=0, le=1_000_000_000)]


class ResourcesStatus(ApiModel):
    """An amount of capacity."""

    gpus: Number = 0.0
    """GPUs."""
    cpu_cores: Number = 0.0
    """CPU cores."""
    memory_gib: Annotated[float, Field(alias="memoryGiB")] = 0.0
    """Memory, GiB."""


class AmountsStatus(ApiModel):
    """What was freed over a time. Capacity is a part of the requests, and money is for a part of the capacity."""

    gpu_hours: Number = 0.0
    """GPU-hours that were no longer asked for."""
    cpu_core_hours: Number = 0.0
    """Core-hours that were no longer asked for."""
    memory_gib_hours: Annotated[float, Field(alias="memoryGiBHours")] = 0.0
    """GiB-hours that were no longer asked for."""
    free_gpu_hours: Number = 0.0
    """GPU-hours of these that no pod held any more."""
    free_cpu_core_hours: Number = 0.0
    """Core-hours of these that no pod held any more."""
    free_memory_gib_hours: Annotated[float, Field(alias="freeMemoryGiBHours")] = 0.0
    """GiB-hours of these that no pod held any more."""
    money: Number = 0.0
    """What was not paid because nodes went or were not bought, in the ledger's currency; 0 while no node did."""


class LedgerLineStatus(ApiModel):
    """One total of a period."""

    cause: Cause
    """Who did it: Action and Adopted are claimed as savings of the operator, Scaler and Others are written down."""
    basis: Basis
    """Measured before and after, or against a counterfactual."""
    verified: StrictBool = False
    """Whether it was seen to hold."""
    freed: AmountsStatus = AmountsStatus()
    """What was freed; only grows within the period."""
    added: AmountsStatus = AmountsStatus()
    """What was added instead; only grows within the period. The net is freed less added."""


class LedgerPeriodStatus(ApiModel):
    """Totals of one period."""

    since: Time
    """Its beginning, or that of the ledger."""
    lines: Annotated[tuple[LedgerLineStatus, ...], Field(max_length=MAX_LINES, json_schema_extra=ATOMIC)] = ()
    """By cause, basis and verification."""


class LedgerEntryStatus(ApiModel):
    """One change and what it has come to."""

    id: Sequence
    """Number of the entry, never used twice in an object."""
    target: Name = ""
    """Workload that changed."""
    axis: Axis
    """What the change is counted in: replicas, or GPUs, cores or GiB of each replica."""
    cause: Cause
    """Who made it."""
    by: Name = ""
    """Id of the action or of the recommendation, or the scaler's name."""
    basis: Basis
    """Measured, or Counterfactual."""
    method: Annotated[str, Field(max_length=256)] = ""
    """What a counterfactual is measured against."""
    opened: Time
    """When it was observed."""
    before: Number
    """Value before it."""
    after: Number
    """Value after it."""
    amount: Number = 0.0
    """Units of the axis that it frees now; negative where it adds. Less than at first where some was taken back."""
    pool: Name = ""
    """Pool of the nodes that its pods were on."""
    gpu_model: Name = ""
    """GPU model of these nodes."""
    verified: StrictBool = False
    """Whether it was seen to hold."""
    ended: Time | None = None
    """When it ended; absent while it is open."""
    end: End | None = None
    """Why it ended."""
    accrued: AmountsStatus = AmountsStatus()
    """What it has come to, freed less added."""


class LedgerBaseStatus(ApiModel):
    """Where the books of one workload began, and where it stands."""

    target: Name
    """The workload."""
    uid: Annotated[str, Field(max_length=64)] = ""
    """Its uid: another one begins anew."""
    generation: Annotated[int, Field(ge=0)] = 0
    """Generation of its spec when last seen; 0 where it is not known."""
    base_replicas: Count
    """Replicas at the beginning."""
    base_size: ResourcesStatus
    """What one replica asked for at the beginning."""
    replicas: Count
    """Replicas when last seen."""
    size: ResourcesStatus
    """What one replica asked for when last seen."""
    seen: Time | None = None
    """When it was last seen, where that is before the ledger's own time."""
    no_counterfactual: Annotated[str, Field(max_length=256)] = ""
    """Why nothing is claimed against a plain HPA; empty where it is, or where none is needed."""


class ClosedAccountStatus(ApiModel):
    """Money in a currency that is no longer used."""

    currency: Annotated[str, Field(max_length=3)]
    """The currency."""
    since: Time
    """When it began to be used."""
    until: Time
    """When it ceased to be."""
    measured: Number
    """Net money that was claimed and measured."""
    counterfactual: Number
    """Net money that was claimed against a counterfactual."""


class LedgerStatus(ApiModel):
    """The savings ledger: what could be saved, and what was."""

    summary: Short = ""
    """The potential in words, for `kubectl get`: an amount a month, or GPUs where no price is known."""
    per_month_potential: Number | None = None
    """Money a month that the open recommendations would save; absent when no price is known."""
    per_month_realised: Number | None = None
    """Money a month that what was done and verified saves now; absent when no price is known."""
    per_month_counterfactual: Number | None = None
    """Money a month that is saved now against a counterfactual; absent when no price is known."""
    gpus_potential: Number = 0.0
    """GPUs that the open recommendations would free."""
    unknown: Annotated[str, Field(max_length=256)] = ""
    """Why there is no amount; empty when there is one."""
    money_unknown: Annotated[str, Field(max_length=256)] = ""
    """Why no money can be saved as far as the ledger sees; empty when it could be."""
    currency: Annotated[str, Field(max_length=3)] = ""
    """Currency of the amounts."""
    since: Time | None = None
    """Since when the ledger is kept."""
    as_of: Time | None = None
    """Until when hours and money are counted."""
    freed: ResourcesStatus | None = None
    """What the operator claims to have freed now, measured; negative where it added more."""
    free: ResourcesStatus | None = None
    """What of it no pod holds any more."""
    this_month: LedgerPeriodStatus | None = None
    """Totals of the running month, UTC."""
    last_month: LedgerPeriodStatus | None = None
    """Totals of the month before it."""
    total: LedgerPeriodStatus | None = None
    """Totals since the beginning."""
    entries: Annotated[tuple[LedgerEntryStatus, ...], Field(max_length=MAX_ENTRIES, json_schema_extra=ATOMIC)] = ()
    """Open entries, then the last ones that ended."""
    bases: Annotated[tuple[LedgerBaseStatus, ...], Field(max_length=MAX_TARGETS, json_schema_extra=ATOMIC)] = ()
    """Where each workload's books began."""
    unwatched_hours: Unsigned = 0.0
    """Hours for which nothing was claimed because nobody watched."""
    next_entry: Sequence = 0
    """Number of the next entry."""
    money_currency: Annotated[str, Field(max_length=3)] = ""
    """Currency of the money in entries and totals."""
    money_since: Time | None = None
    """Since when it is the ledger's currency."""
    closed: Annotated[tuple[ClosedAccountStatus, ...], Field(max_length=MAX_CLOSED, json_schema_extra=ATOMIC)] = ()
    """Money in currencies that were used before."""


class ShapeStatus(ApiModel):
    """Nodes that can stand in for each other."""

    pool: Name = ""
    """Their pool."""
    gpu_model: Name = ""
    """Their GPU model; empty without GPUs."""
    gpus: Unsigned = 0.0
    """GPUs of one."""
    cpu_cores: Unsigned = 0.0
    """Cores of one, for pods."""
    memory_gib: Annotated[float, Field(ge=0, alias="memoryGiB")] = 0.0
    """GiB of one, for pods."""
    spot: StrictBool = False
    """Whether they are spot capacity."""
    nodes: Count = 0
    """Nodes of this shape when last seen."""


class ShareStatus(ApiModel):
    """The part of a node entry's money that belongs to one entry of an object."""

    object: Name
    """namespace/name of the ResourceOptimization."""
    entry: Sequence
    """Number of its entry."""
    fraction: Annotated[float, Field(ge=0, le=1)]
    """Its part."""


class NodeEntryStatus(ApiModel):
    """Nodes of one shape that went, or came, at one moment."""

    id: Sequence
    """Number of the entry."""
    shape: ShapeStatus
    """What kind of nodes."""
    nodes: NodeCount
    """How many are still gone; negative for nodes that were added."""
    name: Name = ""
    """One of them; empty when nobody watched."""
    cause: Cause
    """Who removed it: Adopted where a recommendation said so, else Others."""
    by: Name = ""
    """Id of the recommendation."""
    opened: Time
    """When it was observed."""
    before: Count
    """Nodes of the shape before it."""
    after: Count
    """Nodes of the shape after it."""
    per_hour: Number | None = None
    """Price of one; absent while it is not known."""
    shares: Annotated[tuple[ShareStatus, ...], Field(max_length=MAX_SHARES, json_schema_extra=ATOMIC)] = ()
    """Whose entries had freed the capacity; the rest belongs to the cause of this entry."""
    ended: Time | None = None
    """When a node of the shape was back."""
    money: Number = 0.0
    """What it has come to."""


class ClusterLedgerStatus(LedgerStatus):
    """The cluster's ledger: the totals of all objects, and the nodes that made the money."""

    nodes: Annotated[tuple[ShapeStatus, ...], Field(max_length=MAX_SHAPES, json_schema_extra=ATOMIC)] = ()
    """Nodes by shape when last seen."""
    node_entries: Annotated[
        tuple[NodeEntryStatus, ...], Field(max_length=MAX_NODE_ENTRIES, json_schema_extra=ATOMIC)
    ] = ()
    """Nodes that went or came, open ones first."""
    nodes_not_bought: Count = 0
    """Nodes that would be needed now, had nothing been freed."""
