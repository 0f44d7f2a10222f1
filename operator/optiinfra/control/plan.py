"""The round's third step: policy has the last word on every number, and on who has to agree.

It turns decisions into orders: the replicas that may be published or written now. No order means that nothing is
published and the scaler's own fallback holds. In Recommend mode there is never an order; in Approve mode a person's
approval of one recommendation is the order, for as long as that recommendation was valid.
"""

from optiinfra.api import maintenance
from optiinfra.api.reasons import Reason
from optiinfra.api.v1alpha1.common import Mode
from optiinfra.control.work import Effect, ServiceWork, TargetWork, Work
from optiinfra.domain import policy
from optiinfra.domain.evidence import Direction, RecommendationType
from optiinfra.domain.readings import Unknown
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.units import UnixTime

APPROVAL_LIFETIME = 24 * 3600.0


def plan(work: Work, *, actuation_enabled: bool, kill_switch: bool) -> Work:
    """Clamp every decision and give the orders."""
    for service in work.services:
        if service.problem is not None:
            continue
        window_open = maintenance.is_open(service.settings.policy.maintenance_windows, now=work.at)
        for target in service.targets:
            target.withheld = _withheld(service, actuation_enabled=actuation_enabled, kill_switch=kill_switch)
            if isinstance(target.decision, ScalingDecision) and target.problem is None:
                _clamp(service, target, target.decision, now=work.at, window_open=window_open)
                if target.withheld is None:
                    target.order = _order(service, target, target.decision, now=work.at)
    return work


def _withheld(service: ServiceWork, *, actuation_enabled: bool, kill_switch: bool) -> Effect | None:
    if kill_switch:
        return Effect(effective=False, reason=Reason.KILL_SWITCH)
    if not actuation_enabled:
        text = "this installation only recommends; set actuation.enabled in the chart's values"
        return Effect(effective=False, reason=Reason.PERMISSION_MISSING, message=text)
    return Effect(effective=None, reason=Reason.RECOMMEND_ONLY, message="dry run") if service.dry_run else None


def _clamp(
    service: ServiceWork, target: TargetWork, decision: ScalingDecision, *, now: UnixTime, window_open: bool
) -> None:
    assert target.limits is not None
    target.clamped = policy.clamp(
        decision.desired,
        current=decision.current,
        limits=target.limits,
        state=target.memory.policy,
        now=now,
        window_open=window_open,
    )
    target.permission = policy.permitted(
        decision.direction,
        mode=policy.Mode(str(service.settings.mode_for(decision.direction))),
        suspended=service.settings.suspended,
        window_open=window_open,
    )


def _order(service: ServiceWork, target: TargetWork, decision: ScalingDecision, *, now: UnixTime) -> int | None:
    """Replicas to publish now, or None."""
    assert target.clamped is not None
    assert target.limits is not None
    modes = service.settings.modes
    if service.settings.suspended or {modes.scale_up, modes.scale_down} == {Mode.RECOMMEND}:
        return None
    wanted = target.clamped.value
    if wanted == decision.current:
        # Nothing to change; a scaler that listens still has to hear a number, or it would say that the metric is gone.
        return (
            _bounded(decision.current, target)
            if Mode.AUTO in (modes.scale_up, modes.scale_down)
            else _approved(service, target, now=now)
        )
    mode = modes.of(Direction.SCALE_UP if wanted > decision.current else Direction.SCALE_DOWN)
    if mode is Mode.AUTO:
        return wanted
    approved = _approved(service, target, now=now)
    if approved is not None:
        return approved
    return _bounded(decision.current, target) if Mode.AUTO in (modes.scale_up, modes.scale_down) else None


def _bounded(replicas: int, target: TargetWork) -> int:
    assert target.limits is not None
    return min(max(replicas, target.limits.minimum), target.limits.maximum)


def _approved(service: ServiceWork, target: TargetWork, *, now: UnixTime) -> int | None:
    """Return what a person approved: just now, or earlier and still valid."""
    for item in service.obj.status.recommendations:
        if (
            item.id in service.approved
            and item.type is RecommendationType.REPLICAS
            and item.subject == target.target.name
        ):
            return _bounded(int(item.proposed), target)
    if isinstance(target.decision, Unknown):
        return None
    for action in reversed(service.obj.status.actions):
        if (
            action.type is RecommendationType.REPLICAS
            and action.recommendation_id in {used.id for used in service.obj.status.used_approvals}
            and now - action.at.unix < APPROVAL_LIFETIME
            and action.state in ("Approved", "Applied", "Verified")
        ):
            return _bounded(int(action.to), target)
    return None
