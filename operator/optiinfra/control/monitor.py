"""The round's fifth step: what became of earlier actions, and whether decisions have an effect at all.

An action is watched for its verify window. A fall that did harm is rolled back by ordering the earlier count; a rise is
judged but never undone for harm. Then decided is compared with running, so that "inert but green" cannot happen: a
decision nobody follows says so, with the reason.
"""

import logging

from optiinfra import metrics
from optiinfra.api.reasons import Reason
from optiinfra.api.scalars import Time
from optiinfra.api.v1alpha1.scaling import Actuation
from optiinfra.api.v1alpha1.status_parts import ActionState, ActionStatus
from optiinfra.control.actuation import Actuator, heard, wants_to_act
from optiinfra.control.isolation import isolated
from optiinfra.control.memory import Trial
from optiinfra.control.work import Effect, ServiceWork, TargetWork, Work
from optiinfra.domain import verification
from optiinfra.domain.evidence import Direction, RecommendationType
from optiinfra.domain.policy import PolicyState
from optiinfra.domain.readings import Unknown
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.scaling_rules import Rule
from optiinfra.domain.units import UnixTime
from optiinfra.domain.workload import WorkloadFacts

_LOG = logging.getLogger(__name__)
_PATIENCE = 60.0
"""Seconds that a scaler has to follow a new decision: four syncs of the HPA controller at its default of 15 s."""


async def monitor(work: Work, actuator: Actuator) -> Work:
    """Judge trials, roll back what did harm, and say whether decisions are followed."""
    for service in work.services:
        with isolated(service, step="monitor"):
            await _monitor(service, actuator, now=work.at)
    return work


async def _monitor(service: ServiceWork, actuator: Actuator, *, now: UnixTime) -> None:
    for target in service.targets:
        if target.memory.trial is not None and target.signals is not None and not service.dry_run:
            await _judge(service, target, target.memory.trial, actuator, now=now)
        if target.effect is None:
            target.effect = effect_of(service, target, now=now)


async def _judge(service: ServiceWork, target: TargetWork, trial: Trial, actuator: Actuator, *, now: UnixTime) -> None:
    assert target.signals is not None
    rises = trial.to_replicas > trial.from_replicas
    direction = Direction.SCALE_UP if rises else Direction.SCALE_DOWN
    verdict = verification.judge(trial.before, target.signals, service.settings.objectives, direction=direction)
    window = service.settings.policy.verify_window
    over = now - trial.started >= window
    if verdict.outcome is verification.Outcome.REGRESSED and verdict.roll_back and service.settings.policy.rollback:
        if target.order is None or not wants_to_act(service):
            return
        # The order of this round gives way: what did harm is undone first, and decided anew afterwards.
        target.order = target.restore = max(target.order, trial.from_replicas)
        await actuator.carry_out(service, target)
        target.memory.ordered, target.memory.ordered_at = target.order, now
        target.memory.policy = PolicyState(last_change=now, last_direction=Direction.SCALE_UP)
        _finish(service, target, trial, ActionState.ROLLED_BACK, verdict.message, now=now)
        return
    if verdict.outcome is verification.Outcome.VERIFIED and (over or rises):
        _finish(service, target, trial, ActionState.VERIFIED, verdict.message, now=now)
    elif over:
        # Nobody can say that it was good; what stands is what is known.
        _finish(service, target, trial, ActionState.APPLIED, f"not verified: {verdict.message}", now=now)


def _finish(
    service: ServiceWork, target: TargetWork, trial: Trial, state: ActionState, message: str, *, now: UnixTime
) -> None:
    target.memory.trial = None
    policy = target.memory.policy
    target.memory.policy = PolicyState(last_change=policy.last_change, last_direction=policy.last_direction)
    service.actions.append(
        ActionStatus(
            id=trial.action_id,
            recommendation_id=trial.recommendation_id,
            type=RecommendationType.REPLICAS,
            subject=target.target.name,
            state=state,
            from_=str(trial.from_replicas),
            to=str(trial.to_replicas),
            at=Time.of(now),
            message=message[:1024],
        )
    )
    metrics.ACTIONS.labels(str(target.target.scaling.actuation), str(state).lower()).inc()
    _LOG.info("action judged", extra={"object": str(service.key), "action": trial.action_id, "state": str(state)})


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
