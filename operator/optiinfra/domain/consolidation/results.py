"""What a drain plan says: nodes that can go, the moves in their order, and why everything else stays.

A plan is read from the top: steps one after the other, the pods of one step together, the next step when the pods of
the one before are ready again. It promises that every pod has a place if the scheduler follows the targets; it names
no pod that may not be moved.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from optiinfra.domain.readings import Value
from optiinfra.domain.units import Gpus, Seconds, UnixTime


class NodeReason(StrEnum):
    """Why a node stays."""

    NOT_READY = "NotReady"
    UNSCHEDULABLE = "Unschedulable"
    """Somebody drains it already: it is cordoned, or an autoscaler has tainted it."""
    PROTECTED = "Protected"
    """An annotation on the node forbids it."""
    INVALID_DATA = "InvalidData"
    BLOCKED_PODS = "BlockedPods"
    TERMINATING_PODS = "TerminatingPods"
    DISRUPTION_BUDGET = "DisruptionBudget"
    POD_GROUP = "PodGroup"
    STATEFUL_ORDER = "StatefulOrder"
    NO_ROOM = "NoRoom"
    HEADROOM = "Headroom"
    RECEIVES_PODS = "ReceivesPods"
    """Pods of other nodes, or pods that wait for a node, are planned to come here."""
    MAX_MOVES = "MaxMoves"


class PodReason(StrEnum):
    """Why a pod may not be moved."""

    BARE_POD = "BarePod"
    BATCH_JOB = "BatchJob"
    LOCAL_STORAGE = "LocalStorage"
    LOCAL_VOLUME = "LocalVolume"
    UNKNOWN_VOLUME = "UnknownVolume"
    SHARED_VOLUME = "SharedVolume"
    RESOURCE_CLAIM = "ResourceClaim"
    DO_NOT_DISRUPT = "DoNotDisrupt"
    UNREADABLE_RULES = "UnreadableRules"
    OTHER_SCHEDULER = "OtherScheduler"
    STARTING = "Starting"
    UNMEASURED_START = "UnmeasuredStart"
    NO_BUDGET = "NoBudget"
    SEVERAL_BUDGETS = "SeveralBudgets"
    STALE_BUDGET = "StaleBudget"
    INCOMPLETE_GROUP = "IncompleteGroup"
    BLOCKED_GROUP = "BlockedGroup"
    STATEFUL_ORDER = "StatefulOrder"


@dataclass(frozen=True, slots=True)
class PodRefusal:
    """A pod that stays, and why."""

    namespace: str
    pod: str
    reason: PodReason
    message: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod}: {self.message}"


@dataclass(frozen=True, slots=True)
class Move:
    """One pod and its new place."""

    namespace: str
    pod: str
    pod_uid: str
    source: str
    target: str
    """The node that has room for what replaces it. The source itself for a member of a group that restarts with it."""
    gpus: Gpus
    step: int = 1
    """Pods of one step go together; the next step waits until they are ready."""
    unready: Value = 0.0
    """Seconds until what replaces it was ready again, as measured before."""
    group: str = ""
    """kind/name of the group that it moves with; empty for a pod of its own."""
    warm: bool = False
    """It holds GPUs and serves now."""


@dataclass(frozen=True, slots=True)
class NodeRefusal:
    """A node that stays, and why."""

    node: str
    reason: NodeReason
    message: str
    pods: tuple[PodRefusal, ...] = ()
    """Pods that hold it, at most eight."""


@dataclass(frozen=True, slots=True)
class FreedNode:
    """A node that would be empty."""

    node: str
    pool: str
    gpu_model: str
    gpus: Gpus
    moves: int
    """Pods that have to move for it; 0 when it is empty already."""
    cpu_cores: float = 0.0
    memory_bytes: float = 0.0
    price: float = 0.0
    """What the moves cost, in hours of this node: replicas that load instead of serving, and their traffic."""
    unready: Seconds = Seconds(0.0)
    """Seconds of unreadiness of all moved pods together."""
    unmeasured: int = 0
    """Moved pods whose time to start was never measured."""
    warm: int = 0
    """Moved pods that hold GPUs and serve."""
    alone: tuple[str, ...] = ()
    """Owners (namespace/kind/name) whose only ready pod is moved: they serve nothing meanwhile. At most eight."""


@dataclass(frozen=True, slots=True)
class DataProblem:
    """Something that cannot be so; what it concerns is left out of the plan."""

    node: str
    """Empty when it concerns everything: then there is no plan at all."""
    message: str


@dataclass(frozen=True, slots=True)
class ConsolidationPlan:
    """What could be emptied, by which moves, and what could not."""

    time: UnixTime
    freed: tuple[FreedNode, ...] = ()
    moves: tuple[Move, ...] = ()
    """In the order in which they can be made."""
    refusals: tuple[NodeRefusal, ...] = ()
    problems: tuple[DataProblem, ...] = ()
    reserved: Mapping[str, str] = field(default_factory=dict)
    """Pods without a node (namespace/name) and the node whose room the plan leaves to them."""

    @property
    def gpus_freed(self) -> Gpus:
        """GPUs of all nodes that would be empty; money only when the nodes go away."""
        return Gpus(sum(node.gpus for node in self.freed))

    def moves_of(self, node: str) -> tuple[Move, ...]:
        """Moves that are made for one node: the steps in which one of its own pods goes."""
        steps = {move.step for move in self.moves if move.source == node}
        return tuple(move for move in self.moves if move.step in steps)
