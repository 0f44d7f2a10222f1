"""Whether what was decided has an effect: decided against running, with the reason where they differ."""

from optiinfra.api.reasons import Reason
from optiinfra.api.v1alpha1.scaling import Actuation
from optiinfra.control.actuation import heard, wants_to_act
from optiinfra.control.work import Effect, ServiceWork, TargetWork
from optiinfra.domain.readings import Unknown
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.scaling_rules import Rule
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import WorkloadFacts

_PATIENCE = 60.0
"""Seconds that a scaler has to follow a new decision: four syncs of the HPA controller at its default of 15 s."""


def effect_of(service: ServiceWork, target: TargetWork, *, now: UnixTime) -> Effect | None:
    """Compare what was decided with what runs."""
    facts = target.facts
    if target.problem is not None:
        return Effect(effective=False, reason=target.problem.reason, message=target.problem.message)
    if facts is None:
        return None
    if service.settings.suspended:
        return Effect(effective=None, reason=Reason.SUSPENDED)
    if not wants_to_act(service):
        return Effect(effective=None, reason=Reason.RECOMMEND_ONLY)
    if target.withheld is not None:
        return target.withheld
    if target.order is None:
        if isinstance(target.decision, Unknown):
            return Effect(effective=None, reason=Reason.NOT_PUBLISHED, message=target.decision.detail)
        return Effect(effective=None, reason=Reason.AWAITING_APPROVAL)
    return _followed(target, facts, wanted=target.order, now=now)


def _followed(target: TargetWork, facts: WorkloadFacts, *, wanted: int, now: UnixTime) -> Effect:
    floor = target.target.scaling.actuation is Actuation.FLOOR
    current = facts.desired_replicas
    reached = current >= wanted if floor else current == wanted
    if not floor and not reached and heard(target, wanted) == current:
        # The HPA would not move for so little: nothing is wrong, and nothing more is to be expected.
        return Effect(effective=True, reason=Reason.SUCCEEDED, message="within the tolerance of the scaler")
    if reached:
        pending = sum(1 for pod in facts.pods if pod.phase == "Pending" and not pod.node and not pod.terminating)
        if pending and now - target.memory.ordered_at > _PATIENCE:
            return Effect(effective=False, reason=Reason.PODS_PENDING, message=f"{pending} pods wait for a node")
        decision = target.decision
        if isinstance(decision, ScalingDecision) and decision.rule is Rule.AT_MAXIMUM:
            text = f"{decision.message}; raise maxReplicas if that is wanted"
            return Effect(effective=True, reason=Reason.AT_LIMIT, message=text)
        return Effect(effective=True, reason=Reason.SUCCEEDED, message="the workload follows the decision")
    if now - target.memory.ordered_at < _PATIENCE:
        return Effect(effective=None, reason=Reason.SCALING_IN_PROGRESS)
    scaler = facts.scaler
    if scaler is not None and scaler.scaling_active is False:
        return Effect(
            effective=False,
            reason=Reason.SCALER_INACTIVE,
            message=f"HorizontalPodAutoscaler {scaler.name}: ScalingActive is False ({scaler.scaling_active_reason})",
        )
    if scaler is not None and scaler.desired_replicas == wanted:
        return Effect(effective=None, reason=Reason.SCALING_IN_PROGRESS)
    return Effect(
        effective=False,
        reason=Reason.NOBODY_LISTENS,
        message="the decided count is published for a minute or more and the replicas do not follow; let a "
        "HorizontalPodAutoscaler or KEDA read optiinfra_desired_replicas, or use actuation Own",
    )
