"""The round's third step: policy has the last word on every number, and on who has to agree.

It turns decisions into orders: the replicas that may be published or written now. No order means that nothing is
published and the scaler's own fallback holds. In Recommend mode there is never an order; in Approve mode there is one
inside the envelope that a person has approved (`optiinfra.control.approvals`), for as long as that stands.
"""

from collections.abc import Sequence

from optiinfra.api import maintenance
from optiinfra.api.reasons import Reason
from optiinfra.api.v1alpha1.common import Mode
from optiinfra.api.v1alpha1.scaling import Actuation
from optiinfra.control import approvals, axes, fleet
from optiinfra.control.isolation import isolated
from optiinfra.control.kill_switch import Stop
from optiinfra.control.work import Effect, ServiceWork, TargetWork, Work
from optiinfra.domain import policy
from optiinfra.domain.evidence import Direction
from optiinfra.domain.pod_rules import DisruptionBudget
from optiinfra.domain.policy import Axis, Clamped, Limit, LimitReason, PolicyState, Running
from optiinfra.domain.replica_shape import removable
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.units import UnixTime

RISE_STANDS = 30.0
"""Seconds for which an ordered rise is not reduced: two syncs of the HPA controller at its default."""


def plan(work: Work, *, actuation_enabled: bool, stop: Stop | None) -> Work:
    """Clamp every decision and give the orders: first by the limits of each target, then by those over all objects."""
    for service in work.services:
        if service.problem is None:
            with isolated(service, step="plan"):
                budgets = work.fleet.disruption_budgets.get(service.key.namespace, ())
                _plan(service, budgets, now=work.at, actuation_enabled=actuation_enabled, stop=stop)
    fleet.bound(work)
    for service in work.services:
        for target in service.targets:
            target.memory.limited = _limited_by(target)
    return work


def _limited_by(target: TargetWork) -> tuple[str, ...]:
    reasons = target.clamped.reasons if target.clamped is not None else ()
    return tuple(dict.fromkeys(str(reason.limit) for reason in reasons))


def _plan(
    service: ServiceWork,
    budgets: Sequence[DisruptionBudget],
    *,
    now: UnixTime,
    actuation_enabled: bool,
    stop: Stop | None,
) -> None:
    wanted = service.settings.policy
    gates = maintenance.gates(wanted.maintenance_windows, wanted.blackout_windows, now=now)
    for target in service.targets:
        target.gates = gates
        axes.observe(service, target, now=now)
        if target.facts is not None:
            target.running = Running(target.facts.ready_replicas, removable(target.facts, budgets))
        # Signal writes nothing, so it needs no right to write: the object's own mode is enough.
        may_write = actuation_enabled or target.target.scaling.actuation is Actuation.SIGNAL
        target.withheld = _withheld(may_write=may_write, stop=stop)
        if isinstance(target.decision, ScalingDecision) and target.problem is None:
            _clamp(service, target, target.decision, now=now)
            if target.withheld is None:
                order = _order(service, target, target.decision)
                target.order = None if order is None else _between(order, target, target.decision)


def _withheld(*, may_write: bool, stop: Stop | None) -> Effect | None:
    if stop is not None:
        return Effect(effective=False, reason=stop.reason, message=stop.message)
    if not may_write:
        text = "this installation only recommends; set actuation.enabled in the chart's values"
        return Effect(effective=False, reason=Reason.PERMISSION_MISSING, message=text)
    return None


def _clamp(service: ServiceWork, target: TargetWork, decision: ScalingDecision, *, now: UnixTime) -> None:
    target.clamped = _limited(decision.desired, target, decision, now=now)
    target.permission = policy.permitted(
        decision.direction,
        mode=policy.Mode(str(service.settings.mode_for(decision.direction))),
        suspended=service.settings.suspended,
        gates=target.gates,
    )


def _limited(proposed: int, target: TargetWork, decision: ScalingDecision, *, now: UnixTime) -> Clamped:
    """Bring a count within the limits of policy."""
    assert target.limits is not None
    ordered, current = target.memory.ordered, decision.current
    limits, gates = target.limits, target.gates
    if ordered is not None and proposed < current and ordered < current and gates.scale_down is None:
        # A fall that was ordered stands until the workload has followed: a scaler looks every 15 to 30 seconds, and
        # what the next round took back it would never see. The next fall waits behind it; any rise is heard at once.
        standing = policy.clamp(max(proposed, ordered), current=current, limits=limits, state=PolicyState(), now=now)
        waits = LimitReason(Limit.ACTION_IN_FLIGHT, f"the fall to {ordered} was ordered and is not followed yet")
        return Clamped(standing.value, standing.reasons if proposed >= ordered else (waits, *standing.reasons))
    if ordered is not None and current <= proposed < ordered and now - target.memory.ordered_at < RISE_STANDS:
        # Neither is a rise taken back a moment after it was ordered: the need of two looks a second apart is one need.
        proposed = ordered
    state = target.memory.policy
    if ordered is not None and current < min(proposed, ordered):
        delay = policy.delayed(Axis.SCALE_UP, limits=limits, state=state, now=now, gates=gates)
        if delay is not None and delay.limit is Limit.COOLDOWN:
            # The rest between two rises does not take back the one that the workload has not followed yet.
            standing = policy.clamp(
                min(proposed, ordered), current=current, limits=limits, state=PolicyState(), now=now, gates=gates
            )
            return Clamped(standing.value, standing.reasons if proposed <= ordered else (delay, *standing.reasons))
    return policy.clamp(
        proposed, current=current, limits=limits, state=state, now=now, gates=gates, running=target.running
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


def _between(order: int, target: TargetWork, decision: ScalingDecision) -> int:
    """Return the order, but never beyond what the limits allow: every count from the present one to the clamped one."""
    assert target.clamped is not None
    present, allowed = _bounded(decision.current, target), target.clamped.value
    return min(max(order, min(present, allowed)), max(present, allowed))


def last_word(target: TargetWork, count: int) -> int:
    """Return a count that is not of this plan, such as one to go back to, within one step and the user's limits."""
    assert target.limits is not None
    present, step = target.facts.desired_replicas if target.facts is not None else count, target.limits.step
    return _bounded(min(max(count, present - step), present + step), target)


def _direction(before: int, after: int) -> Direction:
    return Direction.SCALE_UP if after > before else Direction.SCALE_DOWN


def _bounded(replicas: int, target: TargetWork) -> int:
    assert target.limits is not None
    return min(max(replicas, target.limits.minimum), target.limits.maximum)
