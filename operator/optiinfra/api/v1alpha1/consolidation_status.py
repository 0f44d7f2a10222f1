"""The drain plan as a status shows it: nodes to free, the moves in their order, and what holds the others.

Lists are bounded; what is left out is counted. Only nodes that could be emptied for the whole window are listed: their
moves are the first of the plan, so that the list can be carried out from the top.
"""

from typing import Annotated

from pydantic import Field

from optiinfra.api.base import ApiModel
from optiinfra.api.scalars import Time
from optiinfra.api.v1alpha1.status_parts import ATOMIC, MAP_BY_NAME, Count, Measured, Name, Number, Sentence, Short

MAX_PLANNED_NODES = 32
MAX_STEPS = 64
MAX_HELD = 16


class PlannedNode(ApiModel):
    """A node that could be emptied."""

    name: Name
    """Name of the node."""
    pool: Annotated[str, Field(max_length=63)] = ""
    """Its pool; empty for none."""
    gpus: Number
    """GPUs that it has."""
    pods: Count
    """Pods that have to move; 0 when it is empty already."""
    warm_servers: Count = 0
    """Of them, model servers that serve now and will load again."""
    unready_seconds: Number = 0.0
    """Seconds of unreadiness of all these pods together, as they were measured to start."""
    unmeasured_pods: Count = 0
    """Pods of which nobody saw a start; they are not in unreadySeconds."""
    price: Number = 0.0
    """What the moves cost, in hours of this node."""
    proposed: bool
    """Whether it is among the recommendations: it has stood emptyable for twice its price as well."""
    since: Time
    """Since when it could be emptied."""
    alone: Annotated[tuple[Name, ...], Field(max_length=8, json_schema_extra=ATOMIC)] = ()
    """Owners whose only ready pod would move: they serve nothing meanwhile."""


class PlannedStep(ApiModel):
    """One pod to move. Pods of one step go together; the next step waits until they are ready."""

    step: Annotated[int, Field(ge=1, le=1_000_000)]
    """Number of the step, from 1."""
    namespace: Name
    """Namespace of the pod."""
    pod: Name
    """The pod to evict."""
    from_: Annotated[str, Field(max_length=253, alias="from")]
    """The node that it leaves."""
    to: Name
    """The node that has room for what replaces it; the same one for a member of a group that restarts with it."""
    group: Annotated[str, Field(max_length=320)] = ""
    """kind/name of the group that it moves with."""
    unready_seconds: Measured
    """How long pods of its owner took to be ready."""


class HeldNodes(ApiModel):
    """Nodes that stay, by reason."""

    reason: Short
    """Why they stay."""
    nodes: Count
    """How many."""
    example: Name
    """One of them."""
    message: Sentence
    """What holds it."""


class PackingStatus(ApiModel):
    """How the scheduler fills the nodes, as its latest placements show."""

    habit: Short
    """Spreads, Packs, Mixed, or why it is not known."""
    placements: Count = 0
    """Placements of pods with GPUs that had a choice and were looked at."""
    fullness: Number | None = None
    """Mean rank of the chosen node among those that had room: 0 is the emptiest, 1 the fullest."""


class ConsolidationStatus(ApiModel):
    """What could be freed, and how."""

    at: Time
    """When this was planned. Whoever follows it evicts through the eviction API, which has the last word."""
    nodes: Annotated[tuple[PlannedNode, ...], Field(max_length=MAX_PLANNED_NODES, json_schema_extra=MAP_BY_NAME)] = ()
    """Nodes to free, in order."""
    steps: Annotated[tuple[PlannedStep, ...], Field(max_length=MAX_STEPS, json_schema_extra=ATOMIC)] = ()
    """Moves of these nodes, in order. A node whose moves do not all fit in here is left out with all after it."""
    nodes_left_out: Count = 0
    """Nodes that could be emptied as well: not yet for the whole window, or too many to list."""
    held: Annotated[tuple[HeldNodes, ...], Field(max_length=MAX_HELD, json_schema_extra=ATOMIC)] = ()
    """What holds the others."""
    scheduler: PackingStatus | None = None
    """How the scheduler fills the nodes."""
