"""What may be done: limits that have the last word on every number, and who has to agree to a change.

Rise fast, fall slowly: a rise is bounded in size but never delayed; a fall also waits for the cooldown, for another
action of the same workload and for an open maintenance window. Every number that was changed says which limit did it.
It judges no load and knows no time zones: whether a window is open was read at the door.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from optiinfra.domain.evidence import Direction
from optiinfra.domain.units import Seconds, UnixTime


class Mode(StrEnum):
    """Who decides that a change is made; the values are those of the custom resource."""

    RECOMMEND = "Recommend"
    APPROVE = "Approve"
    AUTO = "Auto"


class Limit(StrEnum):
    """The limits a number can run into; reason codes."""

    MINIMUM = "Minimum"
    MAXIMUM = "Maximum"
    MAX_REPLICA_STEP = "MaxReplicaStep"
    MAX_GPU_STEP = "MaxGpuStep"
    COOLDOWN = "Cooldown"
    ACTION_IN_FLIGHT = "ActionInFlight"
    MAINTENANCE_WINDOW = "MaintenanceWindow"


@dataclass(frozen=True, slots=True)
class Limits:
    """The user's limits for one workload."""

    minimum: int
    maximum: int
    max_replica_step: int = 4
    max_gpu_step: int = 32
    gpus_per_replica: float = 0.0
    cooldown: Seconds = Seconds(300.0)

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum:
            raise ValueError(f"limits: minimum {self.minimum} must be between 0 and maximum {self.maximum}")
        if self.max_replica_step < 1 or self.max_gpu_step < 1 or self.gpus_per_replica < 0.0 or self.cooldown < 0.0:
            raise ValueError("limits: steps must be at least 1, GPUs and cooldown not negative")

    @property
    def step(self) -> int:
        """Replicas that one action may add or remove; 0 when one replica alone has more GPUs than are allowed."""
        if self.gpus_per_replica <= 0.0:
            return self.max_replica_step
        return min(self.max_replica_step, math.floor(self.max_gpu_step / self.gpus_per_replica))


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What was done to the workload lately."""

    last_change: UnixTime | None = None
    last_direction: Direction = Direction.NONE
    in_flight: str = ""
    """Id of an action that is being applied or verified; empty when there is none."""


@dataclass(frozen=True, slots=True)
class LimitReason:
    """Which limit changed a number, in words with the numbers."""

    limit: Limit
    message: str


@dataclass(frozen=True, slots=True)
class Clamped:
    """A number within all limits, and those that changed it."""

    value: int
    reasons: tuple[LimitReason, ...] = ()


def clamp(
    proposed: int,
    *,
    current: int,
    limits: Limits,
    state: PolicyState,
    now: UnixTime,
    window_open: bool = True,
) -> Clamped:
    """Bring a proposed replica count within the limits.

    The user's minimum and maximum win over all others, because the scaler enforces them at once anyway; the step holds
    for every change between them.
    """
    reasons: list[LimitReason] = []
    value = proposed
    if value < current:
        delay = _delay(limits=limits, state=state, now=now, window_open=window_open)
        if delay is not None:
            reasons.append(delay)
            value = current
    if abs(value - current) > limits.step:
        gpu_bound = limits.step < limits.max_replica_step
        reasons.append(
            LimitReason(
                Limit.MAX_GPU_STEP if gpu_bound else Limit.MAX_REPLICA_STEP,
                f"{value} is more than {limits.step} replicas from {current}"
                + (f": maxGpuStep {limits.max_gpu_step}, {limits.gpus_per_replica:g} GPUs each" if gpu_bound else ""),
            )
        )
        value = current + max(-limits.step, min(limits.step, value - current))
    if value > limits.maximum:
        reasons.append(LimitReason(Limit.MAXIMUM, f"{value} is more than the maximum {limits.maximum}"))
        value = limits.maximum
    elif value < limits.minimum:
        reasons.append(LimitReason(Limit.MINIMUM, f"{value} is less than the minimum {limits.minimum}"))
        value = limits.minimum
    return Clamped(value=value, reasons=tuple(reasons))


def _delay(*, limits: Limits, state: PolicyState, now: UnixTime, window_open: bool) -> LimitReason | None:
    """Return what a fall has to wait for."""
    if state.in_flight:
        return LimitReason(Limit.ACTION_IN_FLIGHT, f"action {state.in_flight} is not finished")
    # A change from the future means that the clock went back; it counts as just made.
    since = None if state.last_change is None else max(0.0, now - state.last_change)
    if since is not None and since < limits.cooldown:
        text = f"{since:.0f} s of {limits.cooldown:.0f} s have passed since the last change ({state.last_direction})"
        return LimitReason(Limit.COOLDOWN, text)
    if not window_open:
        return LimitReason(Limit.MAINTENANCE_WINDOW, "no maintenance window is open")
    return None


def beyond_tolerance(order: int, *, current: int, tolerance_up: float, tolerance_down: float, maximum: int) -> int:
    """Return the count to publish so that an HPA with a tolerance acts on it.

    An HPA ignores a metric within its tolerance of the present count (measured at 20 replicas and 10 %: 21 and 22 are
    ignored). A rise within the band becomes the smallest count above it; where that is above the maximum, and for a
    fall within the band, the present count is returned: the one is not allowed, the other not shown to be safe.
    """
    if order > current:
        # "+ 1e-9": 20 x 1.1 is 22.000000000000004 in binary, and 22 itself is ignored.
        audible = max(order, math.floor(current * (1.0 + tolerance_up) + 1e-9) + 1)
        return audible if audible <= maximum else current
    if current * (1.0 - tolerance_down) - 1e-9 <= order < current:
        return current if tolerance_down > 0.0 else order
    return order


class Permit(StrEnum):
    """What follows from mode, suspension and windows."""

    RECOMMEND = "Recommend"
    """Show it, never apply it."""
    APPROVE = "Approve"
    """Apply it once a person has approved it."""
    AUTO = "Auto"
    DENIED = "Denied"


@dataclass(frozen=True, slots=True)
class Permission:
    """Who has to agree to a change, and why not when nobody can now."""

    permit: Permit
    reason: str = ""
    """CamelCase reason code of a denial: "Suspended", "MaintenanceWindow", "NoDirection"."""
    message: str = ""

    @property
    def acts(self) -> bool:
        """True when it may be applied, after an approval or without."""
        return self.permit in (Permit.APPROVE, Permit.AUTO)


def permitted(direction: Direction, *, mode: Mode, suspended: bool, window_open: bool = True) -> Permission:
    """Tell whether a change in this direction may be applied now. Windows hold back all but a rise."""
    if direction is Direction.NONE:
        return Permission(Permit.DENIED, "NoDirection", "nothing would change")
    if suspended:
        return Permission(Permit.DENIED, "Suspended", "spec.suspend is true: set it to false to let it act")
    if mode is Mode.RECOMMEND:
        return Permission(Permit.RECOMMEND)
    if not window_open and direction is not Direction.SCALE_UP:
        return Permission(Permit.DENIED, "MaintenanceWindow", "no maintenance window is open")
    return Permission(Permit.APPROVE if mode is Mode.APPROVE else Permit.AUTO)
