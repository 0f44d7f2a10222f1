"""Whether what was decided has an effect: decided against running, with the reason where they differ.

True means that so many replicas serve as were decided. Everything else is False or Unknown with a
reason and, where it is somebody's, with whose: a decision that nobody follows must never look well. The facts are
asked in the order in which they stop a replica: nobody asked for it, nobody makes its pod, no node takes it, it does
not get ready. Nothing is read or changed here.
"""

from typing import Final

from optiinfra.api.reasons import Reason
from optiinfra.api.v1alpha1.scaling import Actuation
from optiinfra.control.actuation import heard, wants_to_act
from optiinfra.control.trials import STABILISED_WITHIN
from optiinfra.control.work import Effect, ServiceWork, TargetWork
from optiinfra.domain.policy import Limit
from optiinfra.domain.readings import Unknown
from optiinfra.domain.scaling import ScalingDecision
from optiinfra.domain.scaling_rules import Rule
from optiinfra.domain.units import Seconds, UnixTime
from optiinfra.domain.workload import PodFacts, ScalerFacts, WorkloadFacts

PATIENCE: Final = Seconds(60.0)
"""That a scaler has to follow a new decision: four syncs of the HPA controller at its default of 15 s."""
LONG_PATIENCE: Final = 5.0
"""After so many times the patience a decision that changes all the time is no excuse any more."""
START_MARGIN: Final = 1.5
"""Replicas may take this many times the 95th percentile of their start-up before they count as not getting ready."""
_LASTING: Final = frozenset({Limit.MAXIMUM, Limit.POOL_BUDGET})
"""Limits that do not pass by themselves."""
_COUNTED_KINDS: Final = frozenset({"Deployment", "StatefulSet"})
"""Kinds of which a replica is a pod."""


def effect_of(
    service: ServiceWork, target: TargetWork, *, now: UnixTime, patience: Seconds = PATIENCE
) -> Effect | None:
    """Compare what was decided with what runs; None while nothing is known of the workload."""
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
    return _compared(target, facts, wanted=target.order, now=now, patience=patience)


def _compared(target: TargetWork, facts: WorkloadFacts, *, wanted: int, now: UnixTime, patience: Seconds) -> Effect:
    memory = target.memory
    floor = target.target.scaling.actuation is Actuation.FLOOR
    asked, ready = facts.desired_replicas, facts.ready_replicas
    reached = asked >= wanted if floor else asked == wanted
    runs = ready >= wanted if floor else ready == wanted
    if reached and runs:
        memory.apart_since = None
        return _followed(target, facts)
    if memory.apart_since is None or memory.apart_since > now:
        memory.apart_since = now
    apart = now - memory.apart_since
    # A decision that was renewed has its time anew, but not for ever.
    waited = max(0.0, now - memory.ordered_at) if apart < LONG_PATIENCE * patience else apart
    if not reached:
        return _not_asked_for(target, facts, wanted=wanted, waited=waited, patience=patience)
    if apart < patience:
        return Effect(effective=None, reason=Reason.SCALING_IN_PROGRESS, message=f"{ready} of {asked} replicas serve")
    return _not_running(target, facts, now=now)


def _followed(target: TargetWork, facts: WorkloadFacts) -> Effect:
    decision, clamped = target.decision, target.clamped
    limited = isinstance(decision, ScalingDecision) and decision.rule is Rule.AT_MAXIMUM
    held = () if clamped is None else tuple(one for one in clamped.reasons if one.limit in _LASTING)
    if not limited and not held:
        return Effect(effective=True, reason=Reason.SUCCEEDED, message="the workload follows the decision")
    assert isinstance(decision, ScalingDecision)
    why = held[0].message if held else decision.message
    return Effect(effective=True, reason=Reason.AT_LIMIT, message=f"{why}; {_whose_maximum(target, facts)}")


def _whose_maximum(target: TargetWork, facts: WorkloadFacts) -> str:
    """Say who set the maximum, and so who can raise it."""
    scaler, limits, own = facts.scaler, target.limits, target.target.scaling
    if scaler is not None and not scaler.owned_by_us and limits is not None and limits.maximum == scaler.max_replicas:
        return f"HorizontalPodAutoscaler {scaler.name} allows at most {limits.maximum}: raise its maxReplicas if wanted"
    if own.max_replicas is not None:
        return f"spec.scaling.maxReplicas is {own.max_replicas}: raise maxReplicas if that is wanted"
    return "nobody gave a maximum: set spec.scaling.maxReplicas to let it go further"


# ---- nobody asked for the replicas


def _not_asked_for(
    target: TargetWork, facts: WorkloadFacts, *, wanted: int, waited: float, patience: Seconds
) -> Effect:
    scaler, asked = facts.scaler, facts.desired_replicas
    if scaler is not None:
        limit = _at_its_limit(scaler, asked=asked, wanted=wanted)
        if limit and waited >= patience:
            return Effect(effective=False, reason=Reason.AT_LIMIT, message=limit)
    floor = target.target.scaling.actuation is Actuation.FLOOR
    if not floor and target.limits is not None and heard(target, wanted) == asked:
        assert scaler is not None
        text = (
            f"{wanted} were decided, {asked} run, and HorizontalPodAutoscaler {scaler.name} ignores so small a change"
        )
        return Effect(effective=None, reason=Reason.WITHIN_TOLERANCE, message=text)
    if waited < patience:
        return Effect(effective=None, reason=Reason.SCALING_IN_PROGRESS, message=f"{wanted} were decided just now")
    if scaler is None:
        return Effect(effective=False, reason=Reason.NOBODY_LISTENS, message=_nobody(facts, wanted=wanted))
    if scaler.scaling_active is False:
        paused = scaler.scaling_active_reason == "ScalingDisabled"
        text = f"HorizontalPodAutoscaler {scaler.name}: ScalingActive is False ({scaler.scaling_active_reason})"
        reason = Reason.PAUSED if paused else Reason.SCALER_INACTIVE
        return Effect(effective=False, reason=reason, message=text)
    on_its_way = scaler.desired_replicas == wanted or (wanted < asked and waited < STABILISED_WITHIN)
    if on_its_way and waited < max(LONG_PATIENCE * patience, STABILISED_WITHIN):
        text = f"HorizontalPodAutoscaler {scaler.name} has the last word; it looks minutes back before it takes away"
        return Effect(
            effective=None,
            reason=Reason.SCALING_IN_PROGRESS,
            message=text if wanted < asked else "its count is on its way",
        )
    return Effect(effective=False, reason=Reason.NOBODY_LISTENS, message=_deaf(scaler, wanted=wanted))


def _at_its_limit(scaler: ScalerFacts, *, asked: int, wanted: int) -> str:
    """Say which limit of the scaler holds the count; empty when none does."""
    name = f"HorizontalPodAutoscaler {scaler.name}"
    if wanted > scaler.max_replicas and asked >= scaler.max_replicas:
        return f"{name} allows at most {scaler.max_replicas}, {wanted} were decided: raise its maxReplicas if wanted"
    if wanted < scaler.min_replicas and asked <= scaler.min_replicas:
        return f"{name} keeps at least {scaler.min_replicas}, {wanted} were decided: lower its minReplicas if wanted"
    return ""


def _nobody(facts: WorkloadFacts, *, wanted: int) -> str:
    return (
        f"{wanted} replicas are published for a while, {facts.desired_replicas} are asked for, and no scaler "
        "drives the workload; let a HorizontalPodAutoscaler or KEDA read optiinfra_desired_replicas, or use Own"
    )


def _deaf(scaler: ScalerFacts, *, wanted: int) -> str:
    owner = f" of {scaler.controller_owner}" if scaler.controller_owner else ""
    return (
        f"{wanted} replicas are published for a while, and HorizontalPodAutoscaler {scaler.name}{owner} wants "
        f"{scaler.desired_replicas}; let it read optiinfra_desired_replicas, or use actuation Own"
    )


# ---- the replicas were asked for and do not run


def _not_running(target: TargetWork, facts: WorkloadFacts, *, now: UnixTime) -> Effect:
    """Say what stops replicas that were asked for, in the order in which they are stopped."""
    rollout, asked, ready = facts.rollout, facts.desired_replicas, facts.ready_replicas
    living = [pod for pod in facts.pods if not pod.terminating]
    many = f"{ready} of {asked} replicas are ready"
    if rollout.refused and ready < asked:
        quota = "exceeded quota" in rollout.refused
        reason = Reason.QUOTA_EXCEEDED if quota else Reason.PODS_REFUSED
        return Effect(effective=False, reason=reason, message=f"{many}: {rollout.refused}")
    if rollout.paused and rollout.rolling:
        text = f"{many}: a rollout of {facts.kind} {facts.name} is paused half-way"
        return Effect(effective=False, reason=Reason.PAUSED, message=text)
    pending = [pod for pod in living if pod.phase == "Pending" and not pod.node]
    if pending and ready < asked:
        return Effect(effective=False, reason=Reason.PODS_PENDING, message=_pending(pending))
    if rollout.rolling:
        stuck = rollout.stuck
        text = f"{many}: a rollout of {facts.kind} {facts.name} " + ("is stuck" if stuck else "is in progress")
        return Effect(effective=False if stuck else None, reason=Reason.ROLLOUT_IN_PROGRESS, message=text)
    if facts.kind in _COUNTED_KINDS and len(living) < asked:
        text = f"{len(living)} of {asked} pods exist: see the events of {facts.kind} {facts.name} for who refuses them"
        return Effect(effective=False, reason=Reason.PODS_REFUSED, message=text)
    if ready > asked:
        text = f"{ready} replicas are ready, {asked} are asked for: pods are ending"
        return Effect(effective=None, reason=Reason.SCALING_IN_PROGRESS, message=text)
    return _unready(target, living, many=many, now=now)


def _pending(pending: list[PodFacts]) -> str:
    """Say why, in the scheduler's words."""
    first = next((pod for pod in pending if pod.unschedulable), pending[0])
    why = first.unschedulable or "the scheduler has not said why yet"
    return f"{len(pending)} pods wait for a node; {first.name}: {why}"


def _unready(target: TargetWork, living: list[PodFacts], *, many: str, now: UnixTime) -> Effect:
    waiting = [pod for pod in living if not pod.ready]
    decision = target.decision
    usual = decision.start_up if isinstance(decision, ScalingDecision) else None
    starting = [pod for pod in waiting if not pod.lost_readiness]
    if usual is not None and starting and len(starting) == len(waiting):
        oldest = max(now - pod.created for pod in starting)
        if oldest < START_MARGIN * usual:
            text = f"{many}: the others start, which takes {usual:.0f} s at its 95th percentile"
            return Effect(effective=None, reason=Reason.SCALING_IN_PROGRESS, message=text)
    names = ", ".join(pod.name for pod in waiting[:3])
    text = f"{many}: {names or 'the others'} not ready for longer than they usually take"
    return Effect(effective=False, reason=Reason.REPLICAS_NOT_READY, message=text)
