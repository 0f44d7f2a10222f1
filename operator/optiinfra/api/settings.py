"""What holds for one object in the end: its spec, over the cluster's defaults, over the built-in values.

A field that neither the object nor the cluster's object sets has the built-in value that the schema's description
names. The result is in domain units; no strings of the API travel further.
"""

from dataclasses import dataclass, field

from optiinfra.api.v1alpha1.common import BlackoutWindow, MaintenanceWindow, Mode, TargetRef
from optiinfra.api.v1alpha1.resource_optimization import CapacityType, Role
from optiinfra.api.v1alpha1.scaling import Scaling
from optiinfra.domain.evidence import Direction
from optiinfra.domain.model_facts import ModelFacts
from optiinfra.domain.objectives import Objectives
from optiinfra.domain.units import Ratio, Seconds


@dataclass(frozen=True, slots=True)
class Target:
    """One workload of a service: the single target, or a variant."""

    name: str
    """Name of the variant; for a single target the workload's name."""
    target_ref: TargetRef
    scaling: Scaling
    role: Role = Role.UNIFIED
    capacity_type: CapacityType = CapacityType.ON_DEMAND
    max_share: Ratio = Ratio(1.0)


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits of what is done automatically."""

    max_replica_step: int = 4
    max_gpu_step: int = 32
    cooldown: Seconds = Seconds(300.0)
    verify_window: Seconds = Seconds(600.0)
    rollback: bool = True
    maintenance_windows: tuple[MaintenanceWindow, ...] = ()
    """Empty: changes are allowed at any time."""
    blackout_windows: tuple[BlackoutWindow, ...] = ()
    """The object's own and those of the cluster's defaults."""
    scale_up_cooldown: Seconds = Seconds(0.0)
    scale_down_cooldown: Seconds | None = None
    """None: `cooldown`."""
    resize_cooldown: Seconds | None = None
    """None: `cooldown`."""
    min_available: int = 0


@dataclass(frozen=True, slots=True)
class ModeTable:
    """The mode of every direction."""

    scale_up: Mode = Mode.RECOMMEND
    scale_down: Mode = Mode.RECOMMEND
    resize: Mode = Mode.RECOMMEND

    def of(self, direction: Direction) -> Mode:
        """Return the mode of a direction; what has no direction is never applied, so it is Recommend."""
        match direction:
            case Direction.SCALE_UP:
                return self.scale_up
            case Direction.SCALE_DOWN:
                return self.scale_down
            case Direction.RESIZE:
                return self.resize
            case Direction.NONE:
                return Mode.RECOMMEND

    @property
    def summary(self) -> str:
        """One word for `status.mode`: the common mode of both scaling directions and resize, or Mixed."""
        modes = {self.scale_up, self.scale_down, self.resize}
        return str(modes.pop()) if len(modes) == 1 else "Mixed"


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a round needs to know of a spec."""

    targets: tuple[Target, ...]
    interval: Seconds
    modes: ModeTable
    suspended: bool
    objectives: Objectives
    policy: Policy
    insights_enabled: bool
    daily_token_budget: int
    model: ModelFacts = field(default_factory=ModelFacts)
    """What `spec.model` states; everything else is unknown."""

    def mode_for(self, direction: Direction) -> Mode:
        """Return who decides about changes of a direction."""
        return self.modes.of(direction)

    @property
    def mode_summary(self) -> str:
        """The text of `status.mode`."""
        return "Suspended" if self.suspended else self.modes.summary

    @property
    def target_summary(self) -> str:
        """The text of `status.target`."""
        return ",".join(target.name for target in self.targets)[:253]
