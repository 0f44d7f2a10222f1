"""What the operator remembers of an object between rounds, beyond what its status says.

Load history and the peaks behind the hold outlive a round; so do the first moment at which a recommendation was made
and what was measured before an action. What must survive a restart is in the object's status (recommendations, actions,
used approvals) or in its checkpoint (history); everything here can be lost at the price of caution.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from optiinfra.api.v1alpha1.action_status import ActionStatus
from optiinfra.control.drain_planning import DrainPlanning
from optiinfra.control.gpu_past import GpuPast
from optiinfra.control.past import Past
from optiinfra.domain.evidence import Direction, Proposal, Refusal
from optiinfra.domain.gpu_use import GpuUseHistory
from optiinfra.domain.history import DEFAULT_STEP, LoadHistory
from optiinfra.domain.idle import IdleMemory
from optiinfra.domain.last_replica import Quiet
from optiinfra.domain.pace import PaceHistory
from optiinfra.domain.policy import PolicyState
from optiinfra.domain.pool_share import Claim
from optiinfra.domain.prefix_reuse import HitForecast
from optiinfra.domain.readings import Unknown, Value
from optiinfra.domain.replica_shape import ReplicaShape
from optiinfra.domain.right_sizing import ContainerEstimate, UsageHistory
from optiinfra.domain.scaling import ScalerMemory
from optiinfra.domain.service_cost import ServiceCost
from optiinfra.domain.shrink_budget import Amount
from optiinfra.domain.sizing_plan import SizingCase
from optiinfra.domain.start_up import StartUpMemory
from optiinfra.domain.token_cost import TokenMeter
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.verdicts import VerdictMemory
from optiinfra.domain.verification import Block, Expectation, ResizeTrial, Scene, TrackRecord, Trail
from optiinfra.domain.verification.saved import KeptTrial

MOST_CONTAINERS: Final = 32
"""Containers of one target of which anything is remembered."""


@dataclass(slots=True)
class Trial:
    """An action under verification."""

    action: ActionStatus
    """As the status shows it."""
    rule: str
    """Direction and rule that asked for it, as the track record has it: "ScaleDown/Learned"."""
    direction: Direction
    actuation: str
    started: UnixTime
    expectation: Expectation
    before: tuple[Block, ...]
    begun: Scene
    settled: Scene | None = None
    """When the count was reached and ready."""
    settled_at: UnixTime | None = None


@dataclass(frozen=True, slots=True)
class Rollback:
    """Replicas that are given back after harm, until the workload has them."""

    replicas: int
    until: UnixTime
    """When nobody waits for it any more."""


@dataclass(frozen=True, slots=True)
class LastAction:
    """The newest action of a workload, for the metrics."""

    id: str
    outcome: str
    """applied, verified, rolledback, regressed or unknown."""
    at: UnixTime


@dataclass(frozen=True, slots=True)
class Template:
    """Digests of what a pod was made from, by axis."""

    settings: str
    """Images, arguments, environment."""
    requests: str
    """CPU, memory and GPUs that it asks for."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What one target holds of its pool and would like to have."""

    pool: str
    """Empty: of none."""
    held: int
    """Replicas, those that are ordered or still going away included."""
    wanted: int
    claim: Claim | None
    """None where its replicas have no GPUs, or nobody knows."""
    at: UnixTime


@dataclass(frozen=True, slots=True)
class Falling:
    """Replicas that are being taken away."""

    to: int
    amount: Amount
    until: UnixTime
    """When it counts no more, whatever became of it."""


@dataclass(frozen=True, slots=True)
class Sized:
    """What was answered about sizes, and to what."""

    made_at: float
    """When the estimates were made."""
    case: SizingCase
    answers: tuple[Proposal | Refusal, ...]


@dataclass(frozen=True, slots=True)
class Pressed:
    """A container that waited for memory."""

    at: float
    """When it was last seen to."""
    share: float
    """Of the time; the most that was seen since it began."""
    place: str
    """Container, pod and node of that."""


@dataclass(slots=True)
class TargetMemory:
    """What is remembered of one workload."""

    history: LoadHistory = field(default_factory=LoadHistory)
    scaler: ScalerMemory = field(default_factory=ScalerMemory)
    """What the scaler learned of the load, and of what one replica serves."""
    decided: bool = False
    """Whether there was a decision since the start."""
    policy: PolicyState = field(default_factory=PolicyState)
    trial: Trial | None = None
    kept_trial: KeptTrial | None = None
    """What the checkpoint had of a trial that an earlier leader watched; None once it was looked at."""
    resize_trial: ResizeTrial | None = None
    trial_changed_at: float = 0.0
    """When that began, moved on or ended last, so that the checkpoint hears of it."""
    trail: Trail = field(default_factory=Trail)
    """What actions are judged by; kept only where something may be done."""
    record: TrackRecord = field(default_factory=TrackRecord)
    """What became of its actions."""
    adopted: bool = False
    """Whether the actions of earlier leaders were looked at."""
    rollback: Rollback | None = None
    last_action: LastAction | None = None
    apart_since: float | None = None
    """Since when what runs is not what was decided; None while it is."""
    shape: ReplicaShape | None = None
    """What its replicas were made of when one was last seen."""
    template: Template | None = None
    """What its newest pod was made from; None until one was seen."""
    recalled: bool = False
    """Whether the times of its last changes were read back from the status."""
    standing: Standing | None = None
    """What it holds and wants, for limits over all objects; None until it was planned for."""
    falling: Falling | None = None
    """What is being taken from it, until that was verified."""
    limited: tuple[str, ...] = ()
    """Limits that held its number back in the last round, for the metrics."""
    quiet: Quiet | None = None
    """Since when nothing is asked of it; None while something is, nobody knows, or zero is not allowed."""
    asleep: bool = False
    """Whether the last round read zero in its spec, with nothing to say against that."""
    woken_at: UnixTime | None = None
    """When somebody asked for its first replica after that; None once one was ready, or took too long."""
    ordered: int | None = None
    """Replicas that were last published or written; None while nothing is."""
    ordered_at: float = 0.0
    hpa_target: Proposal | Refusal | None = None
    """What was last said of the target of the user's own scaler; None until it was asked for."""
    hpa_target_at: float = 0.0
    usage: dict[str, UsageHistory] = field(default_factory=dict)
    """What its containers use, by name, over all its pods."""
    sizes: dict[str, ContainerEstimate] = field(default_factory=dict)
    """What that comes to, as it was estimated last."""
    sizes_at: float = 0.0
    sized: Sized | None = None
    told: dict[str, tuple[float, Proposal]] = field(default_factory=dict)
    """What was said of sizes, by setting, and when."""
    kills: dict[str, float] = field(default_factory=dict)
    """When each container was last known to be killed for memory, so that no kill counts twice."""
    pressed: dict[str, Pressed] = field(default_factory=dict)
    """Containers that waited for memory lately, by name."""
    gpu_use: GpuUseHistory = field(default_factory=GpuUseHistory)
    """How much of its GPUs it uses."""
    start_up: StartUpMemory = field(default_factory=StartUpMemory)
    """How long its own pods take to serve, by stage."""
    pace: PaceHistory = field(default_factory=PaceHistory)
    """How the engines' steps grow with their batch."""
    reuse: tuple[HitForecast, ...] | Unknown | None = None
    """Forecast of prefix hits at other sizes of the KV cache; None until one was wanted."""
    reuse_at: float = 0.0
    verdict: VerdictMemory | None = None
    past: Past | None = None
    """What is asked of a metrics server's history, or came of it; None while nothing was asked."""
    judged_page: float = 0.0
    """Time of the newest page that the verdict has heard of: the same pages are no second witness."""


@dataclass(slots=True)
class ObjectMemory:
    """What is remembered of one object."""

    targets: dict[str, TargetMemory] = field(default_factory=dict)
    early_rounds: int = 0
    """Rounds that first pages asked for."""
    collecting_since: float | None = None
    """Since when nothing is known of it yet; None once something is."""
    uid: str = ""
    """Of the object that this is the memory of; empty while it was not seen."""
    restored: bool = False
    """Whether the checkpoint was looked for."""
    untold: dict[str, ActionStatus] = field(default_factory=dict)
    """Actions whose newest state no status has yet, by id: a write that failed loses none."""
    checkpointed_at: float = 0.0
    """When that was tried last."""
    saved_at: float = 0.0
    """As of when it last succeeded."""
    checkpointed_digest: str = ""
    checkpoint_pause: float = 0.0
    """Seconds from one checkpoint to the next, growing with what there is to lose; 0 before the first is due."""
    idle_since: dict[str, float] = field(default_factory=dict)
    """GPUs by uuid and since when they are known to be idle."""
    under_used_since: dict[str, float] = field(default_factory=dict)
    """GPUs by uuid and since when they are known to work seldom."""
    gpus: IdleMemory = field(default_factory=IdleMemory)
    """What every GPU of a ClusterResourceOptimization did so far: its pauses, its power at rest."""
    gpu_past: GpuPast | None = None
    """What a metrics server's history of them came to; None while nobody read it."""
    emptyable_since: dict[str, float] = field(default_factory=dict)
    """Nodes of a ClusterResourceOptimization and since when they could be emptied."""
    drain: DrainPlanning = field(default_factory=DrainPlanning)
    """Plans that empty nodes."""
    findings: tuple[tuple[str, str], ...] = ()
    """(type, reason) of the findings of the last round, for the metrics."""
    recommended: tuple[str, ...] = ()
    """Types of the recommendations that stand, for the metrics."""
    tokens: TokenMeter = field(default_factory=TokenMeter)
    """Money and tokens of the last hour."""
    cost: ServiceCost | None = None
    """What the service costs, for the metrics."""
    pool_hours: Mapping[tuple[str, str], Value] = field(default_factory=dict)
    """What each pool of a ClusterResourceOptimization costs an hour, by pool and currency, for the metrics."""

    def target(self, name: str, *, step: Seconds = DEFAULT_STEP) -> TargetMemory:
        """Return the memory of one workload, making it when it is new; `step` is that of a new history."""
        return self.targets.setdefault(str(name), TargetMemory(LoadHistory(step=step)))  # names are API scalars
