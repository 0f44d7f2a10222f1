"""What may be done: limits that have the last word on every number, and who has to agree to a change.

Rise fast, fall slowly: a rise is bounded in size and delayed only by what its owner wrote down for it (a cooldown for
rises, a blackout that includes them); a fall also waits for the cooldown, for another action of the same workload, for
another axis of it, for an open window, and leaves what must stay available. Every number that was changed says which
limit did it. It judges no load and knows no time zones: what the calendar allows was read at the door (`Gates`).
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

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
    OTHER_AXIS = "OtherAxis"
    ACTION_IN_FLIGHT = "ActionInFlight"
    MAINTENANCE_WINDOW = "MaintenanceWindow"
    BLACKOUT_WINDOW = "BlackoutWindow"
    MIN_AVAILABLE = "MinAvailable"
    POD_DISRUPTION_BUDGET = "PodDisruptionBudget"
    POOL_BUDGET = "PoolBudget"
    SHRINK_BUDGET = "ShrinkBudget"


class Axis(StrEnum):
    """What of a workload changes; one at a time within one cooldown, but for a rise, which never waits for another."""

    SCALE_UP = "ScaleUp"
    SCALE_DOWN = "ScaleDown"
    RESIZE = "Resize"
    """Requests of its containers, whoever changed them."""
    SETTINGS = "Settings"
    """Image, arguments or environment of its pods, that is a rollout; the operator never makes one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The user's limits for one workload."""

    minimum: int
    maximum: int
    max_replica_step: int = 4
    max_gpu_step: int = 32
    gpus_per_replica: float = 0.0
    cooldown: Seconds = Seconds(300.0)
    """Rest after a change before another axis is changed."""
    rise_cooldown: Seconds = Seconds(0.0)
    """Rest after a rise before the next one."""
    fall_cooldown: Seconds | None = None
    """Rest after a fall before the next one; None: `cooldown`."""
    resize_cooldown: Seconds | None = None
    """Rest after a resize before the next one; None: `cooldown`."""
    min_available: int = 0
    """Ready replicas that a fall leaves."""

    def __post_init__(self) -> None:
        if not 0 <= self.minimum <= self.maximum:
            raise ValueError(f"limits: minimum {self.minimum} must be between 0 and maximum {self.maximum}")
        if self.max_replica_step < 1 or self.max_gpu_step < 1 or self.gpus_per_replica < 0.0 or self.min_available < 0:
            raise ValueError("limits: steps must be at least 1, GPUs and minAvailable not negative")
        if min(self.cooldown, self.rise_cooldown, self.fall_cooldown or 0.0, self.resize_cooldown or 0.0) < 0.0:
            raise ValueError("limits: no cooldown may be negative")

    @property
    def step(self) -> int:
        """Replicas that one action may add or remove; 0 when one replica alone has more GPUs than are allowed."""
        if self.gpus_per_replica <= 0.0:
            return self.max_replica_step
        return min(self.max_replica_step, math.floor(self.max_gpu_step / self.gpus_per_replica))

    def rest(self, axis: Axis, *, after: Axis) -> Seconds:
        """Seconds that an axis rests after a change of one."""
        if axis is Axis.SCALE_UP:
            return self.rise_cooldown if after is Axis.SCALE_UP else Seconds(0.0)
        own = {Axis.SCALE_DOWN: self.fall_cooldown, Axis.RESIZE: self.resize_cooldown}
        chosen = own.get(axis) if axis is after else None
        return self.cooldown if chosen is None else chosen


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What was done to the workload lately, by whomever."""

    last_change: UnixTime | None = None
    """Of replicas, in `last_direction`; the times below are kept beside it."""
    last_direction: Direction = Direction.NONE
    in_flight: str = ""
    """Id of an action that is being applied or verified; empty when there is none."""
    raised: UnixTime | None = None
    lowered: UnixTime | None = None
    resized: UnixTime | None = None
    reconfigured: UnixTime | None = None

    def at(self, axis: Axis) -> UnixTime | None:
        """When an axis was changed last; None when it is not known to have been."""
        own = {
            Axis.SCALE_UP: self.raised,
            Axis.SCALE_DOWN: self.lowered,
            Axis.RESIZE: self.resized,
            Axis.SETTINGS: self.reconfigured,
        }[axis]
        if self.last_change is not None and self.last_direction.value == axis.value:
            return self.last_change if own is None else UnixTime(max(own, self.last_change))
        return own

    def changed(self, axis: Axis, *, at: UnixTime, in_flight: str | None = None) -> "PolicyState":
        """Return the state after a change; an earlier time than is known changes nothing. None keeps `in_flight`."""
        # What stood in last_change alone is written down beside it before it is replaced.
        kept = replace(self, raised=self.at(Axis.SCALE_UP), lowered=self.at(Axis.SCALE_DOWN))
        known = kept.at(axis)
        latest = at if known is None else UnixTime(max(known, at))
        state = kept if in_flight is None else replace(kept, in_flight=in_flight)
        match axis:
            case Axis.SCALE_UP:
                return replace(state, raised=latest, last_change=latest, last_direction=Direction.SCALE_UP)
            case Axis.SCALE_DOWN:
                return replace(state, lowered=latest, last_change=latest, last_direction=Direction.SCALE_DOWN)
            case Axis.RESIZE:
                return replace(state, resized=latest)
            case Axis.SETTINGS:
                return replace(state, reconfigured=latest)


@dataclass(frozen=True, slots=True)
class LimitReason:
    """Which limit changed a number, in words with the numbers."""

    limit: Limit
    message: str


@dataclass(frozen=True, slots=True)
class Gates:
    """What maintenance and blackout windows hold back at one moment, by direction; None: nothing."""

    scale_up: LimitReason | None = None
    scale_down: LimitReason | None = None
    resize: LimitReason | None = None

    def of(self, direction: Direction) -> LimitReason | None:
        """Return what holds a direction back."""
        known = {
            Direction.SCALE_UP: self.scale_up,
            Direction.SCALE_DOWN: self.scale_down,
            Direction.RESIZE: self.resize,
        }
        return known.get(direction)


OPEN: Final = Gates()


@dataclass(frozen=True, slots=True)
class Removable:
    """How many replicas may go at this moment without breaking what covers their pods."""

    replicas: int
    why: str
    """Which disruption budget says so, with its numbers."""


@dataclass(frozen=True, slots=True)
class Running:
    """What of a workload runs now, for limits that are about that."""

    ready: int
    removable: Removable | None = None
    """None: no disruption budget covers its pods."""


@dataclass(frozen=True, slots=True)
class Clamped:
    """A number within all limits, and those that changed it."""

    value: int
    reasons: tuple[LimitReason, ...] = ()

    def but(self, value: int, *reasons: LimitReason) -> "Clamped":
        """Return another number, with what changed it besides."""
        return Clamped(value, (*self.reasons, *reasons))


def clamp(
    proposed: int,
    *,
    current: int,
    limits: Limits,
    state: PolicyState,
    now: UnixTime,
    gates: Gates = OPEN,
    running: Running | None = None,
) -> Clamped:
    """Bring a proposed replica count within the limits.

    The user's minimum and maximum win over all others, because the scaler enforces them at once anyway; the others
    hold for every change between them.
    """
    reasons: list[LimitReason] = []
    value = proposed
    if value != current:
        axis = Axis.SCALE_DOWN if value < current else Axis.SCALE_UP
        delay = delayed(axis, limits=limits, state=state, now=now, gates=gates)
        if delay is not None:
            reasons.append(delay)
            value = current
    if value < current and running is not None:
        value = _leave(value, reasons, current=current, limits=limits, running=running)
    if abs(value - current) > limits.step:
        reasons.append(_step_reason(value, current=current, limits=limits))
        value = current + max(-limits.step, min(limits.step, value - current))
    if value > limits.maximum:
        reasons.append(LimitReason(Limit.MAXIMUM, f"{value} is more than the maximum {limits.maximum}"))
        value = limits.maximum
    elif value < limits.minimum:
        reasons.append(LimitReason(Limit.MINIMUM, f"{value} is less than the minimum {limits.minimum}"))
        value = limits.minimum
    return Clamped(value=value, reasons=tuple(reasons))


def _step_reason(value: int, *, current: int, limits: Limits) -> LimitReason:
    gpu_bound = limits.step < limits.max_replica_step
    return LimitReason(
        Limit.MAX_GPU_STEP if gpu_bound else Limit.MAX_REPLICA_STEP,
        f"{value} is more than {limits.step} replicas from {current}"
        + (f": maxGpuStep {limits.max_gpu_step}, {limits.gpus_per_replica:g} GPUs each" if gpu_bound else ""),
    )


def _leave(value: int, reasons: list[LimitReason], *, current: int, limits: Limits, running: Running) -> int:
    """Raise the end of a fall to what has to stay."""
    # Which pods go is not ours to choose: each one that goes may be a ready one.
    least = current - max(0, running.ready - limits.min_available)
    if limits.min_available and value < least:
        text = f"minAvailable {limits.min_available}: {running.ready} of {current} replicas are ready"
        reasons.append(LimitReason(Limit.MIN_AVAILABLE, text))
        value = min(current, least)
    removable = running.removable
    if removable is not None and current - value > removable.replicas:
        reasons.append(LimitReason(Limit.POD_DISRUPTION_BUDGET, removable.why))
        value = current - max(0, removable.replicas)
    return value


def delayed(
    axis: Axis, *, limits: Limits, state: PolicyState, now: UnixTime, gates: Gates = OPEN
) -> LimitReason | None:
    """Return what a change of an axis has to wait for; None when it may be made now.

    Rule 6 is here: what changed on another axis of the workload, by whomever, rests for `cooldown` before this one is
    changed. A rise is the exception, because late capacity costs more than an unclear cause.
    """
    if axis is not Axis.SCALE_UP and state.in_flight:
        return LimitReason(Limit.ACTION_IN_FLIGHT, f"action {state.in_flight} is not finished")
    for after in (axis, *(other for other in Axis if other is not axis)):
        since, rest = state.at(after), limits.rest(axis, after=after)
        # A change from the future means that the clock went back; it counts as just made.
        if since is None or max(0.0, now - since) >= rest:
            continue
        text = f"{max(0.0, now - since):.0f} s of {rest:.0f} s have passed since the last change ({after})"
        replicas = (Axis.SCALE_UP, Axis.SCALE_DOWN)
        same = after is axis or (axis in replicas and after in replicas)
        return LimitReason(Limit.COOLDOWN if same else Limit.OTHER_AXIS, text)
    return gates.of(Direction(axis.value)) if axis is not Axis.SETTINGS else None


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


def permitted(direction: Direction, *, mode: Mode, suspended: bool, gates: Gates = OPEN) -> Permission:
    """Tell whether a change in this direction may be applied now."""
    if direction is Direction.NONE:
        return Permission(Permit.DENIED, "NoDirection", "nothing would change")
    if suspended:
        return Permission(Permit.DENIED, "Suspended", "spec.suspend is true: set it to false to let it act")
    if mode is Mode.RECOMMEND:
        return Permission(Permit.RECOMMEND)
    held = gates.of(direction)
    if held is not None:
        return Permission(Permit.DENIED, str(held.limit), held.message)
    return Permission(Permit.APPROVE if mode is Mode.APPROVE else Permit.AUTO)
