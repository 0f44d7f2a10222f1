"""The round's third step: policy has the last word on every number, and on who has to agree.

It turns decisions into orders: the replicas that may be published or written now. No order means that nothing is
published and the scaler's own fallback holds. In Recommend mode there is never an order; in Approve mode there is one
inside the envelope that a person has approved (`optiinfra.control.approvals`), for as long as that stands.
"""

from optiinfra.api import maintenance
from optiinfra.api.reasons import Reason
from optiinfra.api.v1alpha1.common import Mode
from optiinfra.api.v1alpha1.scaling import Actuation
from optiinfra.control import approvals
from optiinfra.control.isolation import isolated
from optiinfra.control.kill_switch import Stop
from optiinfra.control.work import Effect, ServiceWork, TargetWork, Work
from optiinfra.domain import policy
from optiinfra.domain.evidence import Direction
from optiinfra.domain.policy import Clamped, Limit, LimitReason, PolicyState
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.units import UnixTime

RISE_STANDS = 30.0
"""Seconds for which an ordered rise is not reduced: two syncs of the HPA controller at its default."""


def plan(work: Work, *, actuation_enabled: bool, stop: Stop | None) -> Work:
    """Clamp every decision and give the orders."""
    for service in work.services:
        if service.problem is None:
            with isolated(service, step="plan"):
                _plan(service, now=work.at, actuation_enabled=actuation_enabled, stop=stop)
    return work


def _plan(service: ServiceWork, *, now: UnixTime, actuation_enabled: bool, stop: Stop | None) -> None:
    window_open = maintenance.is_open(service.settings.policy.maintenance_windows, now=now)
    for target in service.targets:
        # Signal writes nothing, so it needs no right to write: the object's own mode is enough.
        may_write = actuation_enabled or target.target.scaling.actuation is Actuation.SIGNAL
        target.withheld = _withheld(may_write=may_write, stop=stop)
        if isinstance(target.decision, ScalingDecision) and target.problem is None:
            _clamp(service, target, target.decision, now=now, window_open=window_open)
            if target.withheld is None:
                target.order = _order(service, target, target.decision)


def _withheld(*, may_write: bool, stop: Stop | None) -> Effect | None:
    if stop is not None:
        return Effect(effective=False, reason=stop.reason, message=stop.message)
    if not may_write:
        text = "this installation only recommends; set actuation.enabled in the chart's values"
        return Effect(effective=False, reason=Reason.PERMISSION_MISSING, message=text)
    return None


def _clamp(
    service: ServiceWork, target: TargetWork, decision: ScalingDecision, *, now: UnixTime, window_open: bool
) -> None:
    target.clamped = _limited(decision.desired, target, decision, now=now, window_open=window_open)
    target.permission = policy.permitted(
        decision.direction,
        mode=policy.Mode(str(service.settings.mode_for(decision.direction))),
        suspended=service.settings.suspended,
        window_open=window_open,
    )


def _limited(
    proposed: int, target: TargetWork, decision: ScalingDecision, *, now: UnixTime, window_open: bool
) -> Clamped:
    """Bring a count within the limits of policy."""
    assert target.limits is not None
    ordered, current = target.memory.ordered, decision.current
    if ordered is not None and proposed < current and ordered < current:
        # A fall that was ordered stands until the workload has followed: a scaler looks every 15 to 30 seconds, and
        # what the next round took back it would never see. The next fall waits behind it; any rise is heard at once.
        standing = policy.clamp(
            max(proposed, ordered), current=current, limits=target.limits, state=PolicyState(), now=now
        )
        waits = LimitReason(Limit.ACTION_IN_FLIGHT, f"the fall to {ordered} was ordered and is not followed yet")
        return Clamped(standing.value, standing.reasons if proposed >= ordered else (waits, *standing.reasons))
    if ordered is not None and current <= proposed < ordered and now - target.memory.ordered_at < RISE_STANDS:
        # Neither is a rise taken back a moment after it was ordered: the need of two looks a second apart is one need.
        proposed = ordered
    return policy.clamp(
        proposed,
        current=current,
        limits=target.limits,
        state=target.memory.policy,
        now=now,
        window_open=window_open,
    )


def _order(service: ServiceWork, target: TargetWork, decision: ScalingDecision) -> int | None:
    """Replicas to publish now, or None."""
    assert target.clamped is not None
    modes = service.settings.modes
    if service.settings.suspended or {modes.scale_up, modes.scale_down} == {Mode.RECOMMEND}:
        return None
    wanted = target.clamped.value
    automatic = Mode.AUTO in (modes.scale_up, modes.scale_down)
    if wanted == decision.current and automatic:
        # Nothing to change; a scaler that listens still has to hear a number, or it would say that the metric is gone.
        return _bounded(decision.current, target)
    if wanted != decision.current and modes.of(_direction(decision.current, wanted)) is Mode.AUTO:
        return wanted
    approved = approvals.order_within(service, target, current=decision.current, wanted=wanted)
    if approved is None and automatic:
        approved = decision.current
    return None if approved is None else _bounded(approved, target)


def _direction(before: int, after: int) -> Direction:
    return Direction.SCALE_UP if after > before else Direction.SCALE_DOWN


def _bounded(replicas: int, target: TargetWork) -> int:
    assert target.limits is not None
    return min(max(replicas, target.limits.minimum), target.limits.maximum)
